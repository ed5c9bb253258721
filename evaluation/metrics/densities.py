"""Kernel densities of confidences, each example's by itself: a normal kernel, with Silverman's bandwidth.

Source: Silverman, "Density Estimation for Statistics and Data Analysis" (1986), section 3.4.2, equation 3.31, and for
draws that keep the variance section 6.4.1.
"""

from __future__ import annotations

import numpy as np

from evaluation.metrics.metric import Floats

NORMAL_QUARTILES = 1.34
"""Between the quartiles of a normal distribution, in standard deviations."""


def bandwidths(confidences: Floats) -> Floats:
    """The bandwidth for each example, `(examples,)`, from confidences `(..., models, examples)` of n models.

    h = 0.9 min(standard deviation, interquartile range / 1.34) n^(-1/5). Where the quartiles are equal, the standard
    deviation alone counts; where all confidences are, h is 0.

    >>> bandwidths(np.arange(32.0)[:, None]).round(3)
    array([4.221])
    """
    models = confidences.shape[-2]
    deviation = confidences.std(axis=-2, ddof=1)
    low, high = np.quantile(confidences, (0.25, 0.75), axis=-2)
    between = (high - low) / NORMAL_QUARTILES
    spread = np.where(between > 0, np.minimum(deviation, between), deviation)
    result: Floats = 0.9 * spread * models**-0.2
    return result


def draw(confidences: Floats, models: int, rng: np.random.Generator, evenly: bool = True) -> Floats:
    """New models from the densities of confidences `(n, examples)`: `(models, examples)`, with the pool's variances.

    y = m + (x + h z - m) sqrt(v / (v + h^2)), with x a model of the pool, z normal, m and v the example's mean and
    variance. Whole models are taken, so that examples stay dependent: `evenly` each as often as the others (give or
    take one), which fills up a pool with little noise; else at random, as new models come.

    >>> pool = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    >>> drawn = draw(pool, 3000, np.random.default_rng(0))
    >>> drawn.mean(axis=0).round(1), drawn.var(axis=0).round(1)
    (array([2., 5.]), array([2.7, 0. ]))
    """
    count = len(confidences)
    if evenly:
        taken = np.concatenate([rng.permutation(count) for _ in range(-(-models // count))])[:models]
    else:
        taken = rng.integers(count, size=models)
    width, mean, variance = bandwidths(confidences), confidences.mean(axis=0), confidences.var(axis=0)
    total = variance + width**2
    shrink = np.sqrt(np.divide(variance, total, out=np.ones_like(total), where=total > 0))
    noise = rng.standard_normal((models, confidences.shape[1]))
    drawn: Floats = mean + (confidences[taken] + width * noise - mean) * shrink
    return drawn
