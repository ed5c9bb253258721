"""What to say of a method's error beyond the error: that a batch is a dict, and that nobody is there to type.

`for x, y in loader` fails with "too many values to unpack", which tells nothing of dicts. Which expression failed is
not looked into: the hint is given wherever a batch can be meant, and says "if".
"""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from data.loaders import ExampleDataset, TensorLoader

HINT = 'if that was a batch: it is a dict, with batch["image"] and batch["age_group"] (the class labels)'
NO_INPUT = "a run has no standard input: input() works with --debug"
LONGEST = 200
"""Letters of an error that are shown before a hint, so that the hint is seen."""
KEYS = ("image", "age_group", "image_id")
"""What every batch has; what a loop over a batch gives."""


def complaint_of(error: BaseException) -> str:
    """The error in a line, with a hint if there is one."""
    said = f"{type(error).__name__}: {error}"
    hint = hint_for(error)
    return said if hint is None else f"{' '.join(said.split())[:LONGEST]}; {hint}"


def hint_for(error: BaseException) -> str | None:
    """`HINT` if a method may have taken a batch for a tuple, a tensor, or a dict with other keys; None if not.

    `NO_INPUT` if it waited for somebody to type.
    """
    if isinstance(error, EOFError) and "reading a line" in str(error):  # of a file, it is said otherwise
        return NO_INPUT
    with contextlib.suppress(Exception):  # a method's objects may be anything, and its error comes first
        if _may_be_about_batch(error):
            return HINT
    return None


def _may_be_about_batch(error: BaseException) -> bool:
    said = str(error)
    if isinstance(error, AttributeError):
        return _is_batch(error.obj) or _is_key(error.obj)
    if isinstance(error, KeyError):
        missing = error.args[:1]
        known = missing == () or _is_key(missing[0])
        return not known and _is_near(error, _is_batch, _gives_batches)
    if isinstance(error, ValueError) and "values to unpack" in said:
        return _is_unpacking(said) and _is_near(error, _is_batch, _gives_batches)
    if isinstance(error, TypeError) and re.search(r"\b(dict|Sample|str|slice)\b", said):
        return _is_near(error, _is_batch, _is_key)
    return False


def _is_unpacking(said: str) -> bool:
    """Whether as many values were there as a batch has keys, as far as the message tells."""
    expected, got = (re.search(rf"{word} (\d+)", said) for word in ("expected", "got"))
    if got is not None:
        return int(got[1]) >= len(KEYS)  # a task with metadata has more
    return expected is not None and int(expected[1]) < len(KEYS)


def _is_near(error: BaseException, *kinds: Any) -> bool:
    """Whether one of the functions that were entered when the error came has a value of one of the kinds.

    Also inside a list or a dict of its own, or among arguments.
    """
    return any(
        kind(value)
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for one in frame.f_locals.values()
        for value in (one, *_inside(one))
        for kind in kinds
    )


def _inside(value: Any) -> list[Any]:
    """The first values in a list, a tuple or a dict."""
    if isinstance(value, Mapping):
        return list(value.values())[: len(KEYS)]
    return list(value[: len(KEYS)]) if isinstance(value, list | tuple) else []


def _is_batch(value: Any) -> bool:
    return isinstance(value, dict) and "image" in value and "age_group" in value


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and value in KEYS


def _gives_batches(value: Any) -> bool:
    return isinstance(value, TensorLoader | ExampleDataset | DataLoader)
