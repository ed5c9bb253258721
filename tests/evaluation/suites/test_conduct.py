"""`python main.py suite`: real gradings of a small suite, what is kept of them, and what is shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.workers import Workers
from data.arrays import read_sealed
from evaluation.catalogue.lookup import facts_of
from evaluation.console import Console
from evaluation.isolation.handle import room_workers
from evaluation.report import read_report
from evaluation.suites.conduct import grade_on_suite
from evaluation.suites.result import SuiteResult, read_results
from evaluation.suites.suite import Suite, names_of_suites, read_suite
from evaluation.tuned import tuned_in
from tests.command_line import command

SMALL = """
about: a small one
task: {name: digits, train_size: 120, test_size: 100, recipe: {epochs: 3}}
originals: 2
models: 8
budget: 100
kinds:
  random:
    tuning: ["random:20@1"]
    held_out: ["random:20@2", "random:20@3"]
  class:
    tuning: ["class:1"]
    held_out: ["class:2", "class:3"]
"""


@pytest.fixture
def small(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A small suite, with folders of its own for results and tuned values."""
    monkeypatch.setenv("UNLEARNING_TUNED", str(tmp_path / "tuned"))
    (tmp_path / "small.yaml").write_text(SMALL)
    return read_suite(str(tmp_path / "small.yaml"))


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    """Two processes."""
    with room_workers(2) as pool:
        yield pool


def graded(suite: Suite, methods: list[str], trials: int | None, workers: Workers) -> list[SuiteResult]:
    """What methods come to, quietly; all of them have a result."""
    found = grade_on_suite(suite, methods, trials, workers, Console(quiet=True))
    assert all(isinstance(result, SuiteResult) for result in found)
    return [result for result in found if isinstance(result, SuiteResult)]


def but_for_the_clock(result: SuiteResult) -> dict[str, Any]:
    """All but times."""
    values = result.to_dict()
    for name in ("seconds", "created"):
        del values[name]
    for part in values["held_out"]:
        del part["budget_used"]
    return values


@pytest.mark.slow
def test_tuned_on_one_part_graded_on_the_other(small: Suite, two: Workers, results: Path) -> None:
    """Its number is the mean over the reports of the held-out gradings, which are those of the main job.

    Again, or with one worker: the same, bit for bit, and no run is done twice. Catches gradings of the tuning part,
    values that get lost on the way, and trials on what is held out.
    """
    tuned, published = graded(small, ["noisy_finetune"], 3, two)
    assert (tuned.rule, tuned.trials, published.rule, published.trials) == ("tuned", 3, "published", None)
    values = tuned_in(small.tuned_path, "noisy_finetune")
    assert values is not None
    assert tuned.settings == dict(values.settings)

    reports = [read_report(path) for path in results.glob("*/noisy_finetune-*/report.json")]
    held_out = [report for report in reports if report is not None]
    requests = {report.grading.forget[0] for report in held_out}
    assert requests == {problem.request for problem in small.held_out}
    own_values = facts_of("noisy_finetune").values_in_force({})
    for result in (tuned, published):
        own = [one for one in held_out if one.method.settings == {**own_values, **result.settings}]
        shares = {one.grading.forget[0]: one.scores.share_of_ceiling for one in own}
        assert {part.request: part.share for part in result.held_out} == shares
        assert result.share.value == pytest.approx(statistics.fmean(result.shares))

    seconds = {(one.grading.forget[0].split(":")[0], one.cost.budget_seconds) for one in held_out}
    assert len(seconds) == 2  # one budget for each kind, though retraining is timed for each forget set

    entry = yaml.safe_load(small.tuned_path.read_text())["noisy_finetune"]
    assert tuned.on_tuning_part == entry["score"] / entry["ceiling"]
    assert published.on_tuning_part == entry["published_score"] / entry["ceiling"]

    stored, unreadable = read_results(small)
    assert ({one.rule: one for one in stored}, unreadable) == ({"tuned": tuned, "published": published}, [])
    before = {path: read_sealed(path)["seconds"].tolist() for path in results.glob("*/*/outputs.npz")}
    with room_workers(1) as one:
        again = graded(small, ["noisy_finetune"], None, one)
    assert list(map(but_for_the_clock, again)) == list(map(but_for_the_clock, [tuned, published]))
    assert {path: read_sealed(path)["seconds"].tolist() for path in results.glob("*/*/outputs.npz")} == before


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"random:20@1"', '"random:0.25@2"', "kind random: random:0.25@2 and random:30@2 forget the same images"),
        ('"class:3"', '"class:12"', "suite small, kind class: Forget request 'class:12': There is no class"),
        ("train_size: 120", "network: none", "suite small, kind random: There is no network 'none'"),
    ],
)
def test_all_tasks_are_looked_at_first(tmp_path: Path, results: Path, old: str, new: str, complaint: str) -> None:
    """Before anything is trained; forget sets are compared, not texts."""
    text = SMALL.replace("random:20@2", "random:30@2").replace(old, new)
    (tmp_path / "small.yaml").write_text(text)
    answer = command("suite", str(tmp_path / "small.yaml"), "-m", "my_method")
    assert answer.code == 2
    assert complaint in answer.stderr
    assert not list(results.glob("*"))


@pytest.mark.slow
def test_values_of_other_code_are_not_used(small: Suite, two: Workers, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor those that the method can't take: it is graded as published, and that is said."""
    for entry, complaint in (
        ({"code": "other"}, "my_method was tuned with other code than it has now: it is graded as published."),
        ({"settings": {"epoch": 3}}, "my_method can't use its values in"),
    ):
        values = {"settings": {"epochs": 2}, "trials": 3, **entry}
        small.tuned_path.parent.mkdir(exist_ok=True)
        small.tuned_path.write_text(yaml.safe_dump({"my_method": values}))
        (result,) = grade_on_suite(small, ["my_method"], None, two, Console())
        assert isinstance(result, SuiteResult)
        assert result.rule == "published"
        assert complaint in capsys.readouterr().err


BREAKS = '''
from methods.BaseMethod import BaseMethod


class Breaks(BaseMethod):
    """Can't forget classes."""

    self_tuning = True

    def run(self, net, retain_loader, forget_loader, val_loader):
        if len({int(label) for batch in forget_loader for label in batch["age_group"]}) == 1:
            raise ValueError("one class")
        for parameter in net.parameters():
            parameter.data += 0.01
'''


@pytest.mark.slow
def test_a_method_that_fails_somewhere(
    small: Suite, tmp_path: Path, make_kit: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets 0 there, by the rule that its class names, with the reason; another method is graded all the same."""
    kit = make_kit()
    kit.add_method("breaks", BREAKS)
    answer = kit.run("suite", str(tmp_path / "small.yaml"), "-m", "breaks,do_nothing", "--workers", "1", "--json")
    assert answer.code == 2
    assert "breaks (self-tuned) failed on class:2, which counts as 0: breaks failed in run 0" in answer.stderr
    breaks, nothing = json.loads(answer.stdout)
    assert (breaks["method"], breaks["rule"], nothing["rule"]) == ("breaks", "self-tuned", "published")
    assert [part["share"] == 0 for part in breaks["held_out"]][2:] == [True, True]
    assert [bool(part["failure"]) for part in breaks["held_out"]] == [False, False, True, True]
    assert "one class" in breaks["held_out"][2]["failure"]
    shown = kit.run("suite", str(tmp_path / "small.yaml"))
    assert "breaks, 2 failed" in shown.stdout
    assert "self-tuned: the method chooses its values itself" in shown.stdout
    assert "no ranks: with fewer than 32 models" in shown.stdout


def test_the_suites_of_the_kit_are_listed(results: Path) -> None:
    """By name, with what they are about."""
    answer = command("suite")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == names_of_suites()
    assert "handwritten digits" in answer.stdout


def test_mistakes(tmp_path: Path, results: Path) -> None:
    """One sentence each, before anything is done."""
    for arguments, complaint in (
        (["-m", "my_method"], "Which suite? python main.py suite digits -m my_method"),
        (["digit"], "There is no suite 'digit': did you mean digits?"),
        (["digits"], "Nothing has been graded on digits yet: python main.py suite digits -m my_method does it."),
        (["digits", "--trials", "3"], "--trials needs a method to tune: -m my_method."),
        (["digits", "-m", "my_methd"], "did you mean my_method"),
        (["digits", "-m", "my_method", "--csv", "--json"], "Choose one of --csv, --json and --markdown"),
        (["digits", "-m", "finetune", "--trials", "0"], "--trials must be at least 1, not 0."),
        (["digits", "-m", "do_nothing", "--trials", "-2"], "--trials must be at least 1, not -2."),
        ([str(tmp_path / "none.yaml"), "-m", "my_method"], "can't be read: No such file"),
    ):
        answer = command("suite", *arguments)
        assert answer.code == 2, arguments
        assert complaint in answer.stderr, answer.stderr
        assert answer.stdout == ""
    assert not list(results.glob("*"))
