"""One worker, as the main process sees it: what it is given, what it says, whether it lives, and its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from checkpoints.messages import READ_AT_ONCE, framed, unframed, unpickled, work
from checkpoints.server import SECONDS_TO_START, server_killed_after, without_a_missing_main
from checkpoints.standstill import Standstill, descendants

SECONDS_TO_END = 2.0
"""How long to wait for the end of a process that was killed: one that waits for a broken disk ends later, or never."""


@dataclass(eq=False)
class Task:
    """A job on its way."""

    pickled: bytes
    future: Future[Any] = field(default_factory=Future)
    progress: float = 0.0


class WorkerProcess:
    """One process, as the main process sees it. Starting it raises `OSError` or `EOFError` if that is not possible."""

    def __init__(self, context: BaseContext, prepare: Callable[..., object], arguments: Sequence[object]) -> None:
        self.task: Task | None = None
        self.ready = False
        self.leaving = False
        self.outbox = bytearray()
        self._inbox = bytearray()
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                    target=work, args=(theirs, prepare, arguments), name="worker"
                )
                with server_killed_after(SECONDS_TO_START), without_a_missing_main():
                    self.process.start()
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        assert self.process.pid is not None
        self.pid = self.process.pid
        self._pidfd = _open_pidfd(self.pid)
        self.watch = Standstill(self.pid)

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

    def give(self, task: Task) -> None:
        """Have it do a job, as soon as it reads it."""
        self.task = task
        self.watch.reset()
        self.outbox += framed(task.pickled)
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
        while (message := unframed(self._inbox)) is not None:
            kind, content = unpickled(message)
            yield kind, content
        if ended:
            raise EOFError

    def kill(self) -> None:
        """End the process, and those that it has started; if it has ended, its number may be another's by now."""
        if self.is_dead():
            return
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
