"""The queue that every long computation goes through: submit jobs, wait, try again, tell how far it is."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from checkpoints.processes import WorkerLostError
from checkpoints.workers import Workers

Job = TypeVar("Job")
Answer = TypeVar("Answer")

SECONDS_BETWEEN_LOOKS = 0.2
ATTEMPTS = 3
"""How often a job is begun whose worker is lost: killed from outside, for want of memory, or as it stands still."""

_log = logging.getLogger(__name__)


def work_off(
    jobs: Sequence[Job],
    pools: Sequence[Workers],
    submit: Callable[[Job, Workers], Future[Answer]],
    settle: Callable[[Job, Future[Answer]], bool],
    on_progress: Callable[[int], None],
    ahead: int = 1,
) -> None:
    """Have the workers of all `pools` do the jobs, in their order; the pool with a free worker gets the next.

    A job whose worker is lost is tried again, next: `ATTEMPTS` times in all.

    Args:
        submit: hands a job to a pool.
        settle: looks at the answer of a job, or at the last loss of its worker, and says whether to try it again, next.
            Of several that have ended meanwhile, it gets the first job first. What it raises ends the work.
        on_progress: called several times a second with the number of jobs that are settled.
        ahead: jobs that wait in a pool for each worker, the one that it does included. Not all at once: the pool
            starts a process anew for each that is cancelled when the work ends early.
    """
    losses = Counter[int]()

    def is_to_try_again(number: int, future: Future[Answer]) -> bool:
        error = future.exception()
        if not isinstance(error, WorkerLostError):
            return False
        losses[number] += 1
        if losses[number] == ATTEMPTS:
            return False
        _log.warning("The process of a worker %s: its job is done again.", error.how)
        return True

    waiting = deque(enumerate(jobs))
    free = deque(pool for _ in range(ahead) for pool in pools for _ in range(pool.count))
    pending: dict[Future[Answer], tuple[int, Job, Workers]] = {}
    try:
        while waiting or pending:
            while waiting and free:
                number, job = waiting.popleft()
                pool = free.popleft()
                pending[submit(job, pool)] = number, job, pool
            on_progress(len(jobs) - len(waiting) - len(pending))
            done, _ = wait(pending, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: pending[future][0]):
                number, job, pool = pending.pop(future)
                free.append(pool)
                if is_to_try_again(number, future) or settle(job, future):
                    waiting.appendleft((number, job))
        on_progress(len(jobs))
    finally:
        for future in pending:
            future.cancel()


def answers_of(workers: Workers, submit: Callable[[Workers], Future[Answer]], times: int = 1) -> list[Answer]:
    """What one job gives, done so many times at once.

    Raises:
        WorkerLostError: its worker was lost each time. And whatever the job raises.
    """
    answers: list[Answer] = []

    def settle(_: int, future: Future[Answer]) -> bool:
        answers.append(future.result())
        return False

    work_off(range(times), workers.pools, lambda _, pool: submit(pool), settle, lambda done: None)
    return answers
