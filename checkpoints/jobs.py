"""What the workers do for the bank: train a group of models, record its outputs, time retraining."""

from __future__ import annotations

import math
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from checkpoints.devices import compute_seconds, describe_device, versions
from checkpoints.dp_sgd import PrivateTrainer, accounting, private_steps
from checkpoints.networks import build_network
from checkpoints.outputs import OUTPUTS_FORMAT, record_outputs
from checkpoints.pool import Pool
from checkpoints.pruning import PrunedTrainer, epochs_in_all, pruned_steps
from checkpoints.together import Together, Way, together, way_of
from checkpoints.training import GroupTrainer, training_steps
from checkpoints.workers import add_progress, load_task
from data.errors import UserError
from data.files import read_tensors, sha256_of, write_tensors

if TYPE_CHECKING:
    from data import Task, TaskSpec

SNAPSHOT_SECONDS = 30.0
"""How much training an interruption may cost at most."""
BATCHES_TO_TIME, SECONDS_TO_TIME = 3, 2.0
"""How long training is expected to take is measured on so many batches, again and again for so long."""


def train_group(
    spec: TaskSpec, device: str, kind: str, start: int, stop: int, snapshot_seconds: float = SNAPSHOT_SECONDS
) -> dict[str, Any]:
    """Train models `[start, stop)` of a pool, save weights and outputs, and return their manifest records.

    Raises:
        UserError: the training of a model diverged. Nothing of its group is kept.
    """
    task = load_task(spec, device)
    pool = Pool(task, kind)
    way = way_of(task, stop - start)
    trainer = _make_trainer(task)(task, pool.indices, [pool.seed(model) for model in range(start, stop)])
    seconds = _restore(trainer, pool.snapshot_path(start), way)
    epochs = epochs_in_all(task.recipe)
    add_progress((stop - start) * trainer.epoch / epochs)
    began = saved = time.monotonic()
    while not trainer.finished:
        trainer.train_epoch()
        if not _are_finite(trainer):
            raise _diverged(pool, trainer, start)
        add_progress((stop - start) / epochs)
        if time.monotonic() - saved > snapshot_seconds and not trainer.finished:
            saved = time.monotonic()
            snapshot = {"seconds": seconds + saved - began, "way": way.name, **trainer.snapshot()}
            write_tensors(pool.snapshot_path(start), snapshot)
    seconds += time.monotonic() - began

    about = {"seconds": seconds / (stop - start), "group": [start, stop]}
    about |= {"device": describe_device(device), "versions": versions()}
    if task.recipe.optimizer == "dp_sgd":
        about["accounting"] = accounting(task.recipe, len(pool.indices))
    if way.objection is not None:
        about |= {"way": way.name, "because": way.objection}
    records = _save_outputs(pool, start, trainer.network)  # first: it refuses models whose outputs are not finite
    for model, state in zip(range(start, stop), trainer.states(), strict=True):
        path = pool.model_path(model)
        write_tensors(path, state)
        records[path.name] = {"seed": pool.seed(model), "sha256": sha256_of(path), **about}
    pool.snapshot_path(start).unlink(missing_ok=True)
    return records


def _are_finite(trainer: GroupTrainer | PrivateTrainer | PrunedTrainer) -> bool:
    """Whether all weights of the models are finite. A GPU is asked once, not for each tensor."""
    modules = [model.network for model in trainer.models] if isinstance(trainer, PrivateTrainer) else [trainer.network]
    values = [value for module in modules for value in module.state_dict().values() if value.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def _diverged(pool: Pool, trainer: GroupTrainer | PrivateTrainer | PrunedTrainer, start: int) -> UserError:
    """The error for a group of which a model has NaN or infinite weights; its snapshot is removed."""
    pool.snapshot_path(start).unlink(missing_ok=True)
    bad = [model for model, state in enumerate(trainer.states(), start) if not all(map(_is_finite, state.values()))]
    return _divergence(pool, bad[0], f"weights after epoch {trainer.epoch} of {epochs_in_all(pool.task.recipe)}")


def _divergence(pool: Pool, model: int, what: str) -> UserError:
    recipe = pool.task.recipe
    return UserError(
        f"The training of {pool.kind} model {model} ({pool.task.network}) diverged: it has NaN or infinite {what}. No "
        f"method is the reason, but the recipe: lower its learning rate, which is {recipe.learning_rate:g} (--recipe "
        f"learning_rate={recipe.learning_rate / 10:g})."
    )


def _is_finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())


def _make_trainer(task: Task) -> type[GroupTrainer] | type[PrivateTrainer] | type[PrunedTrainer]:
    if task.recipe.pruning != "none":
        return PrunedTrainer
    return PrivateTrainer if task.recipe.optimizer == "dp_sgd" else GroupTrainer


def _restore(trainer: GroupTrainer | PrivateTrainer | PrunedTrainer, path: Path, way: Way) -> float:
    """Go on from a snapshot if there is a readable one of such a trainer; the seconds of training that it holds."""
    snapshot = read_tensors(path, trainer.images.device)
    if snapshot is None or _way_of(snapshot) != way.name:  # then the group starts anew
        path.unlink(missing_ok=True)
        return 0.0
    snapshot["generators"] = [state.cpu() for state in snapshot["generators"]]
    trainer.restore(snapshot)
    return snapshot["seconds"]


def _way_of(snapshot: dict[str, Any]) -> str:
    """The way in which the models of a snapshot were computed; early versions knew two."""
    return snapshot.get("way", "grouped" if snapshot.get("one_by_one") is None else "separate")


def record_group(spec: TaskSpec, device: str, kind: str, start: int, stop: int) -> dict[str, Any]:
    """Record the outputs, for this task, of a group that was trained for another."""
    task = load_task(spec, device)
    pool = Pool(task, kind)
    networks = [build_network(task) for _ in range(start, stop)]
    for model, network in zip(range(start, stop), networks, strict=True):
        network.load_state_dict(pool.state(model))
    add_progress(stop - start)
    return _save_outputs(pool, start, together(task, networks).to(device))


def remark_on_way(spec: TaskSpec, device: str, models: int) -> str | None:
    """What there is to tell of how so many models are trained; see `Way`."""
    task = load_task(spec, device)
    return way_of(task, models).remark(task.network)


def _save_outputs(pool: Pool, start: int, network: Together) -> dict[str, Any]:
    path = pool.outputs_path(start)
    outputs = record_outputs(network, pool.task)
    for name, values in outputs.arrays().items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)  # (models,)
        if not finite.all():
            raise _divergence(pool, start + int(np.argmin(finite)), f"outputs on the {name} set")
    outputs.save(path)
    return {path.name: {"sha256": sha256_of(path), "format": OUTPUTS_FORMAT}}


def time_training(spec: TaskSpec, device: str, kind: str, start: int, stop: int) -> float:
    """Seconds that each of the models `[start, stop)` of a pool is expected to take, trained together."""
    task = load_task(spec, device)
    pool = Pool(task, kind)
    few = pool.indices[: BATCHES_TO_TIME * task.recipe.batch_size]
    trainer = _make_trainer(task)(task, few, [pool.seed(model) for model in range(start, stop)])
    least, began = math.inf, time.monotonic()
    while time.monotonic() - began < SECONDS_TO_TIME and not trainer.finished:
        epoch_began = time.monotonic()
        trainer.train_epoch()
        compute_seconds(device)  # a GPU has done all that it was told when it answers
        least = min(least, time.monotonic() - epoch_began)  # the first ones load and prepare much
    return least * epochs_in_all(task.recipe) * len(pool.indices) / len(few) / (stop - start)


def time_retraining(spec: TaskSpec, device: str) -> float:
    """Seconds that an ordinary loop takes to train one retrained model, measured on its first few seconds."""
    task = load_task(spec, device)
    total = epochs_in_all(task.recipe) * math.ceil(len(task.retain_indices) / task.recipe.batch_size)
    warm_up, limit = min(3, total - 1), 3.0
    one_by_one = private_steps if task.recipe.optimizer == "dp_sgd" else training_steps
    if task.recipe.pruning != "none":
        one_by_one = pruned_steps
    steps = one_by_one(task, task.retain_indices, seed=0)
    for _ in islice(steps, warm_up):
        pass
    began, done = compute_seconds(device), 0
    for done, _ in enumerate(steps, start=1):
        if done % 10 == 0 and compute_seconds(device) - began > limit:
            break
    return total * (compute_seconds(device) - began) / max(done, 1)
