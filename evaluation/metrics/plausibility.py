"""Can an honest method have left these models? Scores above the ceiling, and copies of the bank's retrained models.

**Above the ceiling.** An attacker who knows both distributions and sees two independent pools of one distribution can
be fooled no further: the ceiling is what retrained models get against each other. A method can exceed it by chance, and
its score, but not F, by better accuracies than those of retrained models. So both must be above: the lower ends of the
95 % intervals of F and of the score must exceed the upper ends of the ceiling's by a tenth. (The tenth is for the
ceiling, which is taken at half as many models: at N = 32 equal pools get 5 to 6 % more. Of simulated perfect methods,
0.7 % exceeded the ceiling without it, and none of some hundreds with it.) What does so has models that depend on the
very models that it is compared with.

**Copies.** Two networks that were trained with different seeds differ in their outputs, and all pairs do by about as
much. A network that was made of another, by noise, a few steps or other units in another order, does not. The distance
of two models is that between their logits on forget and test set, less the mean of each example's, scaled to length 1
(so that a temperature hides nothing). A run is called a copy if its distance to a retrained model is less than half of
the smallest between any two retrained models. That says what is alike, not why: it is for somebody to look at. On the
digits, honest methods have distances from 1.05 on, and nearly all copies below 0.5 (noise, five more epochs, another
temperature), as long as they score more than the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.outputs import Outputs
from evaluation.metrics.metric import Floats
from evaluation.metrics.quantities import Count, NotNegative

if TYPE_CHECKING:
    from evaluation.metrics.score import Scores

TENTH_MORE = 1.1
"""What the upper end of the ceiling's interval is multiplied by, to be exceeded."""

CLOSE = 0.5
"""A run is a copy if it is nearer to a retrained model than this share of the smallest distance between two of them."""

MOST_LOGITS = 10_000
"""Of a model and split, that are compared; of more examples, some are taken evenly."""

DECIMALS = 6
"""Of distances in reports: where arrays lie in memory decides how linear algebra adds up, and last bits."""

SMALLEST = 1e-6
"""Retrained models that differ by less can't be told apart, by rounding: then nothing is called a copy."""


@dataclass(frozen=True)
class Copy:
    """A run whose outputs are nearly those of a retrained model."""

    original: Count
    """The original that it started from (under protocol "full" 0, for all)."""
    run: Count
    """Number of the run; of a submission, of the checkpoint."""
    retrained: Count
    """Number of the retrained model in the bank."""
    distance: NotNegative
    """Between the two, in units of the smallest between any two retrained models: 0 is an exact copy."""


@dataclass(frozen=True)
class Plausibility:
    """What is hardly possible for an honest method."""

    above_ceiling: bool
    """Whether F and the score are above the ceiling by more than chance."""
    nearest: NotNegative | None
    """The smallest distance of a run to a retrained model, in the same units as in `copies`; None if retrained models
    can't be told apart."""
    copies: list[Copy]
    """Runs that are nearly equal to a retrained model."""

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to look at."""
        return not (self.above_ceiling or self.copies)


def examine(unlearned: Sequence[Outputs], retrained: Outputs, scores: Scores) -> Plausibility:
    """Look at the runs of each original, and at what they scored against the retrained models."""
    truth = directions(retrained)
    between = distances(truth, truth)  # (models, models)
    np.fill_diagonal(between, np.inf)
    smallest = float(between.min())
    above = is_above_ceiling(scores)
    if not SMALLEST < smallest < np.inf:
        return Plausibility(above, None, [])
    copies, nearest = [], np.inf
    for original, outputs in enumerate(unlearned):
        apart = distances(directions(outputs), truth) / smallest  # (runs, models)
        nearest = min(nearest, float(apart.min()))
        copies += [
            Copy(original, int(run), int(apart[run].argmin()), round(float(apart[run].min()), DECIMALS))
            for run in np.flatnonzero(apart.min(axis=1) < CLOSE)
        ]
    return Plausibility(above, round(nearest, DECIMALS), copies)


def is_above_ceiling(scores: Scores) -> bool:
    """Whether F and score exceed those of a perfect method by more than chance; never where the ceiling bounds nothing.

    F of exact copies is 1, with an interval of no width.
    """
    if scores.share_of_ceiling is None:
        return False
    pairs = (
        (scores.score, scores.ceiling.score),
        (scores.forgetting_quality, scores.ceiling.forgetting_quality),
    )
    return all(own.low > TENTH_MORE * best.high for own, best in pairs)


def directions(outputs: Outputs) -> Floats:
    """What is compared of each model: a vector of length 1, `(models, logits)`."""
    parts = []
    for logits in (outputs.forget, outputs.test):  # (models, examples, classes)
        step = max(1, -(-logits.shape[1] * logits.shape[2] // MOST_LOGITS))
        some = logits[:, ::step].astype(np.float64)
        parts.append((some - some.mean(axis=2, keepdims=True)).reshape(len(some), -1))
    vectors = np.concatenate(parts, axis=1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def distances(one: Floats, other: Floats) -> Floats:
    """Of the models of one kind to those of the other, `(one, other)`."""
    return np.sqrt(np.maximum(2 - 2 * one @ other.T, 0.0))
