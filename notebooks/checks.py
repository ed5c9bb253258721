"""Is a submission what it should be? Its checkpoints, the grader's own for the same seeds, and the time on Kaggle."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from checkpoints.devices import describe_device
from checkpoints.networks import build_network
from data import Task, TaskSpec, load
from data.errors import UserError
from evaluation.certification.finishing import warning_of_many
from evaluation.runs.one import Finished, unlearn
from evaluation.runs.settings import outside_gradings, run_seed

if TYPE_CHECKING:
    from checkpoints.grouped import State

KAGGLE_CHECKPOINTS = 512
KAGGLE_SECONDS = 8 * 3600
"""What Kaggle allows for all of them together."""
KAGGLE_IMAGES = 24_000
"""Training images of the hidden data, roughly."""


def read_states(submission: Path, checkpoints: int) -> list[State]:
    """The checkpoints of a submission, in the order of their numbers.

    Raises:
        UserError: they are not `unlearned_checkpoint_0.pth`, `..._1.pth` and so on, exactly `checkpoints` of them.
    """
    with zipfile.ZipFile(submission) as archive:
        found = {Path(name).name: name for name in archive.namelist()}
        expected = [f"unlearned_checkpoint_{run}.pth" for run in range(checkpoints)]
        if len(archive.namelist()) != checkpoints or set(found) != set(expected):
            raise UserError(
                f"{submission.name} has {len(archive.namelist())} files; {checkpoints} checkpoints were due."
            )
        return [
            torch.load(io.BytesIO(archive.read(found[name])), map_location="cpu", weights_only=True)
            for name in expected
        ]


def local_runs(
    method: str, settings: Mapping[str, Any], task_spec: TaskSpec, original: Path, runs: int, device: str
) -> list[Finished]:
    """What the grader's first runs leave, for grading seed 0 and original 0: a job for a worker.

    `original` is the file of the original's weights.
    """
    task = load(task_spec, device, progress=False)
    state = torch.load(original, map_location="cpu", weights_only=True)
    grading = outside_gradings(task_spec, method, settings, device)
    with open(os.devnull, "wb") as nothing:
        log = nothing.fileno()
        return [unlearn(grading, task, state, run_seed(grading, 0, run), log) for run in range(runs)]


def remarks_on_certificate(run: Finished) -> list[str]:
    """What to say if a run certifies something: it does so for one model, and a submission is many."""
    notes = json.loads(run.notes or "{}")
    claimed = notes.get("certificate") if isinstance(notes, dict) else None
    warning = warning_of_many(claimed, KAGGLE_CHECKPOINTS) if claimed else None
    return [] if warning is None else [warning]


def check_states(states: Sequence[State], task: Task, original: State, expect_change: bool) -> list[str]:
    """Check checkpoints by themselves; remarks that are worth a line, but no error.

    Raises:
        UserError: one can't be loaded into a fresh network, is not finite, or (if `expect_change`) is the original.
    """
    for run, state in enumerate(states):
        _check_loads(f"unlearned_checkpoint_{run}.pth", state, task)
    unchanged = [run for run, state in enumerate(states) if _equal(state, original)]
    if unchanged and expect_change:
        raise UserError(
            f"unlearned_checkpoint_{unchanged[0]}.pth is the original: the method silently does nothing, and would "
            "score 0. If that is right on so few images, say: python notebook_utils.py -m NAME --allow-unchanged."
        )
    if unchanged:
        return ["The checkpoints are the original, which scores 0."]
    if len(states) > 1 and all(_equal(state, states[0]) for state in states[1:]):
        return ["All checkpoints are equal, whatever the seed: every one can be told from retraining, which scores 0."]
    return []


def _check_loads(name: str, state: State, task: Task) -> None:
    try:
        build_network(task).load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} does not fit a fresh {task.network}: {reason[:300]}") from None
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name} has NaN or infinite values in {key}; the competition scores that as a failure.")


def _equal(one: State, other: State) -> bool:
    """Whether two networks have the same weights; counters of batches don't count."""
    return all(torch.equal(value, other[key]) for key, value in one.items() if value.is_floating_point())


def check_equal(states: Sequence[State], local: Sequence[State]) -> None:
    """Compare the notebook's checkpoints with the grader's, bit for bit.

    Raises:
        UserError: they differ; the message names the first weight, and by how much.
    """
    for run, (state, expected) in enumerate(zip(states, local, strict=True)):
        for key, value in expected.items():
            if _bits(state[key]) != _bits(value):
                distance = (state[key].double() - value.double()).abs().max().item()
                raise UserError(
                    f"Run {run} in the notebook is not the grader's: {key} differs by up to {distance:.3g}. The method "
                    "depends on something that does not travel, such as its own file, or unseeded randomness."
                )


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor).encode()


def check_time(seconds_per_checkpoint: float, images: int, device: str, exempt: bool) -> str:
    """What 512 checkpoints would take, in words: the time of one, scaled by the number of training images.

    Raises:
        UserError: more than 8 hours, on a GPU, and the method is not `exempt`. On a CPU it is only said.
    """
    hours = seconds_per_checkpoint * KAGGLE_CHECKPOINTS * max(KAGGLE_IMAGES / images, 1) / 3600
    limit = KAGGLE_SECONDS / 3600
    text = (
        f"{KAGGLE_CHECKPOINTS} checkpoints on the competition's {KAGGLE_IMAGES:,} images would take about "
        f"{hours:.1f} h on this machine's {describe_device(device)}; Kaggle's GPU has {limit:.0f} h"
    )
    if hours > limit and device != "cpu" and not exempt:
        raise UserError(f"{text}. The method has to be faster.")
    if device == "cpu":
        text += ". A CPU is no guide to that: compare with what my_method takes here"
    return text
