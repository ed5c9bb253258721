"""The competition's metric: how well can an attacker tell unlearned models from retrained ones?

For every forget example there are two pools of N numbers, the confidences of N unlearned and of N retrained
models in the example's true class. An attack is a rule that looks at one confidence and guesses the pool it
came from. Its false positive and false negative rates (FPR, FNR) over the 2N models give

    epsilon = max(log(1 - delta - FPR) - log FNR,  log(1 - delta - FNR) - log FPR),      delta = 1e-5,

the smallest epsilon for which the two pools could be (epsilon, delta)-close. The strongest of many attacks
decides: an example is worth 2^-floor(2 epsilon) points, and F, the forgetting quality, is the mean over the
forget examples. Two equal distributions do not get F = 1 but about 0.18, because the strongest attack is
picked on the same 2N models that it is judged by.

Sources: "Evaluation for the NeurIPS Machine Unlearning Competition" (the organisers, August 2023) and
github.com/google-deepmind/unlearning_evaluation, which scored the submissions; its results are matched
threshold by threshold. It stops with an exception in two cases that have a result here: when all confidences
of each pool are equal (epsilon 0 if the pools are equal too, otherwise 50), and when no attack survives (50).

The published code tries about 160,000 attacks an example on every model. `epsilons` gives the same numbers
some thousand times faster; how is explained at `_best_window`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from evaluation.metrics.metric import Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

DELTA = 1e-5
EPSILON_CAP = 50.0
THRESHOLDS_PER_UNIT = 100
WINDOW_BUFFER = 2.0  # how far the thresholds of a window move, in units of confidence, to either side
LEFT_THRESHOLDS = 400  # 2 * WINDOW_BUFFER * THRESHOLDS_PER_UNIT
PEAKY_RATIO = 0.01  # a pool that spreads less than this share of the other counts as separated
BUCKET_WIDTH = 0.5
MIN_MODELS = 3  # with two, not even epsilon = 0 is worth a point: ceil(log(N - 1)) = 0
MAX_CONFIDENCE = 1000.0  # log p - log q never exceeds 104; beyond this the thresholds lose their precision
DROPPED = -np.inf  # epsilon of an attack that does not count
CHUNK_WINDOWS = 4_000_000  # bounds the memory: at most so many windows are looked at together
BLOCK = 16  # neighbouring left gaps bounded together
TRIED_TOGETHER = 0.1  # candidate windows within so much epsilon of the best one are tried at once


def logit_scaled_confidence(logits: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return log p - log q, where p is the probability of the true class and q that of all the others.

    `logits` has shape (..., examples, classes), `labels` holds the true class of each example, and the
    result has shape (..., examples), in natural-log units between -104 and 104 (1e-45 is added to p and q).
    All of it is computed in float64; the arguments are not modified. A logit that is NaN or infinite gives
    NaN, which `epsilons` refuses.

    Raises `UserError` if the shapes do not fit or a label is not a class.

    >>> logits = np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    >>> logit_scaled_confidence(logits, np.array([0, 2])).round(4)  # log(0.7 / 0.3), log(0.5 / 0.5)
    array([0.8473, 0.    ])
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    _check_logits(logits, labels)
    exponentials = logits.astype(np.float64)  # a copy: (..., examples, classes)
    exponentials -= exponentials.max(axis=-1, keepdims=True)
    np.exp(exponentials, out=exponentials)
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    true_class = (..., np.arange(len(labels)), labels)
    true = probabilities[true_class].copy()  # (..., examples)
    probabilities[true_class] = 0.0
    others = probabilities.sum(axis=-1)  # not 1 - true, which is exactly 0 for a confident model
    confidence: Floats = np.log(true + 1e-45) - np.log(others + 1e-45)
    return confidence


def forgetting_quality(unlearned: Floats, retrained: Floats) -> float:
    """Return F, the mean points of the forget examples, for two (models, examples) arrays of confidences.

    Raises `UserError` as `epsilons` does.

    >>> rng = np.random.default_rng(0)
    >>> retrained = rng.normal(size=(64, 20))
    >>> round(forgetting_quality(rng.normal(size=(64, 20)), retrained), 3)  # a perfect method
    0.214
    >>> round(forgetting_quality(rng.normal(size=(64, 20)) + 2, retrained), 3)
    0.009
    """
    return float(points(epsilons(unlearned, retrained), len(unlearned)).mean())


def points(epsilons: Floats, models: int) -> Floats:
    """Return the points of each example for its epsilon and the number of unlearned models N.

    They halve with every bucket of width 0.5: 2^-floor(2 epsilon), as long as epsilon is below
    ceil(log(N - 1)), about the largest value that N models can show, and 0 from there on. N = 512 gives the
    14 buckets of the competition, 1 down to 2^-13.

    >>> points(np.array([0.2, 0.5, 1.7, 6.9, 7.0]), models=512)
    array([1.00000000e+00, 5.00000000e-01, 1.25000000e-01, 1.22070312e-04,
           0.00000000e+00])
    """
    largest = np.ceil(np.log(models - 1))
    return np.where(epsilons < largest, 2.0 ** -np.floor(epsilons / BUCKET_WIDTH), 0.0)


def epsilons(unlearned: Floats, retrained: Floats) -> Floats:
    """Return the epsilon of the strongest attack on each example, between 0 and 50.

    Both arguments are (models, examples) arrays of confidences, with the same number N >= 3 of models; the
    result has shape (examples,). 50 stands for "separated": by an attack without errors, because one pool
    spreads less than 1 % of the other, or because no attack survives. The last takes confidences that
    all lie between two thresholds; it counts against the method, which must not gain from grids too coarse
    to see a separation.

    Raises `UserError` if the shapes differ or are not two-dimensional, if there are fewer than 3 models or
    no examples, or if a confidence is NaN, infinite or beyond +-1000.

    >>> retrained = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 1.0]])
    >>> unlearned = np.array([[0.5, 7.0, 1.0], [1.5, 8.0, 1.0], [2.5, 9.0, 1.0]])
    >>> epsilons(unlearned, retrained).round(5)  # overlapping, separated, all the same
    array([ 0.69313, 50.     ,  0.     ])
    """
    unlearned, retrained = np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64)
    check_pools(unlearned, retrained)
    models, examples = unlearned.shape
    chunk = max(1, CHUNK_WINDOWS // (LEFT_THRESHOLDS * (2 * models + 1)))
    parts = [
        _epsilons_of_chunk(unlearned[:, first : first + chunk].T, retrained[:, first : first + chunk].T)
        for first in range(0, examples, chunk)
    ]
    return np.concatenate(parts)


# --------------------------------------------------------------------------------------------------------
# Checks


def check_pools(unlearned: Floats, retrained: Floats, min_models: int = MIN_MODELS) -> None:
    """Raise `UserError` unless both are (models, examples) arrays of one shape that hold confidences."""
    if unlearned.ndim != 2 or unlearned.shape != retrained.shape:
        raise UserError(
            f"Confidences of shapes {unlearned.shape} (unlearned) and {retrained.shape} (retrained) "
            "cannot be compared: pass two (models, examples) arrays of the same shape."
        )
    models, examples = unlearned.shape
    if models < min_models or examples < 1:
        raise UserError(
            f"{models} models and {examples} examples are too few for the metric: "
            f"pass at least {min_models} models and one example."
        )
    for name, confidences in (("unlearned", unlearned), ("retrained", retrained)):
        wrong = ~(np.abs(confidences) <= MAX_CONFIDENCE)  # true for NaN as well
        if wrong.any():
            model, example = np.argwhere(wrong)[0]
            raise UserError(
                f"The confidence of {name} model {model} in example {example} is "
                f"{confidences[model, example]}, not a finite number within +-{MAX_CONFIDENCE:g}: "
                "look for NaN or infinity in the outputs of the model."
            )


def _check_logits(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    if logits.ndim < 2 or labels.shape != logits.shape[-2:-1]:
        raise UserError(
            f"Logits of shape {logits.shape} and labels of shape {labels.shape} do not fit together: "
            "pass (..., examples, classes) and (examples,)."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"Labels of type {labels.dtype} are not class numbers: pass integers.")
    classes = logits.shape[-1]
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"Labels from {labels.min()} to {labels.max()} do not fit {classes} classes: "
            "pass class numbers that count from 0."
        )


# --------------------------------------------------------------------------------------------------------
# Epsilon of an attack


@lru_cache(maxsize=8)
def _epsilon_table(models: int) -> Floats:
    """Return (models + 1, models + 1): epsilon of an attack that calls p positives and q negatives positive.

    `DROPPED` where exactly one error rate is 0 (judged an artefact of few models) or both logarithms are
    undefined, infinity where both rates are 0. Computed in float32 as published: 1 - delta - FPR loses
    digits near FPR = 1, and with them epsilon changes in the sixth decimal.
    """
    count = np.arange(models + 1, dtype=np.float32)
    false_negative = ((models - count) / models)[:, None]
    false_positive = (count / models)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.fmax(  # ignores a NaN on one side
            np.log(1 - DELTA - false_positive) - np.log(false_negative),
            np.log(1 - DELTA - false_negative) - np.log(false_positive),
        )
    table = np.where(np.isnan(table), DROPPED, np.maximum(table, 0.0)).astype(np.float64)
    table[(false_negative == 0) ^ (false_positive == 0)] = DROPPED
    table[(false_negative == 0) & (false_positive == 0)] = np.inf
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _epsilon_bounds(models: int) -> Floats:
    """Return (models + 1, models + 1): the largest epsilon with at most p positives and at least q negatives."""
    bounds = np.maximum.accumulate(_epsilon_table(models), axis=0)
    bounds = np.maximum.accumulate(bounds[:, ::-1], axis=1)[:, ::-1]
    bounds.flags.writeable = False
    return bounds


# --------------------------------------------------------------------------------------------------------
# The strongest attack, on several examples at once


@dataclass(frozen=True)
class _Pools:
    """Both pools of each example, sorted together; a threshold falls into one of 2N + 1 gaps between them."""

    values: Floats  # (examples, 2N), ascending
    unlearned_below: Integers  # (examples, 2N + 1): unlearned models among the first g values, for each gap g
    unlearned: Floats  # (examples, N), as given
    retrained: Floats

    @property
    def models(self) -> int:
        return self.unlearned.shape[1]

    def counts_below(self, unlearned_is_positive: Booleans) -> tuple[Integers, Integers]:
        """Return how many positives and how many negatives lie below each gap, each (examples, 2N + 1)."""
        retrained_below = np.arange(2 * self.models + 1) - self.unlearned_below
        unlearned_first = unlearned_is_positive[:, None]
        return (
            np.where(unlearned_first, self.unlearned_below, retrained_below),
            np.where(unlearned_first, retrained_below, self.unlearned_below),
        )


def _epsilons_of_chunk(unlearned: Floats, retrained: Floats) -> Floats:
    """Return (examples,) for two (examples, models) arrays."""
    narrow, wide = np.sort([np.ptp(unlearned, axis=1), np.ptp(retrained, axis=1)], axis=0)
    result = np.full(len(unlearned), EPSILON_CAP)
    result[(wide == 0) & (unlearned[:, 0] == retrained[:, 0])] = 0.0
    comparable = narrow / np.where(wide > 0, wide, 1.0) >= PEAKY_RATIO
    if comparable.any():
        result[comparable] = _strongest_attack(_sort_together(unlearned[comparable], retrained[comparable]))
    return result


def _sort_together(unlearned: Floats, retrained: Floats) -> _Pools:
    together = np.concatenate([unlearned, retrained], axis=1)
    order = np.argsort(together, axis=1)
    unlearned_below = np.zeros((len(order), order.shape[1] + 1), np.int64)
    np.cumsum(order < unlearned.shape[1], axis=1, out=unlearned_below[:, 1:])
    return _Pools(np.take_along_axis(together, order, axis=1), unlearned_below, unlearned, retrained)


def _strongest_attack(pools: _Pools) -> Floats:
    """Return the largest epsilon of both families of attacks, (examples,), between 0 and 50."""
    unlearned_is_higher = np.median(pools.unlearned, axis=1) >= np.median(pools.retrained, axis=1)
    best = _best_threshold(pools, unlearned_is_higher)

    unlearned_range, retrained_range = np.ptp(pools.unlearned, axis=1), np.ptp(pools.retrained, axis=1)
    unlearned_is_narrower = np.where(  # on equal ranges the two swap their roles
        unlearned_range == retrained_range, ~unlearned_is_higher, unlearned_range < retrained_range
    )
    best = _best_window(pools, unlearned_is_narrower, best)
    return np.where(best == DROPPED, EPSILON_CAP, np.minimum(best, EPSILON_CAP))


def _best_threshold(pools: _Pools, unlearned_is_positive: Booleans) -> Floats:
    """Return the largest epsilon of the attacks "positive if confidence >= threshold", (examples,).

    The pool with the larger median is positive. The thresholds lie 0.01 apart from the smallest to the
    largest confidence. Which of the 2N + 1 gaps hold a threshold is found from the values: gap g does if
    more thresholds are at or below the value that ends it than at or below the one that begins it.
    """
    low, high = pools.values[:, :1], pools.values[:, -1:]
    count = np.ceil((high - low) * THRESHOLDS_PER_UNIT).astype(np.int64)
    grid = _Float32Grid(_round_to_float32(low), _round_to_float32(high), count)
    passed = grid.count_up_to(pools.values)  # (examples, 2N)
    attained = np.diff(passed, axis=1, prepend=0, append=count) > 0  # (examples, 2N + 1)

    positives_below, negatives_below = pools.counts_below(unlearned_is_positive)
    epsilon = _epsilon_table(pools.models)[pools.models - positives_below, pools.models - negatives_below]
    return np.where(attained, epsilon, DROPPED).max(axis=1)


def _best_window(pools: _Pools, unlearned_is_positive: Booleans, best: Floats) -> Floats:
    """Return the larger of `best` and the epsilons of the attacks "positive if left <= confidence <= right".

    The narrower pool is positive. There are 400 (by rounding: sometimes 401) right thresholds, and for each
    of them 400 left ones. What a pair of thresholds does depends only on the gaps between the sorted values
    that the two fall into, so:

    1. Right thresholds in the same gap form a group.
    2. The gaps between the lowest and the highest left threshold of a group are its candidates.
    3. The epsilon of a candidate is looked up in a table; those that do not improve on `best` are left out.
    4. The others are tried from the largest epsilon down, until one of them does hold a left threshold.

    Few are tried, because most gaps hold one.
    """
    rows = _right_thresholds(pools, unlearned_is_positive)
    candidates = _candidate_windows(pools, rows, unlearned_is_positive, best)
    best = best.copy()
    while len(candidates.example):
        top = best.copy()
        np.maximum.at(top, candidates.example, candidates.epsilon)
        tried = candidates.epsilon >= top[candidates.example] - TRIED_TOGETHER
        trial = candidates[tried]
        trial = trial[_holds_left_threshold(pools, rows, trial)]
        np.maximum.at(best, trial.example, trial.epsilon)
        candidates = candidates[~tried & (candidates.epsilon > best[candidates.example])]
    return best


@dataclass(frozen=True)
class _Rows:
    """The right thresholds of each example ("rows": each has left thresholds of its own), grouped by gap."""

    thresholds: _Float64Grid  # (examples, 1)
    width: Floats  # (examples, 1): range of the narrower pool
    first: Integers  # (examples, 2N + 1): first row of the group in each gap,
    end: Integers  # and the one after its last; not larger than first if the gap has no right threshold

    def left_thresholds(self, example: Integers, row: Integers) -> _Float64Grid:
        """Return the grids of left thresholds of the given rows, (n,) for two (n,) arrays."""
        right = self.thresholds[example].at(row[:, None])[:, 0]
        width = self.width[example, 0]
        count = np.full(len(row), LEFT_THRESHOLDS)
        return _Float64Grid(right - width - WINDOW_BUFFER, right - width + WINDOW_BUFFER, count)


def _right_thresholds(pools: _Pools, unlearned_is_positive: Booleans) -> _Rows:
    positive = np.where(unlearned_is_positive[:, None], pools.unlearned, pools.retrained)
    low, high = positive.min(axis=1, keepdims=True), positive.max(axis=1, keepdims=True)
    width = high - low
    # Written as published: low + width differs from high by rounding, and the count depends on it.
    start, stop = low + width - WINDOW_BUFFER, high + WINDOW_BUFFER
    count = np.ceil((stop - start) * THRESHOLDS_PER_UNIT).astype(np.int64)
    thresholds = _Float64Grid(start, stop, count)
    bounds = thresholds.count_below(pools.values)  # (examples, 2N): rows from here on have the value inside
    return _Rows(
        thresholds,
        width,
        first=np.concatenate([np.zeros_like(count), bounds], axis=1),
        end=np.concatenate([bounds, count], axis=1),
    )


@dataclass(frozen=True)
class _Windows:
    """Attacks that call the values between gap `left` and gap `right` positive; all fields (windows,)."""

    example: Integers
    left: Integers
    right: Integers
    epsilon: Floats

    def __getitem__(self, chosen: Booleans) -> _Windows:
        return _Windows(self.example[chosen], self.left[chosen], self.right[chosen], self.epsilon[chosen])


def _candidate_windows(pools: _Pools, rows: _Rows, unlearned_is_positive: Booleans, best: Floats) -> _Windows:
    """Return the windows with an epsilon above `best` whose left gap lies within the reach of their group.

    Blocks of neighbouring left gaps are bounded first, which leaves out most of them.
    """
    positives, negatives = pools.counts_below(unlearned_is_positive)
    example, right = np.nonzero(rows.end > rows.first)  # (groups,)
    lowest = rows.left_thresholds(example, rows.first[example, right]).start
    highest = rows.left_thresholds(example, rows.end[example, right] - 1).stop
    first = _gaps_of(lowest, example, pools.values)
    end = np.minimum(_gaps_of(highest, example, pools.values) + 1, right)  # an empty window is no attack

    group, block = _enumerate_ranges(np.zeros_like(first), -((first - end) // BLOCK))  # (blocks,)
    first, end = first[group] + BLOCK * block, np.minimum(first[group] + BLOCK * (block + 1), end[group])
    example, right = example[group], right[group]
    most_positives = positives[example, right] - positives[example, first]
    fewest_negatives = negatives[example, right] - negatives[example, end - 1]
    promising = _epsilon_bounds(pools.models)[most_positives, fewest_negatives] > best[example]

    group, left = _enumerate_ranges(first[promising], end[promising])  # (windows,)
    example, right = example[promising][group], right[promising][group]
    positives_inside = positives[example, right] - positives[example, left]
    negatives_inside = negatives[example, right] - negatives[example, left]
    epsilon = _epsilon_table(pools.models)[positives_inside, negatives_inside]
    between_equals = (left > 0) & (pools.values[example, left - 1] == pools.values[example, left])
    better = (epsilon > best[example]) & ~between_equals  # no threshold falls between equal values
    return _Windows(example, left, right, epsilon)[better]


def _holds_left_threshold(pools: _Pools, rows: _Rows, windows: _Windows) -> Booleans:
    """Return for each window whether a left threshold of a row of its group falls into its left gap."""
    group = (windows.example, windows.right)
    window, row = _enumerate_ranges(rows.first[group], rows.end[group])  # (windows x rows,)
    example, left = windows.example[window], windows.left[window]
    thresholds = rows.left_thresholds(example, row)
    gap_begin = np.where(left > 0, pools.values[example, left - 1], -np.inf)
    gap_end = pools.values[example, left]  # exists, since left < right <= 2N
    next_threshold = thresholds.count_up_to(gap_begin)
    inside = (next_threshold < LEFT_THRESHOLDS) & (thresholds.at(next_threshold) <= gap_end)
    found = np.zeros(len(windows.example), np.bool_)
    found[window[inside]] = True
    return found


def _gaps_of(thresholds: Floats, example: Integers, values: Floats) -> Integers:
    """Return how many of the (examples, 2N) ascending values of its example lie below each threshold."""
    size = values.shape[1]
    sorted_keys = _keys(np.repeat(np.arange(len(values)), size), values.ravel())
    return np.searchsorted(sorted_keys, _keys(example, thresholds)) - example * size


def _keys(example: Integers, values: Floats) -> NDArray[np.complex128]:
    """Return keys that sort by example, then by value: so numpy orders complex numbers."""
    keys = np.empty(len(values), np.complex128)
    keys.real, keys.imag = example, values
    return keys


def _enumerate_ranges(first: Integers, end: Integers) -> tuple[Integers, Integers]:
    """Return (i, member) for all members of the ranges first[i] .. end[i] - 1, one range after another.

    >>> _enumerate_ranges(np.array([5, 9, 2]), np.array([7, 9, 3]))
    (array([0, 0, 2]), array([5, 6, 2]))
    """
    length = np.maximum(end - first, 0)
    index = np.repeat(np.arange(len(length)), length)
    offset = first - (np.cumsum(length) - length)
    return index, np.arange(len(index)) + np.repeat(offset, length)


# --------------------------------------------------------------------------------------------------------
# Grids of thresholds, without writing them out


@dataclass(frozen=True)
class _Float64Grid:
    """`np.linspace(start, stop, count)`: thresholds start + k * step, the last one stop itself."""

    start: Floats
    stop: Floats
    count: Integers

    def __getitem__(self, chosen: Integers) -> _Float64Grid:
        return _Float64Grid(self.start[chosen], self.stop[chosen], self.count[chosen])

    @property
    def step(self) -> Floats:
        """Return the distance between two thresholds."""
        return (self.stop - self.start) / (self.count - 1)

    def at(self, k: Integers) -> Floats:
        """Return threshold k of each grid, to the last bit what `np.linspace` gives."""
        return np.where(k == self.count - 1, self.stop, k * self.step + self.start)

    def count_up_to(self, values: Floats) -> Integers:
        """Return how many thresholds of each grid are at or below the value."""
        return self._count_leading(values, lambda k: self.at(k) <= values)

    def count_below(self, values: Floats) -> Integers:
        """Return how many thresholds of each grid are below the value."""
        return self._count_leading(values, lambda k: self.at(k) < values)

    def _count_leading(self, values: Floats, holds: Callable[[Integers], Booleans]) -> Integers:
        """Return the number of leading thresholds that `holds` is true of.

        Division by the step is wrong by one at most, by rounding, so two exact comparisons put it right.
        """
        guess = np.floor((values - self.start) / self.step) + 1
        count = np.clip(guess, 0, self.count).astype(np.int64)
        count -= (count > 0) & ~holds(count - 1)
        count += (count < self.count) & holds(count)
        return count


@dataclass(frozen=True)
class _Float32Grid(_Float64Grid):
    """`torch.linspace(start, stop, count)` in float32; start and stop already have its precision.

    Torch counts the lower half up from start and the upper half down from stop, and rounds each threshold
    once (a fused multiply-add).
    """

    @property
    def step(self) -> Floats:
        """Return the distance between two thresholds, rounded to float32; 1 if there is but one."""
        several = self.count > 1
        distance = _round_to_float32(self.stop - self.start) / np.where(several, self.count - 1, 1)
        return np.where(several, _round_to_float32(distance), 1.0)

    def at(self, k: Integers) -> Floats:
        """Return threshold k of each grid, a float32 number."""
        lower = (k < self.count // 2) | (self.count == 1)  # a single threshold is start
        from_start = self.start + self.step * k
        from_stop = self.stop - self.step * (self.count - 1 - k)
        return _round_to_float32(np.where(lower, from_start, from_stop))


def _round_to_float32(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


METRIC = Metric(
    "official", logit_scaled_confidence, epsilons, forgetting_quality, fewest_models=6, competition_models=512
)
