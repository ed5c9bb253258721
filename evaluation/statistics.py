"""How sure a score is: estimates with 95 % confidence intervals, and the ceiling.

(First version by the lead, for the API that evaluation/score.py calls; the helper that owns this file replaces the
inside, keeping `Estimate`, `Grades`, `grade` and `ceiling` callable as they are.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Quality = Callable[[Floats, Floats], float]
"""F of `(models, examples)` unlearned and retrained confidences, `forgetting_quality` for example."""

HALF_SAMPLES = 60


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pool:
    """N models: confidences `(N, examples)`, and accuracy on retain and test set, `(N,)` each."""

    confidences: Floats
    retain_accuracy: Floats
    test_accuracy: Floats

    def half(self, chosen: NDArray[np.int64]) -> Pool:
        """The chosen models."""
        return Pool(self.confidences[chosen], self.retain_accuracy[chosen], self.test_accuracy[chosen])


@dataclass(frozen=True)
class Grades:
    """F and score, averaged over originals, and one of each per original."""

    forgetting_quality: Estimate
    score: Estimate
    forgetting_quality_by_original: tuple[float, ...]
    score_by_original: tuple[float, ...]


def grade(unlearned: list[Pool], retrained: Pool, quality: Quality, seed: int = 0) -> Grades:
    """F and score of K pools of unlearned models, one for each original, against one pool of retrained models."""
    f, s = _all(unlearned, retrained, quality)
    rng = np.random.default_rng(seed)
    models = len(retrained.confidences)
    draws = []
    for _ in range(HALF_SAMPLES):
        half = [pool.half(rng.permutation(models)[: models // 2]) for pool in unlearned]
        draws.append([np.mean(x) for x in _all(half, retrained.half(rng.permutation(models)[: models // 2]), quality)])
    spread = np.std(draws, axis=0)  # (F, score)
    return Grades(
        _interval(float(np.mean(f)), spread[0]), _interval(float(np.mean(s)), spread[1]), tuple(f), tuple(s)
    )


def _interval(value: float, spread: float) -> Estimate:
    return Estimate(value, max(0.0, value - 2 * spread), value + 2 * spread)


def _all(unlearned: list[Pool], retrained: Pool, quality: Quality) -> tuple[list[float], list[float]]:
    f = [quality(pool.confidences, retrained.confidences) for pool in unlearned]
    ratios = [
        pool.retain_accuracy.mean() / retrained.retain_accuracy.mean()
        * pool.test_accuracy.mean() / retrained.test_accuracy.mean()
        for pool in unlearned
    ]
    return f, [one * float(ratio) for one, ratio in zip(f, ratios, strict=True)]


def ceiling(retrained: Pool, quality: Quality, seed: int = 0, splits: int = 20) -> Grades:
    """Retrained against retrained: the mean over random disjoint halves of the pool."""
    rng = np.random.default_rng(seed)
    models = len(retrained.confidences)
    values = []
    for _ in range(splits):
        order = rng.permutation(models)
        one, other = retrained.half(order[: models // 2]), retrained.half(order[models // 2 : models // 2 * 2])
        values.append([x[0] for x in _all([one], other, quality)])
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
    return Grades(_interval(mean[0], spread[0]), _interval(mean[1], spread[1]), (float(mean[0]),), (float(mean[1]),))
