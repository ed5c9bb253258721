"""The progress bar of work on images, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def with_bar(items: Iterable[T], what: str, show: bool, total: int | None = None) -> Iterable[T]:
    """The items, `total` in number if they have no length, with a bar if it takes more than two seconds."""
    from tqdm import tqdm

    # A terminal sees the bar move; a log gets a line every ten seconds.
    every = 0.1 if sys.stderr.isatty() else 10
    return tqdm(items, what, total, leave=False, unit=" images", delay=2, mininterval=every, disable=not show)
