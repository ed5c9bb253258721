"""Checks of originals and retrained models: each finds what it is for, and is silent where models did learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data import Request
from evaluation.checks import bank as of_banks
from evaluation.checks.bank import BANK_CHECKS, BankOutputs
from evaluation.checks.finding import Finding, make_checks
from tests.evaluation.checks.examples import a_task, outputs_of


def a_bank(original: float = 4.0, retrained: float = 1.0, **of_retrained: float) -> BankOutputs:
    """Outputs of 2 originals and 4 retrained models; numbers are how much they know of the forget set (of test: 1)."""
    task = a_task(slice(0, 120))
    usual = {"forget": retrained, "test": 1.0, "retain_accuracy": 1.0}
    return BankOutputs(task, outputs_of(task, 2, 1, original, 1.0), outputs_of(task, 4, 2, **{**usual, **of_retrained}))


def equal_models() -> BankOutputs:
    """The seed does not reach the training."""
    bank = a_bank()
    return replace(bank, retrained=bank.retrained[:1].join([bank.retrained[:1]] * 4))


FOUND: dict[Callable[..., Finding | None], Callable[[], Any]] = {
    # A "worst" set that changes nothing: Unlearn-WorstCase, issue 5.
    of_banks.originals_know_the_forget_set_better: lambda: a_bank(original=4, retrained=4, retain_accuracy=1.1),
    of_banks.originals_have_memorised: lambda: a_bank(original=1, retrained=-1),
    # Retrained models oddly good on the forget set: franciscoliu/MANU, issue 1.
    of_banks.retrained_models_have_not_seen_the_forget_set: lambda: a_bank(original=30, retrained=12),
    # The same score for every seed: lm-evaluation-harness, issue 2089.
    of_banks.models_differ_between_seeds: equal_models,
}
SILENT: dict[Callable[..., Finding | None], Callable[[], Any]] = dict.fromkeys(BANK_CHECKS, a_bank)


@pytest.mark.parametrize("check", BANK_CHECKS, ids=lambda check: check.__name__)
def test_a_bank_with_one_fault_has_one_finding(check: Callable[[BankOutputs], Finding | None]) -> None:
    """Catches checks that find each other's faults."""
    evidence = FOUND[check]()
    found = [one.name for one in make_checks("bank", BANK_CHECKS, evidence) if one.told]
    assert found == [check.__name__.replace("_", " ")]


def test_chances() -> None:
    """By hand: of a pair of models, the larger; half for a tie."""
    first, second = np.array([[1.0, 2.0]]), np.array([[0.0, 2.0], [3.0, 1.0]])
    assert of_banks._chance((first, second)) == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_wrong_labels_are_not_said_to_be_unmemorised() -> None:
    """Nobody is surer of a wrong label than of a test image, though it is known by heart."""
    bank = FOUND[of_banks.originals_have_memorised]()
    assert isinstance(bank, BankOutputs)
    (request,) = bank.task.requests
    confused = replace(bank.task, requests=(Request("confuse:12", request.indices, bank.task.labels("forget")),))
    assert of_banks.originals_have_memorised(replace(bank, task=confused)) is None


def test_a_class_is_compared_with_test_images_of_it() -> None:
    """Other classes may be easier. Where there is no such image, nothing is said."""
    task = a_task(slice(0, 240, 3))
    models = outputs_of(task, 2, 1, forget=4.0, test=1.0)
    others = task.labels("test") != 0
    models.test[:, others, task.labels("test")[others]] += 50
    bank = BankOutputs(task, models, outputs_of(task, 4, 2, forget=-4.0, test=1.0))
    assert of_banks.originals_have_memorised(bank) is None
    none_left = replace(task.test, labels=task.test.labels.clamp(min=1))
    assert of_banks.originals_have_memorised(replace(bank, task=replace(task, test=none_left))) is None
