"""The comparison with another revision: facts are found in reports of any format, and no difference is missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checks.same_bits import FACTS, HASH, compare, digest, fact, facts_of, leaves, timeless, unclear
from evaluation.report import Report

NESTED = {
    "format": 2,
    "scores": {"score": 0.5, "floor": {"score": 0.0}, "ceiling": {"score": 0.19}},
    "accuracies": {"test": 0.9, "retrained": {"test": 0.8}},
}


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["score"], "0.5"),
        (["floor.score"], "0.0"),
        (["ceiling.score"], "0.19"),
        (["test_accuracy", "accuracies.test"], "0.9"),
        (["test_accuracy_retrained", "retrained.test"], "0.8"),
        (["floor"], '{"score": 0.0}'),
        (["drift"], "nowhere"),
        (["test_accuracy", "drift"], "nowhere"),
    ],
)
def test_a_fact_is_found_wherever_it_lies(names: list[str], value: str) -> None:
    """Catches the score of the floor taken for that of the method."""
    assert fact(NESTED, names) == value


def test_a_fact_in_two_places_is_told() -> None:
    """Catches a comparison of whichever comes first."""
    found = fact({"a": {"score": 1}, "b": {"score": 1}}, ["score"])
    assert found == "in 2 places: a.score, b.score"
    assert unclear(found)


def test_reports_of_this_tree_have_every_fact_in_one_place(make_report: Callable[..., Report]) -> None:
    """Catches a field that was renamed without a word to `OTHER_NAMES`: it would not be compared."""
    report = make_report(settings={"seed": 7, "models": 1}, score=0.25, forget=["random:0.1"])
    found = facts_of(json.loads(report.to_json()))
    assert found.keys() == set(FACTS)
    assert not [name for name, value in found.items() if unclear(value)]
    assert (found["score"], found["forget"]) == ("0.25", '["random:0.1"]')


@pytest.mark.parametrize(
    ("array", "other"),
    [
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1.0]), np.array([np.nextafter(1.0, 2.0)])),
        (np.array([1.0]), np.array([1.0], dtype=np.float32)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(3)),
    ],
    ids=["sign of zero", "last bit", "type", "shape", "length"],
)
def test_a_digest_notices(array: np.ndarray, other: np.ndarray) -> None:
    """One bit is enough."""
    assert digest(array) != digest(other)


def test_a_digest_is_of_the_values() -> None:
    """Strides in memory and what a NaN is not equal to make no difference."""
    array = np.arange(6.0).reshape(2, 3)
    assert digest(array) == digest(np.asfortranarray(array))
    assert digest(np.array([np.nan])) == digest(np.array([np.nan]))


def test_the_clock_has_no_part() -> None:
    """Seconds and times differ from run to run; all else stays, in lists, too."""
    noted = {"seconds": 3, "runs": [{"loss": 0.5, "datetime_start": "now"}], "worker_id": "a"}
    assert timeless(noted) == '{"runs": [{"loss": 0.5}]}'


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("my_method-fe77d722", "my_method"),
        ("tuning-noisy_finetune-04786423", "tuning-noisy_finetune"),
        ("prepared-adversarial-22e0abcfaa7c-00000.pt", "prepared-adversarial-00000.pt"),
        ("digits-d0c2961f.yaml", "digits.yaml"),
        ("certified_gradient_clipping", "certified_gradient_clipping"),
    ],
)
def test_names_without_hashes(name: str, alike: str) -> None:
    """Catches a number of an original, or a word of a method's name, taken for a hash."""
    assert HASH.sub("", name) == alike


def test_rows() -> None:
    """Different, here alone, there alone, and a fact that neither report has: all of them are differences."""
    here: dict[str, Any] = {"a": {"x": "1", "y": "2"}, "b": {"x": "1"}, "d": {"x": "nowhere"}}
    there: dict[str, Any] = {"a": {"x": "1", "y": "3"}, "b": {"x": "1"}, "c": {"x": "1"}, "d": {"x": "nowhere"}}
    rows = {row.what: (row.values, row.different) for row in compare(here, there)}
    assert rows == {"a": (2, ("y",)), "b": (1, ()), "c": (1, ("x",)), "d": (1, ("x",))}
    assert {row.what for row in compare(there, here) if row.different} == {"a", "c", "d"}


def test_leaves() -> None:
    """Dicts themselves and what is in them, tensors of a `.pt` file as well."""
    content = {"tensors": {"w": torch.zeros(1)}, "seconds": 1.0}
    assert [keys for keys, _ in leaves(content)] == [("tensors",), ("tensors", "w"), ("seconds",)]
