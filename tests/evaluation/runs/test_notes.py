"""What runs note: JSON that any program reads, and the curves in it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from evaluation.runs.notes import curves, valid_json


def refuse(name: str) -> float:
    """For a strict parser: NaN and Infinity are no JSON."""
    raise ValueError(name)


@pytest.mark.parametrize(
    ("notes", "stored"),
    [
        ({"loss": math.nan}, {"loss": None}),
        ({"loss": [1.5, math.inf, -math.inf]}, {"loss": [1.5, None, None]}),
        ({"text": "NaN and Infinity", "é": [1e308]}, {"text": "NaN and Infinity", "é": [1e308]}),
        ([math.nan], [None]),
        ({"NaN": {"Infinity": 10**400}}, {"NaN": {"Infinity": 10**400}}),
    ],
)
def test_notes_are_valid_json(notes: Any, stored: Any) -> None:
    """By a parser that is strict; nothing but the numbers that JSON lacks is changed."""
    assert json.loads(valid_json(json.dumps(notes)), parse_constant=refuse) == stored


@pytest.mark.parametrize(
    ("notes", "found"),
    [
        ({"loss": [3, 2.5]}, {"loss": [3.0, 2.5]}),
        ({"history": {"loss": [1]}, "norm": [2]}, {"loss": [1.0], "norm": [2.0]}),
        ({"history": {"loss": [1]}, "loss": [2]}, {"loss": [1.0]}),
        ({"loss": [2], "history": {"loss": [1]}}, {"loss": [1.0]}),
        ({"loss": {"retain": [1], "forget": [2]}}, {"loss retain": [1.0], "loss forget": [2.0]}),
        ({"history": [1, 2]}, {"history": [1.0, 2.0]}),
        ({"certificate": {"sigmas": [1, 2]}}, {}),
        ({"names": ["a"], "matrix": [[1.0]], "mixed": [1, "a"], "empty": [], "none": [None], "one": 1}, {}),
        ({"huge": [10**400]}, {}),
        ("loss", {}),
        (None, {}),
    ],
)
def test_every_list_of_numbers_is_a_curve(notes: Any, found: dict[str, list[float]]) -> None:
    """With or without "history", which comes first; what is no list of numbers, and a certificate, is none."""
    assert curves(notes) == found


def test_null_in_a_curve_is_nan() -> None:
    """A run that diverged has a curve all the same."""
    (curve,) = curves({"loss": [1, None, 2]}).values()
    assert curve[::2] == [1, 2]
    assert math.isnan(curve[1])
