"""What a metric would say with as many models as the competition had, from the few that were graded.

F with few models flatters: an attacker who sees 64 models of each kind misses what 512 show. So both pools are filled
up to 512 models by draws from densities of their confidences (`densities.draw`), and F is taken of those; the mean of
some such draws is the estimate. Two pools of 64 retrained models, filled up, get less than two true ones of 512, as
their densities are not quite the same; an unlearned pool loses by that, too. So the ceiling is what two pools of
retrained models get that went the same way: N new models, drawn from the densities of the retrained ones, filled up to
512. (Of normal confidences, F of true pools of 64 that are filled up is 0.080, this ceiling 0.085; at N = 32 it is
0.048 and 0.060, so that a perfect method has less than its share.) The number that says what the competition would have
is therefore the share of that ceiling.

`benchmarks/checks/estimators.py` measures its bias and spread against F of 512 true models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.densities import draw
from evaluation.metrics.intervals import Estimate, Quality, interval_by_draws
from evaluation.metrics.metric import Floats
from evaluation.metrics.quantities import AtLeastOne, NotNegative

DRAWS = 8
"""Of all originals together; at least two of each."""
CEILING_DRAWS = 12
REPLICATES = 12
"""Draws of smaller pools, for the interval, of all originals together; at least `FEWEST_REPLICATES` of each."""
FEWEST_REPLICATES = 4


@dataclass(frozen=True)
class AsOf:
    """F as of more models than there are."""

    models: AtLeastOne
    """As of so many models."""
    forgetting_quality: Estimate
    """F of pools that were filled up, mean over originals."""
    forgetting_quality_by_original: list[NotNegative]
    """The same of each original's runs."""
    ceiling: NotNegative
    """The same of retrained models against each other."""
    share_of_ceiling: Estimate
    """forgetting_quality / ceiling, without any accuracy: 1 is a perfect method. Its interval takes the ceiling for
    known; of few forget examples it is not, and the share may exceed 1 by much."""


def as_of(unlearned: Sequence[Floats], retrained: Floats, quality: Quality, models: int, seed: int = 0) -> AsOf:
    """F of K pools of unlearned confidences, one for each original, and the ceiling, as of so many models.

    All pools are `(N, examples)`, with at least four models. The same arguments give the same bits.
    """
    ceiling = _ceiling(retrained, quality, models, seed)
    rng = np.random.default_rng(seed)

    def filled(pool: Floats, other: Floats) -> float:
        return quality(draw(pool, models, rng), draw(other, models, rng))

    draws = max(2, DRAWS // len(unlearned))
    by_original = np.array([np.mean([filled(pool, retrained) for _ in range(draws)]) for pool in unlearned])
    replicates = max(FEWEST_REPLICATES, REPLICATES // len(unlearned))
    found = interval_by_draws(by_original, unlearned, retrained, filled, replicates, rng)
    shares = [value / ceiling if ceiling else 0.0 for value in (found.value, found.low, found.high)]
    return AsOf(models, found, by_original.tolist(), ceiling, Estimate(*shares))


def _ceiling(retrained: Floats, quality: Quality, models: int, seed: int) -> float:
    """F of new models against new models; it depends on the retrained ones alone, whatever is compared with them."""
    rng = np.random.default_rng([seed, 1])

    def filled_news() -> Floats:
        return draw(draw(retrained, len(retrained), rng, evenly=False), models, rng)

    return float(np.mean([quality(filled_news(), filled_news()) for _ in range(CEILING_DRAWS)]))
