"""What the runs of one grading share, and what a run's files are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from data import TaskSpec
from data.seeds import derive_seed
from evaluation.catalogue.lookup import facts_of
from evaluation.isolation import limits
from evaluation.isolation.limits import Limits
from evaluation.isolation.room import Call


@dataclass(frozen=True)
class RunSettings:
    """What the runs of one grading share. Picklable; goes to the workers."""

    task: TaskSpec
    device: str
    method: str
    hyper_parameters: dict[str, Any]
    """The values in force, by name."""
    seed: int
    """Of the grading."""
    folder: Path
    """Where `runs/` is."""
    budget_seconds: float | None = None
    """Seconds after which a run is killed; None for methods that are exempt, and outside gradings."""
    previous: Path | None = None
    """The folder of the grading of the request before, whose runs these go on from; None: from the originals."""
    start: str = "original"
    """The pool whose models the first request's runs start from; "retrained": run r from retrained model r."""
    keep_weights: bool = False
    """Whether the weights that each run leaves are kept: the runs of another request go on from them."""
    limits: Limits = field(default_factory=lambda: limits.LIMITS)


def outside_gradings(
    task: TaskSpec, method: str, hyper_parameters: Mapping[str, Any], device: str = "cpu", seed: int = 0
) -> RunSettings:
    """For runs that belong to no grading: without a budget, and without files."""
    return RunSettings(task, device, method, dict(hyper_parameters), seed, folder=Path())


def run_path(folder: Path, original: int, run: int, ending: str) -> Path:
    """A file of a run in a grading's folder.

    `.npz` for its outputs, `.log` for what it printed, `.json` for its notes, `.pt` for the weights it left.
    """
    return folder / "runs" / f"original-{original:03d}-run-{run:04d}{ending}"


def run_seed(settings: RunSettings, original: int, run: int) -> int:
    """The seed of a run: of its global random generators, and of the order of its batches."""
    return derive_seed("run", settings.seed, original, run)


def files_of(settings: RunSettings) -> tuple[Path, ...]:
    """The files that the method's code comes from."""
    return facts_of(settings.method).paths


def call_of(
    settings: RunSettings,
    do: str,
    seed: int,
    budget: float | None = None,
    memory: Mapping[str, Tensor] = MappingProxyType({}),
) -> Call:
    """What a room is told to call: the method's "run" or "prepare"; `memory` is what the request before has left."""
    files = [str(file) for file in files_of(settings)]
    path = facts_of(settings.method).place.path
    return Call(do, settings.method, settings.hyper_parameters, seed, budget, settings.limits, memory, files, path)
