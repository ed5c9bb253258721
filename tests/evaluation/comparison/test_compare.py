"""`python main.py compare`: verdicts on real gradings, which are never repeated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.arrays import read_sealed
from evaluation.comparison.conduct import Comparison, judge
from evaluation.comparison.sequential import LOOKS
from evaluation.metrics import METRICS
from evaluation.report import Report, read_report
from evaluation.views.verdicts import show_comparison
from tests.command_line import command

N = METRICS["official"].fewest_models
TINY = f"--train-size 60 --recipe epochs=3 --forget random:12 --models {N} --budget-seconds 60 --workers 1".split()


def compared(methods: str, *more: str) -> Any:
    """The JSON of a comparison."""
    answer = command("compare", "-m", methods, *TINY, "--json", *more)
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def seconds_of_runs(results: Path) -> dict[Path, list[float]]:
    """Of all gradings. Runs that are done again take other times."""
    return {path: read_sealed(path)["seconds"].tolist() for path in results.glob("*/*/outputs.npz")}


@pytest.mark.slow
def test_a_comparison(results: Path) -> None:
    """Retraining against nothing: decided, its numbers are those of the reports; typed again, nothing is run."""
    first = compared("retrain,do_nothing", "--minutes", "60")
    (pair,) = first["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("retrain", "do_nothing", "better")
    assert pair["difference"]["low"] > 0
    assert pair["originals"] in LOOKS
    scores = {one["method"]["name"]: np.array(one["scores"]["score_by_original"]) for one in first["reports"]}
    assert pair["difference"]["value"] == pytest.approx((scores["retrain"] - scores["do_nothing"]).mean())
    for name, values in scores.items():
        kept = [read_report(path) for path in results.glob(f"*/{name}-*/report.json")]
        assert any(report is not None and report.scores.score_by_original == values.tolist() for report in kept)
    before = seconds_of_runs(results)
    again = compared("retrain,do_nothing", "--minutes", "60")
    assert again["pairs"] == first["pairs"]
    assert seconds_of_runs(results) == before


@pytest.mark.slow
def test_the_time_is_over(results: Path) -> None:
    """After the first look, which is always there: undecided, and what it would take."""
    answer = command("compare", "-m", "do_nothing,my_method", *TINY, "--minutes", "1e-6", "--set", "learning_rate=1e-9")
    assert answer.code == 2
    assert "DoNothing has no hyper-parameter" in answer.stderr
    for _ in range(2):  # typed again, it does not begin what there was no time for
        answer = command("compare", "-m", "fisher,seif", *TINY, "--minutes", "1e-6", "-q")
        assert answer.code == 0, answer.stderr
        assert re.search(r"fisher - seif .* undecided +[\d.]+ +4 originals", answer.stdout)
        assert "8 originals would take about" in answer.stdout
        assert "with fewer than 32 models" in answer.stdout
        assert "Of methods with one distribution of scores, at most 5 % get a verdict" in answer.stdout


@pytest.mark.slow
def test_a_method_that_fails_leaves_the_others_their_verdict(results: Path) -> None:
    """It is named in the end, and the exit code is 2. With one that is left there is nothing to compare."""
    tight = [*TINY[:-4], "--budget-seconds", "1e-9", "--workers", "1"]
    answer = command("compare", "-m", "my_method,do_nothing,retrain", *tight, "-q")
    assert answer.code == 2
    assert re.search(r"do_nothing - retrain .* retrain is better", answer.stdout)
    assert "my_method -" not in answer.stdout
    assert "retrain (exempt)" in answer.stdout
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: my_method failed in run 0 from original 0: it exceeded the budget")
    answer = command("compare", "-m", "my_method,do_nothing", *tight, "-q")
    assert (answer.code, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: my_method failed")


def test_what_is_said_of_a_pair(make_report: Callable[..., Report], capsys: pytest.CaptureFixture[str]) -> None:
    """Equal with every original; undecided within reach, beyond it, and beyond measure."""
    scores = {
        "a": [0.05, 0.06, 0.05, 0.06],
        "same": [0.05, 0.06, 0.05, 0.06],
        "near": [0.06, 0.06, 0.06, 0.06],
        "nearer": [0.051, 0.07, 0.041, 0.06],
        "beside": [0.06, 0.05, 0.06, 0.05],
    }
    reports = {name: make_report(name, score_by_original=values) for name, values in scores.items()}
    pairs = tuple(judge(("a", other), reports, 1, 0.05) for other in list(scores)[1:])
    assert [pair.is_equal for pair in pairs] == [True, False, False, False]
    assert pairs[0].p == 1.0
    show_comparison(Comparison(pairs, tuple(reports.values()), (), 1.0, 0.05, ""))
    said = capsys.readouterr().out
    assert re.search(r"a - same +\+0.0000 .* equal on every original", said)
    assert re.search(r"a - near: about \d+ originals would decide it, if the difference stays as it is\n", said)
    assert re.search(r"a - nearer: about [\d,]+ originals would decide it, .*, and compare takes 32 at most", said)
    assert "a - beside: more than 10,000 originals would decide it" in said
    assert "a - same:" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-m my_method", "To compare takes two methods: -m my_method,finetune."),
        ("-m my_method,my_method", "To compare takes two methods"),
        ("-m my_method,finetun", "did you mean finetune"),
        ("-m my_method,finetune --minutes 0", "--minutes must be greater than 0 and finite, not 0"),
        ("-m my_method,finetune --minutes nan", "--minutes must be greater than 0 and finite, not nan"),
        ("-m my_method,finetune --minutes inf", "--minutes must be greater than 0 and finite, not inf"),
        ("-m my_method,finetune --error 0", "--error is a chance between 0 and 1, not 0"),
        ("-m my_method,finetune --error 1", "--error is a chance between 0 and 1, not 1"),
        ("-m my_method,finetune --error nan", "--error is a chance between 0 and 1, not nan"),
        ("-m my_method,finetune --minutes soon", "--minutes takes a number, not 'soon'"),
        ("-m my_method,finetune --originals 3", "There is no option '--originals'"),
        ("-m my_method,finetune --models 3", "needs at least 6 models, not 3"),
        ("-m my_method,finetune --forget class:3 --forget class:4", "add --at-once to make one of them here"),
        ("", "Name a method"),
    ],
)
def test_mistakes_are_one_sentence(arguments: str, said: str, results: Path) -> None:
    """Before anything is trained."""
    answer = command("compare", *arguments.split())
    assert answer.code == 2
    (line,) = answer.stderr.splitlines()
    assert said in line
    assert answer.stdout == ""
