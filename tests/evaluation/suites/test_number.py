"""The number of a suite and its interval: against slow, obvious code, and by how often it covers the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.suites.number import mean_over_kinds


def test_one_kind_is_the_usual_t_interval() -> None:
    """Of a single stratum, what every textbook has."""
    values = [0.31, 0.28, 0.4, 0.35]
    found = mean_over_kinds(values, ["a"] * 4)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_two_kinds_alike_in_size_are_those_of_welch() -> None:
    """The mean of two means: half of what Welch's interval of their sum is."""
    first, second = [0.3, 0.35, 0.33], [0.1, 0.2, 0.12]
    found = mean_over_kinds([*first, *second], ["a"] * 3 + ["b"] * 3)
    welch = stats.ttest_ind(first, [-one for one in second], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((welch.low / 2, welch.high / 2))


def test_order_does_not_matter() -> None:
    """Kinds may be mixed."""
    values, kinds = [0.3, 0.1, 0.35, 0.2], ["a", "b", "a", "b"]
    found, swapped = mean_over_kinds(values, kinds), mean_over_kinds(values[::-1], kinds[::-1])
    assert (found.value, found.low, found.high) == pytest.approx((swapped.value, swapped.low, swapped.high))


def test_without_spread_it_is_a_point_and_never_below_zero() -> None:
    """All alike: no width. A wide one ends at 0, as shares do."""
    assert mean_over_kinds([0.2, 0.2, 0.1, 0.1], list("aabb")).high == pytest.approx(0.15)
    assert mean_over_kinds([0.0, 0.2], list("aa")).low == 0.0


def test_coverage() -> None:
    """Of kinds with other means, spreads and numbers, the interval covers the mean of all in about 95 % of cases."""
    random = np.random.default_rng(0)
    kinds = ["a"] * 3 + ["b"] * 3 + ["c"] * 5
    mean, deviation = np.array([0.35] * 3 + [0.5] * 3 + [0.3] * 5), np.array([0.05] * 3 + [0.02] * 3 + [0.08] * 5)
    covered = 0
    for values in mean + deviation * random.standard_normal((2000, 11)):
        found = mean_over_kinds(values.tolist(), kinds)
        covered += found.low <= mean.mean() <= found.high
    assert 0.93 < covered / 2000 < 0.98
