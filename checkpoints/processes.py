"""A pool of processes that do jobs. Whatever happens to one of them costs its own job, and is noticed.

Each process has a socket of its own, and shares no lock with the others: one that is killed in the middle of a
message, or stopped, is in nobody's way. A thread of the main process hands out the jobs, in their order, and looks
after the processes:

    it ends, with whatever exit code        its job fails with `WorkerLostError`, and another process takes its place
    it stands still for minutes             it is killed, and then the same
    its job is cancelled                    it is killed, without a word
    none can be started, again and again    all jobs fail with `NoWorkersError`
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from checkpoints.watch import Watch, all_processes, descendants
from data.errors import UserError

SECONDS_TO_START = 120.0
"""After which the server that processes are forked from is taken for dead: it imports PyTorch first."""
FAILED_STARTS = 3
"""For each process of a pool: how often processes may die one after another before a single one is ready to work."""
SECONDS_TO_END = 2.0
"""How long to wait for the end of a process that was killed: one that waits for a broken disk ends later, or never."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_WATCHES = 5.0
"""How often the pool looks whether processes stand still."""
READ_AT_ONCE = 1 << 16
"""Bytes."""

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
        self.how = f"exit code {exitcode} (-9 often means: out of memory)"
        if stood_still is not None:
            self.how = f"no sign of life for {stood_still:.0f} seconds, after which it was killed"
        super().__init__(
            f"The process of a worker died with {self.how}. What is finished is saved: type the same command again to "
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
        self._start = lambda: _Worker(context, prepare, arguments)
        self._workers: list[_Worker] = []
        self._queue: deque[_Task] = deque()
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
        task = _Task(bytes(ForkingPickler.dumps((job, tuple(arguments)))))
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
        free = [worker for worker in self._workers if worker.ready and worker.task is None]
        while self._queue and free:
            task = self._queue.popleft()
            if not task.future.cancelled():
                free.pop(0).give(task)

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

    def _hear(self, worker: _Worker) -> None:
        try:
            dead = worker.is_dead()  # before reading: what it has written until then is all there is
            worker.write()
            for kind, content in worker.read():
                self._take(worker, kind, content)
        except (OSError, EOFError, pickle.UnpicklingError):
            dead = True
        if dead:
            self._lose(worker)

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        if kind == "ready":
            worker.ready = True
            self._failed_starts = 0
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

    def _lose(self, worker: _Worker, stood_still: float | None = None) -> None:
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
_TOO_MANY = (23, 24)  # ENFILE, EMFILE


def kill_all() -> None:
    """End the processes of all pools of this process, for a main process that is about to end without ado."""
    for pool in list(_POOLS):
        pool.kill()


@dataclass(eq=False)
class _Task:
    """A job on its way."""

    pickled: bytes
    future: Future[Any] = field(default_factory=Future)
    progress: float = 0.0


class _Worker:
    """One process, as the main process sees it. Starting it raises `OSError` or `EOFError` if that is not possible."""

    def __init__(self, context: BaseContext, prepare: Callable[..., object], arguments: Sequence[object]) -> None:
        self.task: _Task | None = None
        self.ready = False
        self.outbox = bytearray()
        self._inbox = bytearray()
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                    target=_work, args=(theirs, prepare, arguments), name="worker"
                )
                with _server_killed_after(SECONDS_TO_START):
                    self.process.start()
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        assert self.process.pid is not None
        self.pid = self.process.pid
        self._pidfd = _open_pidfd(self.pid)
        self.watch = Watch(self.pid)

    @property
    def death(self) -> int:
        """A descriptor that can be read when the process has ended."""
        # That of `multiprocessing` seems to tell of the end of all workers when it is the server's.
        return self.process.sentinel if self._pidfd is None else self._pidfd

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.death, selectors.EVENT_READ)
            return bool(selector.select(0))

    def give(self, task: _Task) -> None:
        """Have it do a job, as soon as it reads it."""
        self.task = task
        self.watch.reset()
        self.outbox += _framed(task.pickled)
        with contextlib.suppress(OSError):  # its death is noticed otherwise
            self.write()

    def write(self) -> None:
        """Send what it is ready to take of the outbox."""
        with contextlib.suppress(BlockingIOError):
            while self.outbox:
                del self.outbox[: self.socket.send(self.outbox)]

    def read(self) -> Iterator[tuple[str, Any]]:
        """The messages that are complete by now. Raises `EOFError` if there are no more to come."""
        ended = False
        with contextlib.suppress(BlockingIOError):
            while not (ended := not (read := self.socket.recv(READ_AT_ONCE))):
                self._inbox += read
        while (message := _unframed(self._inbox)) is not None:
            kind, content = _unpickled(message)
            yield kind, content
        if ended:
            raise EOFError

    def kill(self) -> None:
        """End the process, and those that it has started."""
        offspring = descendants(self.pid)
        with contextlib.suppress(OSError):
            if self._pidfd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                self.process.kill()
        for pid in offspring:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> int | None:
        """Kill the process unless it has ended, and let go of it; its exit code."""
        if not self.is_dead():
            self.kill()
        self.process.join(SECONDS_TO_END)
        exitcode = self.process.exitcode
        self.socket.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if exitcode is not None:
            self.process.close()
        return exitcode


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that stands for a process, and never for another with its number; None where there are none."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            return os.pidfd_open(pid)
    return None


@contextlib.contextmanager
def _server_killed_after(seconds: float) -> Iterator[None]:
    """A server that does not answer is killed, and then whoever waits for its answer gets an `EOFError`."""
    timer = threading.Timer(seconds, kill_server)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kill_server() -> None:
    """End the server that processes are forked from; there is a new one as soon as it is needed."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


# ----------------------------------------------------------------------------------------------------------------------
# Messages: eight bytes with the length, then a pickle
# ----------------------------------------------------------------------------------------------------------------------

_LENGTH = struct.Struct("!Q")


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def _unframed(inbox: bytearray) -> bytes | None:
    """Take the first message out of the inbox; None if it is not all there yet."""
    if len(inbox) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(inbox)
    end = _LENGTH.size + length
    if len(inbox) < end:
        return None
    message = bytes(inbox[_LENGTH.size : end])
    del inbox[:end]
    return message


def _unpickled(message: bytes) -> tuple[str, Any]:
    """What a process has said. Raises `UnpicklingError` for whatever goes wrong."""
    try:
        kind, content = pickle.loads(message)
        if kind == "error":
            content, text = content
            content.__cause__ = _RemoteTraceback(text)
        return kind, content
    except Exception as error:
        raise pickle.UnpicklingError(str(error)) from error


class _RemoteTraceback(Exception):  # noqa: N818  # it is shown as the cause of another
    """The traceback in the process, as a text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# ----------------------------------------------------------------------------------------------------------------------
# In the process
# ----------------------------------------------------------------------------------------------------------------------

_to_main: socket.socket | None = None


def tell_progress(amount: float) -> None:
    """In a job: add to the progress of the pool."""
    if _to_main is not None:
        _send("progress", amount)


def _work(to_main: socket.socket, prepare: Callable[..., object], arguments: Sequence[object]) -> None:
    """What a process does: one job after another, until the main process is gone."""
    global _to_main
    for number in (signal.SIGINT, signal.SIGHUP):  # they are for the main process, which ends the others
        signal.signal(number, signal.SIG_IGN)
    _to_main = to_main
    prepare(*arguments)
    try:
        _send("ready", None)
        while True:
            pickled = _receive(to_main)
            _send(*_outcome(pickled))
    except (EOFError, OSError):
        os._exit(0)


def _outcome(pickled: bytes) -> tuple[str, Any]:
    """Do a job; its answer, or what it raised."""
    try:
        job, arguments = pickle.loads(pickled)
        answer = job(*arguments)
        pickle.dumps(answer)
        return "answer", answer
    except BaseException as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return "error", (error, text)


def _send(kind: str, content: Any) -> None:
    assert _to_main is not None
    _to_main.sendall(_framed(pickle.dumps((kind, content))))


def _receive(to_main: socket.socket) -> bytes:
    """The next message, whole. Raises `EOFError` if the main process is gone."""
    inbox = bytearray()
    while (message := _unframed(inbox)) is None:
        if not (read := to_main.recv(READ_AT_ONCE)):
            raise EOFError
        inbox += read
    return message
