"""The comparison with another revision: facts are found in reports of any format, and no difference is missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checks.same_bits import HASH, compare, digest, facts_of, leaves, timeless
from evaluation.report import Report

FORMAT_1 = Path(__file__).parent.parent / "evaluation" / "report-format-1.json"


def test_facts_of_a_report() -> None:
    """All but what the clock decides, of an earlier format under the names of this one."""
    stored = FORMAT_1.read_text()
    found = facts_of(stored)
    assert found == facts_of(Report.from_json(stored).to_json())
    assert found["method.name"] == '"constrained"'
    assert found["scores.ceiling.score.low"] == json.dumps(json.loads(stored)["ceiling"]["score_interval"][0])
    assert found["retrained.test"] == json.dumps(json.loads(stored)["test_accuracy_retrained"])
    assert not [name for name in found if "seconds" in name or name.startswith(("cost", "provenance"))]


@pytest.mark.parametrize("room", ["method", "grading", "scores", "unlearned", "retrained"])
def test_a_fact_that_differs_is_noticed(room: str, make_report: Callable[..., Report]) -> None:
    """Whatever it is. Catches a record that is not compared."""
    record = json.loads(make_report().to_json())
    before = facts_of(json.dumps(record))
    for name, value in record[room].items():
        if isinstance(value, float):
            changed = {**record, room: {**record[room], name: np.nextafter(value, 0.25)}}
            after = facts_of(json.dumps(changed))
            assert [key for key in after if after[key] != before[key]] == [f"{room}.{name}"]
    assert any(key.startswith(f"{room}.") for key in before)


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
    """Different, here alone, there alone: all of them are differences."""
    here: dict[str, Any] = {"a": {"x": "1", "y": "2"}, "b": {"x": "1"}}
    there: dict[str, Any] = {"a": {"x": "1", "y": "3"}, "b": {"x": "1"}, "c": {"x": "1"}}
    rows = {row.what: (row.values, row.different) for row in compare(here, there)}
    assert rows == {"a": (2, ("y",)), "b": (1, ()), "c": (1, ("x",))}
    assert {row.what for row in compare(there, here) if row.different} == {"a", "c"}


def test_leaves() -> None:
    """Dicts themselves and what is in them, tensors of a `.pt` file as well."""
    content = {"tensors": {"w": torch.zeros(1)}, "seconds": 1.0}
    assert [keys for keys, _ in leaves(content)] == [("tensors",), ("tensors", "w"), ("seconds",)]
