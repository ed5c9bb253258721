"""Methods on a network in a file of the user's own, with attention, layer norm and dropout: docs/your-data.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data import UserError
from evaluation.isolation.sandbox import check_sandbox
from evaluation.report import read_report
from evaluation.spec import GradingSpec

if TYPE_CHECKING:
    from tests.conftest import Kit

PAGE = Path(__file__).parents[2] / "docs" / "your-data.md"
SMALL = "--train-size 60 --test-size 60 --recipe epochs=2 --models 6 --originals 1 --workers 1 --budget-seconds 60"


def example() -> tuple[str, list[str]]:
    """The file on the page, and the arguments of the command below it."""
    section = PAGE.read_text().partition("## A network\n")[2]
    found = re.search(r"`tokens\.py`:\n\n```python\n(.*?)```\n\n```\npython main\.py (.*?)\n```", section, re.DOTALL)
    assert found is not None
    return found[1], found[2].split()


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """The command of the page, for a file that lies elsewhere, on less data."""
    text, command = example()
    (tmp_path / "tokens.py").write_text(text)
    return [word.replace("tokens.py", f"{tmp_path}/tokens.py") for word in command] + SMALL.split()


@pytest.mark.slow
def test_the_example_works(
    kit: Kit, own: list[str], results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six methods run on it; the bank says how it was trained; the grading is repeated from anywhere, until an edit."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / "bank"))  # in that of all tests its models may be there
    answer = kit.run(*own)
    assert answer.code == 0, answer.stderr
    assert "tokens.py:Tokens: its models are trained many at once by vmap, because as one grouped" in answer.stderr
    folders = sorted(results.glob("digits-*/*"))
    names = [folder.name.rpartition("-")[0] for folder in folders]
    assert names == sorted(["finetune", "scrub", "fisher", "ssd", "kookmin", "fanchuan"])
    report = read_report(folders[0] / "report.json")
    assert report is not None
    assert report.grading.network == "tokens.py:Tokens"
    config = folders[0] / "config.yaml"
    network = GradingSpec.read(config).task.network or ""
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/tokens\.py:Tokens@[0-9a-f]{{12}}", network)
    again = kit.run("--config", str(config), "--workers", "1")
    assert again.code == 0, again.stderr
    assert sorted(results.glob("digits-*/*")) == folders
    (tmp_path / "tokens.py").write_text(f"{example()[0]}# edited\n")
    edited = kit.run("--config", str(config))
    assert (edited.code, edited.stderr.count("\n")) == (2, 1)
    assert "tokens.py has been edited since" in edited.stderr


@pytest.mark.slow
def test_what_draws_weights_anew_refuses(kit: Kit, own: list[str], results: Path) -> None:
    """`retrain` names the weight that no module draws."""
    answer = kit.run("-m", "retrain", *own[2:])
    assert answer.code == 2
    assert "ValueError: places can't be drawn anew: neither its module nor the network has reset_par" in answer.stderr


@pytest.mark.slow
def test_in_a_sandbox(kit: Kit, own: list[str], results: Path, tmp_path: Path) -> None:
    """The network is there, and its file is not."""
    try:
        check_sandbox()
    except UserError as error:
        pytest.skip(str(error))
    spy = f"""
from pathlib import Path
from methods.BaseMethod import BaseMethod

class Spy(BaseMethod):
    \"\"\"Look for the file of the network.\"\"\"
    def run(self, net, retain_loader, forget_loader, val_loader):
        assert type(net).__name__ == "Tokens"
        assert not Path({str(tmp_path / "tokens.py")!r}).exists()
"""
    kit.add_method("spy", spy)
    answer = kit.run("-m", "spy", *own[2:], "--sandbox")
    assert answer.code == 0, answer.stderr


def test_a_notebook_says_that_it_can_not_take_it(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It unlearns the competition's network."""
    from commands.notebook import make_notebooks
    from commands.options import NotebookOptions, TaskOptions, ValuesOptions

    monkeypatch.setattr("notebook_utils.submit", lambda *arguments: None)
    network = own[own.index("--network") + 1]
    make_notebooks(ValuesOptions(method="my_method"), TaskOptions(network=network), NotebookOptions(), None)
    assert capsys.readouterr().err == (
        "The notebook unlearns the network of the competition: tokens.py:Tokens can't be taken along.\n"
    )
