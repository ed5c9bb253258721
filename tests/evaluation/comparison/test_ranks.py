"""Intervals of ranks: all true ranks lie in them, with the chance that is promised, and they say something."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from benchmarks.checks.ranks import ALIKE, EQUAL, UNEQUAL, measure
from evaluation.comparison.ranks import ERROR, groups, rank_intervals, surely_better

Floats = NDArray[np.float64]
TABLES = 300
NOISE = 3 * (ERROR * (1 - ERROR) / TABLES) ** 0.5
"""Three standard deviations of a share of so many tables."""


def p_of(first: Floats, second: Floats) -> float:
    """Of "the first is no better", in SciPy's words, if the pair's own differences are all that is known."""
    differences = first - second
    if np.allclose(differences, differences[0], rtol=0, atol=1e-12):
        return 0.0 if differences[0] > 1e-12 else 1.0
    return float(stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def belief_in_words(scores: Floats) -> tuple[float, float]:
    """Smyth's d0 and s0^2, a step at a time: d0 solves trigamma(d0 / 2) = the excess variance of log s^2."""
    d = scores.shape[1] - 1
    pairs = [first - second for place, first in enumerate(scores) for second in scores[place + 1 :]]
    variances = [float(np.var(pair, ddof=1)) for pair in pairs if np.var(pair) > 1e-20]
    if len(variances) < 3:
        return 0.0, 0.0
    e = [np.log(variance) - special.digamma(d / 2) + np.log(d / 2) for variance in variances]
    excess = np.var(e, ddof=1) - special.polygamma(1, d / 2)
    excess = max(excess, float(special.polygamma(1, 5000)))
    d0 = optimize.brentq(lambda x: special.polygamma(1, x / 2) - excess, 1e-2, 1e4)
    return min(d0, d), float(np.exp(np.mean(e) + special.digamma(d0 / 2) - np.log(d0 / 2)))


def moderated_p(first: Floats, second: Floats, d0: float, s0_squared: float) -> float:
    """Of "the first is no better", with that belief."""
    differences, d = first - second, len(first) - 1
    mean, variance = differences.mean(), differences.var(ddof=1)
    if d0 == 0 or abs(mean) < 1e-12:
        return p_of(first, second)
    t = mean / np.sqrt((d0 * s0_squared + d * variance) / (d0 + d) / len(first))
    return float(stats.t.sf(t, d0 + d))


def intervals_in_words(scores: Floats) -> list[list[int]]:
    """What the fast code is to return, a step at a time: Holm's procedure over all ordered pairs, then counts."""
    methods = len(scores)
    belief = belief_in_words(scores)
    hypotheses = sorted((moderated_p(scores[i], scores[j], *belief), i, j) for i, j in permutations(range(methods), 2))
    better: set[tuple[int, int]] = set()
    for tried, (p, i, j) in enumerate(hypotheses):
        if p > ERROR / (len(hypotheses) - tried):
            break
        better.add((i, j))
    above = [sum((i, j) in better for i in range(methods)) for j in range(methods)]
    below = [sum((j, i) in better for i in range(methods)) for j in range(methods)]
    return [[1 + above[j], methods - below[j]] for j in range(methods)]


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference(seed: int) -> None:
    """On tables of all sizes; every other one has rounded scores, so that some are equal and some differ constantly."""
    random = np.random.default_rng(seed)
    methods, originals = random.integers(1, 9), random.integers(2, 12)
    scores = random.normal(random.integers(0, 4, (methods, 1)), 0.3, (methods, originals))
    scores = scores.round() if seed % 2 else scores
    assert rank_intervals(surely_better(scores)).tolist() == intervals_in_words(scores)


@pytest.mark.parametrize("means", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("shape", ALIKE)
def test_true_ranks_are_covered(shape: str, means: Floats) -> None:
    """All of a table's, in 95 % of 300 tables of 8 methods. Catches an error rate for each pair, or for each method."""
    missed, _ = measure(shape, means, 8, TABLES)
    assert missed <= ERROR + NOISE


def test_most_of_the_error_is_used() -> None:
    """With equal means; and with many originals few ranks are left. Catches intervals that say nothing."""
    assert measure("normal", EQUAL, 8, TABLES)[0] > 0.01
    assert measure("normal", UNEQUAL, 8, TABLES)[1] < 7
    assert measure("normal", 3 * UNEQUAL, 32, TABLES)[1] < 2.1


def test_it_steps_down() -> None:
    """Once sure differences are found, less of them share the error.

    Catches Bonferroni, which finds two of three, and a procedure that goes on after a p that is too large.
    """
    steady = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    spread = steady.std(ddof=1) / 6**0.5
    between = stats.t.isf((ERROR / 6 + ERROR / 5) / 2, 5) * spread  # p is too large for the first step alone
    far = np.zeros(6) - 100
    scores = np.stack([steady + between, np.zeros(6), far])
    assert p_of(scores[0], scores[1]) > ERROR / 6
    assert rank_intervals(surely_better(scores)).tolist() == [[1, 1], [2, 2], [3, 3]]
    without = np.stack([scores[0], scores[1], scores[1]])  # twice this p, and the first step is not passed
    assert rank_intervals(surely_better(without)).tolist() == [[1, 3]] * 3


def test_pairs_are_by_original() -> None:
    """What is common to an original cancels. Catches scores that are compared as two samples."""
    originals = np.array([0.1, 0.9, 0.4, 0.7])
    noise = np.array([0.001, -0.001, 0.002, 0.0])
    scores = np.stack([originals, originals + 0.05 + noise])
    assert rank_intervals(surely_better(scores)).tolist() == [[2, 2], [1, 1]]
    shuffled = np.stack([originals, originals[::-1] + 0.05 + noise])
    assert rank_intervals(surely_better(shuffled)).tolist() == [[1, 2], [1, 2]]


def test_differences_without_any_spread() -> None:
    """None is none, also where rounding leaves a little; always the same is sure. Without a warning of 0 / 0."""
    equal = np.full((2, 4), 0.3)
    equal[1] += 1e-16
    assert not surely_better(equal).any()
    assert surely_better(np.array([[0.5, 0.25], [0.25, 0.0]])).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("originals", [1, 2])
def test_what_says_nothing(originals: int) -> None:
    """One original never does, and two do not where they disagree; one method is the first."""
    scores = np.array([[0.9, 0.1], [0.5, 0.6], [0.0, 0.3]])[:, :originals]
    assert rank_intervals(surely_better(scores)).tolist() == [[1, 3]] * 3
    assert rank_intervals(surely_better(scores[:1])).tolist() == [[1, 1]]
    assert groups(surely_better(scores)) == [0, 0, 0]


@pytest.mark.filterwarnings("error")
def test_the_largest_scores_that_a_report_may_have() -> None:
    """Beyond what a number holds nothing is sure, and nothing is printed."""
    scores = np.array([[1e300, 0.0, 1e300], [0.0, 1e300, 0.0]])
    assert not surely_better(scores).any()


def test_groups_begin_where_the_best_is_surely_better() -> None:
    """Than the first of the group, not than the row above. Catches a chain that puts all into one group."""
    better = np.zeros((5, 5), bool)
    better[0, 2:] = True  # b can't be told from a, nor c from b
    better[1, 3:] = True
    better[2, 4] = True
    assert groups(better) == [0, 0, 1, 1, 2]
    better[0, 3] = False  # d varies more: it stays below the line that c has drawn
    assert groups(better) == [0, 0, 1, 1, 2]
