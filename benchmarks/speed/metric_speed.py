"""Time the metric against an evaluation of all thresholds as in the published code.

    python -m benchmarks.speed.metric_speed

"published way" is a dense evaluation in torch, one example at a time: each of the 160,000 windows is tiled
over all models and compared with every confidence, in the steps of
github.com/google-deepmind/unlearning_evaluation, on the processor. (It takes about 4 GB at N = 512.)
"lean dense" is the slow reference of the tests, which compares the same pairs in pieces that fit into the
processor's cache. All three run in this process, on the same confidences, and must give the same results.
"""

from __future__ import annotations

import argparse
import runpy
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.metrics.official import epsilons

Floats = NDArray[np.float64]
REFERENCE = Path(__file__).resolve().parents[2] / "tests" / "evaluation" / "metrics" / "reference_metric.py"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time the metric against dense evaluations.")
    parser.add_argument("--dense-examples", type=int, default=2, help="examples for the dense evaluations")
    parser.add_argument("--examples", type=int, default=480, help="examples for ours (Kaggle: about 480)")
    arguments = parser.parse_args()
    lean = runpy.run_path(str(REFERENCE))["epsilons"]

    print(f"{torch.get_num_threads()} threads for torch; ours uses one")
    print(f"{'models':>6} {'':14} {'s/example':>10} {'ratio':>8}")
    for models in (64, 512):
        pools = confidences(models, arguments.examples)
        some = [pool[:, : arguments.dense_examples] for pool in pools]
        epsilons(*some)  # warm up
        seconds, result = timed(epsilons, *pools)
        ours = seconds / arguments.examples
        note = f"{arguments.examples} examples: {seconds:.2f} s, {peak_megabytes(*pools):.0f} MB"
        print(f"{models:6} {'ours':14} {ours:10.5f} {1:8}   {note}")
        for name, dense in (("lean dense", lean), ("published way", published_way)):
            seconds, expected = timed(dense, *some)
            each = seconds / arguments.dense_examples
            print(f"{models:6} {name:14} {each:10.3f} {each / ours:8.0f}")
            if np.abs(result[: len(expected)] - expected).max() > 1e-6:
                raise SystemExit(f"They disagree: {result[: len(expected)]} and {expected}.")


def published_way(unlearned: Floats, retrained: Floats) -> Floats:
    """Return the epsilons of two (models, examples) arrays that overlap; special cases are left out."""
    result = []
    for pair in zip(unlearned.T, retrained.T, strict=True):
        higher, lower = sorted((torch.from_numpy(pool.copy()) for pool in pair), key=np.median, reverse=True)
        narrow, wide = sorted((higher, lower), key=np.ptp)
        false_positive, false_negative = (
            torch.cat(rates) for rates in zip(threshold_rates(higher, lower), window_rates(narrow, wide), strict=True)
        )
        epsilon = torch.fmax(
            torch.log(1 - 1e-5 - false_positive) - torch.log(false_negative),
            torch.log(1 - 1e-5 - false_negative) - torch.log(false_positive),
        )
        result.append(epsilon[false_positive * false_negative > 0].max().item())
    return np.array(result)


def threshold_rates(positive: torch.Tensor, negative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return FPR and FNR of each single threshold, (thresholds,)."""
    low, high = torch.cat([positive, negative]).min(), torch.cat([positive, negative]).max()
    count = int(torch.ceil((high - low) * 100))
    thresholds = torch.linspace(low.item(), high.item(), count).tile(len(positive), 1)
    positive, negative = positive[:, None].tile(1, count), negative[:, None].tile(1, count)
    return (negative >= thresholds).float().mean(0), (positive < thresholds).float().mean(0)


def window_rates(positive: torch.Tensor, negative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return FPR and FNR of each window, (windows,)."""
    width = (positive.max() - positive.min()).item()
    low, high = positive.min().item() + width - 2, positive.max().item() + 2
    rights = np.linspace(low, high, int(np.ceil((high - low) * 100)))
    lefts = np.concatenate([np.linspace(right - width - 2, right - width + 2, 400) for right in rights])
    left = torch.from_numpy(np.tile(lefts, (len(positive), 1)))  # (models, windows)
    right = torch.from_numpy(np.tile(np.repeat(rights, 400), (len(positive), 1)))
    positive, negative = positive[:, None].tile(1, len(lefts)), negative[:, None].tile(1, len(lefts))

    def inside(confidences: torch.Tensor) -> torch.Tensor:
        return torch.logical_and(left <= confidences, confidences <= right).float()

    def outside(confidences: torch.Tensor) -> torch.Tensor:
        return torch.logical_not(inside(confidences)).float()

    # All four rates, as published: true positives and negatives are computed too.
    rates = [inside(positive), outside(positive), inside(negative), outside(negative)]
    means = [rate.mean(0) for rate in rates]
    return means[2], means[1]


def confidences(models: int, examples: int) -> tuple[Floats, Floats]:
    """Return unlearned and retrained confidences, (models, examples), like those of a fair method."""
    rng = np.random.default_rng(0)
    centre = rng.normal(3, 3, examples)
    retrained = centre + 1.3 * rng.normal(size=(models, examples))
    return centre + 0.5 + 1.2 * rng.normal(size=(models, examples)), retrained


def timed(function: Callable[[Floats, Floats], Floats], *pools: Floats) -> tuple[float, Floats]:
    """Return the seconds the call takes, and its result."""
    begin = time.perf_counter()
    result = function(*pools)
    return time.perf_counter() - begin, result


def peak_megabytes(unlearned: Floats, retrained: Floats) -> float:
    """Return the most memory that a call of ours holds at a time."""
    tracemalloc.start()
    epsilons(unlearned, retrained)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


if __name__ == "__main__":
    main()
