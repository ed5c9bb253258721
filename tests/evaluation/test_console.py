"""Messages and progress: users' texts are shown as they are."""

from __future__ import annotations

from io import StringIO

import pytest

from evaluation.console import Console

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
