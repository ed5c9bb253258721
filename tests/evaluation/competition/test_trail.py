"""The audit trail only grows, and whoever changes it is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from data import UserError
from evaluation.competition.trail import Trail, read_trail

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
Lines = list[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trail of five lines."""
    path = tmp_path / "trail.jsonl"
    for number in range(5):
        Trail(path).add("received", NOW, team=f"team {number}\udc80\n", bytes=number)
    return path


def test_lines_are_read_back(path: Path) -> None:
    """In order, with names of any bytes on one line each, by this process and by another."""
    assert [line["bytes"] for line in read_trail(path)] == list(range(5))
    assert read_trail(path)[0]["team"] == "team 0\udc80\n"
    assert path.read_bytes().count(b"\n") == 5


def without(number: int) -> Callable[[Lines], Lines]:
    """Removes a line."""
    return lambda lines: lines[: number - 1] + lines[number:]


def forged(lines: Lines) -> Lines:
    """A changed line with a new hash of its own."""
    from evaluation.competition.trail import _hash

    line = json.loads(lines[2])
    line["bytes"] = 7
    line["hash"] = _hash(line)
    return [*lines[:2], json.dumps(line).encode(), *lines[3:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"bytes": 2', b'"bytes": 3'), *lines[3:]], "line 3 was changed"),
        (lambda lines: [*lines[:2], lines[2].replace(b"2026", b"2025"), *lines[3:]], "line 3 was changed"),
        (lambda lines: [*lines[:2], b"{}", *lines[3:]], "line 3 was changed"),
        (lambda lines: [*lines[:2], b"[" * 100_000, *lines[3:]], "line 3 was changed"),
        (lambda lines: [*lines[:2], b"", *lines[3:]], "line 3 was changed"),
        (forged, "before line 4"),
        (without(1), "before line 1, which was written as line 2"),
        (without(3), "before line 3, which was written as line 4"),
        (without(5), "lines 5 to 5, at its end, were removed"),
        (lambda lines: lines[:2], "lines 3 to 5, at its end, were removed"),
        (lambda lines: [], "lines 1 to 5, at its end, were removed"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "before line 1, which was written as line 2"),
        (lambda lines: [*lines, lines[4]], "before line 6, which was written as line 5"),
    ],
)
def test_changes_are_named(change: Callable[[Lines], Lines], said: str, path: Path) -> None:
    """A line that was changed, removed, moved or repeated, at any place; nothing can be added afterwards."""
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in change(lines)))
    with pytest.raises(UserError, match=said):
        read_trail(path)
    with pytest.raises(UserError, match=said):
        Trail(path)


def test_last_line_made_anew(path: Path) -> None:
    """Whoever writes another last line, with its hash, is noticed by the hash beside the file."""
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in lines[:4]))
    path.with_suffix(".last").write_text(f"4 {json.loads(lines[3])['hash']}\n")
    last = path.with_suffix(".last").read_text()
    Trail(path).add("received", NOW, team="another", bytes=4)
    forged_trail = path.read_bytes()
    path.with_suffix(".last").write_text(f"5 {json.loads(lines[4])['hash']}\n")
    with pytest.raises(UserError, match="line 5 is not the one that was written"):
        read_trail(path)
    path.write_bytes(forged_trail)
    path.with_suffix(".last").write_text(last)
    assert len(read_trail(path)) == 5  # a process that was killed between the two files leaves that
    path.with_suffix(".last").unlink()
    with pytest.raises(UserError, match="is gone"):
        read_trail(path)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_begun(cut: int, path: Path) -> None:
    """A process that was killed while it wrote a line leaves a part of it, which the next one removes."""
    before = path.read_bytes()
    path.write_bytes(before + before[:cut])
    assert len(read_trail(path)) == 5
    Trail(path).add("received", NOW, team="next", bytes=5)
    assert path.read_bytes().startswith(before)
    assert [line["bytes"] for line in read_trail(path)] == list(range(6))
