"""What options make of a grading: given ones replace, the others leave what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data import TaskSpec
from evaluation.audits.audit import Audit
from evaluation.report import Report
from evaluation.spec import GradingSpec, pairs
from evaluation.tuned import Tuned
from tests.command_line import command

STORED = GradingSpec(
    "noisy_finetune",
    TaskSpec(
        "cifar10",
        forget=("class:3", "random:0.1"),
        train_size=100,
        recipe=(("epochs", 3), ("learning_rate", 0.5)),
        at_once=True,
        features="resnet18",
        network="mlp",
    ),
    settings=(("epochs", 2), ("noise", 0.25)),
    originals=3,
    models=40,
    protocol="full",
    metric="notebook",
    seed=7,
    budget=0.5,
    budget_seconds=9.0,
    tuned=Tuned((("learning_rate", 0.125),), 30),
)

TASK_CHANGES = [
    ("--forget class:5", {"forget": ("class:5",), "at_once": False}),
    ("--forget class:5 --forget class:6", {"forget": ("class:5", "class:6")}),
    ("--recipe epochs=4", {"recipe": (("epochs", "4"),)}),
    ("--task digits", {"name": "digits"}),
    ("--network small_cnn", {"network": "small_cnn"}),
    ("--test-size 50 --train-size 60", {"test_size": 50, "train_size": 60}),
]
CHANGES = [
    ("", {}),
    ("-m my_method", {"method": "my_method"}),
    ("--set epochs=1", {"settings": (("epochs", "1"),)}),
    ("--published", {"tuned": None}),
    ("--models 64 --metric official", {"models": 64, "metric": "official"}),
    ("--originals 1 --protocol per-original", {"originals": 1, "protocol": "per-original"}),
    ("--seed 0 --budget 0.2", {"seed": 0, "budget": 0.2}),
    ("--budget-seconds 1 --budget-seconds 2", {"budget_seconds": 2.0}),
    *((arguments, {"task": replace(STORED.task, **change)}) for arguments, change in TASK_CHANGES),  # type: ignore[arg-type]
]


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch, make_report: Callable[..., Report], results: Path) -> list[GradingSpec]:
    """What would have been graded."""
    seen: list[GradingSpec] = []

    def grade(specs: list[GradingSpec], *_: object) -> list[Report]:
        seen.extend(specs)
        return [make_report(spec.method) for spec in specs]

    monkeypatch.setattr("evaluation.grading.grade_methods", grade)
    monkeypatch.setattr("evaluation.sequence.grade_sequences", grade)
    return seen


@pytest.mark.parametrize(("arguments", "change"), CHANGES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_given_replaces_what_the_config_says(
    arguments: str, change: dict[str, object], graded: list[GradingSpec], tmp_path: Path
) -> None:
    """Field by field, with its type; a list entirely. Catches values that go through text and come back as text."""
    path = tmp_path / "config.yaml"
    path.write_text(STORED.to_yaml())
    answer = command("--config", str(path), "--workers", "1", *arguments.split())
    assert (answer.code, answer.stderr) == (0, "")
    assert graded == [replace(STORED, **change)]  # type: ignore[arg-type]


def test_a_config_of_published_values_stays_with_them(
    graded: list[GradingSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if tuned ones have been found since."""
    monkeypatch.setattr("evaluation.tuned.find_tuned", lambda *_: STORED.tuned)
    path = tmp_path / "config.yaml"
    path.write_text(replace(STORED, tuned=None).to_yaml())
    command("--config", str(path), "--workers", "1")
    command("-m", "noisy_finetune", "--workers", "1")
    assert [spec.tuned for spec in graded] == [None, STORED.tuned]


def test_a_trial_is_repeated_as_a_grading(graded: list[GradingSpec], tmp_path: Path) -> None:
    """On the models of gradings, not on those of the search."""
    path = tmp_path / "config.yaml"
    path.write_text(replace(STORED, task=replace(STORED.task, role="tuning")).to_yaml())
    command("--config", str(path), "--workers", "1")
    assert graded == [STORED]


def test_a_notebook_has_the_values_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned ones, and those that were set; and --set replaces the latter."""
    sent = []
    monkeypatch.setattr("notebook_utils.submit", lambda *arguments: sent.append(arguments))
    path = tmp_path / "config.yaml"
    path.write_text(STORED.to_yaml())
    for arguments in ([], ["--set", "epochs=5"], ["--published", "--owner", "me", "--whole-module"]):
        assert command("--config", str(path), "-p", "test", *arguments).code == 0
    assert sent == [
        ("noisy_finetune", {"learning_rate": 0.125, "epochs": 2, "noise": 0.25}, None, False),
        ("noisy_finetune", {"learning_rate": 0.125, "epochs": "5"}, None, False),
        ("noisy_finetune", {"epochs": 2, "noise": 0.25}, "me", True),
    ]


def test_lists_take_one_value_each(graded: list[GradingSpec]) -> None:
    """A repeated flag adds to its list; of other options the last one counts."""
    flags = "--forget class:3 --forget class:5 --set a=1 -m my_method --set b=2 --recipe epochs=3 --models 6 --models 8"
    assert command(*flags.split(), "--workers", "1").code == 0
    (spec,) = graded
    assert spec.task.forget == ("class:3", "class:5")
    assert spec.settings == (("a", "1"), ("b", "2"))
    assert spec.task.recipe == (("epochs", "3"),)
    assert (spec.models, spec.task.at_once) == (8, False)


def test_membership_takes_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every command that chooses a task; it lacked the option."""
    seen: list[tuple[GradingSpec, dict[str, Any]]] = []

    class Found:
        def as_table(self) -> str:
            return "table"

    def audit_grading(audit: Audit, spec: GradingSpec, options: dict[str, Any], *_: object) -> tuple[Found, str]:
        seen.append((spec, options))
        return Found(), "path"

    monkeypatch.setattr("evaluation.audits.examination.audit_grading", audit_grading)
    for words in (["membership", "--runs", "2"], ["audit", "membership", "--option", "runs=2"]):
        answer = command(*words, "-m", "my_method", "--features", "resnet18", "--workers", "1")
        assert (answer.code, answer.stderr) == (0, "")
    spec = GradingSpec("my_method", TaskSpec(features="resnet18"), originals=8)
    assert seen == [(spec, {"runs": 2, "compat": False}), (spec, {"runs": "2"})]


def test_names_are_those_of_python() -> None:
    """Python makes a Greek mu of the micro sign in the name of an attribute; what is typed may be either."""
    assert pairs("--set", ["\u00b5_rate=1", "\u03bc_rate=\u00b5"]) == (("\u03bc_rate", "1"), ("\u03bc_rate", "\u00b5"))
