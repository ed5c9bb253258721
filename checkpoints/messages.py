"""What the main process and a worker say to each other, and how a worker lives.

A message is eight bytes with its length, then a pickle. The main process sends jobs; a worker sends pairs of a kind and
a content:

    "ready", None               it may be given a job
    "progress", amount          of the job that it does
    "leaving", None             it ends after the answer that follows
    "answer", value             what the job has returned; then it is ready for the next
    "error", (exception, text)  what the job has raised, with the traceback as a text; then the same
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Sequence
from typing import Any

READ_AT_ONCE = 1 << 16
"""Bytes."""

_LENGTH = struct.Struct("!Q")


def framed(message: bytes) -> bytes:
    """A message as it is sent."""
    return _LENGTH.pack(len(message)) + message


def unframed(inbox: bytearray) -> bytes | None:
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


def unpickled(message: bytes) -> tuple[str, Any]:
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
# In a worker
# ----------------------------------------------------------------------------------------------------------------------

_to_main: socket.socket | None = None
_leaves = False


def tell_progress(amount: float) -> None:
    """In a job: add to the progress of the pool."""
    if _to_main is not None:
        _send("progress", amount)


def leave_after_this_job() -> None:
    """In a job: have this process end in order, and another one take its place; in any other process it is nothing."""
    global _leaves
    _leaves = True


def work(to_main: socket.socket, prepare: Callable[..., object], arguments: Sequence[object]) -> None:
    """What a process does: one job after another, until it leaves or the main process is gone."""
    global _to_main
    for number in (signal.SIGINT, signal.SIGHUP):  # they are for the main process, which ends the others
        signal.signal(number, signal.SIG_IGN)
    _to_main = to_main
    prepare(*arguments)
    try:
        _send("ready", None)
        while not _leaves:
            outcome = _outcome(_receive(to_main))
            if _leaves:  # told first, so that it is given no other job
                _send("leaving", None)
            _send(*outcome)
    except (EOFError, OSError):
        pass
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
    _to_main.sendall(framed(pickle.dumps((kind, content))))


def _receive(to_main: socket.socket) -> bytes:
    """The next message, whole. Raises `EOFError` if the main process is gone."""
    inbox = bytearray()
    while (message := unframed(inbox)) is None:
        if not (read := to_main.recv(READ_AT_ONCE)):
            raise EOFError
        inbox += read
    return message
