"""Checks of what a score is computed from: confidences that can't differ, or differ by rounding alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from checkpoints.outputs import Outputs
from data import Task
from evaluation.checks.finding import Finding, percent
from evaluation.metrics.metric import Floats
from evaluation.metrics.official import EPSILON_CAP, logit_scaled_confidence

MOST_MODELS = 64
"""Of each kind that are looked at: what ails a score ails most of them."""
MOST_LOGITS = 100_000
"""Of each kind whose precision is looked at."""
AT_THE_CAP = 100.0
"""Confidences end at 104, where a probability is 0 in float64 and 1e-45 takes its place."""
MANY = 0.1
"""Share of the confidences that may be at the cap, or equal their neighbour's, before it is told."""
NEARLY_ALL = 0.95
"""Share of examples that are separated, or of confidences at the cap, from which on F says nothing but that."""


@dataclass(frozen=True, eq=False)
class ScoredOutputs:
    """Outputs that are scored, or would be."""

    task: Task
    retrained: Outputs
    unlearned: Sequence[Outputs]
    """Of the runs of each original; empty if there are none."""
    equal_is_meant: bool = False
    """Whether the method says of itself that its runs from one original are equal."""
    epsilons: Sequence[Sequence[float | None]] | None = None
    """Of each original and forget example; None: there is no score yet."""

    def pools(self) -> Iterator[tuple[str, Outputs]]:
        """The models that should differ, in words, and their outputs."""
        yield "the retrained models", self.retrained[:MOST_MODELS]
        if not self.equal_is_meant:
            yield from (("the runs of the method", outputs[:MOST_MODELS]) for outputs in self.unlearned)

    def confidences(self) -> Iterator[tuple[str, Floats]]:
        """The same with confidences in the true class of forget examples, `(models, forget)`."""
        labels = self.task.labels("forget")
        yield from ((whose, logit_scaled_confidence(outputs.forget, labels)) for whose, outputs in self.pools())


def confidences_are_not_at_their_cap(scored: ScoredOutputs) -> Finding | None:
    """Probabilities of exactly 0 or 1, where `log p - log(1 - p)` ends at 104 for whatever model.

    There the metric is the same for all methods. Logits of hundreds do that: a network without regularisation, or a
    method that scales them. Issue 19.
    """
    for whose, confidences in scored.confidences():
        share = float((np.abs(confidences) >= AT_THE_CAP).mean())
        if share > MANY:
            return Finding(
                "error" if share > NEARLY_ALL else "warning",
                f"{percent(share)} of the confidences of {whose} are as large as numbers get, so that the metric can't "
                "tell models apart: keep logits small (weight decay, fewer epochs, no scaling of the last layer).",
            )
    return None


def confidences_of_models_differ(scored: ScoredOutputs) -> Finding | None:
    """Models whose confidences in an example are exactly equal.

    An attacker's threshold can't lie between them, and how ties are counted decides the score. Seen in LeakPro, issue
    438; half precision does it, too (open-unlearning, issue 19).
    """
    for whose, confidences in scored.confidences():
        if len(confidences) < 2:
            continue
        share = float((np.diff(np.sort(confidences, axis=0), axis=0) == 0).mean())  # neighbours that are equal
        if share > MANY:
            return Finding(
                "warning",
                f"{percent(share)} of the confidences of {whose} equal another model's, and ties decide the score: see "
                "that seeds reach the models, and that logits are float32 and neither clipped nor rounded.",
            )
    return None


def logits_have_full_precision(scored: ScoredOutputs) -> Finding | None:
    """Logits that are all float16 or bfloat16 numbers.

    Those have 11 or 8 binary digits: confidences take few values, and are tied or separated by rounding. Seen in
    open-unlearning, issue 19 (a metric that is constant).
    """
    for whose, outputs in scored.pools():
        if is_half(outputs.forget.reshape(-1)[:MOST_LOGITS]):
            return Finding(
                "warning",
                f"All logits of {whose} are numbers of half precision: compute and return float32, since rounded "
                "confidences are tied or separated by rounding alone.",
            )
    return None


def epsilons_can_tell_methods_apart(scored: ScoredOutputs) -> Finding | None:
    """Nearly all examples have the largest epsilon there is: F is 0 then, and a better method may get the same.

    Not asked of methods whose runs are to be equal. Seen in responsible-ai-toolbox-privacy, issue 7: an attack without
    errors, on which that estimator fails.
    """
    if scored.epsilons is None:
        return Finding("skipped", "there is no grading yet")
    if scored.equal_is_meant:
        return Finding("skipped", "the method says that its runs are equal")
    found = np.array([EPSILON_CAP if one is None else one for own in scored.epsilons for one in own])
    share = float((found >= EPSILON_CAP).mean())
    if share < NEARLY_ALL:
        return None
    return Finding(
        "note",
        f"{percent(share)} of the forget examples are told apart without error, so that F is 0 and can't tell this "
        "method from a slightly better one: look at its accuracies and confidences until it gets closer.",
    )


def is_half(values: np.ndarray) -> bool:
    """Whether all of some float32 numbers are float16 or bfloat16 numbers, and not whole ones alone."""
    floats = np.ascontiguousarray(values, dtype=np.float32)
    if (floats == np.round(floats)).all():  # zeros and ones are exact in all formats
        return False
    with np.errstate(over="ignore"):
        is_float16 = floats.astype(np.float16).astype(np.float32) == floats
    is_bfloat16 = (floats.view(np.uint32) & 0xFFFF) == 0  # bfloat16 is float32 without its last 16 binary digits
    return bool(is_float16.all() or is_bfloat16.all())


SCORE_CHECKS = (
    confidences_are_not_at_their_cap,
    confidences_of_models_differ,
    logits_have_full_precision,
    epsilons_can_tell_methods_apart,
)
"""Of `ScoredOutputs`. Every grading makes them."""
