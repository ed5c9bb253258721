"""What do the three numbers of a grading say with few models? Against the truth, from many.

    python -m benchmarks.checks.estimators

Grades eight methods of `digits` from one original with 512 runs each, against the first 512 of 1,024 retrained models:
the share of the ceiling that F has there is the truth. Then, twelve times for each N, N runs of each method and N of
the 1,024 retrained models are drawn, and each number is computed of them. The table has, for each N and number:

- the rank correlation (Spearman) of a draw's numbers with the truth, mean over draws;
- the bias of a share of the ceiling, mean over methods and draws, in points (an overlap has no ceiling);
- the separation of methods: the median over pairs of the difference of the means, in standard deviations of a draw
  (the root of the mean of both variances): what tells methods apart;
- the number that retrained models get against others.

What the numbers are made of was chosen on simulated normal pools, and not on these models. Some fifteen minutes on two
cores the first time; the bank and the runs are kept, and an interrupted measurement continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from checkpoints.bank import ensure
from checkpoints.server import start_server
from checkpoints.workers import Workers, default_workers
from data import TaskSpec, load
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.isolation.handle import room_workers
from evaluation.metrics import METRICS
from evaluation.metrics.as_of import as_of
from evaluation.metrics.intervals import Population, ceiling
from evaluation.metrics.overlap import overlap
from evaluation.runs.resolve import resolve
from evaluation.runs.stored import read_stored
from evaluation.spec import GradingSpec
from evaluation.tuned import find_tuned

Floats = NDArray[np.float64]
METHODS = ("seif", "fisher", "finetune", "noisy_finetune", "scrub", "sebastian", "ssd", "my_method")
MODELS, RETRAINED = 512, 1024
METRIC = METRICS["official"]
BUDGET = 1.0
"""Not what is measured here: a busy machine is to stop nothing."""


def share_of_f(unlearned: Floats, retrained: Floats) -> float:
    """F over its ceiling, both with these models."""
    pool = Population(retrained, np.ones(len(retrained)), np.ones(len(retrained)))
    best = ceiling(pool, METRIC.forgetting_quality).forgetting_quality.value
    return METRIC.forgetting_quality(unlearned, retrained) / best


def share_as_of(unlearned: Floats, retrained: Floats) -> float:
    """The same as of 512 models."""
    return as_of([unlearned], retrained, METRIC.forgetting_quality, MODELS).share_of_ceiling.value


def overlap_of(unlearned: Floats, retrained: Floats) -> float:
    """The overlap."""
    return overlap([unlearned], retrained).estimate.value


NUMBERS: dict[str, Callable[[Floats, Floats], float]] = {
    "F": share_of_f,
    "as of 512": share_as_of,
    "overlap": overlap_of,
}


def confidences(methods: tuple[str, ...], workers: Workers) -> tuple[dict[str, Floats], Floats]:
    """Of the runs of each method, `(512, forget)`, and of retrained models, `(1024, forget)`."""
    problem = TaskSpec("digits")
    task = load(problem)
    console = Console()
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, 1, RETRAINED, workers, console.tell, on_progress)
    labels = task.labels("forget")
    specs = [
        GradingSpec(name, problem, originals=1, models=MODELS, tuned=find_tuned(problem, name), budget=BUDGET)
        for name in methods
    ]
    for result in grade_methods(specs, workers, console):
        if isinstance(result, Exception):
            raise result
    folders = [resolve(spec, task, workers.device).folder for spec in specs]
    found = {
        name: METRIC.confidence(read_stored(folder).unlearned.outputs.forget, labels)
        for name, folder in zip(methods, folders, strict=True)
    }
    return found, METRIC.confidence(bank.retrained.outputs(RETRAINED).forget, labels)


@dataclass(frozen=True)
class Row:
    """What a number is worth."""

    rank_correlation: float
    bias: float | None
    separation: float
    of_retrained: float


def measure(name: str, models: int, pools: dict[str, Floats], retrained: Floats, truth: Floats, draws: int) -> Row:
    """Draw models, and see how the number of the draws lies to the truth, `(methods,)`."""
    random = np.random.default_rng(models)
    number = NUMBERS[name]
    found = np.empty((draws, len(pools)))
    perfect = np.empty(draws)
    for draw in range(draws):
        order = random.permutation(len(retrained))
        theirs, others = retrained[order[:models]], retrained[order[models : 2 * models]]
        chosen = random.permutation(MODELS)[:models]
        found[draw] = [number(pool[chosen], theirs) for pool in pools.values()]
        perfect[draw] = number(others, theirs)
    correlation = np.mean([spearmanr(row, truth).statistic for row in found])
    means, variances = found.mean(axis=0), found.var(axis=0, ddof=1)
    separations = [
        abs(means[one] - means[other]) / np.sqrt((variances[one] + variances[other]) / 2)
        for one, other in combinations(range(len(means)), 2)
    ]
    bias = None if name == "overlap" else float((found - truth).mean())
    return Row(float(correlation), bias, float(np.median(separations)), float(perfect.mean()))


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args()
    start_server()
    with room_workers(default_workers("cpu")) as workers:
        pools, retrained = confidences(METHODS, workers)
    truth = np.array([share_of_f(pool, retrained[:MODELS]) for pool in pools.values()])
    print("| method | share of the ceiling, 512 models | overlap, 512 models |\n|---|---|---|")
    for (name, pool), share in zip(pools.items(), truth, strict=True):
        print(f"| `{name}` | {share:.0%} | {overlap_of(pool, retrained[:MODELS]):.3f} |")
    print("\n| N | number | rank correlation | bias | separation | retrained against retrained |")
    print("|---|---|---|---|---|---|")
    for models in (32, 64, 128):
        for name in NUMBERS:
            row = measure(name, models, pools, retrained, truth, options.draws)
            bias = "" if row.bias is None else f"{100 * row.bias:+.1f}"
            cells = f"{row.rank_correlation:.2f} | {bias} | {row.separation:.1f} | {row.of_retrained:.2f}"
            print(f"| {models} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
