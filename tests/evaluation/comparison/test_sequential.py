"""Verdicts: the chance of a wrong one is what is promised, however often it is looked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.checks.verdicts import SCORES, false_verdicts, true_verdicts
from evaluation.comparison.sequential import (
    ERROR,
    LOOKS,
    Difference,
    mean_difference,
    originals_to_decide,
    share_of_error,
    verdict_on,
)


@pytest.mark.parametrize("shape", SCORES)
def test_equal_methods_seldom_get_a_verdict(shape: str) -> None:
    """Of 1,000 pairs with scores of one distribution, at most 5 %, in spite of four looks.

    Catches looks that each take the whole error: with normal scores, some 12 % would get a verdict then.
    """
    assert false_verdicts(shape, 1000) <= ERROR


def test_a_difference_is_found() -> None:
    """Of one standard deviation nearly always, and sooner if it is larger; never the wrong way round."""
    for size, share, most in ((1.0, 0.95, 32), (4.0, 1.0, 8)):
        right, originals = true_verdicts(size, 300)
        assert right >= share
        assert originals <= most
        assert true_verdicts(-size, 300)[0] == 0


@pytest.mark.parametrize("originals", LOOKS)
def test_the_interval_is_that_of_the_t_test(originals: int) -> None:
    """As SciPy has it."""
    differences = np.random.default_rng(originals).normal(0.01, 0.02, originals)
    found = mean_difference(differences, 0.0125)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(1 - 0.0125)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(differences.mean())
    assert mean_difference(-differences, 0.0125).low == pytest.approx(-found.high)


def test_the_error_is_shared() -> None:
    """All looks at all pairs together have it, and no more."""
    for pairs in (1, 3, 21):
        assert share_of_error(pairs) * pairs * len(LOOKS) == pytest.approx(ERROR)


def test_differences_without_any_spread() -> None:
    """Two methods that leave the same can't be told apart; one that is always better by as much can."""
    assert mean_difference(np.zeros(4), 0.01) == Difference(0.0, 0.0, 0.0)
    assert verdict_on(mean_difference(np.zeros(4), 0.01)) == "undecided"
    assert verdict_on(mean_difference(np.full(4, 0.5), 0.01)) == "better"
    assert verdict_on(mean_difference(np.full(4, -0.5), 0.01)) == "worse"
    assert originals_to_decide(np.zeros(4), 0.01) is None


def test_what_it_would_take() -> None:
    """With as many originals of that mean and deviation there is a verdict, with one less there is none."""
    differences = np.random.default_rng(0).normal(0.003, 0.01, 32)
    needed = originals_to_decide(differences, share_of_error(1))
    assert needed is not None
    for count, decided in ((needed, True), (needed - 1, False)):
        pattern = stats.norm.ppf((np.arange(count) + 0.5) / count)
        alike = differences.mean() + pattern / pattern.std(ddof=1) * differences.std(ddof=1)
        verdict = verdict_on(mean_difference(alike, share_of_error(1)))
        assert (verdict != "undecided") == decided
