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
    p_of_look,
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


@pytest.mark.parametrize("originals", LOOKS)
@pytest.mark.parametrize("pairs", [1, 6])
def test_p_is_the_error_at_which_a_verdict_begins(originals: int, pairs: int) -> None:
    """It is SciPy's, times looks and pairs; with a little more error there is a verdict, with a little less none."""
    differences = np.random.default_rng(originals).normal(0.02, 0.02, originals)
    p = p_of_look(differences, pairs)
    expected = stats.ttest_1samp(differences, 0.0).pvalue * pairs * len(LOOKS)
    assert p == pytest.approx(min(1.0, expected))
    assert p == p_of_look(-differences, pairs)
    if p < 1:
        assert verdict_on(mean_difference(differences, share_of_error(pairs, 1.001 * p))) == "better"
        assert verdict_on(mean_difference(differences, share_of_error(pairs, 0.999 * p))) == "undecided"


def test_p_is_never_too_small() -> None:
    """Of 2,000 pairs with equal means, the smallest p of all looks is below 5 % in at most 5 %, below 1 % in 1 %."""
    random = np.random.default_rng(0)
    found = [
        min(p_of_look(differences[:originals], 1) for originals in LOOKS)
        for differences in random.normal(0.0, 1.0, (2000, LOOKS[-1]))
    ]
    for error in (0.01, 0.05, 0.2):
        assert np.mean(np.array(found) < error) <= error + 2 * (error / 2000) ** 0.5
    assert p_of_look(np.zeros(4), 1) == 1.0
    assert p_of_look(np.full(4, 0.5), 1) == 0.0


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
