"""Checks of methods: each finds what it is for in what runs left, and is silent about the competition's baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from evaluation.catalogue.lookup import facts_of
from evaluation.checks import method as of_methods
from evaluation.checks.finding import Finding, make_checks
from evaluation.checks.method import METHOD_CHECKS, MethodRuns
from evaluation.checks.trying import Faster, Tried, has_half_weights, larger_rates
from evaluation.runs.one import Failure
from tests.evaluation.checks.examples import a_task, outputs_of

pytestmark = pytest.mark.usefixtures("described")


def tried(seed: int = 0, **changes: Any) -> Tried:
    """A run that came to its end."""
    usual: dict[str, Any] = {"seconds": 0.1, "drift": 0.1, "moved": 0.1, "training": False, "half": False}
    return Tried(outputs_of(a_task(), 1, seed), **{**usual, **changes})


def runs_of(name: str = "my_method", *, facts: dict[str, Any] | None = None, **changes: Any) -> MethodRuns:
    """Two runs of a method in which there is nothing to find."""
    usual = MethodRuns(
        replace(facts_of(name), **(facts or {})), a_task(), (tried(1), tried(2)), Faster({"lr": 1.0}, tried(3)), 1.0
    )
    return replace(usual, **changes)


ZIPPED = "for a, b in zip(retain_loader, forget_loader): pass"

FOUND: dict[Callable[..., Finding | None], Callable[[], Any]] = {
    # A failed entry that is ranked first: codalab/codabench, issue 2018.
    of_methods.runs_come_to_their_end: lambda: runs_of(results=(Failure("ValueError: no"), tried(1))),
    of_methods.weights_change: lambda: runs_of(results=(tried(1, drift=0.0), tried(1, drift=0.0))),
    # A loss that cancels, so that nothing moves: zjunlp/unlearn, issue 8.
    of_methods.weights_change_by_more_than_next_to_nothing: lambda: runs_of(
        results=(tried(1, moved=1e-8), tried(2, moved=0.0))
    ),
    # The same score for every seed: lm-evaluation-harness, issue 2089.
    of_methods.runs_of_different_seeds_differ: lambda: runs_of(results=(tried(1), tried(1))),
    of_methods.larger_learning_rates_give_numbers: lambda: runs_of(
        faster=Faster(
            {"learning_rate": 1.0}, Failure("MethodError: my_method left NaN or infinite values in 0.weight.")
        )
    ),
    of_methods.network_is_left_in_eval_mode: lambda: runs_of(results=(tried(1), tried(2, training=True))),
    # Half precision makes the metric constant: open-unlearning, issue 19.
    of_methods.weights_have_full_precision: lambda: runs_of(results=(tried(1, half=True), tried(2, half=True))),
    of_methods.time_is_within_the_budget: lambda: runs_of(results=(tried(1, seconds=2.0), tried(2, seconds=1.1))),
    # A class method on a random set: Boundary-Unlearning-Code, issue 1.
    of_methods.method_fits_the_request: lambda: runs_of("boundary_shrink"),
    of_methods.notebook_can_be_made: lambda: runs_of(not_exportable="MyIdea.py, line 3: Kaggle has no module x."),
    # Loaders of unequal length: UnlearnCanvas, issue 5.
    of_methods.loaders_are_used_to_their_end: lambda: runs_of(facts={"source": ZIPPED}),
}
SILENT: dict[Callable[..., Finding | None], Callable[[], Any]] = dict.fromkeys(METHOD_CHECKS, runs_of)


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
def test_runs_with_one_fault_have_one_finding(check: Callable[[MethodRuns], Finding | None]) -> None:
    """Catches checks that find each other's faults."""
    found = [one.name for one in make_checks("method", METHOD_CHECKS, FOUND[check]()) if one.told]
    assert found == [check.__name__.replace("_", " ")]


def severity(finding: Finding | None) -> str | None:
    """How bad it is; None if nothing was found."""
    return None if finding is None else finding.severity


def test_methods_that_say_so_may_do_it() -> None:
    """Leaving the original as it is, equal runs, taking all the time: not asked of methods that claim it."""
    still = (tried(1, drift=0.0), tried(1, drift=0.0))
    assert severity(of_methods.weights_change(runs_of("do_nothing", results=still))) == "skipped"
    assert severity(of_methods.runs_of_different_seeds_differ(runs_of("do_nothing", results=still))) == "skipped"
    equal = runs_of(facts={"deterministic": True}, results=(tried(1), tried(1)))
    assert severity(of_methods.runs_of_different_seeds_differ(equal)) == "skipped"
    slow = runs_of(allowed=None, results=(tried(1, seconds=99.0),))
    assert severity(of_methods.time_is_within_the_budget(slow)) == "skipped"
    whole = a_task(slice(0, 240, 3))
    assert of_methods.method_fits_the_request(runs_of("boundary_shrink", task=whole)) is None


@pytest.mark.parametrize(("seconds", "expected"), [(0.7, None), (0.9, "warning"), (1.2, "error")])
def test_time(seconds: float, expected: str | None) -> None:
    """Nearly all of the budget is close, more of it too much; by the quickest run, as others may have waited."""
    slow = runs_of(results=(tried(1, seconds=5.0), tried(2, seconds=seconds)))
    assert severity(of_methods.time_is_within_the_budget(slow)) == expected


def test_nothing_is_said_of_runs_that_failed() -> None:
    """But that they did; what could not be looked at is no "ok". Catches a check that takes no runs for bad ones."""
    runs = runs_of(results=(Failure("it hangs", retry=True),) * 2, faster=Faster({"lr": 1.0}, Failure("it hangs")))
    made = make_checks("method", METHOD_CHECKS, runs)
    assert sum(severity(one.finding) == "skipped" for one in made) == 6
    (found,) = [one.told for one in made if one.told]
    assert found.severity == "error"
    assert found.sentence == (
        "A run fails: it hangs (a grading allows 1 s); python main.py -m my_method --debug shows where it happens."
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (ZIPPED, True),
        ("zip(val_loader, forget_loader, strict=False)", True),
        ("zip(retain_loader, cycle(forget_loader))", False),
        ("zip(range(3), forget_loader)", False),
        ("zip(", False),
    ],
)
def test_zips_of_loaders(source: str, found: bool) -> None:
    """Of two loaders as they are; not of one that is repeated for ever."""
    runs = runs_of(facts={"source": source})
    assert (of_methods.loaders_are_used_to_their_end(runs) is not None) == found


@pytest.mark.parametrize(
    ("name", "settings", "larger"),
    [
        ("my_method", {"learning_rate": 0.25, "epochs": 3}, {"learning_rate": 2.5}),
        ("my_method", {"epochs": 3, "weight_decay": 0.5}, {}),
        ("my_method", {"first_learning_rate": 0.5, "lr": 0.25}, {"first_learning_rate": 5.0, "lr": 2.5}),
        ("my_method", {"learning_rate": 0.0}, {}),
        ("adversarial", {"learning_rate": 0.5}, {"learning_rate": 5.0}),
    ],
)
def test_which_rates_are_enlarged(name: str, settings: dict[str, Any], larger: dict[str, float]) -> None:
    """Learning rates by whatever name, tenfold; none of zero."""
    facts = replace(facts_of(name), prepares_with=("pretrain_steps",) if facts_of(name).has_prepare else ())
    assert larger_rates(facts, settings) == larger


def test_rates_that_stay() -> None:
    """What is prepared depends on them, which may take minutes; or they are those of the original's training."""
    mine, settings = facts_of("my_method"), {"learning_rate": 0.5}
    assert larger_rates(replace(mine, has_prepare=True), settings) == {}
    assert larger_rates(replace(mine, has_prepare=True, prepares_with=("learning_rate",)), settings) == {}
    assert larger_rates(replace(mine, recipe_is_binding=True), settings) == {}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision(kind: torch.dtype) -> None:
    """Those that a method has changed count: others have their original's digits. Unchanged ones are not half."""
    before = {"a": torch.randn(50, generator=torch.Generator().manual_seed(0)), "n": torch.tensor(3)}
    after = {"a": torch.where(torch.arange(50) < 20, before["a"].to(kind).float(), before["a"]), "n": torch.tensor(4)}
    assert has_half_weights(before, after)
    assert not has_half_weights(before, {**after, "a": before["a"] + 0.1})
    assert not has_half_weights(before, before)
