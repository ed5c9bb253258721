"""Running a method a few times, as a grading does, without keeping anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from checkpoints.grouped import State
from checkpoints.outputs import Outputs
from checkpoints.pool import Pool
from checkpoints.workers import Workers, load_task
from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.lookup import refused_by_constructor
from evaluation.checks.scores import is_half
from evaluation.isolation.handle import CallFailedError
from evaluation.runs.many import failure_of
from evaluation.runs.one import Failure, finite_outputs, single_run, told_in
from evaluation.runs.resolve import Grading
from evaluation.runs.settings import RunSettings
from evaluation.runs.unlearned import drift_from

ORIGINAL, RUNS = 0, (0, 1)
"""The original that the method is run on, and the runs: those of a grading, with the same seeds."""
PATIENCE = 10.0
"""Times the budget that a run may take here, so that one that is too slow tells by how much."""
FASTER = 10.0
"""What learning rates are multiplied by in one more run."""


@dataclass(frozen=True, eq=False)
class Tried:
    """What is known of a run that came to its end."""

    outputs: Outputs
    """Of one model."""
    seconds: float
    drift: float
    """How far its weights are from the original's, see `drift_from`."""
    moved: float
    """The same of the parameters alone: statistics of batch normalisation change without a step."""
    training: bool
    """Whether it left the network in train mode."""
    half: bool
    """Whether all weights that it changed are numbers of half precision."""


@dataclass(frozen=True, eq=False)
class Faster:
    """The run with larger learning rates."""

    values: Mapping[str, float]
    """The larger ones, by name."""
    result: Tried | Failure


def try_run(settings: RunSettings, original: int, run: int) -> Tried | Failure:
    """Do one run. A job for a worker."""
    task = load_task(settings.task, settings.device)
    with open(os.devnull, "wb") as nothing:
        log = nothing.fileno()
        try:
            done, network = single_run(settings, task, original, run, log)
            with told_in(log):
                outputs = finite_outputs(network, task, settings.method)
        except CallFailedError as error:
            return Failure(error.complaint, error.retry)
    start = Pool(task, "original").state(original)
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    parameters = {name: start[name] for name, _ in network.named_parameters()}
    moved, half = drift_from(parameters, weights), has_half_weights(start, weights)
    return Tried(outputs, done.seconds, drift_from(start, weights), moved, done.training, half)


def has_half_weights(original: State, weights: State) -> bool:
    """Whether the weights that differ from the original's are all float16 or bfloat16 numbers; False if none does."""
    names = [name for name, value in original.items() if value.is_floating_point()]
    changed = [weights[name][weights[name] != original[name]].float().numpy() for name in names]
    values = np.concatenate(changed)
    return bool(len(values)) and is_half(values)


def try_method(
    grading: Grading, allowed: float | None, workers: Workers
) -> tuple[list[Tried | Failure], Faster | None]:
    """The runs `RUNS` of a grading, and one with larger learning rates, None if the method has none to change.

    `allowed` is the budget in seconds; None for a method that is exempt.
    """
    pool = workers.pools[0]
    budget = None if allowed is None else PATIENCE * allowed
    settings = replace(grading.run_settings, device=pool.device, budget_seconds=budget)
    larger = larger_rates(grading.method, grading.settings)
    futures = [pool.submit(try_run, settings, ORIGINAL, run) for run in RUNS]
    if larger:
        faster = replace(settings, hyper_parameters={**grading.settings, **larger})
        futures.append(pool.submit(try_run, faster, ORIGINAL, RUNS[0]))
    results = [failure_of(future) or future.result() for future in futures]
    return results[: len(RUNS)], Faster(larger, results[-1]) if larger else None


def larger_rates(method: MethodFacts, settings: Mapping[str, Any]) -> dict[str, float]:
    """The learning rates among the hyper-parameters, times `FASTER`; none if they can't be changed here.

    They can't if they are the recipe's, if the method's constructor refuses the larger ones, or if what it prepares for
    an original depends on them: that may take minutes.
    """
    rates = [name for name, value in settings.items() if isinstance(value, float) and value > 0 and _is_rate(name)]
    prepares = method.has_prepare and (not method.prepares_with or set(rates) & set(method.prepares_with))
    larger = {name: FASTER * settings[name] for name in rates}
    if method.recipe_is_binding or prepares or refused_by_constructor(method, {**settings, **larger}):
        return {}
    return larger


def _is_rate(name: str) -> bool:
    return "learning_rate" in name or name == "lr" or name.endswith("_lr")
