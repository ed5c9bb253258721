"""Noisy gradient descent with clipped gradients: the published numbers, and the claims themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.certification.hockey_stick import gaussian_delta
from evaluation.certification.renyi import (
    ACCOUNTINGS,
    clipping_distance,
    clipping_epsilon,
    clipping_noise,
    clipping_rho,
    clipping_steps,
    epsilon_of_rho,
    rho_of_epsilon,
)

DELTA = 1e-5
MNIST_A: dict[str, Any] = {"initial_clip": 0.01, "gradient_clip": 10, "learning_rate": 1e-4, "weight_decay": 750}
MNIST_B: dict[str, Any] = {"initial_clip": 0.01, "gradient_clip": 100, "learning_rate": 1e-4, "weight_decay": 10}
CIFAR: dict[str, Any] = {"initial_clip": 20, "gradient_clip": 10, "learning_rate": 0.01, "weight_decay": 50}
WORKED = [MNIST_A, MNIST_B, CIFAR]

epsilons = st.floats(0.05, 100)
deltas = st.floats(-25, -2).map(math.exp)
dynamics = st.fixed_dictionaries(
    {
        "initial_clip": st.floats(1e-3, 50),
        "gradient_clip": st.floats(1e-3, 50),
        "learning_rate": st.floats(1e-4, 0.1),
        "weight_decay": st.just(0.0) | st.floats(1e-3, 9),
    }
)


@pytest.mark.parametrize(
    ("rho", "code", "by_zcdp", "by_gdp"),
    [
        (0.01, 0.0136, 0.546, 0.497),
        (0.03056, 0.0342, 1.000, 0.915),
        (0.1, 0.1036, 1.914, 1.760),
        (1, 1.0036, 7.077, 6.573),
        (10, 10.0036, 30.11, 28.37),
        (100, 100.0036, 165.6, 159.44),
    ],
)
def test_published_epsilons(rho: float, code: float, by_zcdp: float, by_gdp: float) -> None:
    """What the published code prints, and what holds. Catches `rho` in place of `order * rho`."""
    assert epsilon_of_rho(rho, DELTA, "exact") == pytest.approx(by_zcdp, rel=6e-4)
    assert epsilon_of_rho(rho, DELTA) == pytest.approx(by_gdp, rel=6e-4)
    assert epsilon_of_rho(rho, DELTA, "code_compat") == pytest.approx(code, abs=6e-5)


@pytest.mark.parametrize(
    ("epsilon", "rho"), [(0.5, 0.00851), (1, 0.03056), (2, 0.1083), (5, 0.551), (10, 1.783), (50, 20.72)]
)
def test_rho_for_a_true_epsilon(epsilon: float, rho: float) -> None:
    """The inverse, at delta = 1e-5."""
    assert rho_of_epsilon(epsilon, DELTA, "exact") == pytest.approx(rho, rel=6e-4)


@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.01, 0.3])
@pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.1, 3.0, 500.0])
def test_conversion_is_the_minimum_over_a_grid_of_orders(rho: float, delta: float) -> None:
    """Slow and obvious: evaluate the bound at a million orders. Catches a wrong optimal order."""
    orders = 1 + np.geomspace(1e-7, 1e7, 1_000_001)
    bounds = orders * rho - (math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    assert epsilon_of_rho(rho, delta, "exact") == pytest.approx(max(0.0, float(bounds.min())), rel=1e-6, abs=1e-8)


@settings(deadline=None)
@given(epsilons, deltas)
def test_conversions_are_each_others_inverse(epsilon: float, delta: float) -> None:
    """In all accountings, where they claim something."""
    for accounting in ACCOUNTINGS:
        if accounting == "paper" and epsilon > math.log(1 / delta) / 4:
            with pytest.raises(ValueError, match="Theorem 1"):
                rho_of_epsilon(epsilon, delta, accounting)
            continue
        if accounting == "code_compat" and epsilon <= epsilon_of_rho(0, delta, accounting):
            continue
        rho = rho_of_epsilon(epsilon, delta, accounting)
        assert epsilon_of_rho(rho, delta, accounting) == pytest.approx(epsilon, rel=1e-9)


@settings(deadline=None)
@given(st.floats(1e-6, 100), st.floats(1.001, 10), deltas)
def test_more_divergence_is_more_epsilon(rho: float, factor: float, delta: float) -> None:
    """And a smaller delta costs epsilon."""
    for accounting in ("gdp", "exact"):
        one = epsilon_of_rho(rho, delta, accounting)
        assert epsilon_of_rho(rho * factor, delta, accounting) >= one >= 0
        assert epsilon_of_rho(rho, delta / factor, accounting) >= one


@settings(deadline=None)
@given(epsilons, deltas)
def test_theorem_1_asks_for_more_noise_than_needed(epsilon: float, delta: float) -> None:
    """Where it holds: it is sound, and not tight."""
    if epsilon <= math.log(1 / delta) / 4:
        assert rho_of_epsilon(epsilon, delta, "paper") < rho_of_epsilon(epsilon, delta, "exact")


@settings(deadline=None)
@given(st.floats(1e-6, 500), deltas)
def test_gdp_never_asks_for_more(rho: float, delta: float) -> None:
    """Than zCDP, which follows from it: a Gaussian's Renyi divergence is all that zCDP knows."""
    assert epsilon_of_rho(rho, delta, "gdp") <= epsilon_of_rho(rho, delta, "exact") * (1 + 1e-9)


def test_no_divergence_is_no_epsilon() -> None:
    """The limit of a rho of 0."""
    assert epsilon_of_rho(0.0, DELTA) == epsilon_of_rho(0.0, DELTA, "exact") == 0
    assert epsilon_of_rho(1e-12, DELTA) < 1e-4


@pytest.mark.parametrize(
    ("config", "steps", "distance", "noises"),
    [
        (MNIST_A, 6, 0.02249, (0.00775, 0.0444, 0.0558)),
        (MNIST_B, 1, 0.03998, (0.0283, 0.162, 0.203)),
        (CIFAR, 11, 0.41934, (0.2568, 1.469, 1.848)),
    ],
)
def test_worked_configurations(
    config: dict[str, Any], steps: int, distance: float, noises: tuple[float, float, float]
) -> None:
    """The published ones: T, S, and the noise at rho = 1, for a true epsilon of 1, and by theorem 1.

    MNIST B catches `ceil(1.0000000000000002) = 2`.
    """
    assert clipping_steps(**config) == steps
    assert clipping_distance(**config, steps=steps) == pytest.approx(distance, rel=1e-3)
    epsilon_of_one = epsilon_of_rho(1.0, DELTA, "exact")
    for epsilon, accounting, noise in zip((epsilon_of_one, 1.0, 1.0), ("exact", "exact", "paper"), noises, strict=True):
        found = clipping_noise(epsilon, DELTA, **config, steps=steps, accounting=accounting)
        assert found == pytest.approx([noise] * steps, rel=3e-3)


def test_true_epsilon_takes_5_3_times_the_published_noise() -> None:
    """5.7 times by zCDP, 7.2 times by theorem 1: what the published "epsilon = 1", rho = 1, costs when it is meant."""
    printed = epsilon_of_rho(1, DELTA, "code_compat")
    published = clipping_noise(printed, DELTA, **CIFAR, steps=11, accounting="code_compat")
    for accounting, times in (("gdp", 5.28), ("exact", 5.72), ("paper", 7.2)):
        noise = clipping_noise(1.0, DELTA, **CIFAR, steps=11, accounting=accounting)
        assert noise[0] / published[0] == pytest.approx(times, abs=0.01)


def test_theorem_1_as_it_is_written() -> None:
    """sigma^2 = 9 ln(1/delta) (C0 + C1 lr T)^2 / (epsilon^2 T) without weight decay; least at T = C0 / (lr C1)."""
    without = {**CIFAR, "weight_decay": 0}
    variances = {}
    for steps in (100, 199, 200, 201, 400):
        noise = clipping_noise(0.7, DELTA, **without, steps=steps, accounting="paper")
        variances[steps] = float(noise[0] ** 2)
        written = 9 * math.log(1 / DELTA) / (0.7**2 * steps) * (20 + 10 * 0.01 * steps) ** 2
        assert variances[steps] == pytest.approx(written)
    assert min(variances, key=lambda steps: variances[steps]) == clipping_steps(**without) == 200
    assert variances[200] == pytest.approx(36 * math.log(1 / DELTA) * 20 * 10 * 0.01 / 0.7**2)


@settings(deadline=None)
@given(dynamics, st.integers(1, 50))
def test_noise_is_continuous_in_weight_decay(config: dict[str, Any], steps: int) -> None:
    """Without weight decay it is the limit of little weight decay. Catches the published code's division by 4."""
    without = clipping_noise(1.0, DELTA, **{**config, "weight_decay": 0.0}, steps=steps)
    little = clipping_noise(1.0, DELTA, **{**config, "weight_decay": 1e-9}, steps=steps)
    assert little == pytest.approx(without, rel=1e-6)


def test_published_code_halves_the_variance_without_weight_decay() -> None:
    """`code_compat` repeats that, so that its "1" is 9.98, or 10.7 by zCDP."""
    without = {**CIFAR, "weight_decay": 0}
    one = epsilon_of_rho(1, DELTA, "code_compat")
    noise = clipping_noise(one, DELTA, **without, steps=200, accounting="code_compat")
    assert noise[0] ** 2 == pytest.approx((2 * 20 + 2 * 10 * 0.01 * 200) ** 2 / (4 * 200))
    assert clipping_epsilon(noise, DELTA, **without, accounting="code_compat") == pytest.approx(one)
    assert clipping_epsilon(noise, DELTA, **without) == pytest.approx(9.98, abs=0.05)
    assert clipping_epsilon(noise, DELTA, **without, accounting="exact") == pytest.approx(10.7, abs=0.05)


@settings(deadline=None)
@given(dynamics, st.integers(1, 60), epsilons, st.sampled_from(["constant", "decreasing"]))
def test_noise_and_epsilon_are_each_others_inverse(
    config: dict[str, Any], steps: int, epsilon: float, schedule: str
) -> None:
    """For both schedules, in each accounting that claims something for any epsilon."""
    for accounting in ("gdp", "exact", "code_compat"):
        noise = clipping_noise(epsilon, DELTA, **config, steps=steps, schedule=schedule, accounting=accounting)
        assert noise.shape == (steps,)
        found = clipping_epsilon(noise, DELTA, **config, accounting=accounting)
        assert found == pytest.approx(epsilon, rel=1e-6)


@settings(deadline=None)
@given(dynamics, st.integers(1, 30), st.floats(1.01, 5))
def test_more_noise_is_less_epsilon(config: dict[str, Any], steps: int, factor: float) -> None:
    """In any single step, too."""
    noise = clipping_noise(1.0, DELTA, **config, steps=steps)
    louder = noise.copy()
    louder[steps // 2] *= factor
    before, after = (clipping_epsilon(values, DELTA, **config) for values in (noise, louder))
    assert after < before
    assert clipping_epsilon(noise * factor, DELTA, **config) < before


@settings(deadline=None)
@given(dynamics, st.integers(1, 30))
def test_distance_by_recursion(config: dict[str, Any], steps: int) -> None:
    """Slow and obvious: shrink, then add two clipped gradients, step by step."""
    distance = 2 * config["initial_clip"]
    for _ in range(steps):
        distance *= 1 - config["learning_rate"] * config["weight_decay"]
        distance += 2 * config["learning_rate"] * config["gradient_clip"]
    assert clipping_distance(**config, steps=steps) == pytest.approx(distance)


@settings(deadline=None)
@given(dynamics, st.lists(st.floats(0.01, 10), min_size=1, max_size=20))
def test_rho_is_the_best_split_into_shifts(config: dict[str, Any], noise: list[float]) -> None:
    """Minimise sum_t a_t^2 / (2 noise_t^2) over shifts with sum_t r^(T-1-t) a_t = S, by least squares."""
    steps = len(noise)
    kept = (1 - config["learning_rate"] * config["weight_decay"]) ** np.arange(steps - 1, -1, -1)
    distance = clipping_distance(**config, steps=steps)
    scaled = np.linalg.lstsq((kept * noise)[None], np.array([distance]), rcond=None)[0]  # a_t / noise_t, least norm
    assert clipping_rho(noise, **config) == pytest.approx(float(scaled @ scaled) / 2)


def worst_case(config: dict[str, Any], noise: np.ndarray) -> float:
    """Two runs from opposite ends of the ball with opposite clipped gradients: their means' distance in deviations."""
    mean, variance = 2 * config["initial_clip"], 0.0
    shrink = 1 - config["learning_rate"] * config["weight_decay"]
    for deviation in noise:
        mean = shrink * mean + 2 * config["learning_rate"] * config["gradient_clip"]
        variance = shrink**2 * variance + deviation**2
    return float(mean / math.sqrt(variance))


@settings(deadline=None)
@given(dynamics, st.integers(1, 30), st.floats(0.1, 20), st.sampled_from(["constant", "decreasing"]))
def test_claims_hold_for_the_worst_loss_there_is(
    config: dict[str, Any], steps: int, epsilon: float, schedule: str
) -> None:
    """A loss with constant gradients makes two Gaussians, whose delta is known exactly: it is within the claim."""
    noise = clipping_noise(epsilon, DELTA, **config, steps=steps, schedule=schedule)
    ratio = worst_case(config, noise)
    assert ratio**2 / 2 == pytest.approx(clipping_rho(noise, **config))
    assert gaussian_delta(epsilon, ratio) <= DELTA * (1 + 1e-9)
    assert gaussian_delta(0.999 * epsilon, ratio) > DELTA  # for this loss the claim loses nothing


@settings(deadline=None)
@given(dynamics, st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_no_choice_of_shifts_does_better(config: dict[str, Any], noise: list[float], seed: int) -> None:
    """Slow and obvious: draw how much of the distance each step hides, and add up the squares. None is below the bound.

    The last step hides all that is left. A run that has hidden all of it before is the other run from then on.
    """
    rng = np.random.default_rng(seed)
    shrink, push = 1 - config["learning_rate"] * config["weight_decay"], 2 * config["learning_rate"]
    push *= config["gradient_clip"]
    squares = []
    for _ in range(200):
        distance, square = 2 * config["initial_clip"], 0.0
        shares = [*rng.uniform(0, 1, len(noise) - 1), 1.0]
        for share, deviation in zip(shares, noise, strict=True):
            distance = shrink * distance + push
            square += (share * distance / deviation) ** 2
            distance *= 1 - share
        squares.append(square)
    assert min(squares) >= 2 * clipping_rho(noise, **config) * (1 - 1e-9)


PLACES = np.linspace(-20, 20, 1201)
"""Weights that a run of one weight can have, in the next test."""
LOSSES = {
    "to both sides": np.sign(PLACES),
    "to the middle": -np.sign(PLACES),
    "waves": np.sin(1.3 * PLACES),
    "steep waves": np.clip(20 * np.sin(0.4 * PLACES), -1, 1),
    "constant": np.ones_like(PLACES),
}
"""Clipped gradients (times -1) at these places, of norm 1 at most; none is of a convex loss but the second and last."""


def after_noisy_steps(start: float, loss: np.ndarray, rate: float, decay: float, noise: list[float]) -> np.ndarray:
    """The density of the weight after these steps, at `PLACES`: moved and spread, place by place."""
    density = np.zeros_like(PLACES)
    density[np.abs(PLACES - start).argmin()] = 1
    moved = (1 - rate * decay) * PLACES + rate * loss
    for deviation in noise:
        spread = np.exp(-((PLACES[:, None] - moved[None]) ** 2) / (2 * deviation**2))
        density = (spread / spread.sum(axis=0)) @ density
    return density


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("noise", [[1.0, 1.0, 1.0], [3.0, 0.5], [0.5, 3.0]])
def test_claims_hold_for_losses_that_are_not_convex(loss: np.ndarray, noise: list[float]) -> None:
    """Brute force: the densities of one weight from both ends of the ball, and the delta between them.

    Catches a bound that needs a gradient step to contract, which only weight decay does here.
    """
    for rate, decay in ((0.5, 0.0), (0.5, 1.0), (0.1, 5.0)):
        ends = [after_noisy_steps(start, loss, rate, decay, noise) for start in (-2.0, 2.0)]
        config = {"initial_clip": 2.0, "gradient_clip": 1.0, "learning_rate": rate, "weight_decay": decay}
        ratio = math.sqrt(2 * clipping_rho(noise, **config))
        for epsilon in (0.0, 0.5, 1.0, 2.0, 4.0):
            for one, other in (ends, ends[::-1]):
                delta = float(np.clip(one - math.exp(epsilon) * other, 0, None).sum())
                assert delta <= gaussian_delta(epsilon, ratio) * (1 + 1e-3) + 1e-7  # of a grid


@pytest.mark.parametrize("config", WORKED)
def test_claim_of_the_published_code_is_false(config: dict[str, Any]) -> None:
    """Against the same loss, its "epsilon = 1, delta = 1e-5" fails by far: a tenth of the outcomes are beyond it."""
    steps = clipping_steps(**config)
    noise = clipping_noise(1.0, DELTA, **config, steps=steps, accounting="code_compat")
    assert gaussian_delta(1.0, worst_case(config, noise)) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"epsilon": math.nan}, "epsilon must be"),
        ({"epsilon": 0.001, "accounting": "code_compat"}, "must be more than"),
        ({"delta": 0.0}, "delta must be"),
        ({"delta": 1.0}, "delta must be"),
        ({"accounting": "renyi"}, "accounting is one of"),
        ({"epsilon": 3.0, "accounting": "paper"}, "Theorem 1"),
        ({"schedule": "cosine"}, "schedule is one of"),
        ({"steps": 0}, "at least one noisy step"),
        ({"initial_clip": 0.0}, "initial_clip must be"),
        ({"gradient_clip": math.inf}, "gradient_clip must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"weight_decay": 100.0}, "less than 1"),
        ({"weight_decay": -1.0}, "from 0"),
    ],
)
def test_mistakes_are_refused(change: dict[str, float | str], message: str) -> None:
    """Numbers outside their range, with a sentence."""
    values: dict[str, Any] = {"epsilon": 1.0, "delta": DELTA, "steps": 11, **CIFAR, **change}
    with pytest.raises(ValueError, match=message):
        clipping_noise(**values)


@pytest.mark.parametrize("noise", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_noise_that_is_none_is_refused(noise: list[float]) -> None:
    """No step, or a step without noise."""
    with pytest.raises(ValueError, match=r"noise|noisy"):
        clipping_rho(noise, **CIFAR)
