"""The audit trail: a file of JSON lines that only grows. A line that is changed or removed later is noticed.

Each line has its number, when it was written, the hash of the line before, and its own. The hash of the last line also
stands in a file beside it, so that lines that are cut off at the end are missed, too. Whoever can write both files can
write another history: publish the last hash now and then (`page` shows it), and nobody can change what is before it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from data import UserError
from data.documents import DocumentError, parse_json
from data.files import write_atomically, writing_to

Line = Mapping[str, Any]
FIRST = "0" * 64
"""What stands for the hash of the line before the first."""


class Trail:
    """The lines of a trail, checked, and a way to add one.

    Raises:
        UserError: a line was changed, or is missing; the message says which.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[Line] = read_trail(path)

    @property
    def last_hash(self) -> str:
        """The hash of the last line."""
        return str(self.lines[-1]["hash"]) if self.lines else FIRST

    def add(self, event: str, now: datetime, **facts: Any) -> Line:
        """Write a line: on disk, whatever happens afterwards. Raises `UserError` if it can't be written."""
        when = now.astimezone(timezone.utc).isoformat(timespec="seconds")
        line = {"number": len(self.lines) + 1, "when": when, "event": event, **facts, "before": self.last_hash}
        line["hash"] = _hash(line)
        text = json.dumps(line) + "\n"
        with writing_to(self._path), self._path.open("r+b" if self._path.exists() else "w+b") as file:
            file.seek(_length_of_whole_lines(file.read()))
            file.truncate()  # what a killed process has begun to write
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        last = f"{line['number']} {line['hash']}\n"
        write_atomically(_last(self._path), lambda beside: beside.write_text(last))
        return line


def read_trail(path: Path) -> list[Line]:
    """All lines of a trail, checked; none if there is no trail. Raises `UserError` as `Trail` does."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    texts = content[: _length_of_whole_lines(content)].split(b"\n")[:-1]
    lines: list[Line] = []
    before = FIRST
    for number, text in enumerate(texts, start=1):
        line = _parsed(text)
        if line is None or line.get("hash") != _hash(line):
            raise UserError(f"{path}: line {number} was changed. {_ADVICE}")
        if line["number"] != number or line["before"] != before:
            raise UserError(
                f"{path}: before line {number}, which was written as line {line['number']}, lines were removed, added "
                f"or moved. {_ADVICE}"
            )
        before = line["hash"]
        lines.append(line)
    _check_end(path, lines)
    return lines


_ADVICE = "Restore the file from a copy; what follows can't be trusted."


def _check_end(path: Path, lines: list[Line]) -> None:
    """The line whose hash was noted last is there: a killed process may have written one more."""
    try:
        number, digest = _last(path).read_text().split()
    except (OSError, ValueError):
        number, digest = "0", FIRST
        if len(lines) > 1:
            raise UserError(f"{_last(path)}, the hash of the last line of {path}, is gone. {_ADVICE}") from None
    if int(number) > len(lines):
        raise UserError(f"{path}: lines {len(lines) + 1} to {number}, at its end, were removed. {_ADVICE}")
    if int(number) > 0 and lines[int(number) - 1]["hash"] != digest:
        raise UserError(f"{path}: line {number} is not the one that was written. {_ADVICE}")
    if int(number) < len(lines) - 1:
        raise UserError(f"{path}: lines {int(number) + 1} to {len(lines)} were added by somebody else. {_ADVICE}")


def _last(path: Path) -> Path:
    return path.with_suffix(".last")


def _length_of_whole_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = parse_json(text.decode("utf-8"), with_nan=False)
    except (DocumentError, UnicodeDecodeError):
        return None
    has_all = isinstance(line, dict) and {"number", "when", "event", "before", "hash"} <= line.keys()
    return line if has_all else None


def _hash(line: Line) -> str:
    """Of all that a line says, without its own hash."""
    content = json.dumps({name: value for name, value in line.items() if name != "hash"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
