"""The bank: original and retrained models on disk, trained on first use, checked on every use.

A *pool* holds the models that were trained on one set of training indices; the originals of a task (all training
data) and its retrained models (the retain set) are two pools. Tasks that share data, network and recipe share their
originals, whatever they forget. In a pool's folder:

    manifest.json               recipe, and for each model its seed, sha256, training seconds, versions
    model-00000.pt              a state_dict, for `torch.load(..., weights_only=True)`
    outputs-<task>-00000.npz    outputs of the group of models that starts with model 0 (see `outputs.py`)
    snapshot-00016.pt           a group in training, to go on from after an interruption

Models are trained in groups with fixed boundaries (`group_bounds`), and a group's bits do not depend on what else is
trained or when: a bank that grew, or was killed and resumed, equals one made in one go.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from checkpoints.devices import compute_seconds, describe_device, versions
from checkpoints.grouped import GroupedNetwork, State
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.training import GroupTrainer, training_steps
from checkpoints.workers import Workers, add_progress, load_task
from data.files import sha256_of, write_atomically
from data.seeds import derive_seed

if TYPE_CHECKING:
    from data import Task, TaskSpec

Tell = Callable[[str], None]
"""How the bank says something worth a line: a file that is damaged, a lock that it waits for."""


def bank_folder() -> Path:
    """`checkpoints/bank/`, or the environment variable UNLEARNING_BANK."""
    return Path(os.environ.get("UNLEARNING_BANK") or Path(__file__).parent / "bank")


def group_bounds(models: int, together: int) -> list[tuple[int, int]]:
    """The groups `[start, stop)` in which the first `models` models are trained.

    Sizes 2, 2, 4, 8, ... up to `together`, so that two originals cost two models and a large pool is made of
    large groups. The bounds of a group do not depend on `models`, and the last may reach beyond it.

    >>> group_bounds(64, together=16)
    [(0, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 48), (48, 64)]
    """
    bounds = []
    start = 0
    while start < models:
        size = min(max(start, 2), together)
        bounds.append((start, start + size))
        start += size
    return bounds


# ----------------------------------------------------------------------------------------------------------------------
# A pool on disk
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The models of `task` trained on `indices`; `kind` is "original" or "retrained"."""

    task: Task
    kind: str

    @cached_property
    def indices(self) -> np.ndarray:
        """The training indices that these models have seen, int64 `(n,)`."""
        return self.task.all_indices if self.kind == "original" else self.task.retain_indices

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides these models."""
        return self.task.training_fingerprint(self.indices)

    @property
    def folder(self) -> Path:
        """Where the models lie."""
        return bank_folder() / self.fingerprint

    def seed(self, model: int) -> int:
        """The seed of a model: its initial weights and the order of its batches."""
        return derive_seed("bank", self.fingerprint, model)

    def bounds(self, models: int) -> list[tuple[int, int]]:
        """See `group_bounds`."""
        return group_bounds(models, self.task.recipe.models_together)

    def model_path(self, model: int) -> Path:
        """The file of a model's weights."""
        return self.folder / f"model-{model:05d}.pt"

    def outputs_path(self, start: int) -> Path:
        """The file of the outputs, for this task, of the group that starts with model `start`."""
        return self.folder / f"outputs-{self.task.fingerprint}-{start:05d}.npz"

    def snapshot_path(self, start: int) -> Path:
        """The file that a group in training goes on from."""
        return self.folder / f"snapshot-{start:05d}.pt"

    @property
    def manifest_path(self) -> Path:
        """The file of `manifest`."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """What is known of the finished files, by file name; empty before the first model, or if it is damaged."""
        try:
            return dict(json.loads(self.manifest_path.read_text())["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def add_to_manifest(self, records: dict[str, Any]) -> None:
        """Note finished files. Only the process that holds the pool's lock may."""
        described = {
            "kind": self.kind,
            "examples": len(self.indices),
            "network": self.task.network,
            "recipe": asdict(self.task.recipe),
            "files": dict(sorted({**self.manifest(), **records}.items())),
        }
        text = json.dumps(described, indent=1)
        write_atomically(self.manifest_path, lambda beside: beside.write_text(text))

    def state(self, model: int) -> State:
        """The weights of a model, on the CPU."""
        return torch.load(self.model_path(model), map_location="cpu", weights_only=True)

    def is_complete(self, models: int) -> bool:
        """Whether the first `models` models have recorded outputs."""
        return all(self.outputs_path(start).is_file() for start, _ in self.bounds(models))

    def outputs(self, models: int) -> Outputs:
        """The recorded outputs of the first `models` models."""
        starts = [start for start, _ in self.bounds(models)]
        return Outputs.join([Outputs.load(self.outputs_path(start)) for start in starts])[:models]

    @contextmanager
    def locked(self, tell: Tell) -> Iterator[None]:
        """Hold the pool alone, waiting for another process that builds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            tell(f"another process is training the {self.kind} models of this bank: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


# ----------------------------------------------------------------------------------------------------------------------
# Jobs for the workers
# ----------------------------------------------------------------------------------------------------------------------

SNAPSHOT_SECONDS = 30.0
"""How much training an interruption may cost at most."""


def _train_group(spec: TaskSpec, device: str, kind: str, start: int, stop: int) -> dict[str, Any]:
    """Train models `[start, stop)` of a pool, save weights and outputs, and return their manifest records."""
    task = load_task(spec, device)
    pool = Pool(task, kind)
    trainer = GroupTrainer(task, pool.indices, [pool.seed(model) for model in range(start, stop)])
    seconds = _restore(trainer, pool.snapshot_path(start))
    add_progress((stop - start) * trainer.epoch / task.recipe.epochs)
    began = saved = time.monotonic()
    while not trainer.finished:
        trainer.train_epoch()
        add_progress((stop - start) / task.recipe.epochs)
        if time.monotonic() - saved > SNAPSHOT_SECONDS and not trainer.finished:
            saved = time.monotonic()
            snapshot = {"seconds": seconds + saved - began, **trainer.snapshot()}
            _save(pool.snapshot_path(start), snapshot)
    seconds += time.monotonic() - began

    about = {"seconds": seconds / (stop - start), "group": [start, stop]}
    about |= {"device": describe_device(device), "versions": versions()}
    records = {}
    for model, state in zip(range(start, stop), trainer.states(), strict=True):
        path = pool.model_path(model)
        _save(path, state)
        records[path.name] = {"seed": pool.seed(model), "sha256": sha256_of(path), **about}
    records |= _save_outputs(pool, start, trainer.network)
    pool.snapshot_path(start).unlink(missing_ok=True)
    return records


def _save(path: Path, content: object) -> None:
    """`torch.save`, whole or not at all, and the same bytes for the same content wherever it is written."""

    def write(beside: Path) -> None:
        with beside.open("wb") as file:  # given a path, PyTorch would put its name into the file
            torch.save(content, file)

    write_atomically(path, write)


def _restore(trainer: GroupTrainer, path: Path) -> float:
    """Go on from a snapshot if there is a readable one; the seconds of training that it holds."""
    if not path.exists():
        return 0.0
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums, but does not compare them on reading
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        snapshot = torch.load(path, map_location=trainer.images.device, weights_only=True)
    except Exception:  # damaged: the group starts anew
        path.unlink(missing_ok=True)
        return 0.0
    snapshot["generators"] = [state.cpu() for state in snapshot["generators"]]
    trainer.restore(snapshot)
    return snapshot["seconds"]


def _record_group(spec: TaskSpec, device: str, kind: str, start: int, stop: int) -> dict[str, Any]:
    """Record the outputs, for this task, of a group that was trained for another."""
    task = load_task(spec, device)
    pool = Pool(task, kind)
    networks = [build_network(task) for _ in range(start, stop)]
    for model, network in zip(range(start, stop), networks, strict=True):
        network.load_state_dict(pool.state(model))
    add_progress(stop - start)
    return _save_outputs(pool, start, GroupedNetwork(networks).to(device))


def _save_outputs(pool: Pool, start: int, network: GroupedNetwork) -> dict[str, Any]:
    path = pool.outputs_path(start)
    record_outputs(network, pool.task).save(path)
    return {path.name: {"sha256": sha256_of(path)}}


def _time_retraining(spec: TaskSpec, device: str) -> float:
    """Seconds that an ordinary loop takes to train one retrained model, measured on its first few seconds."""
    task = load_task(spec, device)
    total = task.recipe.epochs * math.ceil(len(task.retain_indices) / task.recipe.batch_size)
    warm_up, limit = min(3, total - 1), 3.0
    steps = training_steps(task, task.retain_indices, seed=0)
    for _ in islice(steps, warm_up):
        pass
    began, done = compute_seconds(device), 0
    for done, _ in enumerate(steps, start=1):
        if done % 10 == 0 and compute_seconds(device) - began > limit:
            break
    return total * (compute_seconds(device) - began) / max(done, 1)


# ----------------------------------------------------------------------------------------------------------------------
# The bank
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bank:
    """The models that a grading compares: `originals` to start from, `retrained` as the truth."""

    originals: Pool
    retrained: Pool
    retrain_seconds: float
    """Seconds that one retrained model takes on this device, alone, in an ordinary training loop."""

    def fingerprint(self, originals: int, retrained: int) -> str:
        """Hash of the weights of the first so many models."""
        digest = hashlib.sha256()
        for pool, models in ((self.originals, originals), (self.retrained, retrained)):
            manifest = pool.manifest()
            for model in range(models):
                digest.update(manifest[pool.model_path(model).name]["sha256"].encode())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _Piece:
    """One group that needs work, and the job that does it."""

    pool: Pool
    start: int
    stop: int
    job: Callable[..., dict[str, Any]]

    def submit(self, workers: Workers) -> Future[dict[str, Any]]:
        return workers.submit(self.job, self.pool.task.spec, workers.device, self.pool.kind, self.start, self.stop)


def ensure(
    task: Task,
    originals: int,
    retrained: int,
    workers: Workers,
    tell: Tell = lambda text: None,
    on_progress: Callable[[float, int], None] = lambda done, total: None,
) -> Bank:
    """The bank of `task` with at least so many models, trained now as far as they are missing or damaged.

    Args:
        originals: models on all training data, K.
        retrained: models on the retain set, N.
        tell: called with a line for the user, about damaged files for example.
        on_progress: called several times a second with the models done, and the models to do in all.
    """
    pool_of_originals, pool_of_retrained = Pool(task, "original"), Pool(task, "retrained")
    wanted = {pool_of_originals: originals, pool_of_retrained: retrained}
    with ExitStack() as locks:
        for pool in sorted(wanted, key=lambda pool: pool.fingerprint):  # one order for all: no deadlock
            locks.enter_context(pool.locked(tell))
        pieces = [piece for pool, models in wanted.items() for piece in _missing(pool, models, tell)]
        pieces.sort(key=lambda piece: piece.start - piece.stop)  # the longest first
        _work_off(pieces, workers, on_progress)
        seconds = _retrain_seconds(pool_of_retrained, workers)
    return Bank(pool_of_originals, pool_of_retrained, seconds)


def _missing(pool: Pool, models: int, tell: Tell) -> list[_Piece]:
    """The groups of a pool that have to be trained, or only to be recorded for this task."""
    manifest = pool.manifest()
    if not manifest and pool.manifest_path.exists():
        tell(f"{pool.manifest_path} is damaged: making the {pool.kind} models again")

    def is_whole(path: Path) -> bool:
        if path.name not in manifest:
            return False
        whole = path.is_file() and sha256_of(path) == manifest[path.name]["sha256"]
        if not whole:
            tell(f"{path} is damaged or gone: making it again")
        return whole

    pieces = []
    for start, stop in pool.bounds(models):
        if not all(list(map(is_whole, map(pool.model_path, range(start, stop))))):
            pieces.append(_Piece(pool, start, stop, _train_group))
        elif not is_whole(pool.outputs_path(start)):
            pieces.append(_Piece(pool, start, stop, _record_group))
    return pieces


def _work_off(pieces: list[_Piece], workers: Workers, on_progress: Callable[[float, int], None]) -> None:
    """Do the pieces in the workers; each is noted in its pool's manifest as soon as it is done."""
    before = workers.progress
    total = sum(piece.stop - piece.start for piece in pieces)
    pending = {piece.submit(workers): piece for piece in pieces}
    try:
        while pending:
            done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                pending.pop(future).pool.add_to_manifest(future.result())
            on_progress(workers.progress - before if pending else total, total)
    finally:
        for future in pending:
            future.cancel()


def _retrain_seconds(retrained: Pool, workers: Workers) -> float:
    """Seconds of retraining on this device: measured once, then kept beside the retrained models."""
    path = retrained.folder / "retrain_seconds.json"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    device = workers.submit(describe_device, workers.device).result()
    if device not in known:
        known[device] = workers.submit(_time_retraining, retrained.task.spec, workers.device).result()
        write_atomically(path, lambda beside: beside.write_text(json.dumps(known)))
    return known[device]
