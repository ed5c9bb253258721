"""Ctrl-C, and being told to end by the system: the work ends in order, at once, and only once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and a terminal that was closed."""
EXIT_CODE = 130
SECONDS_TO_END = 3.0
"""For the end in order. A signal within them changes nothing, as that would only break it off; a later one does."""
INTERRUPTED = "\nInterrupted. Every finished model and run is saved: type the same command again to go on.\n"


@contextlib.contextmanager
def stopping_in_order() -> Iterator[None]:
    """Inside, the first of `SIGNALS` raises `KeyboardInterrupt`. Who still sends them seconds later ends all at once.

    A signal that is ignored from the start (`nohup`) remains so.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may touch signals
        yield
        return
    began: float | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal began
        if began is None:
            began = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - began > SECONDS_TO_END:
            _leave()

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """From now on: what is to be done is done, and Python only tidies up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def lies_behind(error: BaseException) -> bool:
    """Whether the error arose while Ctrl-C was being handled."""
    before = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (before is not None and lies_behind(before))


def tell_interrupted() -> None:
    """Say how to go on, if there is still somebody to read it."""
    with contextlib.suppress(OSError):
        print(INTERRUPTED, end="", file=sys.stderr, flush=True)


def _leave() -> None:
    """End this process and its workers, whatever they do."""
    if "checkpoints.processes" in sys.modules:
        from checkpoints.processes import kill_all

        kill_all()
    with contextlib.suppress(OSError):
        os.write(2, INTERRUPTED.encode())
    os._exit(EXIT_CODE)
