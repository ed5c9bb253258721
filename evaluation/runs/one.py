"""One run of a method: what a worker does, from the original's weights to outputs on disk.

The method itself runs in a process of its own (see `evaluation.isolation`). Here, where it can't reach, its weights are
looked at, and their outputs recorded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.pool import Pool
from checkpoints.workers import load_task
from data import Task
from data.files import write_atomically, write_tensors, writing_to
from evaluation.isolation.handle import CallFailedError, room
from evaluation.isolation.structure import MethodError, fresh_network, take_over
from evaluation.runs.notes import valid_json, with_watched
from evaluation.runs.prepared import prepared_for
from evaluation.runs.settings import RunSettings, call_of, files_of, run_path, run_seed
from evaluation.runs.unlearned import Unlearned, drift_from


class Failure(NamedTuple):
    """What a run came to that left nothing."""

    complaint: str
    """What the method did wrong, in one line; the traceback, if there is one, is in the run's log."""
    retry: bool = False
    """Whether another attempt may go well."""
    lost: bool = False
    """Whether the worker was lost, which is not the method's doing."""


def perform(settings: RunSettings, original: int, run: int) -> Failure | None:
    """Do one run and save what it leaves. A job for a worker; None if all went well."""
    task = load_task(settings.task, settings.device)
    model = original if settings.start == "original" else run
    begun, memory = _state(task, settings.start, model), dict[str, Tensor]()
    start = begun
    key: Hashable = (settings.start, model)
    if settings.previous is not None:
        start, memory = load_weights(run_path(settings.previous, original, run, ".pt"))
        key = None
    try:
        with log_file(run_path(settings.folder, original, run, ".log")) as log:
            prepared = prepared_for(settings, task, original, log)
            seed = run_seed(settings, original, run)
            done = unlearn(settings, task, start, seed, log, memory=memory, prepared=prepared, key=key)
            with told_in(log):
                network = _blank_network(task)
                take_over(network, done.weights, settings.method)
                outputs = finite_outputs(network, task, settings.method)
    except CallFailedError as error:
        return Failure(error.complaint, error.retry)
    if done.notes is not None:
        notes = with_watched(valid_json(done.notes), done.read_forget_set)
        write_atomically(run_path(settings.folder, original, run, ".json"), lambda beside: beside.write_text(notes))
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    if settings.keep_weights:
        save_weights(run_path(settings.folder, original, run, ".pt"), weights, done.memory)
    drift = drift_from(begun, weights)
    left = Unlearned(outputs, np.array([done.seconds]), np.array([done.peak_memory]), np.array([drift]))
    left.save(run_path(settings.folder, original, run, ".npz"))
    return None


class Finished(NamedTuple):
    """What a run left."""

    weights: State
    memory: dict[str, Tensor]
    notes: str | None
    """JSON; None if the method has left none."""
    seconds: float
    peak_memory: int
    """In bytes."""
    training: bool
    """Whether the network was in train mode then."""
    read_forget_set: bool | None
    """Whether the run read an example of the forget set; None if nobody watched: the method does not certify."""


def unlearn(
    settings: RunSettings,
    task: Task,
    weights: State,
    seed: int,
    log: int,
    memory: Mapping[str, Tensor] = MappingProxyType({}),
    prepared: Mapping[str, Tensor] = MappingProxyType({}),
    key: Hashable = None,
) -> Finished:
    """Have the method's `run` called on `weights`, in a process of its own.

    Args:
        log: descriptor of the file that it prints to.
        memory: what it has left for itself after the request before.
        prepared: what it has prepared for the original.
        key: what tells these weights, and what is prepared for them, from others of the task; None: they are new.

    Raises:
        CallFailedError: it raised, took more than the budget or the limits in `settings`, or left nothing.
    """
    here = room(settings.device, files_of(settings))
    here.enter(task, None if key is None else (key, settings.method, tuple(prepared)), weights, prepared)
    left = here.call(call_of(settings, "run", seed, settings.budget_seconds, memory), log)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "memory": {}}
    for name, value in left.tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = value
    facts = (left.notes, left.seconds, left.peak_memory, left.training, left.read_forget_set)
    return Finished(parts["weights"], parts["memory"], *facts)


def finite_outputs(network: nn.Module, task: Task, method: str) -> Outputs:
    """The outputs of a network that a method has left.

    Raises:
        MethodError: a logit is NaN or infinite, though all weights are finite.
    """
    outputs = record_outputs(network, task)
    for name, values in outputs.arrays().items():
        if not np.isfinite(values).all():
            raise MethodError(f"{method} left weights with which outputs ({name}) are NaN or infinite.")
    return outputs


def single_run(settings: RunSettings, task: Task, original: int, run: int, log: int) -> tuple[Finished, nn.Module]:
    """The very run of a grading, without files; the network has the weights that it left.

    Raises:
        CallFailedError: see `unlearn`; or the method broke its contract.
    """
    state = _state(task, "original", original)
    prepared = prepared_for(settings, task, original, log)
    done = unlearn(
        settings, task, state, run_seed(settings, original, run), log, prepared=prepared, key=("original", original)
    )
    with told_in(log):
        return done, fresh_network(task, done.weights, settings.method)


@contextlib.contextmanager
def told_in(log: int) -> Iterator[None]:
    """A method's breach of its contract is told in its log, too, and is a `CallFailedError`."""
    try:
        yield
    except MethodError as error:
        complaint = f"MethodError: {error}"
        os.write(log, f"{complaint}\n".encode())
        raise CallFailedError(complaint) from error


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[int]:
    """A file for what is printed, by C code and child processes too: its descriptor. No file is left if nothing is."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("ab")
    with log:
        log.truncate(0)
        yield log.fileno()
    if path.stat().st_size == 0:
        path.unlink()


def save_weights(path: Path, weights: State, memory: Mapping[str, Tensor]) -> None:
    """Keep what the run for the next request goes on from: the weights, and the method's `memory`."""
    write_tensors(path, {"weights": weights, "memory": dict(memory)})


def load_weights(path: Path) -> tuple[State, dict[str, Any]]:
    """Read what `save_weights` wrote."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    return kept["weights"], kept["memory"]


@lru_cache(maxsize=4)
def _state(task: Task, kind: str, model: int) -> State:
    return Pool(task, kind).state(model)


@lru_cache(maxsize=1)
def _blank_network(task: Task) -> nn.Module:
    """What the weights of one run after another are loaded into; no method sees it."""
    return build_network(task).to(task.train.images.device)
