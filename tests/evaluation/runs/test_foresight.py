"""How long gradings may take: what is told, and that it counts what is left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from checkpoints.workers import Workers
from data import TaskSpec, UserError, load
from evaluation.console import Console
from evaluation.runs.foresight import foreseer
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec
from tests.command_line import command

TINY = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 3),))
TWO_WORKERS = cast(Workers, SimpleNamespace(count=2))


def grading(method: str, models: int = 64) -> Grading:
    """Of two originals."""
    return resolve(GradingSpec(method, TINY, originals=2, models=models), load(TINY), "cpu")


def test_the_sum_of_training_and_runs_is_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run takes as long as its budget up to; where there is none, as long as retraining."""
    foreseer([grading("my_method"), grading("retrain")], TWO_WORKERS, Console(asks=True), banks=2)(900.0, 10.0)
    runs = (128 * 0.2 * 10 + 128 * 10) / 2  # 768 seconds
    assert 1800 + runs < 3600
    expected = "This may take 43 minutes (about 30 minutes to train models, up to 13 minutes for 256 runs).\n"
    assert capsys.readouterr().err == expected
    foreseer([grading("my_method")], TWO_WORKERS, Console(asks=True), times=10)(0.0, 10.0)
    assert capsys.readouterr().err == "This may take 21 minutes (up to 21 minutes for 1280 runs).\n"


def test_runs_that_are_done_do_not_count(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a finished grading, and those of one that was interrupted."""
    (done, half) = (grading("my_method"), grading("delete"))
    for original in range(2):
        for run in range(32):
            path = half.folder / "runs" / f"original-{original:03d}-run-{run:04d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    foreseer([done, half], TWO_WORKERS, Console(asks=True))(0.0, 10.0)
    assert "for 192 runs" in capsys.readouterr().err


@pytest.mark.slow
def test_long_work_is_asked_for_before_it_begins(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, where an hour is a hundredth of a second. Catches work that just starts."""
    for name in ("evaluation.console.LONG", "evaluation.console.VERY_LONG", "evaluation.runs.foresight.LONG"):
        monkeypatch.setattr(name, 0.01)
    monkeypatch.setenv("UNLEARNING_BANK", str(results / "bank"))
    for words in (["-m", "my_method"], ["tune", "-m", "fanchuan"]):
        answer = command(*words, "--train-size", "60", "--recipe", "epochs=3", "--models", "6", "--workers", "1")
        assert answer.code == 2
        assert "With --yes it begins without a question." in answer.stderr
    assert not list(results.glob("bank/*/model-*"))


def test_what_was_asked_for_names_its_parts(results: Path) -> None:
    """Above an hour. A budget of more than retraining is not what runs take."""
    slow = replace(grading("my_method"), spec=replace(grading("my_method").spec, budget_seconds=36000.0))
    with pytest.raises(UserError, match=r"This may take 3 days \(up to 3 days for 128 runs\). With --yes"):
        foreseer([slow], TWO_WORKERS, Console(asks=True))(0.1, 3600.0)
