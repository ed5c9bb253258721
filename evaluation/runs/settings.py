"""What the runs of one grading share, and what a run's files are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import TaskSpec
from data.seeds import derive_seed
from evaluation.isolation import limits
from evaluation.isolation.limits import Limits


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
