"""The metric of the public CIFAR-10 notebook, for comparison with numbers that were computed by it.

While the competition ran, its metric was only outlined. Many people used the restatement in the public Kaggle
notebook "Machine unlearning evaluation on CIFAR-10" (and MLRC-Bench took it over). It follows the same outline
as `evaluation.metrics.official`, which is how submissions were scored, but differs in nearly all details:

                     the competition                        the notebook
    delta            1e-5                                   0.01
    confidence       log odds of the true class             -log p of the model's own prediction; labels unused
    attacks          thresholds and windows on fine grids   one threshold at every value, and a logistic
                                                            regression, judged on two held-out splits
    direction        the higher or narrower pool            unlearned if above the threshold, never below
    epsilon          dropped if both logarithms are         infinite if they are; at least 0, even if no attack
                     undefined, 50 if no attack survives    survives (which is then worth a full point)
    infinite epsilon no points                              2^-12, like every epsilon from 6 on
    points           14 buckets at N = 512                  13 buckets at every N

The scales have little in common. Windows are the competition's strongest attack, and the notebook has none:
two equal distributions get about 0.18 from the competition, and from the notebook about 0.9 at N = 512
but 0.5 at N = 10. Never compare a number of the one with a number of the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from evaluation.metrics.metric import Metric
from evaluation.metrics.official import Floats, Integers, check_pools

DELTA = 0.01
SPLITS = 2
SPLIT_SEED = 0
BUCKET_EDGES = np.arange(0.0, 6.5, 0.5)  # 13 buckets; the last one is open
MIN_MODELS = 6  # a tenth of the models must hold one of each pool


def notebook_confidence(logits: NDArray[Any]) -> Floats:
    """Return -log of the largest probability, (..., examples) for logits of shape (..., examples, classes).

    It is the cross-entropy against the model's own prediction: 0 for a certain model, at most log(classes).

    Raises `UserError` if the logits have fewer than two dimensions.

    >>> notebook_confidence(np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])).round(4)  # -log 0.7, -log 0.5
    array([0.3567, 0.6931])
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim < 2:
        raise UserError(f"Logits of shape {logits.shape} do not fit: pass (..., examples, classes).")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    confidence: Floats = np.log(np.exp(shifted).sum(axis=-1))
    return confidence


def notebook_forgetting_quality(unlearned: Floats, retrained: Floats) -> float:
    """Return the notebook's F, the mean points of the examples, for two (models, examples) arrays.

    Raises `UserError` as `notebook_epsilons` does.

    >>> rng = np.random.default_rng(0)
    >>> notebook_forgetting_quality(rng.normal(size=(64, 5)), rng.normal(size=(64, 5)))
    0.35
    """
    return float(notebook_points(notebook_epsilons(unlearned, retrained)).mean())


def notebook_points(epsilons: Floats) -> Floats:
    """Return the points of each epsilon: 1, 1/2, 1/4, ... for [0, 0.5), [0.5, 1), ..., 2^-12 from 6 on.

    >>> notebook_points(np.array([0.0, 0.5, 1.2, np.inf]))
    array([1.00000000e+00, 5.00000000e-01, 2.50000000e-01, 2.44140625e-04])
    """
    return np.exp2(1.0 - np.digitize(epsilons, BUCKET_EDGES))


def notebook_epsilons(unlearned: Floats, retrained: Floats) -> Floats:
    """Return the epsilon of the strongest attack on each example, (examples,), between 0 and infinity.

    Both arguments are (models, examples) arrays of `notebook_confidence`, with the same number N >= 6 of
    models. The two regressions take some 5 ms an example. They are left to scikit-learn and not done for all
    examples at once, because its solver stops before it has converged, far from it when confidences are tiny,
    and its guesses are part of the metric.

    Raises `UserError` if the shapes differ or are not two-dimensional, if there are too few models or no
    examples, or if a confidence is NaN, infinite or beyond +-1000.
    """
    from threadpoolctl import threadpool_limits

    unlearned, retrained = np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64)
    check_pools(unlearned, retrained, MIN_MODELS)
    with threadpool_limits(1):  # for so little data, threads only wait for each other
        return np.array([_epsilon(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)])


def _epsilon(unlearned: Floats, retrained: Floats) -> float:
    thresholds = _threshold_rates(unlearned, retrained)
    regression = _regression_rates(unlearned, retrained)
    false_positive, false_negative = np.concatenate([thresholds, regression], axis=1)  # (attacks,) each
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon = np.fmax(  # ignores a NaN on one side
            np.log(1 - DELTA - false_positive) - np.log(false_negative),
            np.log(1 - DELTA - false_negative) - np.log(false_positive),
        )
    epsilon[np.isnan(epsilon) | ((false_positive == 0) & (false_negative == 0))] = np.inf
    counts = (false_positive == 0) == (false_negative == 0)  # an attack with one rate of 0 is dropped
    return float(epsilon[counts].max(initial=0.0))


def _threshold_rates(unlearned: Floats, retrained: Floats) -> Floats:
    """Return (2, thresholds): FPR and FNR of "unlearned if confidence > t", for t at each value."""
    models = len(unlearned)
    thresholds = np.concatenate([unlearned, retrained])
    retrained_up_to = np.searchsorted(np.sort(retrained), thresholds, side="right")
    unlearned_up_to = np.searchsorted(np.sort(unlearned), thresholds, side="right")
    return np.stack([(models - retrained_up_to) / models, unlearned_up_to / models])


def _regression_rates(unlearned: Floats, retrained: Floats) -> Floats:
    """Return (2, 1): FPR and FNR of logistic regression on the held-out tenth, averaged over two splits."""
    from sklearn.linear_model import LogisticRegression

    confidences = np.concatenate([retrained, unlearned])[:, None]
    is_unlearned = np.repeat([0, 1], len(unlearned))
    rates = []
    for train, test in _splits(len(unlearned)):
        attack = LogisticRegression().fit(confidences[train], is_unlearned[train])
        guess, truth = attack.predict(confidences[test]), is_unlearned[test]
        rates.append([(guess[truth == 0] == 1).mean(), (guess[truth == 1] == 0).mean()])
    return np.mean(rates, axis=0)[:, None]


@lru_cache(maxsize=8)
def _splits(models: int) -> list[tuple[Integers, Integers]]:
    """Return training and test indices into N retrained models followed by N unlearned ones."""
    from sklearn.model_selection import StratifiedShuffleSplit

    is_unlearned = np.repeat([0, 1], models)
    splitter = StratifiedShuffleSplit(SPLITS, random_state=SPLIT_SEED)
    return list(splitter.split(is_unlearned, is_unlearned))


METRIC = Metric(
    "notebook",
    lambda logits, labels: notebook_confidence(logits),
    notebook_epsilons,
    notebook_forgetting_quality,
    fewest_models=12,
    ceiling_bounds=False,
    beware="metric notebook: that of the public CIFAR-10 notebook. It looks at the model's own prediction, not at "
    "the true class, with weaker attacks and delta 0.01. Its ceiling is 0.5 to 0.9: compare with nothing else.",
)
