"""From recorded outputs to the score: the method's, the floor's and the ceiling's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from checkpoints.outputs import Outputs
from data import Request, Task
from evaluation.metrics.as_of import AsOf, as_of
from evaluation.metrics.intervals import REPLICATES, Estimate, Grades, Population, ceiling, estimate_grades
from evaluation.metrics.metric import Floats, Metric
from evaluation.metrics.overlap import overlap, overlap_alone
from evaluation.metrics.quantities import Finite, NotNegative, Share

FEWEST_REPLICATES = 20
"""Of an interval, however many originals there are."""
FLOOR_REPLICATES = 20
"""Fewer than for a method: the floor is 0, or nearly so, and its interval need not be exact to a tenth of its width."""


@dataclass(frozen=True)
class Reference:
    """What doing nothing (the floor) or a perfect method (the ceiling) gets under the same conditions."""

    score: Estimate
    """As a method's."""
    forgetting_quality: Estimate
    """F, likewise."""
    retain_ratio: NotNegative
    """Mean retain accuracy over that of the retrained models."""
    test_ratio: NotNegative
    """The same for the test set."""
    overlap: Share | None = None
    """See `Scores.overlap`; None in reports of early versions."""


@dataclass(frozen=True)
class Scores:
    """The scores of a grading, averaged over originals unless they are by original."""

    score: Estimate
    """F x retain ratio x test ratio."""
    forgetting_quality: Estimate
    """F: mean points of the forget examples."""
    retain_ratio: NotNegative
    """Mean retain accuracy of the unlearned models over that of the retrained ones."""
    test_ratio: NotNegative
    """The same for the test set."""
    share_of_ceiling: NotNegative | None
    """score / ceiling score: 1 is a perfect method. None by a metric whose ceiling bounds nothing."""
    floor: Reference
    """What doing nothing gets."""
    ceiling: Reference
    """What retrained models get against each other: a perfect method."""
    score_by_original: list[NotNegative]
    """The score of each original's runs."""
    forgetting_quality_by_original: list[NotNegative]
    """F of each original's runs."""
    forgetting_quality_by_request: list[NotNegative]
    """F of the examples of each request so far."""
    epsilons: list[list[Finite | None]]
    """Epsilon of every forget example, `(originals, forget)`, in the order of the training indices; None: infinite."""
    overlap: Estimate | None = None
    """How much of the distributions of unlearned and retrained confidences coincides, in [0, 1], mean over forget
    examples and originals: 1 is a perfect method. None in reports of early versions."""
    overlap_by_original: list[Share] | None = None
    """Overlap of each original's runs; None in reports of early versions."""
    as_of: AsOf | None = None
    """What F would be with as many models as the competition had; None where there are as many, by a metric of which
    that is not asked, and in reports of early versions."""


def score_outputs(
    unlearned: list[Outputs], originals: list[Outputs], retrained: Outputs, task: Task, metric: Metric
) -> Scores:
    """Score the unlearned models of each original, N apiece, against the N retrained ones.

    `originals` holds what doing nothing leaves, in the same form: N models for each original.
    """
    truth = population(retrained, task, metric)
    pools = [population(outputs, task, metric) for outputs in unlearned]
    idle = [population(outputs, task, metric) for outputs in originals]
    quality = metric.forgetting_quality
    grades = estimate_grades(pools, truth, quality, replicates=_replicates(len(pools)))
    confidences = [pool.confidences for pool in pools]
    half = len(truth.confidences) // 2
    halves = truth.confidences[:half], truth.confidences[half : 2 * half]
    best = _reference(ceiling(truth, quality), [truth], truth, overlap_alone([halves[0]], halves[1]))
    worst = overlap_alone([pool.confidences for pool in idle], truth.confidences)
    coinciding = overlap(confidences, truth.confidences)
    share = grades.score.value / best.score.value if best.score.value else 0.0
    retain, test = ratios(pools, truth)
    return Scores(
        score=grades.score,
        forgetting_quality=grades.forgetting_quality,
        retain_ratio=retain,
        test_ratio=test,
        share_of_ceiling=share if metric.ceiling_bounds else None,
        floor=_reference(estimate_grades(idle, truth, quality, replicates=FLOOR_REPLICATES), idle, truth, worst),
        ceiling=best,
        score_by_original=list(grades.score_by_original),
        forgetting_quality_by_original=list(grades.forgetting_quality_by_original),
        forgetting_quality_by_request=[_quality_of(request, pools, truth, task, metric) for request in task.arrived],
        epsilons=[_finite(metric.epsilons(one.confidences, truth.confidences)) for one in pools],
        overlap=coinciding.estimate,
        overlap_by_original=list(coinciding.by_original),
        as_of=_as_of(confidences, truth.confidences, metric),
    )


def _replicates(originals: int) -> int:
    """Fewer for many originals, whose own differences then tell most of the interval: it is made in the same time."""
    return max(FEWEST_REPLICATES, min(REPLICATES, 2 * REPLICATES // originals))


def _as_of(unlearned: list[Floats], retrained: Floats, metric: Metric) -> AsOf | None:
    models = metric.competition_models
    if models is None or models <= len(retrained):
        return None
    return as_of(unlearned, retrained, metric.forgetting_quality, models)


def _finite(epsilons: Floats) -> list[float | None]:
    """JSON has no infinity."""
    return [value if math.isfinite(value) else None for value in epsilons.tolist()]


def _quality_of(request: Request, pools: list[Population], truth: Population, task: Task, metric: Metric) -> float:
    """F of the examples of one request alone."""
    own = np.isin(task.forget_indices, request.indices)
    return float(np.mean([metric.forgetting_quality(p.confidences[:, own], truth.confidences[:, own]) for p in pools]))


def quick_score(unlearned: Outputs, retrained: Outputs, task: Task, metric: Metric) -> float:
    """The score of the unlearned models of one original against as many retrained ones, and nothing else."""
    truth = population(retrained, task, metric)
    pool = population(unlearned, task, metric)
    retain, test = ratios([pool], truth)
    return metric.forgetting_quality(pool.confidences, truth.confidences) * retain * test


def population(outputs: Outputs, task: Task, metric: Metric) -> Population:
    """What the score looks at."""
    confidences = metric.confidence(outputs.forget, task.labels("forget"))  # (models, forget)
    return Population(confidences, outputs.retain_accuracy, outputs.accuracy("test", task.labels("test")))


def _reference(grades: Grades, pools: list[Population], truth: Population, coinciding: float) -> Reference:
    return Reference(grades.score, grades.forgetting_quality, *ratios(pools, truth), coinciding)


def ratios(pools: list[Population], truth: Population) -> tuple[float, float]:
    """Mean retain and mean test accuracy of all pools over those of the retrained models."""
    retain = np.mean([pool.retain_accuracy for pool in pools]) / truth.retain_accuracy.mean()
    test = np.mean([pool.test_accuracy for pool in pools]) / truth.test_accuracy.mean()
    return float(retain), float(test)
