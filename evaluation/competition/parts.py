"""What each submission is graded on: the public forget requests, and after the end the hidden ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from data import Task, TaskSpec, load
from data.files import write_atomically
from data.forget import parse_request
from data.seeds import derive_seed
from evaluation.competition.folder import Folder
from evaluation.competition.settings import Settings, read_seed
from evaluation.spec import GradingSpec

DECISIVE = ("task", "originals", "models", "budget", "budget_seconds", "metric")
"""Settings that scores depend on."""


@dataclass(frozen=True)
class Part:
    """One forget request that submissions are graded on."""

    hidden: bool
    number: int
    """Among those of its kind, counted from 1."""
    spec: GradingSpec
    """How; the method is yet to be named."""
    conditions: str
    """Hash of all that decides: gradings under other conditions don't count."""


def public_parts(settings: Settings) -> list[Part]:
    """The public requests."""
    return [
        Part(False, number, _spec(settings, text, settings.seed), _conditions(settings, [text, settings.seed]))
        for number, text in enumerate(settings.public, start=1)
    ]


def hidden_conditions(settings: Settings, secret: str) -> list[str]:
    """The conditions of the hidden requests, without drawing them."""
    return [
        _conditions(settings, [text, number, hashlib.sha256(f"{secret} is secret".encode()).hexdigest()])
        for number, text in enumerate(settings.hidden, start=1)
    ]


def hidden_parts(settings: Settings, folder: Folder) -> list[Part]:
    """The hidden requests, drawn by the secret seed and written below `private/`. `UserError` if it is gone."""
    if not settings.hidden:
        return []
    secret = read_seed(folder)
    task = load(replace(settings.task, forget=(settings.public[0],)), progress=False)
    numbers = task.train.source.numbers if task.train.source is not None else task.all_indices
    parts = []
    for number, conditions in enumerate(hidden_conditions(settings, secret), start=1):
        text = settings.hidden[number - 1]
        kind, _, name = text.partition(":")
        path = folder.private / "requests" / f"{number}-{conditions[:12]}.npy"
        if not path.is_file():
            if kind == "file":
                text = f"file:{folder.root / name}"
            indices = draw(text, task, f"{secret} request {number}")
            write_atomically(path, lambda beside, indices=indices: _save(beside, numbers[indices]))  # type: ignore[misc]
        seed = derive_seed("hidden grading", secret, number)
        parts.append(Part(True, number, _spec(settings, f"file:{path.resolve()}", seed), conditions))
    return parts


def draw(text: str, task: Task, secret: str) -> np.ndarray:
    """The training indices that a hidden request names, int64, sorted: those that are drawn, by a secret.

    Raises:
        UserError: the request can't be understood.
    """
    indices = parse_request(text, task.train, task.classes).indices
    kind = text.partition(":")[0]
    labels = task.train.labels.cpu().numpy()
    if kind == "random":
        candidates = np.arange(len(task.train))
    elif kind == "class":
        candidates = np.flatnonzero(labels == labels[indices[0]])
    else:  # they are named one by one
        return indices
    seed = int.from_bytes(hashlib.sha256(secret.encode()).digest(), "big")
    return np.sort(np.random.default_rng(seed).permutation(candidates)[: len(indices)])


def _save(path: object, indices: np.ndarray) -> None:
    with open(path, "wb") as file:  # type: ignore[call-overload]  # a path would get ".npy" appended
        np.save(file, indices)


def _spec(settings: Settings, text: str, seed: int) -> GradingSpec:
    return settings.grading(_task(settings, text), seed)


def _task(settings: Settings, text: str) -> TaskSpec:
    return replace(settings.task, forget=(text,))


def _conditions(settings: Settings, own: Sequence[object]) -> str:
    decisive = {name: msgspec.to_builtins(getattr(settings, name)) for name in DECISIVE}
    return hashlib.sha256(json.dumps([decisive, own], sort_keys=True).encode()).hexdigest()[:16]
