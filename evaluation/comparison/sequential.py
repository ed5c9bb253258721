"""Is one method better than another? Looked at again and again while originals are added, with one error rate in all.

The scores of two methods from the same original, compared with the same retrained models, are a pair: what their
difference varies by is the originals and the runs. After each of `LOOKS` originals, an interval of Student's t for the
mean difference is looked at, and a pair is decided as soon as it leaves out 0. The chance to be wrong is shared equally
among all looks at all pairs (Bonferroni's inequality, which holds however they depend on each other): a group
sequential test with repeated confidence intervals, see Jennison and Turnbull, "Group Sequential Methods with
Applications to Clinical Trials" (1999), chapter 9.

The t test assumes normal differences. Of methods whose scores have one distribution, whatever its shape, the
differences are symmetric, which is nearly as good; of methods with equal means and very different shapes (one constant,
one mostly 0) more verdicts are wrong. `benchmarks/checks/verdicts.py` measures both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from evaluation.metrics.metric import Floats

LOOKS = (4, 8, 16, 32)
"""Originals after which the differences are looked at."""
ERROR = 0.05
"""The usual chance of a wrong verdict, on any pair at any look, if the scores of all methods have one distribution."""
MOST_ORIGINALS = 10_000
"""More are not worth a number: the difference is next to nothing."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """By how much the mean score of one method exceeds another's, with an interval, `low <= value <= high`."""

    value: float
    low: float
    high: float


def share_of_error(pairs: int, error: float = ERROR) -> float:
    """The chance to be wrong that one look at one of so many pairs may have, if all together may have `error`.

    >>> share_of_error(1), share_of_error(10)
    (0.0125, 0.00125)
    """
    return error / len(LOOKS) / pairs


def p_of_look(differences: Floats, pairs: int) -> float:
    """The smallest error for all looks at so many pairs at which this look, `(originals,)`, gives a verdict.

    It is the two-sided p of Student's t test for a mean of 0, times the number of looks and pairs, and at most 1. That
    is below `error` exactly where the interval of `mean_difference`, with the `share_of_error`, leaves out 0. The
    smallest of all looks so far holds, too.

    >>> p_of_look(np.array([1.0, 2.0, 3.0]), pairs=1)  # 4 looks x 0.0742
    0.296...
    >>> p_of_look(np.zeros(4), pairs=1), p_of_look(np.ones(4), pairs=1)
    (1.0, 0.0)
    """
    originals, mean = len(differences), abs(float(differences.mean()))
    spread = float(differences.std(ddof=1)) / originals**0.5
    if not spread:
        return 0.0 if mean else 1.0
    return min(1.0, float(2 * stdtr(originals - 1, -mean / spread)) * len(LOOKS) * pairs)


def mean_difference(differences: Floats, error: float) -> Difference:
    """The mean of differences `(originals,)`, at least two, with an interval.

    Of normal differences it misses the true mean with chance `error`.

    The interval is mean +- t s / sqrt(K), with s the standard deviation over K originals and t the quantile at
    1 - error / 2 of Student's distribution with K - 1 degrees of freedom.

    >>> mean_difference(np.array([1.0, 2.0, 3.0]), 0.05)  # doctest: +ELLIPSIS
    Difference(value=2.0, low=-0.484..., high=4.484...)
    """
    originals = len(differences)
    half = float(stdtrit(originals - 1, 1 - error / 2) * differences.std(ddof=1) / originals**0.5)
    value = float(differences.mean())
    return Difference(value, value - half, value + half)


def verdict_on(difference: Difference) -> Verdict:
    """Whether the first of two methods is better, from the difference of their scores with its interval.

    >>> verdict_on(Difference(0.2, 0.1, 0.3)), verdict_on(Difference(0.2, -0.1, 0.5))
    ('better', 'undecided')
    """
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "undecided"


def originals_to_decide(differences: Floats, error: float) -> int | None:
    """How many originals would decide, if mean and deviation stay as they are; None if more than `MOST_ORIGINALS`.

    >>> originals_to_decide(np.array([0.1, -0.1, 0.2, 0.0]), 0.0125), originals_to_decide(np.array([0.1, -0.1]), 0.05)
    (46, None)
    """
    counts = np.arange(2, MOST_ORIGINALS + 1)
    halves = stdtrit(counts - 1, 1 - error / 2) * differences.std(ddof=1) / counts**0.5
    enough = counts[halves < abs(differences.mean())]
    return int(enough[0]) if len(enough) else None
