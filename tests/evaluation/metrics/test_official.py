"""The competition's metric: against published values, against a slow restatement, and by its symmetries."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as st_numpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.errors import UserError
from evaluation.metrics import official
from evaluation.metrics.official import epsilons, forgetting_quality, logit_scaled_confidence, points

Floats = NDArray[np.float64]

REFERENCE = runpy.run_path(str(Path(__file__).with_name("reference_metric.py")))  # tests are no package
VECTORS = Path(__file__).parent / "vectors" / "official_metric.json"


def _assert_equals_reference(unlearned: Floats, retrained: Floats) -> None:
    expected = REFERENCE["epsilons"](unlearned, retrained)
    np.testing.assert_array_equal(epsilons(unlearned, retrained), expected)
    quality = REFERENCE["forgetting_quality"](expected, len(unlearned))
    assert forgetting_quality(unlearned, retrained) == pytest.approx(quality, abs=1e-15)


def _draw(rng: np.random.Generator, distribution: str, shape: tuple[int, int]) -> Floats:
    if distribution == "normal":
        return rng.normal(size=shape)
    if distribution == "t3":
        return rng.standard_t(3, size=shape)
    assert distribution == "bimodal"
    return rng.normal(size=shape) * 0.4 + np.where(rng.random(shape) < 0.5, -1, 1)


# --------------------------------------------------------------------------------------------------------
# Against the published code


def _official_cases() -> list[Any]:
    return [pytest.param(case, id=f"seed{case['seed']}") for case in json.loads(VECTORS.read_text())["cases"]]


@pytest.mark.parametrize("case", _official_cases())
def test_equals_the_published_code(case: dict[str, Any]) -> None:
    """Every part counts: grids, special cases, float32 rates, the guard against narrow pools, buckets."""
    rng = np.random.default_rng(case["seed"])
    shape = (case["N"], case["S"])
    base = rng.normal(0, 3, case["S"])
    retrained = base + case["sd"] * _draw(rng, case["dist"], shape)
    unlearned = base + case["mu"] * case["sd"] + case["k"] * case["sd"] * _draw(rng, case["dist"], shape)
    np.testing.assert_allclose(epsilons(unlearned, retrained), case["eps"], rtol=0, atol=1e-6)
    assert forgetting_quality(unlearned, retrained) == pytest.approx(case["F"], abs=1e-9)


# --------------------------------------------------------------------------------------------------------
# Against the slow reference


@pytest.mark.parametrize("distribution", ["normal", "t3", "bimodal"])
@pytest.mark.parametrize("models", [3, 4, 5, 8, 17, 32, 64])
def test_equals_the_reference_on_random_confidences(distribution: str, models: int) -> None:
    """Finding thresholds by arithmetic gives what trying all of them gives, for all N and shapes."""
    rng = np.random.default_rng([models, len(distribution)])
    shift, scale = np.array([0.0, 0.3, 1.0, 4.0]), np.array([1.0, 1.5, 0.6, 1.0])
    centre = rng.normal(0, 3, 4)
    retrained = centre + _draw(rng, distribution, (models, 4))
    unlearned = centre + shift + scale * _draw(rng, distribution, (models, 4))
    _assert_equals_reference(unlearned, retrained)


@pytest.mark.parametrize("spread", [1e-9, 1e-4, 0.003, 0.03, 0.3, 30.0])
@pytest.mark.parametrize("centre", [0.0, 100.0, -900.0])
def test_equals_the_reference_at_every_scale(spread: float, centre: float) -> None:
    """Grids finer and coarser than the confidences, and centres where float32 thresholds are rounded hard."""
    rng = np.random.default_rng(5)
    retrained = centre + spread * rng.normal(size=(20, 3))
    unlearned = centre + spread * rng.normal(0.2, [1.0, 0.5, 0.05], size=(20, 3))
    _assert_equals_reference(unlearned, retrained)


@pytest.mark.parametrize("unit", [1.0, 0.25, 0.01])
def test_equals_the_reference_with_many_ties(unit: float) -> None:
    """Rounded confidences lie on thresholds, are shared by the pools, and give equal medians and ranges."""
    rng = np.random.default_rng(7)
    retrained = np.round(rng.normal(size=(10, 10)) / unit) * unit
    unlearned = np.round(rng.normal(0.3, 1.1, size=(10, 10)) / unit) * unit
    if unit == 1.0:
        assert (np.ptp(unlearned, axis=0) == np.ptp(retrained, axis=0)).any()
        assert (np.median(unlearned, axis=0) == np.median(retrained, axis=0)).any()
    _assert_equals_reference(unlearned, retrained)


DEGENERATE = {
    "one spike": (np.eye(8)[:, :3], np.zeros((8, 3))),
    "a spike in both": (np.eye(8)[:, :3], 3 * np.eye(8)[:, :3]),
    "the same confidences": (np.arange(24.0).reshape(8, 3), np.arange(24.0).reshape(8, 3)),
    "disjoint": (np.arange(24.0).reshape(8, 3), 100 + np.arange(24.0).reshape(8, 3)),
    "touching": (np.arange(24.0).reshape(8, 3), 21 + np.arange(24.0).reshape(8, 3)),
    "one inside the other": (np.linspace([0, 0, 0], [1, 1, 1], 8), np.linspace([-9, -1, 0], [9, 9, 9], 8)),
    "two values": (np.arange(24).reshape(8, 3) % 2 * 1.0, np.arange(24).reshape(8, 3) % 4 // 3 * 1.0),
    "three models": (np.array([[0.0, 1], [1, 2], [2, 3]]), np.array([[0.5, 9], [1.5, 8], [2.5, 7]])),
    "nearly equal": (1e-5 * np.arange(24.0).reshape(8, 3), 1e-5 * np.arange(24.0)[::-1].reshape(8, 3)),
    "a constant column": (np.array([[1.0, 1], [1, 2], [1, 3]]), np.array([[1.0, 1], [2, 1], [3, 1]])),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_equals_the_reference_on_degenerate_confidences(name: str) -> None:
    """No crash, no NaN, and the reference's value where one pool is constant, disjoint, tiny or tied."""
    unlearned, retrained = DEGENERATE[name]
    _assert_equals_reference(unlearned, retrained)
    _assert_equals_reference(retrained, unlearned)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_equals_the_reference_on_arbitrary_confidences(data: st.DataObject) -> None:
    """Hypothesis looks for input on which the fast way and the slow way differ."""
    shape = (data.draw(st.integers(3, 9)), 1)
    values = st.one_of(st.floats(-30, 30), st.floats(-1, 1), st.integers(-3, 3).map(float))
    unlearned = data.draw(st_numpy.arrays(np.float64, shape, elements=values))
    retrained = data.draw(st_numpy.arrays(np.float64, shape, elements=values))
    _assert_equals_reference(unlearned, retrained)


def test_equals_the_reference_where_rounding_adds_a_threshold() -> None:
    """The 401st right threshold decides here: low + width is not high, the count must be taken literally."""
    rng = np.random.default_rng(4)
    retrained, unlearned = rng.normal(size=(8, 400)), rng.normal(0.3, 1.2, size=(8, 400))
    _assert_equals_reference(unlearned[:, [282]], retrained[:, [282]])


@pytest.mark.parametrize("count", [1, 2, 3, 150, 401])
def test_grids_are_those_of_numpy_and_of_the_reference(count: int) -> None:
    """Bit for bit, and so is the number of thresholds up to values on, just below and between thresholds."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        low, high = np.sort(rng.normal(0, 30, size=2).astype(np.float32).astype(np.float64))
        written_out: list[tuple[type[official._Float64Grid], Floats]] = [
            (official._Float32Grid, REFERENCE["float32_linspace"](low, high, count))
        ]
        if count > 1:
            written_out.append((official._Float64Grid, np.linspace(low, high, count)))
        for grid, thresholds in written_out:
            ours = grid(np.array([low]), np.array([high]), np.array([count]))
            np.testing.assert_array_equal(ours.at(np.arange(count)), thresholds)
            values = np.concatenate([thresholds, np.nextafter(thresholds, -np.inf), rng.uniform(low, high, 20)])
            expected = np.searchsorted(thresholds, values, side="right")
            np.testing.assert_array_equal(ours.count_up_to(values), expected)
            expected = np.searchsorted(thresholds, values, side="left")
            np.testing.assert_array_equal(ours.count_below(values), expected)


def test_the_float32_thresholds_are_those_of_torch() -> None:
    """The grid written out in the reference is `torch.linspace`, up to the rounding of this processor."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        positive, negative = rng.normal(rng.normal(0, 5), 1, size=(2, 20))
        ours = REFERENCE["single_thresholds"](positive, negative)
        both = np.concatenate([positive, negative])
        theirs = torch.linspace(both.min(), both.max(), len(ours)).numpy()
        unit = np.spacing(np.abs(both).max().astype(np.float32))
        np.testing.assert_allclose(ours, theirs.astype(np.float64), rtol=0, atol=2 * unit)


# --------------------------------------------------------------------------------------------------------
# Defined results


def test_two_equal_constants_cannot_be_told_apart() -> None:
    """The published code stops with an exception here; equal outputs have epsilon 0 and F = 1."""
    constant = np.full((5, 2), 3.25)
    np.testing.assert_array_equal(epsilons(constant, constant), [0, 0])
    assert forgetting_quality(constant, constant) == 1.0


def test_two_different_constants_are_separated() -> None:
    """Here too the published code stops; even a difference far below the thresholds' distance counts."""
    constant = np.full((5, 2), 3.25)
    np.testing.assert_array_equal(epsilons(constant, constant + np.array([1.0, 1e-12])), [50, 50])
    assert forgetting_quality(constant, constant + 1e-12) == 0.0


def test_a_method_whose_runs_are_all_the_same_gets_nothing() -> None:
    """The guard: a pool that spreads less than 1 % of the other counts as separated, at 1 % it does not."""
    retrained = np.linspace(-50, 50, 101)[:, None]
    for share, separated in ((0.0, True), (0.0099, True), (0.0101, False)):
        epsilon = epsilons(share * retrained, retrained)[0]
        assert (epsilon == 50) == separated


def test_no_surviving_attack_counts_as_separated() -> None:
    """All confidences lie between two thresholds, so each attack calls all models alike and is dropped."""
    unlearned = 1e-9 * np.array([2.0, 6.0, 5.0])[:, None]
    retrained = 1e-9 * np.array([0.0, 0.0, 3.0])[:, None]
    _assert_equals_reference(unlearned, retrained)
    assert epsilons(unlearned, retrained)[0] == 50


def test_epsilon_by_hand() -> None:
    """Eight against eight, of which one of each lies on the wrong side: FPR = FNR = 1/8 is the best attack."""
    retrained = np.array([0, 1, 2, 3, 4, 5, 6, 100.0])[:, None]
    unlearned = 100 - retrained
    expected = math.log(1 - 1e-5 - 1 / 8) - math.log(1 / 8)
    assert epsilons(unlearned, retrained)[0] == pytest.approx(expected, abs=1e-6)


def test_identical_distributions_reach_the_known_ceiling() -> None:
    """About 0.18 whatever N: catches a metric that is internally consistent but on another scale."""
    rng = np.random.default_rng(3)
    for models in (32, 128, 512):
        quality = forgetting_quality(rng.normal(size=(models, 300)), rng.normal(size=(models, 300)))
        assert 0.16 < quality < 0.21


@pytest.mark.parametrize(("models", "buckets"), [(3, 2), (16, 6), (32, 8), (64, 10), (256, 12), (512, 14)])
def test_points_halve_until_the_last_bucket(models: int, buckets: int) -> None:
    """Left ends belong to their bucket, right ends do not, and beyond the last bucket there is nothing."""
    starts = np.arange(0, buckets / 2, 0.5, dtype=np.float64)
    np.testing.assert_array_equal(points(starts, models), 0.5 ** np.arange(buckets))
    np.testing.assert_array_equal(points(np.nextafter(starts + 0.5, 0), models), 0.5 ** np.arange(buckets))
    np.testing.assert_array_equal(points(np.array([buckets * 0.5, 50.0]), models), [0.0, 0.0])


def test_examples_are_independent_of_how_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many examples at once, in chunks, or one by one: the same bits."""
    rng = np.random.default_rng(9)
    unlearned, retrained = rng.normal(size=(2, 16, 30))
    retrained[:, 4] = 1.0
    together = epsilons(unlearned, retrained)
    monkeypatch.setattr(official, "CHUNK_WINDOWS", 7 * official.LEFT_THRESHOLDS * 33)
    np.testing.assert_array_equal(epsilons(unlearned, retrained), together)
    singly = [epsilons(unlearned[:, [i]], retrained[:, [i]])[0] for i in range(30)]
    np.testing.assert_array_equal(singly, together)


# --------------------------------------------------------------------------------------------------------
# Symmetries


def _pools(elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Floats, Floats]]:
    shapes = st.tuples(st.integers(3, 24), st.integers(1, 6))
    return shapes.flatmap(lambda shape: st.tuples(*[st_numpy.arrays(np.float64, shape, elements=elements)] * 2))


CONFIDENCES = st.one_of(st.floats(-5, 5), st.integers(-4, 4).map(float))


@settings(max_examples=50, deadline=None)
@given(_pools(CONFIDENCES), st.randoms(use_true_random=False))
def test_the_order_of_models_and_examples_does_not_matter(pair: tuple[Floats, Floats], random: Any) -> None:
    """Models of either pool carry no identity; examples are graded one by one."""
    unlearned, retrained = pair
    models, examples = unlearned.shape
    some, other = random.sample(range(models), models), random.sample(range(models), models)
    order = random.sample(range(examples), examples)
    permuted = epsilons(unlearned[some][:, order], retrained[other][:, order])
    np.testing.assert_array_equal(permuted, epsilons(unlearned, retrained)[order])


@settings(max_examples=50, deadline=None)
@given(_pools(CONFIDENCES))
def test_the_pools_can_be_swapped(pair: tuple[Floats, Floats]) -> None:
    """The roles follow from medians and ranges, so only where those are equal may the pools matter."""
    unlearned, retrained = pair
    decided = np.ptp(unlearned, axis=0) != np.ptp(retrained, axis=0)
    decided &= np.median(unlearned, axis=0) != np.median(retrained, axis=0)
    one_way, other_way = epsilons(unlearned, retrained), epsilons(retrained, unlearned)
    np.testing.assert_array_equal(one_way[decided], other_way[decided])


@settings(max_examples=50, deadline=None)
@given(_pools(st.integers(-320, 320).map(lambda i: i / 64)), st.integers(-6400, 6400).map(lambda i: i / 64))
def test_a_common_shift_does_not_matter(pair: tuple[Floats, Floats], shift: float) -> None:
    """Exact for multiples of 1/64: sums stay exact, and no two values share a gap between thresholds.

    For other numbers, rounding moves thresholds by some 1e-15, which can matter where one meets a value.
    """
    unlearned, retrained = pair
    shifted = epsilons(unlearned + shift, retrained + shift)
    np.testing.assert_array_equal(shifted, epsilons(unlearned, retrained))


# --------------------------------------------------------------------------------------------------------
# Confidence


def test_confidence_is_the_log_odds_of_the_true_class() -> None:
    """Against plain arithmetic; catches a wrong axis, a wrong label or 1 - p taken from the wrong class."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 5, 4)), np.array([0, 3, 1, 2, 0])
    confidence = logit_scaled_confidence(logits, labels)
    assert confidence.shape == (2, 5)
    for model in range(2):
        for example, label in enumerate(labels):
            odds = [math.exp(x) for x in logits[model, example]]
            others = sum(odds) - odds[label]
            assert confidence[model, example] == pytest.approx(math.log(odds[label] / others), abs=1e-12)


def test_confidence_of_extreme_logits_is_finite_and_precise() -> None:
    """p = 1 - 1e-40 rounds to 1, yet its confidence is 40 log 10; beyond 1e-45 it saturates, without NaN."""
    logits = np.array([[40 * math.log(10), 0.0], [1e4, -1e4], [-1e4, 1e4], [3e38, -3e38]])
    confidence = logit_scaled_confidence(logits, np.zeros(4, np.int64))
    limit = -math.log(1e-45)
    np.testing.assert_allclose(confidence, [40 * math.log(10), limit, -limit, limit], rtol=1e-4)
    np.testing.assert_allclose(confidence[0], 40 * math.log(10), rtol=1e-6)


def test_confidence_of_a_large_offset() -> None:
    """The largest logit is subtracted first: a common offset of 1e5 overflows nothing."""
    logits = np.array([[1.0, 2.0, 4.0]])
    label = np.array([2])
    expected = logit_scaled_confidence(logits, label)
    np.testing.assert_allclose(logit_scaled_confidence(logits + 1e5, label), expected, rtol=1e-9)


def test_confidence_leaves_its_arguments_alone_and_uses_float64() -> None:
    """The published function subtracts in place, in the precision of the logits; this one must not."""
    logits = np.random.default_rng(0).normal(size=(3, 6, 10)).astype(np.float32)
    before = logits.copy()
    labels = np.arange(6)
    confidence = logit_scaled_confidence(logits, labels)
    np.testing.assert_array_equal(logits, before)
    assert confidence.dtype == np.float64
    np.testing.assert_array_equal(confidence, logit_scaled_confidence(logits.astype(np.float64), labels))


def test_nan_logits_become_an_error_of_the_metric() -> None:
    """A broken model is noticed at the latest when it is graded, by its number."""
    logits = np.zeros((4, 3, 2))
    logits[2, 1, 0] = np.nan
    confidence = logit_scaled_confidence(logits, np.zeros(3, np.int64))
    with pytest.raises(UserError, match="unlearned model 2 in example 1 is nan"):
        epsilons(confidence, np.zeros((4, 3)))


# --------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1001.0])
def test_confidences_that_are_none_are_refused(wrong: float) -> None:
    """Either pool; comparisons with NaN are all false and would silently give some epsilon."""
    fine = np.zeros((3, 2))
    broken = fine.copy()
    broken[1, 0] = wrong
    with pytest.raises(UserError, match="unlearned model 1 in example 0"):
        epsilons(broken, fine)
    with pytest.raises(UserError, match="retrained model 1 in example 0"):
        forgetting_quality(fine, broken)


@pytest.mark.parametrize(
    ("unlearned", "retrained"),
    [((3, 2), (3, 3)), ((3, 2), (4, 2)), ((3,), (3,)), ((2, 2), (2, 2)), ((3, 0), (3, 0)), ((1, 3, 2), (1, 3, 2))],
)
def test_shapes_that_do_not_fit_are_refused(unlearned: tuple[int, ...], retrained: tuple[int, ...]) -> None:
    """Broadcasting must not turn a mistake into a number; two models are too few for any point."""
    with pytest.raises(UserError, match="pass"):
        epsilons(np.zeros(unlearned), np.zeros(retrained))


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2], [-1, 0, 1], [0.0, 1.0, 1.0]])
def test_labels_that_do_not_fit_are_refused(labels: list[float]) -> None:
    """Too few, too large, negative (which numpy would count from the end), or no integers."""
    with pytest.raises(UserError, match="pass"):
        logit_scaled_confidence(np.zeros((4, 3, 2)), np.array(labels))
