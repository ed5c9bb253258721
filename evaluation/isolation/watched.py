"""A data set that notes whether anybody has read an example of it, for runs of methods that certify."""

from __future__ import annotations

import mmap
from typing import Any

from data.loaders import ExampleDataset

CONTENT = ("_images", "_columns", "_numbers")
"""Where an `ExampleDataset` has its examples."""


class WatchedDataset(ExampleDataset):
    """The examples of another data set; how many there are may be asked, and reading one is noted.

    However they are read: by a loader, by an index, by a copy, or by name; in this process or in one that it has
    forked, for the note lies in memory that they share. It is no wall: who knows of it can get around it in Python.
    """

    def __init__(self, examples: ExampleDataset) -> None:  # no copy of them, as `ExampleDataset` makes
        self._examples = examples
        self._note = mmap.mmap(-1, 1)

    @property
    def was_read(self) -> bool:
        """Whether an example was read."""
        return self._note[0] != 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getattr__(self, name: str) -> Any:
        """What `ExampleDataset` has and this lacks: the examples."""
        if name not in CONTENT:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        return getattr(self._noted(), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy, or what a process gets that was not forked, is one of the examples."""
        return _as_it_is, (self._noted(),)

    def _noted(self) -> ExampleDataset:
        self._note[0] = 1
        return self._examples


def _as_it_is(examples: ExampleDataset) -> ExampleDataset:
    return examples
