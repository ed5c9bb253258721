"""--until: originals are added until the interval is as narrow as wanted, and no run is done twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data import UserError
from evaluation.comparison.narrowing import half_width, share_wanted
from evaluation.metrics.intervals import Estimate
from evaluation.report import Report
from tests.command_line import command
from tests.conftest import COMMAND

if TYPE_CHECKING:
    from tests.conftest import Kit


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), (" 7.5 %", 0.075), (".5%", 0.005), ("99.9%", 0.999)])
def test_a_width(text: str, share: float) -> None:
    """In per cent of the score."""
    assert share_wanted(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["10", "0.1", "0%", "100%", "-5%", "ten%", "1e1%", "%", "10%%", "nan%", "٣%%"])
def test_what_is_no_width(text: str) -> None:
    """One sentence, with an example."""
    with pytest.raises(UserError, match="like --until 10%, not "):
        share_wanted(text)


def test_half_width(make_report: Callable[..., Report]) -> None:
    """As a share of the score; a score of 0 is never known closely enough."""
    assert half_width(make_report(score=Estimate(0.05, 0.04, 0.07))) == pytest.approx(0.3)
    assert half_width(make_report(score=Estimate(0.0, 0.0, 0.01))) == float("inf")


@pytest.mark.slow
def test_originals_are_added(kit: Kit, tmp_path: Path) -> None:
    """From those that were asked for on, and the runs of the first are not done again."""
    kit.add_method(
        "counts_runs",
        "import os\n\nimport torch\n\nfrom methods.MyMethod import MyMethod\n\n\nclass CountsRuns(MyMethod):\n"
        '    """The baseline, that counts its runs."""\n\n'
        "    def run(self, net, retain_loader, forget_loader, val_loader):\n"
        "        with torch.no_grad():\n            for weight in net.parameters():\n"
        "                weight.add_(2 * torch.randn_like(weight) * weight.abs().mean())\n"
        "        with open(os.environ['LEDGER'], 'a') as file:\n            file.write('x')\n",
    )
    ledger = tmp_path / "ledger"
    words = ["-m", "counts_runs", "--originals", "2", "--until", "1%", "--forget", "random:12", "--train-size", "60"]
    words += ["--recipe", "epochs=3", "--models", "6", "--budget-seconds", "60", "--json"]
    program = f"from evaluation.comparison import narrowing\nnarrowing.STEPS = (2, 4)\n{COMMAND}"
    answer = kit.run_program(program, *words, LEDGER=str(ledger), UNLEARNING_RESULTS=str(tmp_path))
    assert answer.code == 0, answer.stderr
    width = r"originals the interval is \+-.* % of the score, not \+-1 %"
    assert re.search(f"with 2 {width}: more are added\n", answer.stderr)
    assert re.search(f"with 4 {width}\n", answer.stderr)
    assert Report.from_json(answer.stdout).grading.originals == 4
    assert len(ledger.read_text()) == 6 * 4


def test_what_it_does_not_go_with() -> None:
    """Sentences, before anything is done."""
    for words, said in (
        ("--until 10% --protocol full", "leave out --protocol full"),
        ("--until 10% --forget random:2 --forget class:3", "add --at-once"),
        ("--until 10% --debug", "--debug goes without --until"),
        ("--until 10", "like --until 10%"),
    ):
        answer = command("-m", "my_method", "--train-size", "60", *words.split())
        assert answer.code == 2
        assert said in answer.stderr
        assert answer.stdout == ""
