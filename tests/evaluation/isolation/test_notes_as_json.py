"""What a method notes, as JSON."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.isolation.notes import notes_as_json


@pytest.mark.parametrize(
    ("notes", "stored"),
    [
        ({"loss": torch.tensor(0.5, requires_grad=True)}, {"loss": 0.5}),
        ({"loss": [torch.tensor(0.5), torch.tensor(1)]}, {"loss": [0.5, 1]}),
        ({"mask": torch.tensor([[True, False]])}, {"mask": [[True, False]]}),
        ({"half": torch.tensor([0.5], dtype=torch.bfloat16)}, {"half": [0.5]}),
        ({"loss": np.float32(0.5), "all": np.arange(2)}, {"loss": 0.5, "all": [0, 1]}),
        ({1: (2, {"b", "a"}), np.int64(3): None}, {"1": [2, ["a", "b"]], "3": None}),
        (torch.ones(2), [1.0, 1.0]),
        (
            {"losses": deque([1, 2.5]), "steps": range(2), "all": {"a": 1}.values()},
            {"losses": [1, 2.5], "steps": [0, 1], "all": [1]},
        ),
        ("text", "text"),
    ],
)
def test_what_json_lacks_is_converted(notes: Any, stored: Any) -> None:
    """Catches "Object of type Tensor is not JSON serializable" after a run that went well."""
    text = notes_as_json(notes)
    assert text is not None
    assert json.loads(text) == stored


def test_no_notes() -> None:
    """None is left out, not written as null."""
    assert notes_as_json(None) is None


def test_what_has_no_form_is_refused() -> None:
    """It would be lost without a word."""
    with pytest.raises(TypeError, match=r"self\.notes holds a Linear, which is not JSON serializable: keep lists"):
        notes_as_json({"net": torch.nn.Linear(1, 1)})
