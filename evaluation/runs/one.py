"""One run of a method: what a worker process does, from the original's weights to outputs on disk."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import traceback
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.pool import Pool
from checkpoints.pruning import pruned_weights, zero, zero_before_forward
from checkpoints.workers import be_deterministic, load_task, seed_everything
from data import Task, TaskSpec
from data.files import write_arrays, write_atomically, write_tensors, writing_to
from data.loaders import run_loaders
from data.seeds import derive_seed
from evaluation.runs.prepared import prepared_for
from methods import all_method_handlers
from methods.BaseMethod import BaseMethod

REHEARSAL_SECONDS = 60.0
"""What the first, uncounted call in a process may take beyond the budget: PyTorch loads parts of itself then."""


class MethodError(Exception):
    """The method broke its contract; the message says how."""


@dataclass(frozen=True)
class RunSettings:
    """What the runs of one grading share. Picklable; goes to the workers."""

    task: TaskSpec
    device: str
    method: str
    hyper_parameters: tuple[tuple[str, Any], ...]
    seed: int
    budget_seconds: float | None
    """Seconds after which a run is killed; None for methods that are exempt."""
    folder: Path
    """Where `runs/` is."""
    previous: Path | None = None
    """The folder of the grading of the request before, whose runs these go on from; None: from the originals."""
    keep_weights: bool = False
    """Whether the runs of another request go on from these."""


def run_path(folder: Path, original: int, run: int, ending: str) -> Path:
    """A file of a run in a grading's folder.

    `.npz` for its outputs, `.log` for what it said, `.json` for its notes, `.pt` for the weights it left.
    """
    return folder / "runs" / f"original-{original:03d}-run-{run:04d}{ending}"


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What one or more runs left."""

    outputs: Outputs
    seconds: np.ndarray
    """Seconds of each run, float64 `(runs,)`."""
    peak_memory: np.ndarray
    """Bytes of each run, int64 `(runs,)`."""
    drift: np.ndarray
    """How far each run's weights are from the original's, see `drift_from`, float64 `(runs,)`."""

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, runs: slice) -> Unlearned:
        return Unlearned(self.outputs[runs], self.seconds[runs], self.peak_memory[runs], self.drift[runs])

    @staticmethod
    def join(parts: Sequence[Unlearned]) -> Unlearned:
        """The runs of all parts, in order."""
        return Unlearned(
            Outputs.join([part.outputs for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.peak_memory for part in parts]),
            np.concatenate([part.drift for part in parts]),
        )

    def save(self, path: Path) -> None:
        """Write an `.npz` file, whole or not at all."""
        own = {"seconds": self.seconds, "peak_memory": self.peak_memory, "drift": self.drift}
        write_arrays(path, {**self.outputs.arrays(), **own})

    @staticmethod
    def load(path: Path) -> Unlearned | None:
        """Read what `save` wrote; None if it is not there, or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            own = {name: arrays.pop(name) for name in ("seconds", "peak_memory", "drift")}
            return Unlearned(Outputs(**arrays), **own)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None


def run_seed(settings: RunSettings, original: int, run: int) -> int:
    """The seed of a run: of its global random generators, and of the order of its batches."""
    return derive_seed("run", settings.seed, original, run)


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
    limit = settings.budget_seconds
    with logged_to(run_path(settings.folder, original, run, ".log")):
        try:
            reset_globals(0, settings.device)
            prepared = prepared_for(settings.method, dict(settings.hyper_parameters), task, original, settings.device)
            if _needs_rehearsal(settings):
                unlearn_once(settings, task, start, 0, limit, REHEARSAL_SECONDS, memory, prepared)
            seed = run_seed(settings, original, run)
            done = unlearn_once(settings, task, start, seed, limit, memory=memory, prepared=prepared)
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


def drift_from(original: State, weights: State) -> float:
    """How far weights have moved: the L2 norm of the change of all floating point entries over that of the original."""
    names = [name for name, value in original.items() if value.is_floating_point()]
    moved = sum(float((weights[name].double() - original[name].double()).square().sum()) for name in names)
    return (moved / sum(float(original[name].double().square().sum()) for name in names)) ** 0.5


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
    limit: float | None = None,
    extra: float = 0.0,
    memory: Mapping[str, torch.Tensor] = MappingProxyType({}),
    prepared: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> Unlearning:
    """Call the method's `run` on `weights`; `memory` is what it has left for itself after the request before.

    `prepared` is what it has prepared for the original. The process is killed if the call takes longer than `limit` and
    `extra` seconds.
    """
    reset_globals(seed, settings.device)  # a run that failed may have left types that no network can be built with
    method = make_method(settings.method, dict(settings.hyper_parameters))
    net = build_network(task)
    net.load_state_dict(weights)
    if memory:
        method.memory = {name: value.to(settings.device, copy=True) for name, value in memory.items()}
    if prepared:
        method.prepared = {name: value.to(settings.device, copy=True) for name, value in prepared.items()}
    net = net.to(settings.device).eval()  # on Kaggle, all calls but the first get the net in eval mode
    loaders = run_loaders(task, seed)
    _reset_peak_memory(settings.device)
    try:
        with _killed_after(limit, extra, settings.device), _kept_pruned(net, task):
            began = compute_seconds(settings.device)
            method.run(net, *loaders)
            seconds = compute_seconds(settings.device) - began
            if limit is not None and seconds > limit + extra:  # what child processes took is only known now
                signal.raise_signal(signal.SIGPROF)
    finally:  # the next job of this process may be another's run, or models for the bank
        reset_globals(seed, settings.device)
    peak = _peak_memory(settings.device)
    kept = {name: value.cpu() for name, value in getattr(method, "memory", {}).items()}
    return Unlearning(net, seconds, peak, getattr(method, "notes", None), kept)


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


def make_method(name: str, hyper_parameters: dict[str, Any]) -> BaseMethod:
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
    choices = tuple((name, value) for name, value in settings.hyper_parameters if isinstance(value, (str, bool)))
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


# ----------------------------------------------------------------------------------------------------------------------
# The contract
# ----------------------------------------------------------------------------------------------------------------------


def fresh_network(task: Task, net: nn.Module, method: str) -> nn.Module:
    """A fresh network with the weights of `net`, which a method has left: only the weights count.

    Raises:
        MethodError: the architecture is no longer what it was, or a weight is NaN or infinite.
    """
    fresh = build_network(task)
    _check_structure(fresh, net, method)
    state, expected = net.state_dict(), fresh.state_dict()
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise MethodError(f"{method} left NaN or infinite values in {name}.")
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            raise MethodError(f"{method} changed the shape of {name}: {shapes}.")
    fresh.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()})
    return fresh.to(task.train.images.device)


def _check_structure(fresh: nn.Module, net: nn.Module, method: str) -> None:
    """Hooks, replaced modules and replaced `forward`s would be lost with the network, so they are refused."""
    expected = {name: type(module) for name, module in fresh.named_modules()}
    modules = dict(net.named_modules())
    if {name: type(module) for name, module in modules.items()} != expected:
        changed = expected.keys() ^ modules.keys() or {
            name for name in expected if type(modules[name]) is not expected[name]
        }
        where = ", ".join(name or "the network itself" for name in sorted(changed)[:3])
        raise MethodError(f"{method} changed the architecture ({where}); only weights may change.")
    if net.state_dict().keys() != fresh.state_dict().keys():
        odd = sorted(net.state_dict().keys() ^ fresh.state_dict().keys())
        raise MethodError(f"{method} added or removed weights ({', '.join(odd[:3])}); undo that before the end.")
    for name, module in modules.items():
        if "forward" in vars(module):
            raise MethodError(f"{method} replaced forward() of {name or 'the network'}; only weights are taken over.")
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, kind, None) for kind in hooks):
            raise MethodError(f"{method} left a hook on {name or 'the network'}; remove it before the end.")


# ----------------------------------------------------------------------------------------------------------------------
# Time, memory, log
# ----------------------------------------------------------------------------------------------------------------------


PATIENCE = 10.0
"""On the CPU, a run that only waits is killed after so many times its budget on the wall clock ..."""

MORE_PATIENCE = 10.0
"""... and so many seconds more."""

OVER_BUDGET = (-signal.SIGPROF, -signal.SIGALRM)
"""Exit codes of a process that was killed because its run exceeded the budget."""


@contextlib.contextmanager
def _killed_after(limit: float | None, extra: float, device: str) -> Iterator[None]:
    """Have the operating system kill this process when the block takes more than `limit` and `extra` seconds.

    Seconds of `compute_seconds`, that is; whatever the process does then. Without a limit it may take for ever.
    """
    if limit is None:
        yield
        return
    on_cpu = device == "cpu"
    timers = {signal.ITIMER_REAL: (PATIENCE * limit + MORE_PATIENCE if on_cpu else limit) + extra}
    if on_cpu:
        timers[signal.ITIMER_PROF] = limit + extra  # counts processor time
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)  # the default action is to end the process
    for timer, seconds in timers.items():
        signal.setitimer(timer, max(seconds, 1e-3))  # 0, and what is rounded to it, would switch the timer off
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


def _reset_peak_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: str) -> int:
    """Bytes: on a GPU the most that PyTorch had allocated during the run, else the process's largest resident set."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes, Linux kilobytes


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Collect in a file whatever is printed, by C code and child processes too; no file if nothing is."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("wb")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the process may be killed
    kept = (os.dup(1), os.dup(2))
    with log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    if path.stat().st_size == 0:
        path.unlink()
