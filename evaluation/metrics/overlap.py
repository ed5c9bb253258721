"""Overlap: how much of the distributions of unlearned and retrained confidences coincides; 1 is a perfect method.

For one example, the best attack says "unlearned" wherever unlearned models are denser than retrained ones, and its
advantage, the share of unlearned models that it catches less the share of retrained ones, is the total variation
distance of the two distributions. Here the attack is found on one half of the models and judged by the other
(cross-fitting), so no attack is picked on the models that judge it: whatever N is, its advantage is on average at most
the true distance, and equal distributions get about 1 (0.96, 0.97, 0.98 at N = 32, 64, 128), where F depends on N.

    1. Both pools are split at random in halves A and B.
    2. Densities of both on A: normal kernels, one bandwidth for both, Silverman's for the confidences of both together.
    3. The attack: S = {x: density of unlearned > density of retrained}, for each example.
    4. advantage = share of unlearned models of B in S - share of retrained models of B in S; then A and B swap.
    5. The mean over splits, cut to [0, 1]; overlap = 1 - the mean over examples.

It weighs the bulk of the distributions, where F weighs the tails: it stands beside F, not in its place. Its interval is
made as that of F is (see `intervals`), for 1 - overlap.

Sources: cross-fitted estimates of distances after arXiv 2406.04827 and 2502.07066. `benchmarks/checks/estimators.py`
measures what the number is good for, and `benchmarks/checks/interval_coverage.py --number overlap` its intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.densities import bandwidths
from evaluation.metrics.intervals import Estimate, interval_by_draws
from evaluation.metrics.metric import Floats

SPLITS = 8
REPLICATES = 40
"""Draws of smaller pools, for the interval, of all originals together; at least `FEWEST_REPLICATES` of each."""
FEWEST_REPLICATES = 10
REPLICATE_SPLITS = 2
CELLS = 256
"""Of the grid that densities are computed on, from an example's smallest to its largest confidence."""
NOTHING = 1e-9
"""Densities that differ by less than this share of a model's own count as equal: that is rounding."""


@dataclass(frozen=True)
class Overlap:
    """Of several pools."""

    estimate: Estimate
    """Their mean, and its interval."""
    by_original: tuple[float, ...]


def overlap(unlearned: Sequence[Floats], retrained: Floats, seed: int = 0) -> Overlap:
    """Overlap of K pools of unlearned confidences, one for each original, with the retrained ones.

    All are `(models, examples)`, with at least six models. The same arguments give the same bits.
    """
    rng = np.random.default_rng(seed)
    values = np.array([advantage(pool, retrained, SPLITS, rng) for pool in unlearned])

    def quick_advantage(pool: Floats, other: Floats) -> float:
        return advantage(pool, other, REPLICATE_SPLITS, rng)

    replicates = max(FEWEST_REPLICATES, REPLICATES // len(unlearned))
    found = interval_by_draws(values, unlearned, retrained, quick_advantage, replicates, rng)
    estimate = Estimate(1 - found.value, max(1 - found.high, 0.0), 1 - found.low)
    return Overlap(estimate, tuple((1 - values).tolist()))


def overlap_alone(unlearned: Sequence[Floats], retrained: Floats, seed: int = 0) -> float:
    """The mean overlap without its interval, which takes most of the time."""
    rng = np.random.default_rng(seed)
    return float(1 - np.mean([advantage(pool, retrained, SPLITS, rng) for pool in unlearned]))


def advantage(unlearned: Floats, retrained: Floats, splits: int, rng: np.random.Generator) -> float:
    """The mean advantage of the attacks, in [0, 1], for pools `(models, examples)` of one size."""
    models, examples = retrained.shape
    excess = np.zeros(examples)
    for _ in range(splits):
        ours, theirs = unlearned[rng.permutation(models)], retrained[rng.permutation(models)]
        for _ in range(2):
            learned, judged = (ours[: models // 2], theirs[: models // 2]), (ours[models // 2 :], theirs[models // 2 :])
            caught = called_unlearned(*learned, *judged)
            excess += caught[0].mean(axis=0) - caught[1].mean(axis=0)
            ours, theirs = ours[::-1], theirs[::-1]  # the other halves learn then
    return float((excess / (2 * splits)).clip(0, 1).mean())


def called_unlearned(unlearned: Floats, retrained: Floats, *judged: Floats) -> list[NDArray[np.bool_]]:
    """Of `judged` confidences `(points, examples)`, where unlearned models are denser than retrained ones.

    The difference of the densities is computed on a grid: as a sum over cells, by fast Fourier transforms.
    """
    joint = np.concatenate([unlearned, retrained])
    everything = np.concatenate([joint, *judged])
    low, high = everything.min(axis=0), everything.max(axis=0)
    cell = np.where(high > low, (high - low) / CELLS, 1.0)  # (examples,)
    columns = np.arange(joint.shape[1])

    def cells_of(values: Floats) -> NDArray[np.int64]:
        return np.minimum(((values - low) / cell).astype(np.int64), CELLS - 1)

    def shares(values: Floats) -> Floats:  # (examples, cells)
        places = (columns * CELLS + cells_of(values)).ravel()
        return np.bincount(places, minlength=len(columns) * CELLS).reshape(-1, CELLS) / len(values)

    width = bandwidths(joint) / cell  # in cells
    frequencies = np.fft.rfftfreq(2 * CELLS)  # twice as many cells, so that the ends do not meet
    kernel = np.exp(-0.5 * (2 * np.pi * frequencies * width[:, None]) ** 2)
    difference = np.fft.rfft(shares(unlearned) - shares(retrained), 2 * CELLS)
    smooth = np.fft.irfft(difference * kernel)[:, :CELLS]
    denser = smooth > NOTHING / np.maximum(width, 1.0)[:, None]
    return [denser[columns, cells_of(values)] for values in judged]
