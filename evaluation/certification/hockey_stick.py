"""Noise on weights of bounded norm: the Gaussian mechanism, and steps that clip the model and add noise to it.

The measure is the hockey-stick divergence: the delta that goes with an epsilon,
`max over events A of P(A) - exp(epsilon) Q(A)`.
"""

from __future__ import annotations

import math

import numpy as np

from evaluation.certification.search import smallest

ACCOUNTINGS = ("analytic", "classical")


# ----------------------------------------------------------------------------------------------------------------------
# The Gaussian mechanism; output perturbation is one, of sensitivity 2 C0
# ----------------------------------------------------------------------------------------------------------------------


def gaussian_delta(epsilon: float, ratio: float) -> float:
    """The delta of two Gaussians whose means are `ratio` standard deviations apart (r).

    `Q(epsilon / r - r / 2) - exp(epsilon) Q(epsilon / r + r / 2)`, where Q(x) = P(N(0, 1) > x).

    Source: Balle and Wang, "Improving the Gaussian Mechanism" (ICML 2018, arXiv 1805.06530), theorem 8.

    Raises:
        ValueError: epsilon is negative, or the ratio is not positive.

    >>> round(gaussian_delta(0.0, 2.0), 6), round(gaussian_delta(1.0, 1.0), 6)
    (0.682689, 0.126937)
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a number from 0, not {epsilon}.")
    if not ratio > 0:
        raise ValueError(f"The ratio of distance and noise must be positive, not {ratio}.")
    if ratio == math.inf:
        return 1.0
    # As a product, since the difference of two equal numbers would be lost in rounding.
    from scipy.special import log_ndtr  # not above: SciPy takes a while, and every grading imports this module

    first, second = log_ndtr([ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio])
    if first == -math.inf:
        return 0.0
    return float(-math.exp(first) * math.expm1(min(0.0, epsilon + second - first)))


def gaussian_noise(epsilon: float, delta: float, sensitivity: float, accounting: str = "analytic") -> float:
    """The standard deviation of noise that hides a difference of norm `sensitivity`, in its units.

    analytic: the smallest, by solving `gaussian_delta(epsilon, sensitivity / noise) = delta`.
    classical: `sensitivity sqrt(2 ln(1.25 / delta)) / epsilon`, 30 % too much at epsilon = 1, and proven up to there.

    Source: Balle and Wang; Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", theorem A.1 (which
    says epsilon < 1; published figures use 1, for which the analytic noise is smaller, so that it holds too).

    Raises:
        ValueError: a number is not positive, delta is not less than 1, the accounting is unknown, or it is
            "classical" with an epsilon of more than 1.

    >>> round(gaussian_noise(1.0, 1e-5, 1.0), 3), round(gaussian_noise(1.0, 1e-5, 1.0, "classical"), 3)
    (3.731, 4.845)
    """
    _check(delta, sensitivity, accounting)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be a positive number, not {epsilon}.")
    if accounting == "classical":
        return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / _at_most_one(epsilon)
    return sensitivity * smallest(lambda noise: gaussian_delta(epsilon, 1 / noise) <= delta)


def gaussian_epsilon(noise: float, delta: float, sensitivity: float, accounting: str = "analytic") -> float:
    """The epsilon at `delta` of noise on something of this sensitivity: the inverse of `gaussian_noise`.

    Raises:
        ValueError: as `gaussian_noise`.

    >>> round(gaussian_epsilon(3.731, 1e-5, 1.0), 3)
    1.0
    """
    _check(delta, sensitivity, accounting)
    if not 0 < noise < math.inf:
        raise ValueError(f"The noise must be a positive number, not {noise}.")
    if accounting == "classical":
        return _at_most_one(sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / noise)
    if gaussian_delta(0.0, sensitivity / noise) <= delta:
        return 0.0
    return smallest(lambda epsilon: gaussian_delta(epsilon, sensitivity / noise) <= delta)


def _at_most_one(epsilon: float) -> float:
    if epsilon > 1 + 1e-9:
        raise ValueError(f"The classical bound is proven up to epsilon = 1, not {epsilon:.4g}: use analytic.")
    return epsilon


def _check(delta: float, sensitivity: float, accounting: str = "analytic") -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, not {delta}.")
    if not 0 < sensitivity < math.inf:
        raise ValueError(f"The sensitivity must be a positive number, not {sensitivity}.")
    if accounting not in ACCOUNTINGS:
        raise ValueError(f"accounting is one of {', '.join(ACCOUNTINGS)}, not {accounting!r}.")


# ----------------------------------------------------------------------------------------------------------------------
# Model clipping
# ----------------------------------------------------------------------------------------------------------------------


def model_clipping_radius(
    model_clip: float, gradient_clip: float = 0.0, learning_rate: float = 0.0, weight_decay: float = 0.0
) -> float:
    """The largest norm that weights can have when a step adds its noise, R.

    Two orders of things are sound. Clip the model, then add noise: `R = C2`. Or clip the gradient, add noise, then
    clip the model: `R = |1 - lr wd| C2 + lr C1`, which is how far a step can go from the ball of radius C2.
    `gradient_clip` C1 = 0 means the first. (The published bound has C2 in place of |1 - lr wd| C2.)

    Raises:
        ValueError: the model clip is not positive, or another number is negative.

    >>> model_clipping_radius(2.0), model_clipping_radius(2.0, gradient_clip=10.0, learning_rate=0.1)
    (2.0, 3.0)
    """
    if not 0 < model_clip < math.inf:
        raise ValueError(f"model_clip must be a positive number, not {model_clip}.")
    if not all(0 <= value < math.inf for value in (gradient_clip, learning_rate, weight_decay)):
        raise ValueError("gradient_clip, learning_rate and weight_decay must not be negative.")
    if gradient_clip == 0:
        return model_clip
    return abs(1 - learning_rate * weight_decay) * model_clip + learning_rate * gradient_clip


def model_clipping_deltas(
    epsilon: float, noise: float, radius: float, steps: int, initial_clip: float = 0.0, initial_noise: float = 0.0
) -> np.ndarray:
    """The delta that goes with `epsilon` before the first noisy step and after each, `(steps + 1,)`.

    A step takes weights whose norm is at most `radius` R and adds noise of standard deviation `noise`, s, to them. With
    theta the `gaussian_delta`:

        delta_0     = 1, or theta(epsilon, 2 C0 / s0) if the start has norm C0 and noise s0 of its own
        delta_(t+1) = delta_t * theta(e, 2 R / s),     e = ln(1 + (exp(epsilon) - 1) / delta_t)

    Source: the non-linear contraction of the hockey-stick divergence (Asoodeh, Diaz and Calmon, arXiv 2009.14075), as
    arXiv 2506.06985 and its code use it.

    Raises:
        ValueError: epsilon, steps or the initial numbers are negative, or noise or radius not positive.

    >>> ["%.3g" % delta for delta in model_clipping_deltas(1.0, noise=10.0, radius=1.0, steps=1)]
    ['1', '1.75e-08']
    """
    if steps < 0 or initial_clip < 0 or initial_noise < 0:
        raise ValueError("steps, initial_clip and initial_noise must not be negative.")
    if not (0 < noise < math.inf and 0 < radius < math.inf):
        raise ValueError(f"Noise and radius must be positive numbers, not {noise} and {radius}.")
    deltas = [1.0]
    if initial_noise > 0 and initial_clip > 0:
        deltas = [gaussian_delta(epsilon, 2 * initial_clip / initial_noise)]
    for _ in range(steps):
        deltas.append(_contracted(deltas[-1], epsilon, 2 * radius / noise))
    return np.array(deltas)


def _contracted(delta: float, epsilon: float, ratio: float) -> float:
    if delta == 0:
        return 0.0  # less than the smallest number
    logarithm = -math.inf if epsilon == 0 else epsilon + math.log(-math.expm1(-epsilon))  # of exp(epsilon) - 1
    return delta * gaussian_delta(float(np.logaddexp(0.0, logarithm - math.log(delta))), ratio)


def model_clipping_steps(
    epsilon: float,
    delta: float,
    noise: float,
    radius: float,
    initial_clip: float = 0.0,
    initial_noise: float = 0.0,
    most: int = 100_000,
) -> int:
    """How many noisy steps bring the delta that goes with `epsilon` down to `delta`; 0 if the start has it already.

    Raises:
        ValueError: as `model_clipping_deltas`; or delta is not between 0 and 1; or `most` steps are not enough.

    >>> [model_clipping_steps(1.0, 1e-5, noise=1.0, radius=radius) for radius in (0.1, 1.0, 1.25, 1.95)]
    [1, 6, 9, 36]
    """
    _check(delta, radius)
    left = float(model_clipping_deltas(epsilon, noise, radius, 0, initial_clip, initial_noise)[0])
    for steps in range(most + 1):
        if left <= delta:
            return steps
        left = _contracted(left, epsilon, 2 * radius / noise)
    raise ValueError(f"With noise {noise:g} and radius {radius:g}, {most} steps are not enough.")


def model_clipping_noise(
    epsilon: float, delta: float, radius: float, steps: int, initial_clip: float = 0.0, initial_noise: float = 0.0
) -> float:
    """The least noise (a standard deviation, in units of the weights) that does it in so many steps.

    Raises:
        ValueError: as `model_clipping_deltas`, or there is no step, or delta is not between 0 and 1.

    >>> round(model_clipping_noise(1.0, 1e-5, radius=0.01, steps=6), 5)
    0.00951
    """
    _check(delta, radius)
    if steps < 1:
        raise ValueError(f"There must be at least one noisy step, not {steps}.")

    def enough(noise: float) -> bool:
        return float(model_clipping_deltas(epsilon, noise, 1.0, steps, *start)[-1]) <= delta

    start = (initial_clip / radius, initial_noise / radius)  # in units of the radius
    return radius * smallest(enough)


def model_clipping_epsilon(
    noise: float, delta: float, radius: float, steps: int, initial_clip: float = 0.0, initial_noise: float = 0.0
) -> float:
    """The epsilon at `delta` after so many noisy steps: the inverse of `model_clipping_noise`.

    Raises:
        ValueError: as `model_clipping_deltas`, or delta is not between 0 and 1.

    >>> round(model_clipping_epsilon(0.00951, 1e-5, radius=0.01, steps=6), 2)
    1.0
    """
    _check(delta, radius)

    def enough(epsilon: float) -> bool:
        return float(model_clipping_deltas(epsilon, noise, radius, steps, initial_clip, initial_noise)[-1]) <= delta

    return 0.0 if enough(0.0) else smallest(enough)
