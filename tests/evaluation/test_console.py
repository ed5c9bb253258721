"""Messages and progress: users' texts are shown as they are."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from io import StringIO

import pytest

from data import UserError
from evaluation.console import LONG, VERY_LONG, Console

TEXTS = ["class:cat:0.5", ":cat:", "[unk]", "[b]x[/b]", "[/red]", "{x}", "{}", "{task.total}", "\\[a]"]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_shown_as_they_are(text: str, is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a message, beside a progress bar, and while something is waited for. Catches markup, emoji and formats."""
    monkeypatch.setattr("evaluation.console.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1" if is_terminal else "")
    console = Console()
    assert console.screen.is_terminal == is_terminal
    printed = console.screen.file = StringIO()

    def said() -> str:
        found = printed.getvalue()
        printed.truncate(0)
        printed.seek(0)
        return found

    console.tell(f"forget {text}")
    assert said() == f"forget {text}\n"
    with console.progress(text, "runs") as on_progress:
        on_progress(1, 2)
    assert text in said()
    with console.waiting(text):
        pass
    assert text in said()


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal as standard input; what is written to this descriptor is typed."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        yield ours
    os.close(ours)


@pytest.mark.parametrize("answer", ["y", "Y", "yes"])
def test_work_of_hours_begins_if_that_is_wanted(answer: str, keyboard: int, capsys: pytest.CaptureFixture[str]) -> None:
    """And is asked for once."""
    os.write(keyboard, f"{answer}\n".encode())
    console = Console(asks=True)
    for _ in range(2):
        console.foresee(2 * VERY_LONG, "about 2 hours to train models")
    assert capsys.readouterr().err.count("[y/N]") == 1


@pytest.mark.parametrize("answer", ["", "n", "no", "why"])
def test_work_of_hours_does_not_begin_otherwise(answer: str, keyboard: int) -> None:
    """A key that was hit by mistake begins nothing."""
    os.write(keyboard, f"{answer}\n".encode())
    with pytest.raises(UserError, match="Nothing was begun"):
        Console(asks=True).foresee(VERY_LONG, "runs")


@pytest.mark.parametrize("quiet", [True, False])
def test_nobody_is_asked_where_nobody_is(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a script, without standard input too: the flag is named. With the flag, or below an hour, nothing is asked."""
    for stdin in (StringIO("y\n"), None):
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UserError, match=r"This may take 100 days \(runs\). With --yes"):
            Console(quiet, asks=True).foresee(100 * 86400, "runs")
        Console(quiet, asks=True).foresee(VERY_LONG - 1, "runs")
        Console(quiet).foresee(100 * 86400, "runs")


def test_short_work_is_not_worth_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """Longer work is."""
    console = Console(asks=True)
    console.foresee(LONG - 1, "runs")
    assert capsys.readouterr().err == ""
    console.foresee(LONG, "runs")
    assert capsys.readouterr().err == "This may take 60 seconds (runs).\n"
