"""Measure how often the 95 % confidence intervals cover the true value, on simulated gradings.

    python -m benchmarks.checks.interval_coverage [--number overlap]

In each setting many gradings are simulated: K originals, N unlearned models of each, N retrained models, all drawn
anew. The true value is the mean of F (of the overlap, or of F as of 512 models) over the gradings. For each N, the
table shows the fraction of gradings whose interval covers it, and the mean width of the intervals relative to F. "+-"
is one standard error of a coverage near 95 %. A fifth of the variance of the confidences is common to all examples of a
model, because examples share models and are not independent. Where originals differ, the unlearned confidences of an
original are shifted by one random amount in all examples, and by another in each example.

"ceiling" is retrained against retrained. The last row shows what no interval can do: infer from one original how others
would differ.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes use the cores

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.as_of import as_of
from evaluation.metrics.intervals import Estimate, Population, ceiling, estimate_grades
from evaluation.metrics.official import forgetting_quality
from evaluation.metrics.overlap import overlap

Floats = NDArray[np.float64]
NUMBERS = ("F", "overlap", "as-of-512")
SPREAD = 1.3  # standard deviation of a confidence over models, as on the digits
SHARED = 0.2  # fraction of its variance that is common to all examples of a model


@dataclass(frozen=True)
class Setting:
    """How unlearned models differ from retrained ones; lengths in standard deviations of the latter."""

    name: str
    shift: float = 0.0
    scale: float = 1.0
    tails: str = "normal"
    originals: int = 1
    common: float = 0.0  # standard deviation of an original's shift that is the same in all examples
    each: float = 0.0  # and of the one that it has in each example
    full_protocol: bool = False  # every unlearned model comes from an original of its own
    is_ceiling: bool = False
    counts: bool = True  # into the last line of the table


SETTINGS = (
    Setting("as retrained"),
    Setting("shift 0.25", shift=0.25),
    Setting("shift 0.5", shift=0.5),
    Setting("shift 1", shift=1),
    Setting("scale 0.8", scale=0.8),
    Setting("scale 1.5", scale=1.5),
    Setting("t3, shift 0.5", shift=0.5, tails="t3"),
    Setting("t3, shift 1", shift=1, tails="t3"),
    Setting("2 alike, shift 0.5", shift=0.5, originals=2),
    Setting("2 alike, shift 1", shift=1, originals=2),
    Setting("2 differ by 0.1, shift 0.5", shift=0.5, originals=2, common=0.1, each=0.3),
    Setting("2 differ by 0.2, shift 1", shift=1, originals=2, common=0.2, each=0.3),
    Setting("3 differ by 0.2, shift 0.5", shift=0.5, originals=3, common=0.2, each=0.3),
    Setting("8 differ by 0.2, shift 0.5", shift=0.5, originals=8, common=0.2, each=0.3),
    Setting("8 differ by 0.1, shift 1", shift=1, originals=8, common=0.1, each=0.3),
    Setting("full protocol, shift 0.5", shift=0.5, common=0.2, each=0.5, full_protocol=True),
    Setting("ceiling", is_ceiling=True),
    Setting("ceiling, t3", tails="t3", is_ceiling=True),
    Setting("1 of those that differ by 0.1", shift=0.5, common=0.1, each=0.3, counts=False),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the coverage of the confidence intervals.")
    parser.add_argument("--models", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--gradings", type=int, default=100, help="simulated gradings of each kind")
    parser.add_argument("--examples", type=int, default=20, help="forget examples of a grading")
    parser.add_argument("--replicates", type=int, default=40, help="of each interval (the kit takes 100)")
    parser.add_argument("--number", default="F", choices=NUMBERS, help="whose intervals")
    parser.add_argument("--only", default="", help="only settings with this in their name")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    print(f"coverage in % (mean width as a share of F), {arguments.gradings} gradings, ", end="")
    print(f"{arguments.examples} examples, +- {100 * (0.95 * 0.05 / arguments.gradings) ** 0.5:.1f}\n")
    print(f"{'originals and setting':32}" + "".join(f"{f'N = {n}':>14}" for n in arguments.models))
    sizes = (arguments.number, arguments.gradings, arguments.examples, arguments.replicates)
    overall: list[list[float]] = [[] for _ in arguments.models]
    with ProcessPoolExecutor(arguments.workers) as executor:
        settings = [setting for setting in SETTINGS if arguments.only in setting.name]
        if arguments.number != "F":
            settings = [setting for setting in settings if not setting.is_ceiling]
        rows = [[executor.submit(measure, s, n, *sizes) for n in arguments.models] for s in settings]
        for setting, row in zip(settings, rows, strict=True):
            results = [future.result() for future in row]
            cells = "".join(f"{100 * coverage:7.1f} ({width:4.2f})" for coverage, width in results)
            print(f"{setting.name:32}{cells}", flush=True)
            if setting.counts:
                for column, (coverage, _) in zip(overall, results, strict=True):
                    column.append(coverage)
    print(f"{'mean, without the last row':32}" + "".join(f"{100 * np.mean(c):7.1f}       " for c in overall))


def measure(
    setting: Setting, models: int, number: str, gradings: int, examples: int, replicates: int
) -> tuple[float, float]:
    """Return the fraction of intervals that cover the true value, and their mean width relative to it."""
    rng = np.random.default_rng(0)
    estimates = [simulate(setting, rng, number, models, examples, replicates) for _ in range(gradings)]
    truth = np.mean([estimate.value for estimate in estimates])
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    width = np.mean([estimate.high - estimate.low for estimate in estimates])
    return float(covered), float(width / truth)


def simulate(
    setting: Setting, rng: np.random.Generator, number: str, models: int, examples: int, replicates: int
) -> Estimate:
    """Return a number of one simulated grading, with its interval."""
    seed = int(rng.integers(2**32))
    retrained = pool(confidences(setting, rng, models, examples))
    if setting.is_ceiling:
        return ceiling(retrained, forgetting_quality, seed).forgetting_quality
    unlearned = []
    for _ in range(setting.originals):
        origins = models if setting.full_protocol else 1
        shift = setting.shift + setting.common * rng.normal(size=(origins, 1))
        shift = shift + setting.each * rng.normal(size=(origins, examples))
        unlearned.append(pool(SPREAD * shift + setting.scale * confidences(setting, rng, models, examples)))
    if number == "F":
        return estimate_grades(unlearned, retrained, forgetting_quality, seed, replicates).forgetting_quality
    confidences_of = [one.confidences for one in unlearned]
    if number == "overlap":
        return overlap(confidences_of, retrained.confidences, seed).estimate
    return as_of(confidences_of, retrained.confidences, forgetting_quality, 512, seed).forgetting_quality


def confidences(setting: Setting, rng: np.random.Generator, models: int, examples: int) -> Floats:
    """Return confidences of new models around 0, (models, examples)."""
    shared = rng.normal(size=(models, 1))
    shape = (models, examples)
    own = rng.normal(size=shape) if setting.tails == "normal" else rng.standard_t(3, size=shape)
    values: Floats = SPREAD * (np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own)
    return values


def pool(values: Floats) -> Population:
    """Return models with these confidences, of equal accuracy."""
    return Population(values, np.ones(len(values)), np.ones(len(values)))


if __name__ == "__main__":
    main()
