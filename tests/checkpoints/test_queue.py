"""The queue: every job once, in order, and again if asked or if its worker was lost."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoints.processes import WorkerLostError
from checkpoints.queue import ATTEMPTS, answers_of, work_off
from checkpoints.workers import Workers


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


def lose(times: int, exitcode: int) -> tuple[list[int], list[object]]:
    """The jobs 0 and 1 as submitted, and what was settled, if the worker of job 0 is lost so many times."""
    submitted, settled = list[int](), list[object]()

    def submit(job: int, pool: Workers) -> Future[int]:
        submitted.append(job)
        lost = job == 0 and submitted.count(0) <= times
        return answered(job, WorkerLostError(exitcode) if lost else None)

    def settle(job: int, future: Future[int]) -> bool:
        settled.append(future.exception() or future.result())
        return False

    work_off([0, 1], cast("list[Workers]", [Pool(1)]), submit, settle, lambda done: None)
    return submitted, settled


@pytest.mark.parametrize("times", range(ATTEMPTS))
def test_a_job_whose_worker_is_lost_is_done_again(times: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody settles the loss, and a line on standard error tells of it. Catches a loss that is taken for an answer."""
    submitted, settled = lose(times, exitcode=0)
    assert submitted == [0] * (times + 1) + [1]
    assert settled == [0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "The process of a worker died with exit code 0 (-9 often means: out of memory): its job is done again."
    ] * times


def test_but_not_for_ever() -> None:
    """The last loss is for whoever settles."""
    submitted, settled = lose(ATTEMPTS + 5, exitcode=-9)
    assert submitted == [0] * ATTEMPTS + [1]
    assert [type(one) for one in settled] == [WorkerLostError, int]


def test_answers_of_a_job() -> None:
    """As many as are wanted; a loss is made good, and what is lost for good raises."""
    answers = [answered(error=WorkerLostError(-9)), answered(1), answered(2)]
    pool = cast("Workers", SimpleNamespace(pools=[Pool(2)]))
    assert answers_of(pool, lambda _: answers.pop(0), times=2) == [1, 2]
    with pytest.raises(WorkerLostError):
        answers_of(pool, lambda _: answered(error=WorkerLostError(-9)))
    with pytest.raises(ZeroDivisionError):
        answers_of(pool, lambda _: answered(error=ZeroDivisionError()))
