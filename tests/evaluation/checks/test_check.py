"""`python main.py check` from end to end: what it trains, runs, prints, and answers with its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from checkpoints.pool import Pool
from data import TaskSpec, load
from evaluation.checks.conduct import CheckReport, summary
from evaluation.checks.finding import Checked, Finding
from evaluation.console import Console
from evaluation.grading import announce
from evaluation.spec import GradingSpec
from tests.command_line import command
from tests.evaluation.checks.test_checks_of_tasks import forget_and_retain_share

if TYPE_CHECKING:
    from tests.conftest import Kit

PROBLEM = ["--train-size", "100", "--recipe", "epochs=12", "--forget", "random:30"]
TINY = [*PROBLEM, "--budget-seconds", "60", "--workers", "1"]
SPEC = TaskSpec("digits", forget=("random:30",), train_size=100, recipe=(("epochs", "12"),))

CANCELS = """
optimizer = torch.optim.SGD(net.train().parameters(), lr=self.learning_rate)
for sample in retain_loader:
    loss = torch.nn.functional.cross_entropy(net(sample["image"]), sample["age_group"])
    optimizer.zero_grad()
    (loss - loss).backward()
    optimizer.step()
net.eval()
"""
"""A loss that cancels; statistics of batch normalisation change all the same."""
METHODS = {
    "sound": "noise",
    "same_seed": "torch.manual_seed(0)\nnoise",
    "returns_a_copy": "copy = __import__('copy').deepcopy(net)\nreturn copy",
    "cancels": CANCELS,
    "explodes": "if self.learning_rate > 0.5: net[0].weight.data.fill_(float('nan'))\nnoise\nnet.train()",
    "raises": "raise ValueError('no idea')",
    "halves": "noise\nnet.half().float()",
    "is_slow": "noise\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass",
}
"""Methods by name, and what they do; "noise" adds noise to all parameters."""
NOISE = "for p in net.parameters(): p.data.add_(torch.randn_like(p) * 0.01)"
SOURCE = """
import time
import torch
from methods.BaseMethod import BaseMethod


class {name}(BaseMethod):
    learning_rate: float = 0.1
    \"\"\"Size.\"\"\"

    def run(self, net, retain_loader, forget_loader, val_loader):
{body}
"""


def findings(report: dict[str, Any], *about: str) -> dict[str, str]:
    """The severity of what was found, by the name of the check."""
    found = [one for one in report["checks"] if one["finding"] is not None and one["about"] in about]
    found = [one for one in found if one["finding"]["severity"] != "skipped"]
    return {one["name"]: one["finding"]["severity"] for one in found}


def body_of(name: str) -> str:
    """The body of the `run` of one of `METHODS`."""
    return "\n".join(f"        {line}" for line in METHODS[name].replace("noise", NOISE).splitlines())


@pytest.fixture(scope="module")
def checked(make_kit: Callable[[], Kit], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Gives what `check --json` says of one of `METHODS`, with its exit code."""
    kit, folder = make_kit(), tmp_path_factory.mktemp("checks")
    for name in METHODS:
        kit.add_method(name, SOURCE.format(name=name.title().replace("_", ""), body=body_of(name)))

    def check(name: str, *more: str) -> dict[str, Any]:
        bank = {"UNLEARNING_BANK": str(folder / "bank"), "UNLEARNING_RESULTS": str(folder / "results")}
        answer = kit.run("check", "-m", name, *TINY, "--json", *more, **bank)
        assert answer.code in (0, 1), answer.stderr
        return {**json.loads(answer.stdout), "code": answer.code, "stderr": answer.stderr}

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sound", {}),
        ("same_seed", {"runs of different seeds differ": "error", "confidences of models differ": "warning"}),
        ("returns_a_copy", {"weights change": "error"}),
        ("cancels", {"weights change by more than next to nothing": "warning"}),
        ("explodes", {"larger learning rates give numbers": "note", "network is left in eval mode": "note"}),
        ("raises", {"runs come to their end": "error"}),
        ("halves", {"weights have full precision": "warning"}),
    ],
)
def test_methods_with_a_fault(name: str, found: dict[str, str], checked: Callable[..., dict[str, Any]]) -> None:
    """In a real run. The exit code is 1 with an error; the same seed for all is lm-evaluation-harness, issue 2089."""
    report = checked(name)
    assert findings(report, "method", "scores") == found
    assert report["code"] == int("error" in found.values())
    assert (report["method"], report["forget"]) == (name, ["random:30"])


@pytest.mark.slow
def test_gradings_warn_too(kit: Kit, tmp_path: Path) -> None:
    """Of equal runs in the report; of an image in two sets before anything is trained. Sound ones have no remark."""
    for name in ("sound", "same_seed"):
        kit.add_method(
            f"graded_{name}", SOURCE.format(name=f"Graded{name.title().replace('_', '')}", body=body_of(name))
        )
    folders = {"UNLEARNING_BANK": str(tmp_path / "bank"), "UNLEARNING_RESULTS": str(tmp_path / "results")}
    answer = kit.run("-m", "graded_sound,graded_same_seed", *TINY, "--models", "6", "--json", **folders)
    assert answer.code == 0, answer.stderr
    sound, same_seed = (report["remarks"] for report in json.loads(answer.stdout))
    assert sound == []
    (remark,) = same_seed
    assert re.match(r"100 % of the confidences of the runs of the method equal another model's, ", remark)


def test_gradings_tell_what_is_wrong_with_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is trained, like the remarks of its source."""
    task = forget_and_retain_share()
    announce(GradingSpec("my_method", task.spec), task, Mock(device="cpu", count=1), Console())
    assert "Two sets have the same images, forget and retain (6 images): " in capsys.readouterr().err


@pytest.mark.slow
def test_a_slow_method(checked: Callable[..., dict[str, Any]]) -> None:
    """It gets ten times the budget, and so tells how much it needs."""
    report = checked("is_slow", "--budget-seconds", "0.3")
    (said,) = [one["finding"] for one in report["checks"] if one["name"] == "time is within the budget"]
    assert said["severity"] == "error"
    assert re.match(
        r"A run takes [\d.]+ s, \d+ % of the budget of 0.3 s, and a grading would kill it: ", said["sentence"]
    )


@pytest.mark.slow
def test_it_trains_few_models_and_keeps_them(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For gradings, which look at the same bank. Of runs nothing is stored. What a grading left is looked at, too."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / "bank"))
    answer = command("check", "-m", "my_method", *TINY)
    assert answer.code in (0, 1), answer.stderr
    assert answer.stdout.startswith("my_method on digits, forget random:30\n")
    assert re.search(r"^task +images are in one set +ok *$", answer.stdout, re.MULTILINE)
    assert re.search(r"^24 checks: .*; 1 skipped \(\d+ s\)\n\Z", answer.stdout, re.MULTILINE)
    task = load(SPEC)
    assert Pool(task, "original").is_complete(2)
    assert Pool(task, "retrained").is_complete(4)
    assert not Pool(task, "retrained").is_complete(8)
    assert not list(results.glob("*/*"))
    graded = command("-m", "my_method", *TINY, "--models", "6", "-q")
    assert graded.code == 0, graded.stderr
    again = command("check", "-m", "my_method", *TINY, "--json", "-q")
    assert [one["name"] for one in json.loads(again.stdout)["checks"]][-1] == "epsilons can tell methods apart"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "Name a method"),
        ("-m my_metho", "did you mean my_method"),
        ("-m my_method,finetune", "This command takes one method"),
        ("-m my_method --forget class:3 --forget class:4", "add --at-once to make one of them here"),
        ("-m my_method --set rate=1", "no hyper-parameter 'rate'"),
        ("-m my_method --models 3", "There is no option '--models'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: str, said: str, results: Path) -> None:
    """Before anything is trained."""
    answer = command("check", *arguments.split())
    assert (answer.code, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert said in line


def test_what_is_summed_up() -> None:
    """By severity; only errors take a score its meaning."""

    def report(*severities: Any) -> CheckReport:
        checks = [Checked("task", "a", Finding(severity, "It is so: do this.")) for severity in severities]
        return CheckReport("my_method", "digits", ("random:0.1",), (*checks, Checked("task", "b", None)), 1.0)

    assert summary(report()) == "1 check: nothing found"
    assert summary(report("note", "warning", "note")) == "4 checks: 1 warning, 2 notes"
    assert report("note", "warning").is_fine
    assert not report("error").is_fine
