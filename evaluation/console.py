"""Progress bars and messages: all on standard error, so that standard output holds results alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where there is no terminal to draw a bar in."""


class Console:
    """Where a command's messages and progress go. `quiet` silences all but errors."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def tell(self, text: str) -> None:
        """Print a line, above any progress bar."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    @contextmanager
    def progress(self, label: str, unit: str) -> Iterator[Callable[[float, int], None]]:
        """A progress bar with the time left; call what it gives with the amount done and the total.

        It appears with the first call. Without a terminal, a line every ten seconds takes its place.
        """
        if self.quiet:
            yield lambda done, total: None
            return
        began = time.monotonic()
        if sys.stderr.isatty():
            bar: tqdm[Any]
            with tqdm(desc=f"{label:<12}", unit=unit, leave=False, bar_format=_BAR, delay=0.5) as bar:
                yield lambda done, total: _draw(bar, done, total)
        else:
            yield _LineWriter(label, unit, began)


_BAR = "{desc} {bar:30} {n:.0f}/{total} {unit}  {elapsed}, {remaining} left"


def _draw(bar: tqdm[Any], done: float, total: int) -> None:
    bar.total = total
    bar.n = min(done, total)
    bar.refresh()


class _LineWriter:
    """Progress as lines, for logs."""

    def __init__(self, label: str, unit: str, began: float) -> None:
        self.label, self.unit, self.began = label, unit, began
        self.last = began

    def __call__(self, done: float, total: int) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        elapsed = now - self.began
        left = f", about {elapsed * (total - done) / done:.0f} s left" if done > 0 else ""
        print(f"{self.label}: {done:.0f} of {total} {self.unit} in {elapsed:.0f} s{left}", file=sys.stderr, flush=True)
