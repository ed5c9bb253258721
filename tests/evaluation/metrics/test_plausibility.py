"""What is hardly possible for an honest method: scores above the ceiling, copies of the retrained models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from checkpoints.outputs import Outputs
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.plausibility import CLOSE, MOST_LOGITS, Copy, directions, examine, is_above_ceiling
from evaluation.metrics.score import Reference, Scores
from evaluation.report import Report

COMMON = np.random.default_rng(0).normal(size=(1, 50, 10)) * 5


def models(seed: int, count: int = 16) -> Outputs:
    """Networks that agree on what the images are, and differ from each other by their seeds."""
    logits = COMMON + np.random.default_rng(seed).normal(size=(count, 50, 10)) * 2
    return outputs(logits)


def outputs(logits: np.ndarray) -> Outputs:
    """20 images to forget, and 30 to test."""
    logits = logits.astype(np.float32)
    return Outputs(logits[:, :20], logits[:, :5], logits[:, 20:], np.ones(len(logits)))


def logits_of(found: Outputs) -> np.ndarray:
    """The inverse of `outputs`."""
    return np.concatenate([found.forget, found.test], axis=1)


TRUTH = models(1)
ORDER = np.random.default_rng(5).permutation(16)


def noisy(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Noise in units of what retrained models differ by."""
    return lambda logits: logits + np.random.default_rng(2).normal(size=logits.shape) * 2 * share


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda logits: logits,
    "a temperature": lambda logits: logits * 0.7,
    "an offset that changes no probability": lambda logits: logits + np.arange(50)[:, np.newaxis],
    "a little noise": noisy(0.02),
    "some noise": noisy(0.3),
}


@pytest.fixture
def scores(make_report: Callable[..., Report]) -> Scores:
    """Of an honest method."""
    return make_report().scores


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_copies_are_named(change: Callable[[np.ndarray], np.ndarray], scores: Scores) -> None:
    """Each with the model that it is a copy of, whatever was done to hide it."""
    copied = outputs(change(logits_of(TRUTH)[ORDER]))
    found = examine([copied], TRUTH, scores)
    assert [(one.original, one.run, one.retrained) for one in found.copies] == [
        (0, run, int(model)) for run, model in enumerate(ORDER)
    ]
    assert all(0 <= one.distance < CLOSE for one in found.copies)
    assert not found.is_fine


def test_models_of_other_seeds_are_no_copies(scores: Scores) -> None:
    """Of two originals, one of which has a single copy among its runs."""
    honest, other = models(2), models(3)
    found = examine([honest, other], TRUTH, scores)
    assert (found.copies, found.is_fine) == ([], True)
    assert found.nearest is not None
    assert 0.9 < found.nearest < 1.2
    mixed = logits_of(other)
    mixed[7] = logits_of(TRUTH)[4]
    (copy,) = examine([honest, outputs(mixed)], TRUTH, scores).copies
    assert (copy.original, copy.run, copy.retrained) == (1, 7, 4)
    assert copy.distance < 1e-6


def test_retrained_models_that_are_equal_prove_nothing(scores: Scores) -> None:
    """Where training has no randomness, honest methods may come to the same weights. And a single model has no pair."""
    same = outputs(np.repeat(logits_of(TRUTH)[:1], 8, axis=0))
    for truth in (same, TRUTH[:1]):
        found = examine([same], truth, scores)
        assert (found.nearest, found.copies) == (None, [])
    flat = outputs(np.zeros((8, 50, 10)))
    assert np.isfinite(directions(flat)).all()
    assert examine([flat], TRUTH, scores).copies == []


def test_of_many_logits_some_are_compared(scores: Scores) -> None:
    """Catches a gigabyte of vectors, and a copy that differs where nobody looks."""
    many = np.random.default_rng(0).normal(size=(4, 5000, 10)).astype(np.float32)
    large = Outputs(many, many[:, :5], many, np.ones(4))
    assert directions(large).shape[1] <= 2 * MOST_LOGITS
    assert len(examine([large], large, scores).copies) == 4


def scored(score: Estimate, quality: Estimate, scores: Scores) -> Scores:
    """A method's, below a ceiling of 0.18 [0.17, 0.19]."""
    best = Reference(Estimate(0.18, 0.17, 0.19), Estimate(0.18, 0.17, 0.19), 1.0, 1.0)
    return replace(scores, score=score, forgetting_quality=quality, ceiling=best)


HIGH, WIDE, LOW = Estimate(0.4, 0.3, 0.5), Estimate(0.4, 0.2, 0.6), Estimate(0.18, 0.16, 0.2)


@pytest.mark.parametrize(
    ("score", "quality", "above"),
    [
        (HIGH, HIGH, True),
        (Estimate(1, 1, 1), Estimate(1, 1, 1), True),
        (WIDE, WIDE, False),
        (HIGH, LOW, False),
        (LOW, HIGH, False),
        (LOW, LOW, False),
    ],
)
def test_above_the_ceiling(score: Estimate, quality: Estimate, above: bool, scores: Scores) -> None:
    """By more than chance, and by more than accuracies that are better than those of retraining."""
    found = scored(score, quality, scores)
    assert is_above_ceiling(found) == above
    assert not is_above_ceiling(replace(found, share_of_ceiling=None)), "of a metric whose ceiling bounds nothing"
    honest = examine([models(2)], TRUTH, found)
    assert (honest.above_ceiling, honest.is_fine) == (above, not above)


def test_a_copy_survives_json(make_report: Callable[..., Report]) -> None:
    """As part of a report."""
    found = examine([TRUTH], TRUTH, make_report().scores)
    report = replace(make_report(), plausibility=found)
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.plausibility is not None
    assert isinstance(again.plausibility.copies[0], Copy)
