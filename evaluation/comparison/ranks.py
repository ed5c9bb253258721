"""Which ranks may each of several methods have? Intervals that hold for all methods at once, and groups.

A rank that is read off the scores says more than is known. The method here is that of Mogstad, Romano, Shaikh and
Wilhelm, "Inference for Ranks with Applications to Mobility across Neighbourhoods and Academic Achievement across
Countries", Review of Economic Studies 91(1), 2024, doi:10.1093/restud/rdad006: test for all pairs whether one is
better, with one error rate for all tests together, and count. Of n methods, one that b are surely better than, and that
is surely better than w, has a rank from 1 + b to n - w. All true ranks, 1 + the number of methods with a greater mean,
lie in their intervals unless a test is wrong.

*A test.* The scores of two methods from the same original, compared with the same retrained models, are a pair.
Student's t of their differences over K originals tests "the first is no better". (The paper has a bootstrap in place of
t, for samples that are large; K is small.) The variance of K = 8 differences is hardly known, yet those of all pairs
together tell in which range it lies. So it is moderated as in Smyth, "Linear models and empirical Bayes methods for
assessing differential expression in microarray experiments", Statistical Applications in Genetics and Molecular Biology
3(1), 2004, doi:10.2202/1544-6115.1027: with d = K - 1, and a belief of d0 degrees of freedom in the variance s0^2,

    t = mean / sqrt((d0 s0^2 + d s^2) / (d0 + d) / K),    with d0 + d degrees of freedom.

d0 and s0 follow from how much log s^2 varies from pair to pair. The belief never counts for more than the pair's own
differences, d0 <= d: with few pairs, d0 is hardly known either. With fewer than three pairs there is none, d0 = 0.

*One error rate.* There are n (n - 1) such hypotheses, two for each pair, and Holm's step-down (1979) shares the error
among them: the smallest p is compared with ERROR / (n (n - 1)), the next one with ERROR / (n (n - 1) - 1), and so on up
to the first that is too large. That holds however the tests depend on each other, and rejects all that Bonferroni
rejects. The hypotheses are one-sided because a difference the wrong way round is an error, too, which Holm's procedure
for two-sided ones is not known to bound.

The t test assumes normal differences; `benchmarks/checks/ranks.py` measures what others come to. With K = 1 nothing can
be said, and all intervals are from 1 to n. All methods are compared with the same retrained models: what others would
change is not in the intervals.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma, stdtr

from evaluation.metrics.metric import Floats

ERROR = 0.05
"""The chance that any true rank lies outside its interval."""
ROUNDING = 1e-12
"""A mean difference up to this is none: the same models, listed in another order, leave as much."""
VANISHING = ROUNDING**2
"""Neither is a variance up to this."""
FEWEST_PAIRS = 3
"""Whose variances tell something of one."""

Flags = NDArray[np.bool_]


def surely_better(scores: Floats) -> Flags:
    """Which methods are better than which, `(methods, methods)`: [i, j] says that i is better than j.

    `scores`, by original, are `(methods, originals)`, and finite. The chance that any of the answers is wrong is at
    most `ERROR`.

    >>> surely_better(np.array([[0.9, 0.8, 0.9], [0.2, 0.1, 0.2]]))
    array([[False,  True],
           [False, False]])
    """
    return _rejected_by_holm(_chances(scores))


def rank_intervals(better: Flags) -> NDArray[np.int64]:
    """The best and the worst rank that each method may have, `(methods, 2)`, from what `surely_better` returns.

    >>> scores = np.array([[0.9, 0.8, 0.9], [0.2, 0.1, 0.3], [0.2, 0.3, 0.1]])
    >>> rank_intervals(surely_better(scores)).tolist()
    [[1, 1], [2, 3], [2, 3]]
    >>> rank_intervals(surely_better(scores[:, :1])).tolist()
    [[1, 3], [1, 3], [1, 3]]
    """
    return np.stack([1 + better.sum(axis=0), len(better) - better.sum(axis=1)], axis=1)


def groups(better: Flags) -> list[int]:
    """The number of each method's group, from 0, for methods in the order of their scores, the best first.

    The best of a group is its first method. A group ends before the first method that it is surely better than. So none
    of a group can be told from its best; methods of different groups may not be told apart either.

    >>> groups(np.array([[False, False, True], [False, False, False], [False, False, False]]))
    [0, 0, 1]
    """
    found = []
    number = best = 0
    for method in range(len(better)):
        if better[best, method]:
            number, best = number + 1, method
        found.append(number)
    return found


def _chances(scores: Floats) -> Floats:
    """The p of "i is no better than j", `(methods, methods)`, from scores `(methods, originals)`.

    It is the chance that Student's t exceeds the moderated one. Without any belief, it is 0 if all differences are
    alike and greater than 0; it is 1/2 if they are all 0.
    """
    methods, originals = scores.shape
    if originals < 2:
        return np.ones((methods, methods))
    differences = scores[:, None] - scores  # (methods, methods, originals)
    freedom = originals - 1
    with np.errstate(all="ignore"):  # without spread t is infinite; beyond all numbers it is NaN, and no reason
        means, variances = differences.mean(axis=2), differences.var(axis=2, ddof=1)
        believed, belief = belief_of(variances[np.triu_indices(methods, 1)], freedom)
        variances = (believed * belief + freedom * variances) / (believed + freedom)
        spreads = np.sqrt(variances / originals)
        t = np.divide(means, spreads, out=np.zeros_like(means), where=abs(means) > ROUNDING)
    return stdtr(freedom + believed, -t)


def belief_of(variances: Floats, freedom: int) -> tuple[float, float]:
    """What the variances of all pairs, `(pairs,)`, say of one: the degrees of freedom d0 of a belief, and s0^2.

    Where s^2 is s0^2 F, with F of `freedom` and d0 degrees of freedom, log s^2 has the variance trigamma(freedom / 2) +
    trigamma(d0 / 2), and the mean that follows from digamma (Smyth 2004, section 6.2). Pairs without any spread, or
    with more than a number holds, say nothing.

    >>> belief_of(np.array([1.0, 4.0]), 7)
    (0.0, 0.0)
    >>> belief_of(np.array([1.0, 1.0, 1.0]), 7)  # more alike than chance would have it
    (7.0, 1.161...)
    """
    known = variances[(variances > VANISHING) & np.isfinite(variances)]
    if len(known) < FEWEST_PAIRS:
        return 0.0, 0.0
    logarithms = np.log(known) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = logarithms.var(ddof=1) - polygamma(1, freedom / 2)
    freedoms, trigammas = _trigammas()
    believed = float(np.interp(-excess, -trigammas, freedoms))
    belief = float(np.exp(logarithms.mean() + digamma(believed / 2) - np.log(believed / 2)))
    return min(believed, float(freedom)), belief


@cache
def _trigammas() -> tuple[Floats, Floats]:
    """Degrees of freedom, and trigamma of their halves, which falls: to look up the one by the other."""
    freedoms = np.geomspace(1e-2, 1e4, 2000)
    return freedoms, polygamma(1, freedoms / 2)


def _rejected_by_holm(chances: Floats) -> Flags:
    """What Holm's procedure rejects at `ERROR`, `(methods, methods)`; the diagonal is no hypothesis."""
    rejected = np.zeros(chances.shape, bool)
    off_diagonal = np.nonzero(~np.eye(len(chances), dtype=bool))
    order = np.argsort(chances[off_diagonal])
    count = len(order)
    is_small = chances[off_diagonal][order] <= ERROR / (count - np.arange(count))
    steps = order[np.logical_and.accumulate(is_small)]
    rejected[off_diagonal[0][steps], off_diagonal[1][steps]] = True
    return rejected
