"""F and score with their intervals: what they are, when they are equal, and how often they cover the true value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from data.errors import UserError
from evaluation import forgetting_quality
from evaluation.metrics.intervals import Estimate, Grades, Population, ceiling, estimate_grades
from evaluation.metrics.notebook import notebook_forgetting_quality

Floats = NDArray[np.float64]


def _pool(confidences: Floats, retain: float = 1.0, test: float = 1.0) -> Population:
    return Population(confidences, np.full(len(confidences), retain), np.full(len(confidences), test))


def _random_pool(rng: np.random.Generator, models: int, examples: int = 12, shift: float = 0.0) -> Population:
    """Return models whose examples are correlated and whose accuracies differ."""
    shared, own = rng.normal(size=(models, 1)), rng.normal(size=(models, examples))
    accuracies = 0.9 + 0.01 * rng.normal(size=(2, models))
    return Population(shift + 0.6 * shared + 1.1 * own, *accuracies)


def _assert_ordered(grades: Grades) -> None:
    for estimate in (grades.forgetting_quality, grades.score):
        assert 0 <= estimate.low <= estimate.value <= estimate.high


def _width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


@pytest.mark.parametrize("originals", [1, 2, 3])
def test_values_are_means_over_originals(originals: int) -> None:
    """Each original is compared by itself, never pooled, and its score has the ratios of its own models."""
    rng = np.random.default_rng(0)
    retrained = _random_pool(rng, 24)
    unlearned = [_random_pool(rng, 24, shift=0.3 * k) for k in range(originals)]
    grades = estimate_grades(unlearned, retrained, forgetting_quality, replicates=5)
    qualities = [forgetting_quality(pool.confidences, retrained.confidences) for pool in unlearned]
    scores = [
        quality
        * np.mean(pool.retain_accuracy)
        / np.mean(retrained.retain_accuracy)
        * np.mean(pool.test_accuracy)
        / np.mean(retrained.test_accuracy)
        for quality, pool in zip(qualities, unlearned, strict=True)
    ]
    assert grades.forgetting_quality_by_original == pytest.approx(qualities, abs=1e-15)
    assert grades.score_by_original == pytest.approx(scores, abs=1e-15)
    assert grades.forgetting_quality.value == pytest.approx(np.mean(qualities), abs=1e-15)
    assert grades.score.value == pytest.approx(np.mean(scores), abs=1e-15)
    _assert_ordered(grades)
    assert _width(grades.forgetting_quality) > 0


def test_the_same_data_give_the_same_interval() -> None:
    """To the last bit, whatever has used random numbers in between; another seed gives another interval."""
    rng = np.random.default_rng(1)
    unlearned, retrained = [_random_pool(rng, 16), _random_pool(rng, 16)], _random_pool(rng, 16)
    first = estimate_grades(unlearned, retrained, forgetting_quality), ceiling(retrained, forgetting_quality)
    np.random.default_rng(5).normal(size=100)
    np.random.seed(3)
    assert (estimate_grades(unlearned, retrained, forgetting_quality), ceiling(retrained, forgetting_quality)) == first
    assert estimate_grades(unlearned, retrained, forgetting_quality, seed=1) != first[0]


def test_doing_nothing_gets_nothing_for_sure() -> None:
    """N identical models are separated from the retrained ones in every draw: 0, from 0 to 0."""
    rng = np.random.default_rng(2)
    retrained = _random_pool(rng, 32)
    idle = [_pool(np.tile(rng.normal(size=12), (32, 1))) for _ in range(2)]
    grades = estimate_grades(idle, retrained, forgetting_quality)
    assert grades.forgetting_quality == Estimate(0.0, 0.0, 0.0)
    assert grades.score == Estimate(0.0, 0.0, 0.0)


def test_equal_constants_have_no_variance() -> None:
    """F = 1 in every draw; catches a division of 0 by 0 in the degrees of freedom."""
    constant = _pool(np.ones((8, 3)))
    grades = estimate_grades([constant, constant], constant, forgetting_quality)
    assert grades.forgetting_quality == Estimate(1.0, 1.0, 1.0)


def test_intervals_shrink_with_more_examples_and_stay_honest_with_more_models() -> None:
    """Averages over more independent examples are surer, about by the root of their number."""
    rng = np.random.default_rng(3)

    def mean_width(models: int, examples: int) -> float:
        widths = []
        for _ in range(8):
            pools = [_pool(rng.normal(shift, 1.3, size=(models, examples))) for shift in (0.9, 0.0)]
            widths.append(
                _width(estimate_grades(pools[:1], pools[1], forgetting_quality, replicates=30).forgetting_quality)
            )
        return float(np.mean(widths))

    few = mean_width(32, 10)
    assert 0.3 * few < mean_width(32, 40) < 0.7 * few
    assert mean_width(128, 10) < 0.8 * few  # for a shifted method F and its spread fall with N


def test_a_spread_between_originals_widens_the_interval() -> None:
    """The pools are equally sure in both cases; catches an interval from the pools alone."""
    rng = np.random.default_rng(4)
    retrained = _random_pool(rng, 32, examples=40)
    alike = [_random_pool(rng, 32, examples=40, shift=0.5) for _ in range(3)]
    differing = [_random_pool(rng, 32, examples=40, shift=shift) for shift in (0.0, 0.5, 1.5)]
    width_alike = _width(estimate_grades(alike, retrained, forgetting_quality).forgetting_quality)
    width_differing = _width(estimate_grades(differing, retrained, forgetting_quality).forgetting_quality)
    assert width_differing > 1.5 * width_alike


def test_uncertain_accuracies_widen_the_interval_of_the_score_only() -> None:
    """Accuracies are drawn with the models; catches ratios that are held fixed."""
    rng = np.random.default_rng(5)
    sure, retrained = _random_pool(rng, 32, shift=0.5), _random_pool(rng, 32)
    unsure = Population(sure.confidences, np.tile([0.1, 1.7], 16), sure.test_accuracy)
    one, other = (estimate_grades([pool], retrained, forgetting_quality) for pool in (sure, unsure))
    assert one.forgetting_quality == other.forgetting_quality
    assert _width(other.score) / other.score.value > 1.2 * _width(one.score) / one.score.value


@pytest.mark.slow
def test_the_interval_holds_the_truth() -> None:
    """A small simulation of what the benchmark does. Catches a variance that is half or twice the right one."""
    rng = np.random.default_rng(6)
    pairs = [(_random_pool(rng, 32, shift=0.6), _random_pool(rng, 32)) for _ in range(100)]
    estimates = [
        estimate_grades([unlearned], retrained, forgetting_quality, replicates=25).forgetting_quality
        for unlearned, retrained in pairs
    ]
    truth = np.mean([estimate.value for estimate in estimates])
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    assert 0.88 < covered <= 1.0
    spread = np.std([estimate.value for estimate in estimates])
    assert 3.5 * spread < np.mean([_width(estimate) for estimate in estimates]) < 5.5 * spread


def test_ceiling_is_the_mean_over_halves() -> None:
    """Close to the known ceiling, inside a narrow interval, and with the same score: the accuracies cancel."""
    rng = np.random.default_rng(7)
    grades = ceiling(_random_pool(rng, 64, examples=40), forgetting_quality)
    assert 0.15 < grades.forgetting_quality.value < 0.22
    assert grades.score.value == pytest.approx(grades.forgetting_quality.value, rel=0.01)
    assert _width(grades.forgetting_quality) < 0.05
    _assert_ordered(grades)


def test_ceiling_is_symmetric_in_the_halves() -> None:
    """Either half may be called unlearned: exchanging them in every split changes neither F nor score."""
    rng = np.random.default_rng(8)
    pool = _random_pool(rng, 16)

    def exchanged(unlearned: Floats, retrained: Floats) -> float:
        return forgetting_quality(retrained, unlearned)

    assert ceiling(pool, exchanged) == ceiling(pool, forgetting_quality)
    halves = Population(pool.confidences, np.repeat([0.5, 1.0], 8), pool.test_accuracy)
    assert ceiling(halves, lambda u, r: 1.0).score.value > 1.0  # the mean of a ratio and its inverse
    assert ceiling(halves, lambda u, r: 1.0).forgetting_quality == Estimate(1.0, 1.0, 1.0)


def test_an_odd_pool_is_split_too() -> None:
    """One model is left over in each split, never shared by the halves."""
    seen = []

    def quality(unlearned: Floats, retrained: Floats) -> float:
        seen.append((set(unlearned[:, 0]), set(retrained[:, 0])))
        return 0.5

    ceiling(_pool(np.arange(9.0)[:, None]), quality)
    assert all(len(one) == len(other) == 4 and not one & other for one, other in seen)
    assert set.union(*(one | other for one, other in seen)) == set(range(9))


def test_draws_are_two_thirds_without_replacement() -> None:
    """A bootstrap would let a model count twice, which changes the extremes that F depends on."""
    sizes = []

    def quality(unlearned: Floats, retrained: Floats) -> float:
        assert len(np.unique(unlearned)) == len(unlearned)
        assert len(np.unique(retrained)) == len(retrained)
        sizes.append((len(unlearned), len(retrained)))
        return 0.5

    estimate_grades([_pool(np.arange(30.0)[:, None])], _pool(np.arange(30.0)[:, None]), quality, replicates=7)
    assert sizes == [(30, 30)] + [(20, 20)] * 7


def test_works_with_the_notebooks_metric() -> None:
    """Any function from two pools to F will do."""
    rng = np.random.default_rng(9)
    retrained = _random_pool(rng, 16, examples=3)
    grades = estimate_grades([_random_pool(rng, 16, examples=3)], retrained, notebook_forgetting_quality, replicates=5)
    assert 0 < grades.forgetting_quality.value <= 1
    _assert_ordered(grades)
    _assert_ordered(ceiling(retrained, notebook_forgetting_quality, splits=4))


def test_the_fewest_models() -> None:
    """Four for an interval and six for a ceiling work; fewer are refused with a sentence."""
    rng = np.random.default_rng(10)
    pool = _random_pool(rng, 6)
    four = pool.take(np.arange(4))
    _assert_ordered(estimate_grades([four], four, forgetting_quality))
    _assert_ordered(ceiling(pool, forgetting_quality))
    assert math.isfinite(ceiling(pool, forgetting_quality).score.high)
    three = pool.take(np.arange(3))
    with pytest.raises(UserError, match="at least 4"):
        estimate_grades([three], three, forgetting_quality)
    with pytest.raises(UserError, match="at least 6"):
        ceiling(pool.take(np.arange(5)), forgetting_quality)


def test_f_is_never_more_than_one() -> None:
    """By the notebook's metric good methods come near 1, and the interval ends there. Catches 1.03 as its end."""
    rng = np.random.default_rng(0)
    retrained = _random_pool(rng, 12)
    grades = estimate_grades([_random_pool(rng, 12), _random_pool(rng, 12)], retrained, notebook_forgetting_quality)
    for found in (grades, ceiling(retrained, notebook_forgetting_quality)):
        assert found.forgetting_quality.value <= found.forgetting_quality.high <= 1
    assert grades.forgetting_quality.high == 1  # of 1.38
