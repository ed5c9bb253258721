"""How many originals, runs and retrained models tell most in a given time?

    python -m benchmarks.speed.resolution [--task faces --originals 4]

Grades ten methods, with tuned values where there are some, from many originals, and splits the variance of the mean
score, on the scale of square roots as its intervals do, into three parts: what originals differ by beyond their own
runs, what the runs of one original add, and what the retrained models add. From these, and from measured seconds, the
table has for each K originals and N models the half width of the 95 % interval, as a share of the score (median over
methods), and the seconds of one grading with the bank cached and from an empty one. Variances by N models are taken to
fall as 1 / N. Fifteen minutes on two cores; gradings are kept, and an interrupted measurement continues.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
from scipy.special import stdtrit

from checkpoints.bank import ensure
from checkpoints.devices import choose_device
from checkpoints.server import start_server
from checkpoints.workers import Workers, default_workers
from data import TaskSpec, load
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.isolation.handle import room_workers
from evaluation.metrics import METRICS
from evaluation.metrics.intervals import SHARE_KEPT, Population, accuracy_ratio
from evaluation.metrics.metric import Floats
from evaluation.metrics.score import population
from evaluation.runs.resolve import resolve
from evaluation.runs.stored import read_stored
from evaluation.spec import GradingSpec
from evaluation.tuned import find_tuned

METHODS = "seif,fisher,finetune,noisy_finetune,scrub,sebastian,ssd,kookmin,salun,my_method"
METRIC = METRICS["official"]
BUDGET = 1.0
"""Not what is measured here: a busy machine is to stop nothing."""
DRAWS = 40
TIMED = 24
"""Models that are trained to see how long it takes."""
COUNTS = (2, 4, 8, 16, 32)
MODELS = (32, 64, 128)
SECONDS_AROUND_A_RUN = 0.06
"""Its process, and recording what it left: processor time, measured on two cores."""


@dataclass(frozen=True)
class Parts:
    """Of the variance of the root of a score, with N models: by which means what."""

    value: float
    originals: float
    """Of one original's value, beyond its runs."""
    runs: float
    """Of one original's value, by its N runs."""
    retrained: float
    """Of any value, by the N retrained models."""
    seconds: float
    """Of a run."""

    def half_width(self, originals: int, models: int, of: int) -> float:
        """Of the 95 % interval, as a share of the score, where the parts were measured with `of` models."""
        scale = of / models
        variance = (self.originals + scale * self.runs) / originals + scale * self.retrained
        return float(2 * stdtrit(originals - 1, 0.975) * np.sqrt(variance / self.value)) if self.value else np.inf


def quality(pool: Population, truth: Population) -> float:
    """The score: F and both ratios."""
    return METRIC.forgetting_quality(pool.confidences, truth.confidences) * accuracy_ratio(pool, truth)


def parts_of(pools: Sequence[Population], truth: Population, seconds: float) -> Parts:
    """Split the variance, by draws of two thirds of the models: of runs alone, and of retrained models alone."""
    random = np.random.default_rng(0)
    models = len(truth.confidences)
    kept = round(SHARE_KEPT * models)
    inflation = kept / (models - kept)

    def some(pool: Population) -> Population:
        return pool.take(random.permutation(models)[:kept])

    def variance(values: Sequence[Floats]) -> Floats:
        return inflation * np.var(np.sqrt(np.array(values)), axis=0, ddof=1)

    truths, fixed = [some(truth) for _ in range(DRAWS)], [some(pool) for pool in pools]
    runs = variance(
        [np.array([quality(some(pool), truths[0]) for pool in pools]) for _ in range(DRAWS)]
    )  # (originals,)
    others = variance([np.array(np.mean([quality(pool, one) for pool in fixed])) for one in truths])
    values = np.array([quality(pool, truth) for pool in pools])
    own = float(runs.mean())
    between = max(float(np.sqrt(values).var(ddof=1)) - own, 0.0)
    return Parts(float(values.mean()), between, own, float(others), seconds)


def graded(names: Sequence[str], problem: TaskSpec, originals: int, models: int, workers: Workers) -> dict[str, Parts]:
    """Grade the methods, and split the variance of each."""
    task = load(problem)
    specs = [
        GradingSpec(name, problem, originals=originals, models=models, tuned=find_tuned(problem, name), budget=BUDGET)
        for name in names
    ]
    found = {}
    for spec, report in zip(specs, grade_methods(specs, workers, Console()), strict=True):
        if isinstance(report, Exception):
            print(f"left out: {report}")
            continue
        stored = read_stored(resolve(spec, task, workers.device).folder)
        truth = population(stored.retrained, task, METRIC)
        pools = [population(outputs, task, METRIC) for outputs in stored.by_original]
        found[spec.method] = parts_of(pools, truth, report.cost.runs_seconds_mean or 0.0)
    return found


def seconds_of_a_model(problem: TaskSpec, device: str) -> float:
    """Of training one model of a bank, on the clock, all workers busy: in a bank of their own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, UNLEARNING_BANK=folder),
        room_workers(default_workers(device), device) as workers,
    ):
        began = time.perf_counter()
        ensure(load(problem), 2, TIMED - 2, workers)
        return (time.perf_counter() - began) / TIMED


def main() -> None:
    """Print the parts of each method, and the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--originals", type=int, default=16)
    parser.add_argument("--models", type=int, default=64)
    options = parser.parse_args()
    start_server()
    problem, device = TaskSpec(options.task), choose_device("auto")
    count = default_workers(device)
    training = seconds_of_a_model(problem, device)
    with room_workers(count, device) as workers:
        found = graded(options.methods.split(","), problem, options.originals, options.models, workers)
    print(
        f"{options.task}: K = {options.originals}, N = {options.models}; a model of the bank takes {training:.2f} s\n"
    )
    print("| method | score | originals | runs | retrained | seconds of a run |\n|---|---|---|---|---|---|")
    for name, parts in found.items():
        of = np.array([parts.originals, parts.runs, parts.retrained]) / parts.value if parts.value else np.zeros(3)
        shares = " | ".join(f"{2 * root:.0%}" for root in np.sqrt(of))
        print(f"| `{name}` | {parts.value:.4f} | {shares} | {parts.seconds:.3f} |")
    print("\n| K | N | half width, median | bank cached, s | from an empty bank, s |\n|---|---|---|---|---|")
    seconds = float(np.median([parts.seconds for parts in found.values()])) + SECONDS_AROUND_A_RUN
    for originals, models in itertools.product(COUNTS, MODELS):
        width = np.median([parts.half_width(originals, models, options.models) for parts in found.values()])
        runs = originals * models * seconds / count
        print(f"| {originals} | {models} | {width:.0%} | {runs:.0f} | {runs + (originals + models) * training:.0f} |")


if __name__ == "__main__":
    main()
