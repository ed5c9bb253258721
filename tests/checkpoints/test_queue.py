"""The queue: every job once, in order, again if asked, and an end when nobody works any more."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, cast

import pytest

from checkpoints.queue import work_off
from checkpoints.workers import Workers
from data.errors import UserError


class Pool:
    """Answers at once: as many workers as `count`, of which the queue may keep `ahead` jobs each waiting."""

    def __init__(self, count: int) -> None:
        self.count = count


def answered(answer: Any = None, error: BaseException | None = None) -> Future[Any]:
    """A future that is done."""
    future: Future[Any] = Future()
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
    return future


def run(jobs: list[int], again: dict[int, int] | None = None, pools: int = 1, ahead: int = 1) -> tuple[list[int], ...]:
    """The jobs as submitted and as settled, and the progress; `again` says how often a job is to be tried again."""
    left = dict(again or {})
    submitted, settled, progress = list[int](), list[int](), list[int]()

    def submit(job: int, pool: Workers) -> Future[int]:
        submitted.append(job)
        return answered(job)

    def settle(job: int, future: Future[int]) -> bool:
        assert future.result() == job
        settled.append(job)
        left[job] = left.get(job, 0) - 1
        return left[job] >= 0

    work_off(jobs, cast("list[Workers]", [Pool(2)] * pools), submit, settle, progress.append, ahead)
    return submitted, settled, progress


@pytest.mark.parametrize(("pools", "ahead"), [(1, 1), (1, 3), (2, 2)])
def test_every_job_once_and_in_order(pools: int, ahead: int) -> None:
    """Progress never falls, and ends with all. Catches a job that is lost or done twice where pools are several."""
    jobs = list(range(10))
    submitted, settled, progress = run(jobs, pools=pools, ahead=ahead)
    assert submitted == settled == jobs
    assert progress == sorted(progress)
    assert progress[-1] == len(jobs)
    assert run([])[2] == [0]


def test_again_is_next() -> None:
    """Before what waits. Catches a job that is tried again for ever, or at the end."""
    submitted, settled, _ = run([1, 2, 3, 4, 5, 6], again={1: 2})
    assert submitted == settled
    assert submitted[:2] == [1, 2]
    assert submitted.count(1) == 3
    assert max(place for place, job in enumerate(submitted) if job == 1) < submitted.index(6)


def test_what_settle_raises_ends_the_work() -> None:
    """And what is submitted by then is cancelled."""
    waiting: Future[int] = Future()

    def settle(job: int, future: Future[int]) -> bool:
        raise ZeroDivisionError

    pool = cast("list[Workers]", [Pool(2)])
    with pytest.raises(ZeroDivisionError):
        work_off([0, 1], pool, lambda job, pool: waiting if job else answered(job), settle, lambda done: None)
    assert waiting.cancelled()


def test_no_workers_are_a_sentence() -> None:
    """pebble gives up when workers die while they start. Catches its traceback."""
    broken = answered(error=BrokenProcessPool("All workers expired"))
    with pytest.raises(UserError, match="new ones can't be started"):
        work_off([1], cast("list[Workers]", [Pool(1)]), lambda *_: broken, lambda *_: False, lambda done: None)
