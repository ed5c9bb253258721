"""The Gaussian mechanism and model clipping: published numbers, and slow references by integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from evaluation.certification.hockey_stick import (
    gaussian_delta,
    gaussian_epsilon,
    gaussian_noise,
    model_clipping_deltas,
    model_clipping_epsilon,
    model_clipping_noise,
    model_clipping_radius,
    model_clipping_steps,
)

DELTA = 1e-5
epsilons = st.floats(0.01, 100)
deltas = st.floats(-40, -2).map(math.exp)


def integrated(epsilon: float, first: np.ndarray, second: np.ndarray, width: float) -> float:
    """The hockey-stick divergence of two densities on a grid."""
    return float(np.maximum(first - math.exp(epsilon) * second, 0).sum() * width)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 2.0, 9.0])
def test_gaussian_delta_by_integration(epsilon: float, ratio: float) -> None:
    """Slow and obvious: the integral of max(0, P - exp(epsilon) Q)."""
    places = np.linspace(-12, 12 + ratio, 400_001)
    reference = integrated(epsilon, norm.pdf(places, ratio), norm.pdf(places), places[1] - places[0])
    assert gaussian_delta(epsilon, ratio) == pytest.approx(reference, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "ratio"), [(1e-6, 1e-5), (1.0, 0.1), (5.0, 0.2), (50.0, 5.0), (500.0, 100.0)])
def test_gaussian_delta_where_a_difference_would_be_lost(epsilon: float, ratio: float) -> None:
    """With 60 digits. Catches Q(a) - exp(epsilon) Q(b) in floating point, which is off by far at such places."""
    mpmath = pytest.importorskip("mpmath")  # comes with PyTorch
    with mpmath.workdps(60):
        e, r = mpmath.mpf(epsilon), mpmath.mpf(ratio)
        above, below = (mpmath.erfc(place / mpmath.sqrt(2)) / 2 for place in (e / r - r / 2, e / r + r / 2))
        assert gaussian_delta(epsilon, ratio) == pytest.approx(float(above - mpmath.exp(e) * below), rel=1e-9)


def test_gaussian_delta_at_the_ends() -> None:
    """Without noise everything shows, with much noise nothing; epsilon = 0 is the total variation distance."""
    assert gaussian_delta(1.0, math.inf) == 1
    assert gaussian_delta(1.0, 1e-4) == 0
    assert gaussian_delta(0.0, 3.0) == pytest.approx(2 * norm.cdf(1.5) - 1)


@settings(deadline=None)
@given(epsilons, deltas, st.floats(1e-3, 1e3))
def test_noise_and_epsilon_of_the_gaussian_are_inverse(epsilon: float, delta: float, sensitivity: float) -> None:
    """The noise is enough, and a little less is not."""
    noise = gaussian_noise(epsilon, delta, sensitivity)
    assert gaussian_delta(epsilon, sensitivity / noise) <= delta * (1 + 1e-8)
    assert gaussian_delta(epsilon, sensitivity / (noise * (1 - 1e-6))) > delta
    assert gaussian_epsilon(noise, delta, sensitivity) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_epsilon(2 * noise, delta, sensitivity) < epsilon


@settings(deadline=None)
@given(st.floats(0.01, 1), deltas)
def test_classical_noise_is_safe_and_too_much(epsilon: float, delta: float) -> None:
    """Up to epsilon = 1, where it is proven; and both accountings agree with their inverses."""
    noise = gaussian_noise(epsilon, delta, 1.0, "classical")
    assert noise > gaussian_noise(epsilon, delta, 1.0)
    assert gaussian_epsilon(noise, delta, 1.0, "classical") == pytest.approx(epsilon)


@pytest.mark.parametrize(("initial_clip", "noise"), [(0.01, 0.0969), (0.1, 0.969), (1, 9.69)])
def test_published_output_perturbation(initial_clip: float, noise: float) -> None:
    """Classical factor 4.845 at epsilon = 1, where 3.731 is enough."""
    assert gaussian_noise(1.0, DELTA, 2 * initial_clip, "classical") == pytest.approx(noise, rel=1e-3)
    assert gaussian_noise(1.0, DELTA, 2 * initial_clip) == pytest.approx(2 * initial_clip * 3.731, rel=2e-4)


def test_classical_noise_beyond_one_is_refused() -> None:
    """There it is not proven, and in the end false: at epsilon = 40 it is too little."""
    with pytest.raises(ValueError, match="proven up to epsilon = 1"):
        gaussian_noise(1.1, DELTA, 1.0, "classical")
    with pytest.raises(ValueError, match="proven up to epsilon = 1"):
        gaussian_epsilon(1.0, DELTA, 1.0, "classical")
    assert math.sqrt(2 * math.log(1.25 / DELTA)) / 40 < gaussian_noise(40, DELTA, 1.0)


# ----------------------------------------------------------------------------------------------------------------------
# Model clipping
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "steps"), [(0.1, 1), (1.0, 6), (1.25, 9), (1.95, 36)])
def test_published_numbers_of_steps(radius: float, steps: int) -> None:
    """For noise 1 and no noise at the start."""
    assert model_clipping_steps(1.0, DELTA, noise=1.0, radius=radius) == steps


def test_published_delta_after_one_step() -> None:
    """C2 / noise = 0.1 gives 1.75e-8."""
    assert model_clipping_deltas(1.0, 10.0, 1.0, 1)[1] == pytest.approx(1.75e-8, abs=0.01e-8)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_deltas_bound_the_worst_chain_found(epsilon: float, ratio: float) -> None:
    """Weights that jump to the boundary on the side where they are: two runs from opposite sides, in one dimension.

    Their distributions are mixtures of two Gaussians, whose divergence is integrated. The bound is attained by the
    first step, and by every step for epsilon = 0. Catches a contraction that is too strong.
    """
    places = np.linspace(-12 - ratio, 12 + ratio, 200_001)  # radius `ratio`, noise 1
    width = places[1] - places[0]
    right, left = norm.pdf(places, ratio), norm.pdf(places, -ratio)
    bounds = model_clipping_deltas(epsilon, noise=1.0, radius=ratio, steps=5)
    share = 1.0  # of the run from the right that is on the right
    for bound in bounds[1:]:
        mixture = share * right + (1 - share) * left
        divergence = integrated(epsilon, mixture, mixture[::-1], width)
        assert divergence <= bound * (1 + 1e-6)
        if share == 1.0 or epsilon == 0:
            assert divergence == pytest.approx(bound, rel=1e-6)
        share = share * norm.cdf(ratio) + (1 - share) * norm.cdf(-ratio)


def test_without_epsilon_it_is_dobrushins_contraction() -> None:
    """Each step multiplies the total variation distance by 2 Phi(C / noise) - 1."""
    contraction = 2 * norm.cdf(0.7) - 1
    assert model_clipping_deltas(0.0, 1.0, 0.7, 4) == pytest.approx(contraction ** np.arange(5))


def test_noise_at_the_start_counts() -> None:
    """It is the Gaussian mechanism with sensitivity 2 C0; no noise leaves everything, delta = 1."""
    start = model_clipping_deltas(1.0, 1.0, 1.0, 0, initial_clip=2.0, initial_noise=5.0)[0]
    assert start == gaussian_delta(1.0, 0.8)
    assert model_clipping_deltas(1.0, 1.0, 1.0, 0, initial_clip=2.0)[0] == 1
    assert model_clipping_steps(1.0, DELTA, 1.0, 1.0, 2.0, 100.0) == 0
    assert model_clipping_noise(1.0, DELTA, 1.0, 3, 2.0, 5.0) < model_clipping_noise(1.0, DELTA, 1.0, 3)


@settings(deadline=None)
@given(st.floats(0.05, 50), deltas, st.floats(1e-3, 10), st.integers(1, 20))
def test_noise_epsilon_and_steps_are_inverse(epsilon: float, delta: float, radius: float, steps: int) -> None:
    """The noise is enough in these steps, a little less is not; a step less is not, either."""
    noise = model_clipping_noise(epsilon, delta, radius, steps)
    assert model_clipping_deltas(epsilon, noise, radius, steps)[-1] <= delta * (1 + 1e-8)
    assert model_clipping_deltas(epsilon, noise * (1 - 1e-6), radius, steps)[-1] > delta
    assert model_clipping_epsilon(noise, delta, radius, steps) == pytest.approx(epsilon, rel=1e-5)
    assert model_clipping_steps(epsilon, delta * (1 + 1e-8), noise, radius) == steps


@settings(deadline=None)
@given(st.floats(0.05, 20), st.floats(0.1, 3), st.integers(1, 10))
def test_deltas_fall(epsilon: float, ratio: float, steps: int) -> None:
    """With every step, with epsilon, and with the noise."""
    deltas = model_clipping_deltas(epsilon, 1.0, ratio, steps)
    assert (np.diff(deltas) <= 0).all()
    assert (model_clipping_deltas(1.1 * epsilon, 1.0, ratio, steps) <= deltas).all()
    assert (model_clipping_deltas(epsilon, 1.1, ratio, steps) <= deltas).all()


@settings(deadline=None)
@example(1.0, 1.0, 1.0, 1.0, 0)  # decay takes the weights to 0, from where every direction is the worst
@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.001, 1), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_no_step_leaves_the_radius(clip: float, gradient: float, rate: float, decay: float, seed: int) -> None:
    """Random steps from the ball with clipped gradients. Catches a forgotten gradient, and growth by weight decay."""
    generator = np.random.default_rng(seed)
    weights, gradients = generator.normal(size=(2, 200, 3))
    weights *= clip / np.linalg.norm(weights, axis=1, keepdims=True)
    gradients *= gradient / np.linalg.norm(gradients, axis=1, keepdims=True)
    gradients[0] = -weights[0] * gradient / clip * np.copysign(1, 1 - rate * decay)  # the worst: straight on
    moved = np.linalg.norm(weights - rate * (gradients + decay * weights), axis=1)
    radius = model_clipping_radius(clip, gradient, rate, decay)
    assert moved.max() <= radius * (1 + 1e-9)
    assert moved[0] == pytest.approx(radius)


def test_mistakes_in_model_clipping_are_refused() -> None:
    """Each with a sentence."""
    with pytest.raises(ValueError, match="positive numbers"):
        model_clipping_deltas(1.0, 0.0, 1.0, 3)
    with pytest.raises(ValueError, match="must not be negative"):
        model_clipping_deltas(1.0, 1.0, 1.0, -1)
    with pytest.raises(ValueError, match="at least one"):
        model_clipping_noise(1.0, DELTA, 1.0, 0)
    with pytest.raises(ValueError, match="not enough"):
        model_clipping_steps(1.0, DELTA, 0.1, 1.0, most=50)
    with pytest.raises(ValueError, match="delta must be"):
        model_clipping_epsilon(1.0, 0.0, 1.0, 3)
    with pytest.raises(ValueError, match="model_clip"):
        model_clipping_radius(0.0)
    with pytest.raises(ValueError, match="not be negative"):
        model_clipping_radius(1.0, -1.0)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (gaussian_delta, (-1.0, 1.0), "epsilon must be"),
        (gaussian_delta, (1.0, 0.0), "ratio"),
        (gaussian_noise, (0.0, DELTA, 1.0), "epsilon must be"),
        (gaussian_noise, (1.0, 2.0, 1.0), "delta must be"),
        (gaussian_noise, (1.0, DELTA, 0.0), "sensitivity"),
        (gaussian_noise, (1.0, DELTA, 1.0, "exact"), "accounting is one of"),
        (gaussian_epsilon, (0.0, DELTA, 1.0), "noise must be"),
    ],
)
def test_mistakes_are_refused(function: object, arguments: tuple[object, ...], message: str) -> None:
    """Numbers outside their range, with a sentence."""
    with pytest.raises(ValueError, match=message):
        function(*arguments)  # type: ignore[operator]
