"""A method's notes as values that JSON has; what it leaves is turned into them in its own process."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Set
from typing import Any, NoReturn

import numpy as np
from torch import Tensor


def notes_as_json(notes: Any) -> str | None:
    """JSON of a method's notes; None if it has left none.

    Tensors and NumPy arrays are lists, those of one number are numbers; other collections are lists, keys texts.

    Raises:
        TypeError: there is something else that JSON has no form for.
    """
    return None if notes is None else json.dumps(_plain(notes), default=_refuse)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Set):
        return [_plain(entry) for entry in sorted(value, key=repr)]
    if isinstance(value, Tensor):
        return _plain(value.detach().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray)):
        return [_plain(entry) for entry in value]
    return value


def _refuse(value: Any) -> NoReturn:
    kept = "lists, numbers, texts, tensors and dicts of these"
    raise TypeError(f"self.notes holds a {type(value).__name__}, which is not JSON serializable: keep {kept}")
