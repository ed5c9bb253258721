"""The queue that every long computation goes through: submit jobs, wait, try again, tell how far it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from checkpoints.workers import Workers
from data.errors import UserError

Job = TypeVar("Job")
Answer = TypeVar("Answer")

SECONDS_BETWEEN_LOOKS = 0.2
NO_WORKERS = (
    "The worker processes died, and new ones can't be started: memory may be short (--workers 1 needs less), or a file "
    "of the kit has been broken meanwhile (python main.py list says which). What is finished is saved."
)


def work_off(
    jobs: Sequence[Job],
    pools: Sequence[Workers],
    submit: Callable[[Job, Workers], Future[Answer]],
    settle: Callable[[Job, Future[Answer]], bool],
    on_progress: Callable[[int], None],
    ahead: int = 1,
) -> None:
    """Have the workers of all `pools` do the jobs, in their order; the pool with a free worker gets the next.

    Args:
        submit: hands a job to a pool.
        settle: looks at the answer of a job, or at the death of its process, and says whether to try it again, next.
            Of several that have ended meanwhile, it gets the first job first. What it raises ends the work.
        on_progress: called several times a second with the number of jobs that are settled.
        ahead: jobs that wait in a pool for each worker, the one that it does included. Not all at once: the pool
            starts a process anew for each that is cancelled when the work ends early.
    """
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
                if isinstance(future.exception(), BrokenProcessPool):
                    raise UserError(NO_WORKERS)
                if settle(job, future):
                    waiting.appendleft((number, job))
        on_progress(len(jobs))
    finally:
        for future in pending:
            future.cancel()
