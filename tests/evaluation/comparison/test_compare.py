"""`python main.py compare`: verdicts on real gradings, which are never repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.arrays import read_sealed
from evaluation.comparison.sequential import LOOKS
from evaluation.metrics import METRICS
from evaluation.report import read_report
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
    scores = {name: np.array(values) for name, values in first["score_by_original"].items()}
    assert pair["difference"]["value"] == pytest.approx((scores["retrain"] - scores["do_nothing"]).mean())
    for name, values in scores.items():
        kept = [read_report(path) for path in results.glob(f"*/{name}-*/report.json")]
        assert any(report is not None and report.scores.score_by_original == values.tolist() for report in kept)
    before = seconds_of_runs(results)
    again = compared("retrain,do_nothing", "--minutes", "60")
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert seconds_of_runs(results) == before


@pytest.mark.slow
def test_the_time_is_over(results: Path) -> None:
    """After the first look, which is always there: undecided, and what it would take."""
    answer = command("compare", "-m", "do_nothing,my_method", *TINY, "--minutes", "1e-6", "--set", "learning_rate=1e-9")
    assert answer.code == 2
    assert "DoNothing has no hyper-parameter" in answer.stderr
    answer = command("compare", "-m", "noisy_finetune,my_method", *TINY, "--minutes", "1e-6")
    assert answer.code == 0, answer.stderr
    if "is better" not in answer.stdout:
        assert "8 originals would take about" in answer.stderr
        assert "undecided" in answer.stdout
    assert "after 4 originals" in answer.stdout
    assert "The chance of a wrong verdict" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-m my_method", "To compare takes two methods: -m my_method,finetune."),
        ("-m my_method,my_method", "To compare takes two methods"),
        ("-m my_method,finetun", "did you mean finetune"),
        ("-m my_method,finetune --minutes 0", "--minutes must be greater than 0 and finite, not 0"),
        ("-m my_method,finetune --minutes nan", "--minutes must be greater than 0 and finite, not nan"),
        ("-m my_method,finetune --minutes inf", "--minutes must be greater than 0 and finite, not inf"),
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
