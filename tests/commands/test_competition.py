"""`python main.py competition`: what it says when something is not as it should be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evaluation.competition.trail import read_trail
from evaluation.isolation import sandbox
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Kit


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start", "{}"], "There is no action 'start': choose one of init, grade, page."),
        (["grad", "{}"], "did you mean grade?"),
        (["page", "{}"], "python main.py competition init"),
        (["grade", "{}"], "python main.py competition init"),
        (["init", "{}", "--final"], "--final, --workers and --device are for python main.py competition grade"),
        (["page", "{}", "--workers", "2"], "are for python main.py competition grade"),
        (["grade"], "DIRECTORY"),
        ([], "ACTION"),
    ],
)
def test_mistakes(arguments: list[str], said: str, tmp_path: Path) -> None:
    """One sentence, exit code 2, and nothing is written."""
    answer = command("competition", *(text.format(tmp_path / "contest") for text in arguments))
    assert answer.code == 2
    assert said in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_new_competition_has_a_page(tmp_path: Path) -> None:
    """`init` and `page`, with the file as it was written; a trail that was changed is one sentence."""
    contest = tmp_path / "contest"
    answer = command("competition", "init", str(contest))
    assert (answer.code, answer.stderr) == (0, "")
    assert "never publish" in answer.stdout
    again = command("competition", "init", str(contest))
    assert again.code == 2
    assert "has a competition already" in again.stderr
    page = command("competition", "page", str(contest))
    assert (page.code, page.stderr) == (0, "")
    assert "Nothing has a score yet." in page.stdout
    (contest / "trail.jsonl").write_text("{}\n")
    page = command("competition", "page", str(contest))
    assert (page.code, page.stdout) == (2, "")
    assert "line 1 was changed" in page.stderr


@pytest.mark.slow
def test_no_sandbox(kit: Kit, tmp_path: Path) -> None:
    """Nothing is graded, and the sentence says what to install, and how to do without."""
    contest = tmp_path / "contest"
    assert command("competition", "init", str(contest)).code == 0
    answer = kit.run("competition", "grade", str(contest), PATH=str(tmp_path))
    assert answer.code == 2
    assert "apt install bubblewrap" in answer.stderr or sys.platform != "linux"
    assert "`sandbox: false` in competition.yaml" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert read_trail(contest / "trail.jsonl") == []


def test_folders_that_a_sandbox_shows(tmp_path: Path) -> None:
    """Those of the system and of Python, but neither the kit's nor others."""
    assert sandbox.shows(Path(sys.prefix) / "contest")
    assert sandbox.shows(Path("/usr/share/contest"))
    assert not sandbox.shows(sandbox.ROOT / "contest")
    assert not sandbox.shows(tmp_path / "contest")


def test_a_folder_that_can_t_be_made() -> None:
    """One sentence. Catches a traceback of the first folder."""
    answer = command("competition", "init", "/dev/null/contest")
    assert answer.code == 2
    assert "can't be written" in answer.stderr
    assert "Traceback" not in answer.stderr
