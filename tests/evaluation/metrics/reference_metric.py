"""The competition's metric, slowly: every threshold against every model, one example at a time.

A restatement of github.com/google-deepmind/unlearning_evaluation (metric.py) from its rules, kept as plain as
possible to be checked by eye; `evaluation.metrics.official` must agree with it to the last bit. Arrays are
(models, examples).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rates = NDArray[np.float32]  # the published code computes rates and their logarithms in float32
Booleans = NDArray[np.bool_]


def epsilons(unlearned: Floats, retrained: Floats) -> Floats:
    """Return the epsilon of each example, between 0 and 50."""
    return np.array([_epsilon(unlearned[:, i], retrained[:, i]) for i in range(unlearned.shape[1])])


def forgetting_quality(epsilons: Floats, models: int) -> float:
    """Return F of examples with these epsilons."""
    return math.fsum(_points(epsilon, models) for epsilon in epsilons) / len(epsilons)


def _points(epsilon: float, models: int) -> float:
    """Walk through the buckets [0, 0.5), [0.5, 1), ... below ceil(log(N - 1)), worth 1, 1/2, 1/4, ..."""
    worth, end = 1.0, 0.5
    while end <= math.ceil(math.log(models - 1)):
        if epsilon < end:
            return worth
        worth, end = worth / 2, end + 0.5
    return 0.0


def _epsilon(unlearned: Floats, retrained: Floats) -> float:
    unlearned_range = unlearned.max() - unlearned.min()
    retrained_range = retrained.max() - retrained.min()
    if unlearned_range == retrained_range == 0:
        return 0.0 if unlearned[0] == retrained[0] else 50.0
    if min(unlearned_range, retrained_range) / max(unlearned_range, retrained_range) < 0.01:
        return 50.0

    if np.median(retrained) > np.median(unlearned):
        positive, negative = retrained, unlearned
    else:
        positive, negative = unlearned, retrained
    surviving = [
        *_epsilons_of_rates(*_single_threshold_rates(positive, negative)),
        *_epsilons_of_rates(*_double_threshold_rates(positive, negative)),
    ]
    return float(np.clip(max(surviving, default=50.0), 0.0, 50.0))


def single_thresholds(positive: Floats, negative: Floats) -> Floats:
    """Return the thresholds of the first family, float32 numbers held as float64."""
    both = np.concatenate([positive, negative])
    count = int(np.ceil((both.max() - both.min()) * 100))
    return float32_linspace(both.min(), both.max(), count)


def float32_linspace(start: float, stop: float, count: int) -> Floats:
    """Return what `torch.linspace(start, stop, count)` gives on a processor with fused multiply-add.

    Written out because torch rounds differently on a processor without.
    """
    low, high = np.float32(start), np.float32(stop)
    thresholds = []
    for k in range(count):
        step = (high - low) / np.float32(count - 1) if count > 1 else np.float32(0)
        counted_up = float(low) + float(step) * k
        counted_down = float(high) - float(step) * (count - 1 - k)
        thresholds.append(np.float32(counted_up if k < count // 2 or count == 1 else counted_down))
    return np.array(thresholds, np.float64)


def _single_threshold_rates(positive: Floats, negative: Floats) -> tuple[Rates, Rates]:
    """Return FPR and FNR of "positive if c >= t", each (thresholds,)."""
    thresholds = single_thresholds(positive, negative)
    return _rates(positive[:, None] >= thresholds, negative[:, None] >= thresholds)


def _double_threshold_rates(positive: Floats, negative: Floats) -> tuple[Rates, Rates]:
    """Return FPR and FNR of "positive if l <= c <= r" for the narrower pool, each (pairs of thresholds,)."""
    positive_range, negative_range = positive.max() - positive.min(), negative.max() - negative.min()
    width = min(positive_range, negative_range)
    if positive_range >= negative_range:
        positive, negative = negative, positive

    low, high = positive.min() + width - 2.0, positive.max() + 2.0
    false_positive, false_negative = [], []
    for right in np.linspace(low, high, int(np.ceil((high - low) * 100))):
        left = np.linspace(right - width - 2.0, right - width + 2.0, 400)
        rates = _rates(
            (left <= positive[:, None]) & (positive[:, None] <= right),
            (left <= negative[:, None]) & (negative[:, None] <= right),
        )
        false_positive.append(rates[0])
        false_negative.append(rates[1])
    return np.concatenate(false_positive), np.concatenate(false_negative)


def _rates(positive_called: Booleans, negative_called: Booleans) -> tuple[Rates, Rates]:
    """Return FPR and FNR for two (models, thresholds) arrays that say which models are called positive."""
    models = len(positive_called)
    false_positives = negative_called.sum(axis=0, dtype=np.float32)
    false_negatives = (~positive_called).sum(axis=0, dtype=np.float32)
    return false_positives / np.float32(models), false_negatives / np.float32(models)


def _epsilons_of_rates(false_positive: Rates, false_negative: Rates) -> Rates:
    """Return the epsilons of the attacks that count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one_way = np.log(1 - 1e-5 - false_positive) - np.log(false_negative)
        other_way = np.log(1 - 1e-5 - false_negative) - np.log(false_positive)
    epsilon = np.maximum(np.fmax(one_way, other_way), 0.0)  # NaN where both are NaN
    no_error = (false_positive == 0) & (false_negative == 0)
    one_error_rate_is_zero = ~no_error & ((false_positive == 0) | (false_negative == 0))
    epsilon[no_error] = np.inf
    return epsilon[~one_error_rate_is_zero & ~np.isnan(epsilon)]
