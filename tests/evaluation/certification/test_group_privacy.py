"""DP-SGD: group privacy and the published noise multipliers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from data.errors import UserError
from evaluation.certification.dp_sgd import dp_sgd_epsilon, dp_sgd_noise_multiplier, group_budget, record_budget
from evaluation.certification.renyi import epsilon_of_rho

CIFAR: dict[str, Any] = {"sampling_rate": 128 / 45_000, "steps": 50 * 352}
"""Published: 50 epochs of 45,000 images in batches of 128."""

PUBLISHED_ORDERS = range(411, 712, 50)
"""Those of the published grid that matter here; it goes on to 10,240."""


def test_published_budget_of_one_record() -> None:
    """k = 225, epsilon = 50, delta = 1e-5: the published delta is k times too large. Catches a forgotten ln k."""
    epsilon, delta = record_budget(50, 1e-5, 225)
    assert epsilon == pytest.approx(0.2222, abs=1e-4)
    assert delta == pytest.approx(1.07e-29, rel=1e-3)
    published = record_budget(50, 1e-5, 225, "code_compat")
    assert published[1] == pytest.approx(2.41e-27, rel=1e-3)
    assert published[1] / delta == pytest.approx(225)
    one = 50 / 225
    assert math.log(published[1]) == pytest.approx(math.log(1e-5) + (one - 1) - (225 * one - 1))  # as it is written


@settings(deadline=None)
@given(st.floats(0.1, 100), st.floats(-30, -2).map(math.exp), st.integers(1, 500))
def test_group_and_record_are_inverse(epsilon: float, delta: float, group: int) -> None:
    """For both accountings; a group of one is the record itself."""
    for accounting in ("exact", "code_compat"):
        found = group_budget(*record_budget(epsilon, delta, group, accounting), group, accounting)
        assert found == pytest.approx((epsilon, delta), rel=1e-9)
    assert record_budget(epsilon, delta, 1) == pytest.approx((epsilon, delta))


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(-30, -5).map(math.exp), st.integers(2, 40))
def test_group_rule_step_by_step(epsilon: float, delta: float, group: int) -> None:
    """Slow: P(A) <= e P1(A) + d <= e (e P2(A) + d) + d ..., one record after another. The rule is no less."""
    total = 0.0
    for _ in range(group):
        total = math.exp(epsilon) * total + delta
    assert group_budget(epsilon, delta, group)[1] >= min(1.0, total) * (1 - 1e-12)


def test_published_noise_multipliers() -> None:
    """17.75 without ln k and 18.60 with it."""
    published = dp_sgd_noise_multiplier(50, 1e-5, **CIFAR, group=225, accounting="code_compat", orders=PUBLISHED_ORDERS)
    assert published == pytest.approx(17.75, abs=0.005)
    right = dp_sgd_noise_multiplier(50, 1e-5, **CIFAR, group=225, orders=PUBLISHED_ORDERS)
    assert right == pytest.approx(18.60, abs=0.005)
    # And back, with the orders of this kit: the published noise does not hold.
    assert dp_sgd_epsilon(right, **CIFAR, delta=1e-5, group=225) == pytest.approx(50, rel=2e-3)
    assert dp_sgd_epsilon(published, **CIFAR, delta=1e-5, group=225) > 52


def test_epsilon_of_the_subsampled_gaussian_by_integration() -> None:
    """Slow and obvious: integrate the Renyi divergence of each order from the mixture that sampling makes."""
    rate, noise, delta, steps = 0.1, 1.1, 1e-5, 20
    orders = np.arange(2, 12)
    places = np.linspace(-20, 40, 200_001)[:, None]
    density = norm.pdf(places, scale=noise)  # (places, 1)
    mixture = (1 - rate) * density + rate * norm.pdf(places, 1, noise)
    moments = ((mixture / density) ** orders * density).sum(axis=0) * (places[1, 0] - places[0, 0])  # (orders,)
    conversion = -(math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    best = float((steps * np.log(moments) / (orders - 1) + conversion).min())
    assert dp_sgd_epsilon(noise, rate, steps, delta, orders=orders.tolist()) == pytest.approx(best, rel=1e-6)


def test_more_noise_less_training_smaller_groups() -> None:
    """Each lowers epsilon."""
    values: dict[str, Any] = {"noise_multiplier": 2.0, "sampling_rate": 0.05, "steps": 100, "delta": 1e-5, "group": 3}
    orders = range(2, 40)

    def epsilon(**change: float) -> float:
        return dp_sgd_epsilon(**{**values, **change}, orders=orders)

    for change in ({"noise_multiplier": 2.2}, {"sampling_rate": 0.04}, {"steps": 90}, {"group": 2}, {"delta": 1e-4}):
        assert epsilon(**change) < epsilon()


def test_sampling_everything_is_the_gaussian_mechanism() -> None:
    """q = 1: order / (2 noise^2) per step, so rho = steps / (2 noise^2)."""
    found = dp_sgd_epsilon(10.0, 1.0, 5, 1e-5, orders=range(2, 200))
    expected = epsilon_of_rho(5 / 200, 1e-5, "exact")
    assert found == pytest.approx(expected, rel=1e-3)
    assert found >= expected


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"steps": 0},
        {"delta": 0.0},
        {"group": 0},
        {"accounting": "paper"},
        {"noise_multiplier": 0.1, "group": 300},
    ],
)
def test_mistakes_are_refused(change: dict[str, float]) -> None:
    """Numbers outside their range; also an epsilon that can't be written."""
    values: dict[str, Any] = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 10, "delta": 1e-5, **change}
    with pytest.raises(ValueError, match=r"must|one of|least|little"):
        dp_sgd_epsilon(**values, orders=range(2, 10))
    with pytest.raises(ValueError, match="epsilon must be"):
        record_budget(0.0, 1e-5, 3)
    with pytest.raises(ValueError, match="smallest number"):
        record_budget(800.0, 1e-5, 100)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dp-accounting."""
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match="pip install dp-accounting"):
        dp_sgd_epsilon(1.0, 0.1, 10, 1e-5)
