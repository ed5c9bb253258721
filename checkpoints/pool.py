"""A pool of models on disk: those that were trained on one set of training indices.

The originals of a task (all training data) and its retrained models (the retain set) are two pools. Tasks that share
data, network and recipe share their originals, whatever they forget. In a pool's folder:

    manifest.json               recipe, and for each model its seed, sha256, training seconds, versions
    model-00000.pt              a state_dict, for `torch.load(..., weights_only=True)`
    outputs-<task>-00000.npz    outputs of the group of models that starts with model 0 (see `outputs.py`)
    snapshot-00016.pt           a group in training, to go on from after an interruption
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from checkpoints.grouped import State
from checkpoints.outputs import Outputs
from data.errors import UserError
from data.files import generated_folder, locked, write_atomically
from data.seeds import derive_seed

if TYPE_CHECKING:
    from data import Task

Tell = Callable[[str], None]
"""How the bank says something worth a line: a file that is damaged, a lock that it waits for."""


def bank_folder() -> Path:
    """`checkpoints/bank/`, or the environment variable UNLEARNING_BANK."""
    return generated_folder("UNLEARNING_BANK")


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
            files = dict(json.loads(self.manifest_path.read_text())["files"])
            return files if all(isinstance(record["sha256"], str) for record in files.values()) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
        """The recorded outputs of the first `models` models, as they were recorded.

        Raises:
            UserError: a file is gone, or has been changed since.
        """
        manifest = self.manifest()
        paths = [self.outputs_path(start) for start, _ in self.bounds(models)]
        known = [manifest.get(path.name, {}).get("sha256") for path in paths]
        return Outputs.join([_verified_outputs(*pair) for pair in zip(paths, known, strict=True)])[:models]

    def locked(self, tell: Tell) -> AbstractContextManager[None]:
        """Hold the pool alone, waiting for another process that builds it."""
        waiting = f"another process is training the {self.kind} models of this bank: waiting for it"
        return locked(self.folder / "lock", lambda: tell(waiting))


def _verified_outputs(path: Path, sha256: str | None) -> Outputs:
    """Outputs whose file has the hash that the manifest says: everything that is scored rests on them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): grade again, which records it anew.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not what the bank has recorded: grade again, which records it anew.")
    return Outputs.read(io.BytesIO(content))
