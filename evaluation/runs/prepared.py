"""What methods prepare once for each original, before there is a request to forget: made on first use, then kept.

It lies beside the originals of the bank, so that all requests and gradings share it:

    prepared-<method>-<hash>-00000.pt    tensors by name, and the seconds that they took
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from checkpoints.grouped import State
from checkpoints.pool import Pool
from data import Task
from data.files import locked, read_tensors, write_tensors
from data.seeds import derive_seed
from evaluation.catalogue.lookup import facts_of
from evaluation.isolation.handle import CallFailedError, room
from evaluation.runs.settings import RunSettings, call_of, files_of


def prepares(method: str) -> bool:
    """Whether a method has something to prepare."""
    return facts_of(method).has_prepare


def prepared_for(settings: RunSettings, task: Task, original: int, log: int) -> dict[str, Tensor]:
    """What the method has prepared for an original: read, or made now. Nothing for a method that does not prepare.

    `log` is the descriptor of the file that it prints to.

    Raises:
        CallFailedError: `prepare` failed.
    """
    method, device = settings.method, settings.device
    if not prepares(method):
        return {}
    path = prepared_path(method, settings.hyper_parameters, task, original, device)
    content = read_tensors(path)
    if content is None:  # it is not there, or damaged
        with locked(path.with_suffix(".lock")):
            content = read_tensors(path)
            if content is None:  # nobody else has made it meanwhile
                _prepare(path, settings, task, original, log)
                content = read_tensors(path)
    tensors: dict[str, Tensor] = content["tensors"]
    return tensors


def prepared_seconds(method: str, settings: Mapping[str, Any], task: Task, device: str) -> float | None:
    """Seconds that preparing took for an original, mean over those that are there; None if it is not done."""
    if not prepares(method):
        return None
    pattern = prepared_path(method, settings, task, 0, device).name.replace("-00000.", "-*.")
    found = [read_tensors(path) for path in Pool(task, "original").folder.glob(pattern)]
    seconds = [content["seconds"] for content in found if content is not None]
    return sum(seconds) / len(seconds) if seconds else None


def prepared_path(method: str, settings: Mapping[str, Any], task: Task, original: int, device: str) -> Path:
    """The file for an original. The code of the method is part of its name: an edited method is another method."""
    facts = facts_of(method)
    used = {name: settings[name] for name in facts.prepares_with or settings}
    decided = json.dumps([facts.code, used, device.split(":")[0]], sort_keys=True)
    digest = hashlib.sha256(decided.encode()).hexdigest()[:12]
    return Pool(task, "original").folder / f"prepared-{method}-{digest}-{original:05d}.pt"


class Prepared(NamedTuple):
    """What a method has prepared for a model."""

    tensors: dict[str, Tensor]
    seconds: float


def prepare_for(
    settings: RunSettings, task: Task, weights: State, seed: int, log: int, key: Hashable = None
) -> Prepared:
    """Have a method prepare for a model with these weights; nothing for a method that does not prepare.

    `log` is the descriptor of the file that it prints to; `key` tells the model from others, None: it is a new one.

    Raises:
        CallFailedError: `prepare` failed.
    """
    if not prepares(settings.method):
        return Prepared({}, 0.0)
    budget = None
    if settings.budget_seconds is not None:
        limits = settings.limits
        budget = max(limits.prepare_seconds, limits.prepare_budgets * settings.budget_seconds)
    here = room(settings.device, files_of(settings), unknowing=True)
    try:
        here.enter(task, None if key is None else (key, settings.method, ()), weights, {}, with_request=False)
        left = here.call(call_of(settings, "prepare", seed, budget), log)
    except CallFailedError as error:
        raise CallFailedError(f"preparing failed: {error.complaint}") from error
    return Prepared({name.removeprefix("prepared/"): value for name, value in left.tensors.items()}, left.seconds)


def _prepare(path: Path, settings: RunSettings, task: Task, original: int, log: int) -> None:
    pool = Pool(task, "original")
    seed = derive_seed("prepare", pool.seed(original))
    prepared = prepare_for(settings, task, pool.state(original), seed, log, key=original)
    write_tensors(path, {"tensors": prepared.tensors, "seconds": prepared.seconds})
