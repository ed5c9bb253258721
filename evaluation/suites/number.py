"""One number of many gradings: their mean, with an interval for which forget sets are a random sample.

The kinds of requests of a suite are what it is about, and stay; the forget sets of a kind are draws from all that there
are. So the mean is one of a stratified sample (Cochran, Sampling Techniques, 1977, chapter 5): of n values, n_k of them
of kind k with standard deviation s_k,

    variance = sum over k of v_k,    v_k = n_k s_k^2 / n^2,

and the interval is mean +- t sqrt(variance), with Student's t for the degrees of freedom of Welch and Satterthwaite,
variance^2 / sum over k of v_k^2 / (n_k - 1). Each forget set has originals and retrained models of its own, so that s_k
has in it what all of these add, and the interval is about new ones of all three.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from evaluation.metrics.intervals import CONFIDENCE_LEVEL, Estimate


def mean_over_kinds(values: Sequence[float], kinds: Sequence[str]) -> Estimate:
    """The mean of `values`, one for each forget set and none of them negative, which are of these `kinds`.

    Of each kind there are two or more.

    >>> mean_over_kinds([0.4, 0.5, 0.1, 0.2], ["random", "random", "class", "class"])  # doctest: +ELLIPSIS
    Estimate(value=0.3, low=0.147..., high=0.452...)
    """
    array, kind_of = np.array(values), np.array(kinds)
    groups = [array[kind_of == kind] for kind in dict.fromkeys(kinds)]
    parts = np.array([len(group) * group.var(ddof=1) for group in groups]) / len(array) ** 2
    variance, mean = parts.sum(), float(array.mean())
    half = 0.0
    if variance:
        freedom = variance**2 / (parts**2 / [len(group) - 1 for group in groups]).sum()
        half = float(stdtrit(freedom, (1 + CONFIDENCE_LEVEL) / 2) * np.sqrt(variance))
    return Estimate(mean, max(mean - half, 0.0), mean + half)
