"""Progress bars and messages: all on standard error, so that standard output holds results alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from data.errors import UserError
from evaluation.texts import counted

LONG, VERY_LONG = 60.0, 3600.0
"""Seconds of work from which on it is told beforehand, and from which on it is asked for."""
SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where there is no terminal to draw a bar in."""

OnProgress = Callable[[float, int], None]
"""Called with the amount done and the total."""


class Console:
    """Where a command's messages and progress go. `quiet` silences all of them.

    With `asks`, whoever is at the terminal is asked before work of more than an hour.
    """

    def __init__(self, quiet: bool = False, asks: bool = False) -> None:
        self._asks = asks
        # Texts are shown as they are: [unk] is no markup, and :cat: no picture.
        self.screen = Screen(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def tell(self, text: str) -> None:
        """Print a line, above any progress bar."""
        self.screen.print(text)

    def foresee(self, seconds: float, work: str) -> None:
        """Say how long work is expected to take at most, if that is long; if it is very long, ask whether to begin.

        Raises:
            UserError: the answer is no, or there is nobody to ask.
        """
        if seconds < LONG:
            return
        text = f"This may take {in_words(seconds)} ({work})."
        if seconds < VERY_LONG or not self._asks:
            self.tell(text)
            return
        if not (self.screen.is_terminal and sys.stdin is not None and sys.stdin.isatty()):
            raise UserError(f"{text} With --yes it begins without a question.")
        print(f"{text} Begin? [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:  # Ctrl-D
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise UserError("Nothing was begun. Fewer --models, or fewer epochs (--recipe epochs=N), take less.")
        self._asks = False

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what takes so long, while the block runs: a line, and on a terminal a sign of life beside it."""
        if not self.screen.is_terminal:
            self.tell(text)
            yield
            return
        with self.screen.status(Text(text)):
            yield

    @contextmanager
    def progress(self, label: str, unit: str) -> Iterator[OnProgress]:
        """Show progress, with the time left, while the block runs; call what it gives to report some.

        It appears with the first call. Without a terminal, a line every ten seconds takes the place of the bar.
        """
        if not self.screen.is_terminal:
            yield self._lines(label, unit)
            return
        columns = (
            TextColumn("{task.description:<14}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total} " + unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        bar = Progress(*columns, console=self.screen)

        def draw(done: float, total: int) -> None:
            if not bar.tasks:
                bar.add_task(label, total=total)
                bar.start()  # not before: until then there may be a question
            bar.update(bar.task_ids[0], completed=min(done, total))

        try:
            yield draw
        finally:
            bar.stop()

    def _lines(self, label: str, unit: str) -> OnProgress:
        began = last = time.monotonic()

        def write(done: float, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < SECONDS_BETWEEN_LINES:
                return
            last = now
            seconds = now - began
            left = f", about {seconds * max(total - done, 0) / done:.0f} s left" if done > 0 else ""
            self.tell(f"{label}: {done:.0f} of {total} {unit} in {seconds:.0f} s{left}")

        return write


def in_words(seconds: float) -> str:
    """A duration as people say it.

    >>> [in_words(seconds) for seconds in (42, 90, 3000, 7200, 100_000, 1e12)]
    ['42 seconds', '2 minutes', '50 minutes', '2.0 hours', '28 hours', '11574074 days']
    """
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 90:
        return counted(round(seconds), "second")
    if minutes < 90:
        return f"{minutes:.0f} minutes"
    if hours < 48:
        return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
    return f"{days:.0f} days"
