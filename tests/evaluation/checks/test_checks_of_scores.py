"""Checks of what is scored: each finds what it is for, and is silent about models as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints.outputs import Outputs
from evaluation.checks import scores as of_scores
from evaluation.checks.finding import Finding, make_checks
from evaluation.checks.scores import SCORE_CHECKS, ScoredOutputs, is_half
from evaluation.metrics.official import epsilons, forgetting_quality, logit_scaled_confidence
from tests.evaluation.checks.examples import a_task, outputs_of

MODELS = 8


def scored(change: Callable[[np.ndarray], np.ndarray] = lambda logits: logits) -> ScoredOutputs:
    """What would be scored for a method whose logits on the forget set are changed."""
    task = a_task()
    unlearned = outputs_of(task, MODELS, 1)
    return ScoredOutputs(
        task, outputs_of(task, MODELS, 2), (replace(unlearned, forget=change(unlearned.forget)),), epsilons=[[0.5, 50]]
    )


def all_separated() -> ScoredOutputs:
    """Attacks without an error, which leave an infinite epsilon: responsible-ai-toolbox-privacy, issue 7."""
    return replace(scored(), epsilons=[[None] * 11 + [50.0]])


def some_tied(logits: np.ndarray) -> np.ndarray:
    """Half of the models are those of the other half."""
    return np.concatenate([logits[: MODELS // 2]] * 2)


FOUND: dict[Callable[..., Finding | None], Callable[[], Any]] = {
    of_scores.confidences_are_not_at_their_cap: lambda: scored(lambda logits: 1000 * logits),
    # Ties in scores: LeakPro, issue 438.
    of_scores.confidences_of_models_differ: lambda: scored(some_tied),
    # Half precision makes the metric constant: open-unlearning, issue 19.
    of_scores.logits_have_full_precision: lambda: scored(lambda logits: logits.astype(np.float16).astype(np.float32)),
    of_scores.epsilons_can_tell_methods_apart: all_separated,
}
SILENT: dict[Callable[..., Finding | None], Callable[[], Any]] = dict.fromkeys(SCORE_CHECKS, scored)


@pytest.mark.parametrize("check", SCORE_CHECKS, ids=lambda check: check.__name__)
def test_outputs_with_one_fault_have_one_finding(check: Callable[[ScoredOutputs], Finding | None]) -> None:
    """Catches checks that find each other's faults; equal logits at the cap are ties, too."""
    found = {one.name for one in make_checks("scores", SCORE_CHECKS, FOUND[check]()) if one.told}
    also = {"confidences of models differ"} if check is of_scores.confidences_are_not_at_their_cap else set()
    assert found == {check.__name__.replace("_", " ")} | also


def test_retrained_models_are_looked_at_too() -> None:
    """And named: a method can't help what ails them."""
    evidence = scored()
    tied = replace(evidence.retrained, forget=some_tied(evidence.retrained.forget))
    finding = of_scores.confidences_of_models_differ(replace(evidence, retrained=tied))
    assert finding is not None
    assert "of the retrained models" in finding.sentence


def test_equal_runs_may_be_meant() -> None:
    """Of `do_nothing`, nothing is said."""
    evidence = replace(scored(some_tied), equal_is_meant=True, epsilons=[[50.0]])
    assert [one.finding for one in make_checks("scores", SCORE_CHECKS, evidence) if one.told] == []


def test_a_method_without_runs() -> None:
    """Then there are the retrained models alone. A single one has no ties."""
    evidence = replace(scored(), unlearned=(), epsilons=None)
    one = replace(evidence, retrained=evidence.retrained[:1])
    for some in (evidence, one):
        assert [check.finding for check in make_checks("scores", SCORE_CHECKS, some) if check.told] == []


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(kind: torch.dtype) -> None:
    """Both kinds; not whole numbers, which every format has, and not float32, be it ever so large."""
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert is_half(values.to(kind).float().numpy())
    assert not is_half(values.numpy())
    assert not is_half(1e10 * values.numpy())
    assert not is_half(np.arange(5.0))


def test_errors_of_zero_crash_no_estimator() -> None:
    """Pools that are separated, saturated or all equal have an epsilon: responsible-ai-toolbox-privacy, issue 7."""
    labels = a_task().labels("forget")
    apart = scored(lambda logits: logits + 1000 * np.eye(3, dtype=np.float32)[labels])
    confidences = [logit_scaled_confidence(outputs.forget, labels) for outputs in (apart.unlearned[0], apart.retrained)]
    assert (epsilons(*confidences) == 50).all()
    assert forgetting_quality(*confidences) == 0
    assert (epsilons(confidences[0], confidences[0]) < 50).all()


def test_what_grows_with_models_is_bounded() -> None:
    """Of 512 models, some are looked at."""
    evidence = scored()
    many = Outputs.join([evidence.retrained] * 20)
    assert [len(outputs) for _, outputs in replace(evidence, retrained=many).pools()] == [64, MODELS]
