"""How `--help` looks: one line for each option, under the titles of the groups, so that a command fits a screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDEST = 110
_TITLE, _FLAGS = 10, 22
"""Columns for the title of a group, and for flags with their value."""


class CompactHelp:
    """Prints help as plain text; cyclopts calls it for each part. Commands stand in two columns, in the given order."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that shows how the command is typed."""
        _print(console, f"Usage: {str(usage).strip()}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does."""
        with console.capture() as captured:
            console.print(description, soft_wrap=True)
        for paragraph in captured.get().strip().split("\n\n"):
            _print(console, textwrap.fill(" ".join(paragraph.split()), min(console.width, WIDEST)) + "\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of options, or the commands."""
        width = min(console.width, WIDEST)
        flags = [entry for entry in panel.entries if _names(entry)[0].startswith("-") or panel.format != "command"]
        commands = [entry for entry in panel.entries if entry not in flags]
        lines = [*self._two_columns(commands, width), *(line for entry in flags for line in _option(entry, width))]
        title = str(panel.title) if commands or panel.format != "command" else ""
        for first, line in zip([title, *[""] * len(lines)], lines, strict=False):
            _print(console, f"{first:{_TITLE}}{line}")

    def _two_columns(self, entries: Iterable[HelpEntry], width: int) -> list[str]:
        found = {_names(entry)[0] for entry in entries}
        cells = [f"{name:13}{summary}" for name, summary in self._commands.items() if name in found]
        half = (len(cells) + 1) // 2
        column = max((len(cell) for cell in cells[:half]), default=0) + 2
        if _TITLE + column + max((len(cell) for cell in cells[half:]), default=0) > width:
            return cells
        left, right = cells[:half], [*cells[half:], ""]
        return [f"{one:{column}}{other}".rstrip() for one, other in zip(left, right, strict=False)]


def _option(entry: HelpEntry, width: int) -> list[str]:
    flags = ", ".join(sorted(_names(entry), key=len))
    value = _value(entry)
    text = _text(entry.description)
    if entry.default is not None and str(entry.default) not in ("False", "()"):
        text = f"{text} [default: {entry.default}]"
    start = f"{flags} {value}".rstrip()
    lines = textwrap.wrap(text, max(width - _TITLE - _FLAGS, 20)) or [""]
    if len(start) >= _FLAGS:
        lines = ["", *lines]
    return [f"{first:{_FLAGS}}{line}".rstrip() for first, line in zip([start, *[""] * len(lines)], lines, strict=False)]


def _value(entry: HelpEntry) -> str:
    """How the value of an option is called in the help: N, X, FILE, or the last word of its name."""
    name = _names(entry)[0]
    kind = str(entry.type)
    if not name.startswith("-") or kind in (str(bool), str(None)) or entry.type is None:
        return ""
    for known, called in ((int, "N"), (float, "X"), (Path, "FILE")):
        if known.__name__ in kind:
            return called
    return max(_names(entry), key=len).rpartition("-")[2].upper()


def _names(entry: HelpEntry) -> tuple[str, ...]:
    label = getattr(entry, "positional_label", None)
    return (*((label,) if label else ()), *entry.names, *entry.shorts)


def _text(description: Any) -> str:
    """The text of what cyclopts has wrapped up for rich."""
    text = getattr(description, "primary_renderable", description)
    return " ".join(str(text or "").split())


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
