"""What runs note beside their weights (`notes`, see `BaseMethod.run`): as JSON on disk, and the curves in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

HISTORY, CERTIFICATE, WATCHED = "history", "certificate", "watched"
"""Notes with a meaning: curves by name; what a method certifies, whose numbers are no curves; and what the kit has seen
of a run that certifies, which it adds (see `with_watched`)."""
FORGET_SET = "forget_set"
"""In `WATCHED`: whether the run read the forget set, in one of the words of `SEEN`."""
SEEN: dict[bool | None, str] = {None: "not watched", True: "read", False: "not read"}
"""What a certificate calls it that a run was seen to read the forget set, or not to; None if nobody has watched."""

LARGEST = 1e100
"""Numbers beyond it are none that a picture can have room for."""

DEEPEST = 4
"""Objects inside of one another in which curves are looked for."""


def valid_json(notes: str) -> str:
    """Notes in Python's JSON as JSON that any program reads: null in place of NaN and infinity, which JSON lacks."""
    if "NaN" not in notes and "Infinity" not in notes:
        return notes
    return json.dumps(json.loads(notes, parse_constant=lambda name: None), allow_nan=False)


def with_watched(notes: str, forget_set_was_read: bool | None) -> str:
    """Notes of a run, as JSON, with what was seen of it if they have a certificate. None: nobody has watched.

    Whatever the method has noted by that name is gone: it is for the kit to say.
    """
    values = json.loads(notes)
    if not isinstance(values, dict) or not values.get(CERTIFICATE):
        return notes
    return json.dumps({**values, WATCHED: {FORGET_SET: SEEN[forget_set_was_read]}})


def curves(notes: Any) -> dict[str, list[float]]:
    """All lists of numbers in the notes of a run, by name; null is NaN.

    Those in objects have the names of both, `{"loss": {"retain": [...]}}` is "loss retain". Curves of "history" go
    without its name, and before others of the same name.
    """
    if not isinstance(notes, dict):
        return {}
    found = dict(_curves(notes.get(HISTORY), ""))
    for name, value in notes.items():
        if name not in (HISTORY, CERTIFICATE, WATCHED):
            found = {**dict(_curves(value, name)), **found}
    return found


def _curves(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, list[float]]]:
    """The curves in a note, by their names."""
    if is_series(value):
        yield name or HISTORY, [math.nan if number is None else float(number) for number in value]
    elif isinstance(value, dict) and depth < DEEPEST:
        for key, part in value.items():
            yield from _curves(part, f"{name} {key}".strip(), depth + 1)


def is_series(value: Any) -> bool:
    """Whether it is a list of numbers, null among them."""
    return (
        isinstance(value, list) and any(map(is_number, value)) and all(one is None or is_number(one) for one in value)
    )


def is_number(value: Any) -> bool:
    """Whether it can be drawn: NaN and infinity can be left out, but 10^400 is no number for NumPy."""
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return isinstance(value, float) and (abs(value) <= LARGEST or not math.isfinite(value))
