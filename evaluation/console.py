"""Progress bars and messages: all on standard error, so that standard output holds results alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where there is no terminal to draw a bar in."""

OnProgress = Callable[[float, int], None]
"""Called with the amount done and the total."""


class Console:
    """Where a command's messages and progress go. `quiet` silences all of them."""

    def __init__(self, quiet: bool = False) -> None:
        # Texts are shown as they are: [unk] is no markup, and :cat: no picture.
        self.screen = Screen(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def tell(self, text: str) -> None:
        """Print a line, above any progress bar."""
        self.screen.print(text)

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
        with Progress(*columns, console=self.screen) as bar:

            def draw(done: float, total: int) -> None:
                if not bar.tasks:
                    bar.add_task(label, total=total)
                bar.update(bar.task_ids[0], completed=min(done, total))

            yield draw

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
