"""From recorded outputs to the score: the method's, the floor's and the ceiling's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.outputs import Outputs
from data import Request, Task
from evaluation.metrics import notebook, official
from evaluation.metrics.intervals import Grades, Population, ceiling, estimate_grades
from evaluation.report import Reference

Floats = NDArray[np.float64]

FLOOR_REPLICATES = 20
"""Fewer than for a method: the floor is 0, or nearly so, and nobody asks how sure that is to a tenth of its width."""


@dataclass(frozen=True)
class Metric:
    """A way to compare confidences: from logits to a number for each example, to epsilons, to F."""

    confidence: Callable[[np.ndarray, np.ndarray], Floats]
    """Logits `(models, examples, classes)` and labels `(examples,)` to `(models, examples)`."""
    epsilons: Callable[[Floats, Floats], Floats]
    """Unlearned and retrained confidences `(models, examples)` to `(examples,)`."""
    forgetting_quality: Callable[[Floats, Floats], float]


METRICS = {
    "official": Metric(official.logit_scaled_confidence, official.epsilons, official.forgetting_quality),
    "notebook": Metric(
        lambda logits, labels: notebook.notebook_confidence(logits),
        notebook.notebook_epsilons,
        notebook.notebook_forgetting_quality,
    ),
}


@dataclass(frozen=True)
class Scores:
    """The scores of a grading."""

    grades: Grades
    retain_ratio: float
    test_ratio: float
    floor: Reference
    ceiling: Reference
    epsilons: list[list[float]]
    """`(originals, forget)`."""
    by_request: list[float]
    """F of the examples of each request so far, averaged over originals."""


def score_outputs(
    unlearned: list[Outputs], originals: list[Outputs], retrained: Outputs, task: Task, metric_name: str
) -> Scores:
    """Score the unlearned models of each original, N apiece, against the N retrained ones.

    `originals` holds what doing nothing leaves, in the same form: N models for each original.
    """
    chosen = METRICS[metric_name]
    truth = _pool(retrained, task, metric_name)
    pools = [_pool(outputs, task, metric_name) for outputs in unlearned]
    idle = [_pool(outputs, task, metric_name) for outputs in originals]
    retain, test = ratios(pools, truth)
    return Scores(
        retain_ratio=retain,
        test_ratio=test,
        grades=estimate_grades(pools, truth, chosen.forgetting_quality),
        floor=_reference(
            estimate_grades(idle, truth, chosen.forgetting_quality, replicates=FLOOR_REPLICATES), idle, truth
        ),
        ceiling=_reference(ceiling(truth, chosen.forgetting_quality), [truth], truth),
        epsilons=[chosen.epsilons(one.confidences, truth.confidences).tolist() for one in pools],
        by_request=[_quality_of(request, pools, truth, task, chosen) for request in task.arrived],
    )


def _quality_of(request: Request, pools: list[Population], truth: Population, task: Task, chosen: Metric) -> float:
    """F of the examples of one request alone."""
    own = np.isin(task.forget_indices, request.indices)
    return float(np.mean([chosen.forgetting_quality(p.confidences[:, own], truth.confidences[:, own]) for p in pools]))


def quick_score(unlearned: Outputs, retrained: Outputs, task: Task, metric_name: str) -> float:
    """The score of the unlearned models of one original against as many retrained ones, and nothing else."""
    truth = _pool(retrained, task, metric_name)
    pool = _pool(unlearned, task, metric_name)
    retain, test = ratios([pool], truth)
    return METRICS[metric_name].forgetting_quality(pool.confidences, truth.confidences) * retain * test


def _pool(outputs: Outputs, task: Task, metric_name: str) -> Population:
    """What the score looks at."""
    confidences = METRICS[metric_name].confidence(outputs.forget, task.labels("forget"))  # (models, forget)
    return Population(confidences, outputs.retain_accuracy, outputs.accuracy("test", task.labels("test")))


def _reference(grades: Grades, pools: list[Population], truth: Population) -> Reference:
    retain, test = ratios(pools, truth)
    return Reference(
        score=grades.score.value,
        forgetting_quality=grades.forgetting_quality.value,
        retain_ratio=retain,
        test_ratio=test,
        score_interval=(grades.score.low, grades.score.high),
        forgetting_quality_interval=(grades.forgetting_quality.low, grades.forgetting_quality.high),
    )


def ratios(pools: list[Population], truth: Population) -> tuple[float, float]:
    """Mean retain and mean test accuracy of all pools over those of the retrained models."""
    retain = np.mean([pool.retain_accuracy for pool in pools]) / truth.retain_accuracy.mean()
    test = np.mean([pool.test_accuracy for pool in pools]) / truth.test_accuracy.mean()
    return float(retain), float(test)
