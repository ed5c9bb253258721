"""How often do the rank intervals of the leaderboard miss a true rank, and how wide are they? On simulated scores.

    python -m benchmarks.checks.ranks --tables 10000

Each simulated table has 8 methods. The share of tables in which any true rank lies outside its interval is to be 5 % at
most. First all scores have one shape: the means are equal, or two methods each have 0, 1, 2 and 3 standard deviations
more. Then the means are equal and shapes are not, for which nothing is promised. Last: how many ranks an interval
leaves on average, of 8, with normal scores and the unequal means. Two minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison.ranks import rank_intervals, surely_better

Floats = NDArray[np.float64]
Shape = Callable[[np.random.Generator, tuple[int, int]], Floats]
METHODS = 8
EQUAL: Floats = np.zeros(METHODS)
UNEQUAL: Floats = np.repeat(np.arange(4.0), 2)
"""Mean scores, in standard deviations of a method's scores over originals."""
ORIGINALS = (2, 4, 8, 16, 32)


def _mostly_zero(random: np.random.Generator, size: tuple[int, int]) -> Floats:
    return random.exponential(1.0, size) * (random.random(size) < 0.2)  # mean 0.2, variance 0.36


ALIKE: dict[str, Shape] = {
    "normal": lambda random, size: random.normal(0.0, 1.0, size),
    "skewed": lambda random, size: (random.lognormal(0.0, 1.0, size) - np.e**0.5) / (np.e * (np.e - 1)) ** 0.5,
    "heavy tails": lambda random, size: random.standard_t(3, size) / 3**0.5,
    "mostly zero": lambda random, size: (_mostly_zero(random, size) - 0.2) / 0.6,
}
"""How the scores of all methods may lie over originals: mean 0, standard deviation 1."""


def _every_other(one: Floats, other: Floats) -> Floats:
    """Methods of two kinds, by turns."""
    return np.where(np.arange(len(one))[:, None] % 2, other, one)


UNLIKE: dict[str, Shape] = {
    "normal, half with three times the spread": lambda random, size: _every_other(
        random.normal(0.0, 1.0, size), random.normal(0.0, 3.0, size)
    ),
    "half normal, half skewed": lambda random, size: _every_other(
        ALIKE["normal"](random, size), ALIKE["skewed"](random, size)
    ),
    "half constant, half exponential": lambda random, size: _every_other(
        np.zeros(size), random.exponential(1.0, size) - 1.0
    ),
    "half constant, half mostly zero": lambda random, size: _every_other(
        random.normal(0.0, 1e-5, size), ALIKE["mostly zero"](random, size)
    ),
}
"""The same of methods of two kinds: mean 0, whatever their spread."""


def true_ranks(means: Floats) -> NDArray[np.int64]:
    """1 + the number of methods with a greater mean, `(methods,)`.

    >>> true_ranks(np.array([0.0, 2.0, 2.0, 1.0])).tolist()
    [4, 1, 1, 3]
    """
    return 1 + (means[:, None] < means).sum(axis=1)


def measure(shape: str, means: Floats, originals: int, tables: int, seed: int = 0) -> tuple[float, float]:
    """The share of tables in which a true rank is missed, and the mean number of ranks in an interval."""
    random = np.random.default_rng(seed)
    draw = (ALIKE | UNLIKE)[shape]
    ranks = true_ranks(means)
    missed, left = 0, 0.0
    for _ in range(tables):
        scores = draw(random, (len(means), originals)) + means[:, None]
        low, high = rank_intervals(surely_better(scores)).T
        missed += bool(np.any((ranks < low) | (ranks > high)))
        left += float((high - low + 1).mean())
    return missed / tables, left / tables


def show(title: str, shapes: Sequence[str], means: Floats, tables: int) -> None:
    """A row for each shape: the shares that miss a rank, by the number of originals."""
    print(f"{title:<58}" + "".join(f"K = {originals:<4}" for originals in ORIGINALS))
    for shape in shapes:
        shares = [measure(shape, means, originals, tables)[0] for originals in ORIGINALS]
        print(f"  {shape:<54}" + "".join(f"{share:8.1%}" for share in shares))
    print()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=10000, help="simulated for each figure (default: 10000)")
    tables = parser.parse_args().tables
    print(f"{METHODS} methods, {tables:,} tables for each figure, K originals\n")
    show("a rank is missed: one shape, equal means", list(ALIKE), EQUAL, tables)
    show("a rank is missed: one shape, unequal means", list(ALIKE), UNEQUAL, tables)
    show("a rank is missed: two shapes, equal means", list(UNLIKE), EQUAL, tables)
    widths = [measure("normal", UNEQUAL, originals, tables)[1] for originals in ORIGINALS]
    print(
        f"{f'ranks in an interval, of {METHODS}: normal, unequal means':<56}" + "".join(f"{one:8.1f}" for one in widths)
    )


if __name__ == "__main__":
    main()
