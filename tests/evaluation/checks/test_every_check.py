"""The contract of checks: whatever is registered says why, is named, and has an example that it finds and one not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from evaluation.checks import bank, method, reload, scores, task
from evaluation.checks.bank import BANK_CHECKS
from evaluation.checks.finding import Finding, name_of
from evaluation.checks.method import METHOD_CHECKS
from evaluation.checks.reload import RELOAD_CHECKS
from evaluation.checks.scores import SCORE_CHECKS
from evaluation.checks.task import TASK_CHECKS
from tests.evaluation.checks import (
    test_checks_of_banks,
    test_checks_of_methods,
    test_checks_of_scores,
    test_checks_of_tasks,
)

PUBLIC_FAILURES = {
    "ndb796/MachineUnlearning": task.images_are_in_one_set,
    "unlearning-challenge/starting-kit": reload.task_is_the_same_each_time,
    "franciscoliu/MANU": bank.retrained_models_have_not_seen_the_forget_set,
    "Unlearn-WorstCase": bank.originals_know_the_forget_set_better,
    "Boundary-Unlearning-Code": method.method_fits_the_request,
    "zjunlp/unlearn": method.weights_change_by_more_than_next_to_nothing,
    "lm-evaluation-harness": method.runs_of_different_seeds_differ,
    "open-unlearning": scores.logits_have_full_precision,
    "Unlearning_LLM": task.validation_is_not_trained_on,
    "UnlearnCanvas": method.loaders_are_used_to_their_end,
    "responsible-ai-toolbox-privacy": scores.epsilons_can_tell_methods_apart,
    "LeakPro": scores.confidences_of_models_differ,
    "codalab/codabench": method.runs_come_to_their_end,
}
"""Repositories in whose issues a failure was seen, and the check that finds it here, in its `FOUND` example."""

Check = Callable[..., Finding | None]
REGISTERED: tuple[Check, ...] = (*TASK_CHECKS, *RELOAD_CHECKS, *BANK_CHECKS, *METHOD_CHECKS, *SCORE_CHECKS)
EXAMPLES = (test_checks_of_tasks, test_checks_of_banks, test_checks_of_methods, test_checks_of_scores)
FOUND = {check: make for module in EXAMPLES for check, make in module.FOUND.items()}
SILENT = {check: make for module in EXAMPLES for check, make in module.SILENT.items()}

pytestmark = pytest.mark.usefixtures("described")


def test_all_checks_are_registered() -> None:
    """Every public function that gives a finding is in the tuple at its file's end. Catches one that is never made."""
    written = {
        function
        for module in (task, reload, bank, method, scores)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
        if "Finding | None" in str(inspect.signature(function))
    }
    assert written == set(REGISTERED)
    assert len({name_of(check) for check in REGISTERED}) == len(REGISTERED)


@pytest.mark.parametrize("check", REGISTERED, ids=name_of)
def test_a_check(check: Check) -> None:
    """Its name says what should hold, its docstring why and where that comes from, its sentence what to do."""
    assert len(name_of(check)) <= 50
    said = inspect.getdoc(check) or ""
    assert re.search(r"[Ii]ssue\s\d+", said)
    found = check(FOUND[check]())
    assert found is not None
    assert found.severity in ("error", "warning", "note")
    assert re.fullmatch(r"[A-Za-z0-9].*[:,;] [^.].*\.", found.sentence)
    assert check(SILENT[check]()) is None


@pytest.mark.parametrize("where", PUBLIC_FAILURES)
def test_failures_seen_in_public(where: str) -> None:
    """Each has a check that names it, and is made."""
    check = PUBLIC_FAILURES[where]
    assert check in REGISTERED
    assert where in (inspect.getdoc(check) or "")
