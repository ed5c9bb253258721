"""How sure a score is: F and score with 95 % confidence intervals, and the ceiling.

A grading has K originals, N unlearned models from each of them, and one pool of N retrained models that all
are compared with. F and score are means over the originals. Their interval aims at what they would be on
average over new seeds of unlearning, new retrained models and new originals, at the same N. Two sources of
variance go into it.

*The pools.* F depends on the extremes of the pools, so a bootstrap, which draws models with replacement, is no
use: a model that is drawn twice counts as two that agree. Instead m = 2 N / 3 models of each pool are drawn
without replacement, many times. The variance of a mean over such draws is (N - m) / m times its variance over
new pools of N. F is no mean, but behaves alike (draws of a half give too little, of three quarters too much).
It is taken of the square roots of F and score, on whose scale it changes little with N and with the value, and
only the variance is taken: F of a draw is larger than F of the whole pools.

*The originals.* If originals matter, the values of the K originals differ by more than their own pools explain.
With two originals that is a guess from a single difference, so it is moderated by a belief that they differ a lot,
which weighs little: without it, originals that happen to agree promise too much, and with more weight it drowns what
is seen (at 0.5 degrees of freedom, with two originals that differ by 0.2 standard deviations, 87 % of the intervals
covered the true value at N = 512). The variances from originals and from retrained models add up by the rule of Welch
and Satterthwaite, which gives the degrees of freedom of the t quantile. With K = 1 nothing is known about other
originals, and the interval is about this one; under the full protocol, where every unlearned model comes from an
original of its own, it is about all.

`benchmarks/checks/interval_coverage.py` measures how often such intervals cover the true value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # imported here, while the workers' server starts: later it would be waited for

from data.errors import UserError
from evaluation.metrics.quantities import NotNegative

Floats = NDArray[np.float64]
Quality = Callable[[Floats, Floats], float]
"""F of `(models, examples)` unlearned and retrained confidences, `forgetting_quality` for example."""

REPLICATES = 100
SHARE_KEPT = 2 / 3  # of the models of each pool, in a replicate
PRIOR_FREEDOM = 0.05  # degrees of freedom of the belief how much originals differ ...
PRIOR_VARIANCE = 20  # ... which is the variance of their values, in units of what the runs alone explain
SPLITS = 20
MIN_MODELS = 4  # replicates keep three, the fewest that F is defined for
CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % confidence interval, `low <= value <= high`."""

    value: NotNegative
    """The estimate itself."""
    low: NotNegative
    """Lower end of the interval."""
    high: NotNegative
    """Upper end of the interval."""

    @property
    def interval(self) -> tuple[float, float]:
        """`(low, high)`."""
        return self.low, self.high


@dataclass(frozen=True)
class Population:
    """N models: confidences `(N, examples)`, and accuracy on retain and test set, `(N,)` each."""

    confidences: Floats
    retain_accuracy: Floats
    test_accuracy: Floats

    def take(self, models: NDArray[np.int64]) -> Population:
        """Return the pool of the given models."""
        return Population(self.confidences[models], self.retain_accuracy[models], self.test_accuracy[models])


@dataclass(frozen=True)
class Grades:
    """F and score, averaged over originals, and one of each per original."""

    forgetting_quality: Estimate
    score: Estimate
    forgetting_quality_by_original: tuple[float, ...]
    score_by_original: tuple[float, ...]


def estimate_grades(
    unlearned: Sequence[Population],
    retrained: Population,
    quality: Quality,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Grades:
    """Return F and score of K pools of unlearned models, one for each original, against the retrained ones.

    F of an original is `quality(unlearned, retrained)`; its score is that times the ratios of the mean retain
    and the mean test accuracy. All pools have N models. The same arguments give the same bits.
    `quality` is called K (1 + replicates) times; for a slow one, 20 replicates give intervals little wider.

    Raises `UserError` if there are fewer than 4 models, or as `quality` does.
    """
    models = len(retrained.confidences)
    if models < MIN_MODELS:
        raise UserError(f"{models} models are too few for a confidence interval: grade at least {MIN_MODELS}.")
    qualities, scores = _by_original(unlearned, retrained, quality)

    kept = max(MIN_MODELS - 1, round(SHARE_KEPT * models))
    rng = np.random.default_rng(seed)

    def draw(pool: Population) -> Population:
        return pool.take(rng.permutation(models)[:kept])

    drawn = np.array(  # (replicates, 2, originals): F and score
        [_by_original([draw(pool) for pool in unlearned], draw(retrained), quality) for _ in range(replicates)]
    )
    inflation = kept / (models - kept)
    return Grades(
        _up_to_one(interval(qualities, drawn[:, 0], inflation)),
        interval(scores, drawn[:, 1], inflation),
        tuple(qualities.tolist()),
        tuple(scores.tolist()),
    )


def ceiling(retrained: Population, quality: Quality, seed: int = 0, splits: int = SPLITS) -> Grades:
    """Return F and score of retrained models against each other, the best that a method can get.

    They are means over random splits of the pool into disjoint halves, at N / 2 models therefore; the ceiling
    hardly depends on N. In the score each half is taken once for the unlearned models. The interval treats
    the splits as independent. They share models, but only as a difference between the halves do the models
    matter, and that is a new one in each split: the benchmark finds the variance over new pools to be that
    of independent splits.

    Raises `UserError` if there are fewer than 6 models, or as `quality` does.
    """
    models = len(retrained.confidences)
    half = models // 2
    if half < MIN_MODELS - 1:
        raise UserError(
            f"{models} retrained models are too few to compare one half with the other: "
            f"grade at least {2 * (MIN_MODELS - 1)}."
        )
    rng = np.random.default_rng(seed)
    values = np.empty((splits, 2))
    for split in values:
        order = rng.permutation(models)
        one, other = retrained.take(order[:half]), retrained.take(order[half : 2 * half])
        ratio = accuracy_ratio(one, other)
        split[0] = quality(one.confidences, other.confidences)
        split[1] = split[0] * (ratio + 1 / ratio) / 2
    f, score = _up_to_one(mean_interval(values[:, 0])), mean_interval(values[:, 1])
    return Grades(f, score, (f.value,), (score.value,))


def _by_original(unlearned: Sequence[Population], retrained: Population, quality: Quality) -> tuple[Floats, Floats]:
    """Return F and score of each original, (originals,) both."""
    qualities = np.array([quality(pool.confidences, retrained.confidences) for pool in unlearned])
    return qualities, qualities * [accuracy_ratio(pool, retrained) for pool in unlearned]


def accuracy_ratio(one: Population, other: Population) -> float:
    """Return the ratio of the mean retain accuracies times that of the mean test accuracies."""
    retain = one.retain_accuracy.mean() / other.retain_accuracy.mean()
    return float(retain * one.test_accuracy.mean() / other.test_accuracy.mean())


def interval(by_original: Floats, draws: Floats, inflation: float) -> Estimate:
    """Return the mean of the values of the K originals, and its interval, which is symmetric in square roots.

    `draws` has the values of the originals in each replicate, (replicates, originals), and `inflation` is what
    turns their variance into that over new pools.
    """
    replicates, originals = draws.shape
    value = float(by_original.mean())
    pools = float(inflation * np.sqrt(draws.mean(axis=1)).var(ddof=1))  # of the mean, by all pools
    own = 0.0
    if originals > 1:
        roots = np.sqrt(draws) - np.sqrt(draws).mean(axis=0)
        own = float(inflation * roots.var(axis=1, ddof=1).mean())  # of one original's value, by its unlearned pool
    half = reach(np.sqrt(by_original), own, max(pools - own / originals, 0.0), replicates - 1.0)
    root = np.sqrt(value)
    low, high = max(root - half, 0.0) ** 2, (root + half) ** 2
    return Estimate(value, float(min(low, value)), float(max(high, value)))  # squaring a root may round


def interval_by_draws(
    by_original: Floats,
    unlearned: Sequence[Floats],
    retrained: Floats,
    quality: Quality,
    replicates: int,
    rng: np.random.Generator,
) -> Estimate:
    """The mean of the values of K pools, `(originals,)`, with the interval that draws of smaller pools tell.

    All pools are confidences `(models, examples)`. In each draw `quality` is taken of two thirds of the models of each.
    """
    models = len(retrained)
    kept = round(SHARE_KEPT * models)
    smaller = np.empty((replicates, len(unlearned)))
    for row in smaller:
        some = retrained[rng.permutation(models)[:kept]]
        row[:] = [quality(pool[rng.permutation(models)[:kept]], some) for pool in unlearned]
    return interval(by_original, smaller, kept / (models - kept))


def reach(by_original: Floats, own: float, from_retrained: float, freedom: float) -> float:
    """Half the width of an interval for the mean of the values of K originals, `(originals,)`.

    `own` is the variance of one original's value by its own unlearned models, and `from_retrained` that of the mean by
    the retrained models, which was estimated with so many degrees of `freedom`.
    """
    originals = len(by_original)
    variance = own + from_retrained
    if originals > 1:
        weight = originals - 1 + PRIOR_FREEDOM
        observed = float(by_original.var(ddof=1))
        moderated = ((originals - 1) * observed + PRIOR_FREEDOM * PRIOR_VARIANCE * own) / weight
        from_originals = moderated / originals
        variance = from_originals + from_retrained
        squares = from_originals**2 / weight + from_retrained**2 / freedom
        freedom = variance**2 / squares if squares > 0 else freedom
    return float(_t_quantile(freedom) * np.sqrt(variance))


def _up_to_one(estimate: Estimate) -> Estimate:
    """F is a mean of points, none of which is more than 1. (A score may be: accuracies can exceed those of retraining.)

    >>> _up_to_one(Estimate(0.9, 0.7, 1.2))
    Estimate(value=0.9, low=0.7, high=1.0)
    """
    return replace(estimate, high=max(estimate.value, min(estimate.high, 1.0)))


def mean_interval(values: Floats) -> Estimate:
    """Return the mean of independent values with the usual t interval, not below 0."""
    value = float(values.mean())
    reach = _t_quantile(len(values) - 1) * float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value, max(value - reach, 0.0), value + reach)


def _t_quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE_LEVEL) / 2))
