"""A pool of processes that do jobs. Whatever happens to one of them costs its own job, and is noticed.

Each process has a socket of its own, and shares no lock with the others: one that is killed in the middle of a
message, or stopped, is in nobody's way. A thread of the main process hands out the jobs, in their order, and looks
after the processes:

    it ends, with whatever exit code        its job fails with `WorkerLostError`, and another process takes its place
    it leaves, see `leave_after_this_job`   its job is done before; another process takes its place
    it stands still for minutes             it is killed, and then the same
    its job is cancelled                    it is killed, without a word
    none can be started, again and again    all jobs fail with `NoWorkersError`
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any

from checkpoints.messages import READ_AT_ONCE
from checkpoints.one_process import SECONDS_TO_END, Task, WorkerProcess
from checkpoints.server import kill_server
from checkpoints.standstill import all_processes
from data.errors import UserError

FAILED_STARTS = 3
"""For each process of a pool: how often processes may die one after another before a single one is ready to work."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_WATCHES = 5.0
"""How often the pool looks whether processes stand still."""

NO_WORKERS = (
    "The worker processes died, and new ones can't be started: memory may be short (--workers 1 needs less), or a file "
    "of the kit has been broken meanwhile (python main.py list says which). What is finished is saved."
)
TOO_FEW_FILES = "The worker processes can't be started ({}): `ulimit -n 1024` allows more. What is finished is saved."


class WorkerLostError(UserError):
    """The process of a job ended before it gave an answer; the message says how."""

    def __init__(self, exitcode: int | None, stood_still: float | None = None) -> None:
        self.exitcode = exitcode
        """Negative: minus the number of a signal. None if it can't be told."""
        self.stood_still = stood_still
        """The seconds for which it did nothing, after which it was killed; None if it was not killed for that."""
        self.how = f"died with exit code {exitcode} (-9 often means: out of memory)"
        if stood_still is not None:
            self.how = f"did nothing for {stood_still:.0f} seconds, and was killed"
        super().__init__(
            f"The process of a worker {self.how}. What is finished is saved: type the same command again to "
            "go on; if memory is short, --workers 1 needs less."
        )


class NoWorkersError(UserError):
    """Processes can't be started any more."""


class JobPool:
    """Up to `count` processes, started with the first job. Each calls `prepare(*arguments)` before its first job."""

    def __init__(
        self, count: int, context: BaseContext, prepare: Callable[..., object], arguments: Sequence[object]
    ) -> None:
        self.progress = 0.0
        """The sum of what the jobs have told by `tell_progress`, but for jobs that were lost."""
        self._count = count
        self._start = lambda: WorkerProcess(context, prepare, arguments)
        self._workers: list[WorkerProcess] = []
        self._queue: deque[Task] = deque()
        self._failed_starts = 0
        self._broken: Exception | None = None
        self._stopping = False
        self._looked = time.monotonic()
        self._ear, self._mouth = socket.socketpair()
        for end in (self._ear, self._mouth):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        _POOLS.add(self)

    def submit(self, job: Callable[..., Any], arguments: Sequence[object]) -> Future[Any]:
        """Queue `job(*arguments)`; both have to be picklable. The future can be cancelled while the job is done."""
        task = Task(bytes(ForkingPickler.dumps((job, tuple(arguments)))))
        task.future.add_done_callback(lambda future: self._wake() if future.cancelled() else None)
        if self._thread.ident is None:
            self._thread.start()
        self._queue.append(task)
        if self._broken is not None:  # asked last: what was queued before is told of it by the thread
            raise self._broken
        self._wake()
        return task.future

    def stop(self) -> None:
        """End all processes, at once and whatever they do. Jobs that are not done are cancelled."""
        self._stopping = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(SECONDS_TO_END)
            if self._thread.is_alive():  # it waits for a process to start
                kill_server()
                self._thread.join()
        self._ear.close()
        self._mouth.close()

    def kill(self) -> None:
        """End all processes from any thread, even from a signal handler; the pool is of no use afterwards."""
        self._stopping = True
        for worker in list(self._workers):
            with contextlib.suppress(OSError, ValueError):  # the thread has just let go of it
                worker.kill()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full, and the thread wakes anyway; or closed
            self._mouth.send(b"\0")

    # ------------------------------------------------------------------------------------------------------------------
    # In the thread
    # ------------------------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        try:
            while not self._stopping:
                if len(self._workers) < self._count:
                    self._add_worker()
                self._hand_out()
                self._listen(0 if len(self._workers) < self._count else SECONDS_BETWEEN_LOOKS)
                self._look()
        except Exception as error:  # there are no workers, or it is our bug: either way nobody may wait for ever
            self._broken = error
        finally:
            self._end_all()

    def _add_worker(self) -> None:
        try:
            self._workers.append(self._start())
        except (OSError, EOFError) as error:  # the server was killed, or there are no more files or processes
            self._note_failed_start(error)

    def _note_failed_start(self, error: Exception | None = None) -> None:
        self._failed_starts += 1
        if self._failed_starts > FAILED_STARTS * self._count and not self._stopping:
            number = getattr(error, "errno", None)
            raise NoWorkersError(TOO_FEW_FILES.format(os.strerror(number)) if number in _TOO_MANY else NO_WORKERS)

    def _hand_out(self) -> None:
        free = deque(one for one in self._workers if one.ready and one.task is None and not one.leaving)
        while self._queue and free:
            if self._queue[0].future.cancelled():
                self._queue.popleft()
            elif not (worker := free.popleft()).is_dead():
                worker.give(self._queue.popleft())

    def _listen(self, seconds: float) -> None:
        """Wait for whatever happens first, and take up what has happened."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            for worker in self._workers:
                writes = selectors.EVENT_WRITE if worker.outbox else 0
                selector.register(worker.socket, selectors.EVENT_READ | writes, worker)
                selector.register(worker.death, selectors.EVENT_READ, worker)
            happened = {key.data for key, _ in selector.select(seconds)}
        if None in happened:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(READ_AT_ONCE)
        for worker in [worker for worker in self._workers if worker in happened]:
            self._hear(worker)

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            dead = worker.is_dead()  # before reading: what it has written until then is all there is
            worker.write()
            for kind, content in worker.read():
                self._take(worker, kind, content)
        except (OSError, EOFError, pickle.UnpicklingError):
            dead = True
        if dead:
            self._lose(worker)

    def _take(self, worker: WorkerProcess, kind: str, content: Any) -> None:
        if kind == "ready":
            worker.ready = True
            self._failed_starts = 0
        elif kind == "leaving":
            worker.leaving = True
        elif worker.task is not None and kind == "progress":
            worker.task.progress += content
            self.progress += content
        elif worker.task is not None:
            task, worker.task = worker.task, None
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                if kind == "answer":
                    task.future.set_result(content)
                else:
                    task.future.set_exception(content)

    def _lose(self, worker: WorkerProcess, stood_still: float | None = None) -> None:
        """Do without a process, dead or to be killed."""
        self._workers.remove(worker)
        exitcode = worker.end()
        if not worker.ready:
            self._note_failed_start()
        if worker.task is not None:
            self.progress -= worker.task.progress
            with contextlib.suppress(InvalidStateError):
                worker.task.future.set_exception(WorkerLostError(exitcode, stood_still))

    def _look(self) -> None:
        """End the processes whose job is cancelled, and those that stand still."""
        for worker in list(self._workers):
            if worker.task is not None and worker.task.future.cancelled():
                self._lose(worker)
        elapsed = time.monotonic() - self._looked
        if elapsed < SECONDS_BETWEEN_WATCHES:
            return
        self._looked = time.monotonic()
        # Seconds in which this process itself was stopped don't count.
        seconds, processes = min(elapsed, 2 * SECONDS_BETWEEN_WATCHES), all_processes()
        for worker in list(self._workers):
            if (worker.task is not None or not worker.ready) and worker.watch.stands_still(processes, seconds):
                self._lose(worker, stood_still=worker.watch.still)

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.end()
        tasks = [*self._queue, *(worker.task for worker in self._workers if worker.task is not None)]
        self._workers.clear()
        for task in tasks:
            with contextlib.suppress(InvalidStateError):
                task.future.set_exception(self._broken or CancelledError())


_POOLS: weakref.WeakSet[JobPool] = weakref.WeakSet()
_TOO_MANY = (errno.ENFILE, errno.EMFILE)


def kill_all() -> None:
    """End the processes of all pools of this process, for a main process that is about to end without ado."""
    for pool in list(_POOLS):
        pool.kill()
