"""What is measured and limited while a method runs: time, memory, and what it prints."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from data.files import writing_to
from evaluation.runs.settings import Limits

OVER_BUDGET = (-signal.SIGPROF, -signal.SIGALRM)
"""Exit codes of a process that was killed because its run exceeded the budget."""


@contextlib.contextmanager
def killed_after(budget: float | None, extra: float, device: str, limits: Limits) -> Iterator[None]:
    """Have the operating system kill this process when the block takes more than `budget` and `extra` seconds.

    Seconds of `compute_seconds`, that is; whatever the process does then. Without a budget it may take for ever.
    """
    if budget is None:
        yield
        return
    on_cpu = device == "cpu"
    timers = {signal.ITIMER_REAL: (limits.patience * budget + limits.more_patience if on_cpu else budget) + extra}
    if on_cpu:
        timers[signal.ITIMER_PROF] = budget + extra  # counts processor time
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)  # the default action is to end the process
    for timer, seconds in timers.items():
        signal.setitimer(timer, max(seconds, 1e-3))  # 0, and what is rounded to it, would switch the timer off
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


def reset_peak_memory(device: str) -> None:
    """Start to measure anew, where that is possible: on a GPU."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> int:
    """Bytes: on a GPU the most that PyTorch had allocated during the run, else the process's largest resident set."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes, Linux kilobytes


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Collect in a file whatever is printed, by C code and child processes too; no file if nothing is."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("wb")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the process may be killed
    kept = (os.dup(1), os.dup(2))
    with log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    if path.stat().st_size == 0:
        path.unlink()
