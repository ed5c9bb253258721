"""Overlap and F as of more models, against slow and obvious restatements, and on pools whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from evaluation.metrics.as_of import as_of
from evaluation.metrics.densities import bandwidths, draw
from evaluation.metrics.official import forgetting_quality
from evaluation.metrics.overlap import SPLITS, advantage, called_unlearned, overlap

Floats = NDArray[np.float64]


def pools(models: int, examples: int, shift: float, scale: float = 1.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Unlearned and retrained confidences, normal."""
    random = np.random.default_rng(seed)
    unlearned = shift + scale * random.normal(size=(models, examples))
    return unlearned, random.normal(size=(models, examples))


def slow_bandwidth(values: Floats) -> float:
    """Silverman's, of the confidences of one example."""
    between = (np.quantile(values, 0.75) - np.quantile(values, 0.25)) / 1.34
    spread = np.std(values, ddof=1)
    return float(0.9 * (min(spread, between) if between > 0 else spread) * len(values) ** -0.2)


def slow_density(at: float, values: Floats, width: float) -> float:
    """A normal kernel around each value."""
    return float(np.mean([stats.norm.pdf(at, value, width) for value in values]))


def slow_advantage(unlearned: Floats, retrained: Floats, splits: int, random: np.random.Generator) -> float:
    """One model, one example, one split after the other, with exact densities."""
    models, examples = unlearned.shape
    half = models // 2
    total = np.zeros(examples)
    for _ in range(splits):
        ours, theirs = unlearned[random.permutation(models)], retrained[random.permutation(models)]
        for learn, judge in (((0, half), (half, models)), ((half, models), (0, half))):
            for example in range(examples):
                one, other = ours[slice(*learn), example], theirs[slice(*learn), example]
                width = slow_bandwidth(np.concatenate([one, other]))

                def caught(value: float, one: Floats = one, other: Floats = other, width: float = width) -> bool:
                    return slow_density(value, one, width) > slow_density(value, other, width)

                ours_caught = np.mean([caught(value) for value in ours[slice(*judge), example]])
                theirs_caught = np.mean([caught(value) for value in theirs[slice(*judge), example]])
                total[example] += ours_caught - theirs_caught
    return float(np.mean(np.clip(total / (2 * splits), 0, 1)))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.3), (5.0, 1.0)])
def test_equals_a_slow_restatement(shift: float, scale: float) -> None:
    """Up to the width of a cell: few confidences lie so near to where two densities are equal."""
    one, other = pools(12, 6, shift, scale)
    slow = slow_advantage(one, other, 2, np.random.default_rng(3))
    assert advantage(one, other, 2, np.random.default_rng(3)) == pytest.approx(slow, abs=0.03)


def test_bandwidths_are_silvermans() -> None:
    """Also where half of the confidences are equal, so that the quartiles are, and where all are."""
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[:16, 1], values[:, 2] = 0.5, 0.5
    assert bandwidths(values).tolist() == pytest.approx([slow_bandwidth(column) for column in values.T])
    assert bandwidths(values)[2] == 0


def test_drawn_models_keep_mean_variance_and_dependence() -> None:
    """Catches draws that widen a pool, and draws that take each example's confidence from another model."""
    pool = np.random.default_rng(0).normal(size=(30, 1)) * [1.0, 2.0] + [0.0, 3.0]
    for evenly in (True, False):
        drawn = draw(pool, 30000, np.random.default_rng(1), evenly)
        np.testing.assert_allclose(drawn.mean(axis=0), pool.mean(axis=0), atol=0.05)
        np.testing.assert_allclose(drawn.var(axis=0), pool.var(axis=0), rtol=0.05)
        assert np.corrcoef(drawn.T)[0, 1] > 0.7


@pytest.mark.parametrize(("models", "least"), [(32, 0.94), (64, 0.95), (128, 0.965)])
def test_equal_distributions_overlap(models: int, least: float) -> None:
    """About 0.96, 0.97, 0.98 at N = 32, 64, 128: it hardly depends on the number of models."""
    found = overlap([pools(models, 60, 0.0)[0]], pools(models, 60, 0.0)[1])
    assert least < found.estimate.value < 1
    assert found.estimate.low <= found.estimate.value <= found.estimate.high <= 1


def test_it_is_one_less_the_total_variation() -> None:
    """Of normal distributions d apart: 2 Phi(d / 2) - 1; never less than that on average, up to chance."""
    for shift in (0.5, 1.0, 2.0):
        expected = 1 - (2 * stats.norm.cdf(shift / 2) - 1)
        found = overlap([pools(256, 40, shift)[0]], pools(256, 40, shift)[1]).estimate
        assert found.value == pytest.approx(expected, abs=0.03)


def test_separated_pools_do_not_overlap() -> None:
    """Also pools without any spread, as those of a deterministic method are."""
    one, other = pools(16, 5, 100.0)
    assert overlap([one], other).estimate.value == 0
    assert overlap([np.full_like(one, 3.0)], np.full_like(one, 4.0)).estimate.value == 0
    assert overlap([np.full_like(one, 3.0)], np.full_like(one, 3.0)).estimate.value == 1


def test_models_far_away_from_all_are_called_nothing() -> None:
    """Catches rounding errors of transforms that decide where both densities are 0."""
    learned = np.zeros((4, 1)) + np.arange(4)[:, None] / 100
    far = np.array([[1e3], [-1e3]])
    (called,) = called_unlearned(learned, learned + 0.001, far)
    assert not called.any()


def test_bits_and_pools_are_their_own() -> None:
    """The same arguments give the same bits; the value is the mean of the originals', each between 0 and 1."""
    retrained = pools(20, 7, 0.0)[1]
    unlearned = [pools(20, 7, shift, seed=number)[0] for number, shift in enumerate((0.0, 1.0, 3.0))]
    once, again = overlap(unlearned, retrained), overlap(unlearned, retrained)
    assert once == again
    assert once.estimate.value == pytest.approx(np.mean(once.by_original))
    assert list(once.by_original) == sorted(once.by_original, reverse=True)
    assert SPLITS > 1


def test_f_as_of_more_models() -> None:
    """Equal pools reach about the ceiling; shifted ones have less, and less than F of the few models says."""
    equal, shifted = pools(64, 40, 0.0), pools(64, 40, 1.0)
    found = as_of([equal[0]], equal[1], forgetting_quality, 512)
    assert (found.models, len(found.forgetting_quality_by_original)) == (512, 1)
    assert 0.6 < found.share_of_ceiling.value < 1.4
    assert found.ceiling < 0.13
    worse = as_of([shifted[0]], shifted[1], forgetting_quality, 512)
    assert worse.share_of_ceiling.value < 0.5
    few = forgetting_quality(*shifted) / forgetting_quality(*equal)
    assert worse.share_of_ceiling.value < few
    assert as_of([equal[0]], equal[1], forgetting_quality, 512) == found
    assert worse.share_of_ceiling.low <= worse.share_of_ceiling.value <= worse.share_of_ceiling.high
    assert as_of([equal[0], shifted[0]], equal[1], forgetting_quality, 512).ceiling == found.ceiling


def test_as_of_is_the_mean_of_draws_that_are_scored() -> None:
    """Restated for a quality that is easy to follow: that of pools of 512, filled up, which keep their means."""

    def gap(one: Floats, other: Floats) -> float:
        assert one.shape == other.shape == (512, 3)
        return float(abs(one.mean() - other.mean()))

    one, other = np.full((8, 3), 5.0), np.full((8, 3), 2.0)
    found = as_of([one, one + 1], other, gap, 512)
    assert found.forgetting_quality_by_original == pytest.approx([3.0, 4.0])
    assert found.forgetting_quality.value == pytest.approx(3.5)
    assert found.ceiling == pytest.approx(0.0, abs=1e-9)
