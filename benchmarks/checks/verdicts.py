"""How often is a verdict of `compare` wrong, and how many originals does a true one take? On simulated scores.

    python -m benchmarks.checks.verdicts --pairs 10000

Three tables: pairs of methods whose scores have one distribution, in several shapes, with the share that gets a verdict
all the same (at most 5 % is promised); pairs with equal means and unequal shapes, for which nothing is promised; and
pairs that differ, by the size of the difference in standard deviations of the difference over originals. A minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison.sequential import LOOKS, Verdict, mean_difference, share_of_error, verdict_on

Floats = NDArray[np.float64]
SCORES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda random, count: random.normal(0.05, 0.01, count),
    "skewed": lambda random, count: random.lognormal(-3.0, 1.0, count),
    "heavy tails": lambda random, count: random.standard_t(2, count),
    "mostly zero": lambda random, count: random.exponential(0.01, count) * (random.random(count) < 0.2),
}
"""How the scores of a method may lie over originals."""
UNLIKE: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal, one with three times the spread": lambda random, count: (
        random.normal(0.05, 0.01, count) - random.normal(0.05, 0.03, count)
    ),
    "one constant, one uniform": lambda random, count: random.uniform(-1.0, 1.0, count),
    "one constant, one exponential": lambda random, count: 1.0 - random.exponential(1.0, count),
    "one constant, one mostly zero": lambda random, count: (
        0.002 - random.exponential(0.01, count) * (random.random(count) < 0.2) + random.normal(0.0, 1e-5, count)
    ),
}
"""How differences of scores may lie over originals where the means are equal, and nothing else."""
SIZES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


def verdict_of(differences: Floats, pairs: int = 1) -> tuple[Verdict, int]:
    """The verdict on differences of scores, `(originals,)`, and after how many it comes, as `compare` looks at them."""
    for originals in LOOKS:
        verdict = verdict_on(mean_difference(differences[:originals], share_of_error(pairs)))
        if verdict != "undecided":
            break
    return verdict, originals


def false_verdicts(shape: str, pairs: int, seed: int = 0) -> float:
    """The share of pairs that gets a verdict, though their mean scores are equal."""
    random = np.random.default_rng(seed)

    def differences() -> Floats:
        if shape in UNLIKE:
            return UNLIKE[shape](random, LOOKS[-1])
        return SCORES[shape](random, LOOKS[-1]) - SCORES[shape](random, LOOKS[-1])

    return float(np.mean([verdict_of(differences())[0] != "undecided" for _ in range(pairs)]))


def true_verdicts(size: float, pairs: int, seed: int = 0) -> tuple[float, float]:
    """The share of pairs with such a difference that get the right verdict, and the mean number of originals."""
    random = np.random.default_rng(seed)
    found = [verdict_of(random.normal(size, 1.0, LOOKS[-1])) for _ in range(pairs)]
    return float(np.mean([verdict == "better" for verdict, _ in found])), float(np.mean([count for _, count in found]))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10000, help="simulated in each row (default: 10000)")
    pairs = parser.parse_args().pairs
    print(f"scores of one distribution, {pairs:,} pairs each, at {', '.join(map(str, LOOKS))} originals   verdicts")
    for shape in SCORES:
        print(f"  {shape:<60}{false_verdicts(shape, pairs):8.1%}")
    print("\nmethods with equal means and unequal shapes                      verdicts")
    for shape in UNLIKE:
        print(f"  {shape:<60}{false_verdicts(shape, pairs):8.1%}")
    print("\nmethods that differ, by standard deviations of the difference    right   originals")
    for size in SIZES:
        share, originals = true_verdicts(size, pairs)
        print(f"  {size:<60}{share:8.1%}{originals:10.1f}")


if __name__ == "__main__":
    main()
