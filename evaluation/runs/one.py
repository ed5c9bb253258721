"""One run of a method: what a worker process does, from the original's weights to outputs on disk."""

from __future__ import annotations

import contextlib
import json
import signal
import traceback
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from checkpoints.devices import compute_seconds
from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.outputs import record_outputs
from checkpoints.pool import Pool
from checkpoints.pruning import pruned_weights, zero, zero_before_forward
from checkpoints.workers import be_deterministic, load_task, seed_everything
from data import Task
from data.files import write_atomically, write_tensors
from data.loaders import run_loaders
from evaluation.runs.contract import fresh_network
from evaluation.runs.limits import killed_after, logged_to, peak_memory, reset_peak_memory
from evaluation.runs.prepared import prepared_for
from evaluation.runs.settings import RunSettings, run_path, run_seed
from evaluation.runs.unlearned import Unlearned, drift_from
from methods import all_method_handlers
from methods.BaseMethod import BaseMethod


def perform(settings: RunSettings, original: int, run: int) -> str | None:
    """Do one run and save what it leaves. A job for a worker.

    Returns None, or one line that says what the method did wrong (the traceback is in the run's log). A run that
    exceeds the budget gives no answer at all: the operating system kills the process.
    """
    task = load_task(settings.task, settings.device)
    state = _original_state(task, original)
    start, memory = state, dict[str, torch.Tensor]()
    if settings.previous is not None:
        start, memory = load_weights(run_path(settings.previous, original, run, ".pt"))
    budget = settings.budget_seconds
    with logged_to(run_path(settings.folder, original, run, ".log")):
        try:
            reset_globals(0, settings.device)
            prepared = prepared_for(settings.method, settings.hyper_parameters, task, original, settings.device)
            if _needs_rehearsal(settings):
                unlearn_once(settings, task, start, 0, budget, settings.limits.rehearsal_seconds, memory, prepared)
            seed = run_seed(settings, original, run)
            done = unlearn_once(settings, task, start, seed, budget, memory=memory, prepared=prepared)
            network = fresh_network(task, done.net, settings.method)
            outputs = record_outputs(network, task)
            notes = None if done.notes is None else json.dumps(done.notes)
        except BaseException as error:  # whatever a method raises, SystemExit too, is its own failure
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    if notes is not None:
        write_atomically(run_path(settings.folder, original, run, ".json"), lambda beside: beside.write_text(notes))
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    if settings.keep_weights:
        save_weights(run_path(settings.folder, original, run, ".pt"), weights, done.memory)
    drift = drift_from(state, weights)
    left = Unlearned(outputs, np.array([done.seconds]), np.array([done.peak_memory]), np.array([drift]))
    left.save(run_path(settings.folder, original, run, ".npz"))
    return None


def save_weights(path: Path, weights: State, memory: Mapping[str, torch.Tensor]) -> None:
    """Keep what the run for the next request goes on from: the weights, and the method's `memory`."""
    write_tensors(path, {"weights": weights, "memory": dict(memory)})


def load_weights(path: Path) -> tuple[State, dict[str, torch.Tensor]]:
    """Read what `save_weights` wrote."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    return kept["weights"], kept["memory"]


class Unlearning(NamedTuple):
    """What one call of a method's `run` came to."""

    net: nn.Module
    seconds: float
    peak_memory: int
    """In bytes."""
    notes: Any
    """The method's `notes`; None if it has left none."""
    memory: dict[str, torch.Tensor]
    """The method's `memory`: what it keeps for the next request."""


def unlearn_once(
    settings: RunSettings,
    task: Task,
    weights: State,
    seed: int,
    budget: float | None = None,
    extra: float = 0.0,
    memory: Mapping[str, torch.Tensor] = MappingProxyType({}),
    prepared: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> Unlearning:
    """Call the method's `run` on `weights`; `memory` is what it has left for itself after the request before.

    `prepared` is what it has prepared for the original. The process is killed if the call takes longer than `budget`
    and `extra` seconds.
    """
    reset_globals(seed, settings.device)  # a run that failed may have left types that no network can be built with
    method = make_method(settings.method, settings.hyper_parameters)
    net = build_network(task)
    net.load_state_dict(weights)
    if memory:
        method.memory = {name: value.to(settings.device, copy=True) for name, value in memory.items()}
    if prepared:
        method.prepared = {name: value.to(settings.device, copy=True) for name, value in prepared.items()}
    net = net.to(settings.device).eval()  # on Kaggle, all calls but the first get the net in eval mode
    loaders = run_loaders(task, seed)
    reset_peak_memory(settings.device)
    try:
        with killed_after(budget, extra, settings.device, settings.limits), _kept_pruned(net, task):
            began = compute_seconds(settings.device)
            method.run(net, *loaders)
            seconds = compute_seconds(settings.device) - began
            if budget is not None and seconds > budget + extra:  # what child processes took is only known now
                signal.raise_signal(signal.SIGPROF)
    finally:  # the next job of this process may be another's run, or models for the bank
        reset_globals(seed, settings.device)
    peak = peak_memory(settings.device)
    kept = {name: value.cpu() for name, value in getattr(method, "memory", {}).items()}
    return Unlearning(net, seconds, peak, getattr(method, "notes", None), kept)


def single_run(settings: RunSettings, task: Task, original: int, run: int) -> tuple[Unlearning, nn.Module]:
    """The very run of a grading, in this process and without a budget; the network has the weights that it left.

    Raises:
        MethodError: the method broke its contract. And whatever its `run` raises.
    """
    state = _original_state(task, original)
    prepared = prepared_for(settings.method, settings.hyper_parameters, task, original, settings.device)
    done = unlearn_once(settings, task, state, run_seed(settings, original, run), prepared=prepared)
    return done, fresh_network(task, done.net, settings.method)


@contextlib.contextmanager
def _kept_pruned(net: nn.Module, task: Task) -> Iterator[None]:
    """Whatever a method does to a network of a pruned bank, what is pruned is 0 whenever it computes, and in the end.

    That holds for copies of the network that the method makes, too, and costs a method nothing in a dense bank.
    """
    if task.recipe.pruning == "none":
        yield
        return
    mask = pruned_weights(net)
    hook = net.register_forward_pre_hook(partial(zero_before_forward, mask))
    try:
        yield
    finally:
        hook.remove()
    zero(net, mask)


def make_method(name: str, hyper_parameters: Mapping[str, Any]) -> BaseMethod:
    """The registered method `name` with these hyper-parameters."""
    return all_method_handlers()[name](**hyper_parameters)


@lru_cache(maxsize=4)
def _original_state(task: Task, original: int) -> State:
    return Pool(task, "original").state(original)


_rehearsed: set[tuple[Any, ...]] = set()


def _needs_rehearsal(settings: RunSettings) -> bool:
    """True once per method and process: the first call pays for imports and warm-ups that are not the method's.

    Texts and switches among the hyper-parameters choose other code, which may import something else; numbers don't.
    """
    values = settings.hyper_parameters.items()
    choices = tuple((name, value) for name, value in values if isinstance(value, (str, bool)))
    key = (settings.task, settings.method, choices)
    first = key not in _rehearsed
    _rehearsed.add(key)
    return first


def reset_globals(seed: int, device: str) -> None:
    """Seed all global generators and undo what an earlier run may have changed in PyTorch."""
    be_deterministic(device)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    seed_everything(seed)
