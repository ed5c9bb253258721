"""Looking at one model: its accuracies, and whether the forget set looks like training data to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from checkpoints.grouped import State
from checkpoints.outputs import record_outputs
from checkpoints.own_weights import read_weights
from checkpoints.workers import be_deterministic
from data import Task, TaskSpec, UserError, load
from evaluation.audits.membership import attack_outputs
from evaluation.console import Console
from evaluation.handover.record import Look
from evaluation.isolation.call import original_network
from evaluation.metrics.accuracies import accuracies

CHANCE = 1.5
"""Times the accuracy of guessing: with less on the retain set, weights are hardly for these images."""


def look_at(task: Task, weights: State) -> Look:
    """What the network of `task` with these weights does with its images."""
    be_deterministic(str(task.train.images.device))
    outputs = record_outputs(original_network(task, weights), task)
    try:
        membership = attack_outputs(outputs, task)
    except UserError:  # too few images
        membership = None
    return Look(accuracies(outputs, task), membership)


def all_arrived(spec: TaskSpec) -> TaskSpec:
    """The task when all its requests have arrived, so that its forget set is all of them together."""
    return replace(spec, step=0 if spec.at_once else max(len(spec.forget), 1) - 1)


def evaluate_weights(path: Path, spec: TaskSpec, device: str, console: Console) -> Look:
    """Look at the weights in a file.

    Raises:
        UserError: the task is wrong, or the weights are not of its network.
    """
    task = load(all_arrived(spec), device)
    weights = read_weights(path, task, console.tell)
    with console.waiting("looking at the images"):
        look = look_at(task, weights)
    warn_of_chance(look, task, path.name, console)
    return look


def warn_of_chance(look: Look, task: Task, name: str, console: Console) -> None:
    """Say it if a model knows nothing of the images that it should have been trained on."""
    if look.accuracies.retain < CHANCE / len(task.classes):
        console.tell(
            f"{name} is right about {look.accuracies.retain:.1%} of the retained images, hardly more than a guess: was "
            "it trained with other classes, another order of them, or images that are normalised in another way?"
        )
