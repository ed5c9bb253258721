"""docs/extending.md: every example on it, added to a copy of the kit, works, and touches two files at most."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
FEW_MODELS = "--recipe epochs=2 --models 8 --originals 1 --workers 1"
SMALL = f"--train-size 60 --test-size 60 {FEW_MODELS}"
SHORTER = {
    "A method": f"{SMALL} --budget-seconds 60",
    "A metric": f"{SMALL} --budget-seconds 60",
    "An audit": SMALL,
    "A task": f"{FEW_MODELS} --budget-seconds 60",
    "A network": f"{SMALL} --budget-seconds 60",
    "A figure": "--train-size 60 --jobs 1",
}
"""Options with which an example takes seconds."""
SAID = {
    "A method": "halve scale=0.3",
    "A metric": "my_method",
    "An audit": "retrained (ideal)",
    "A task": "my_method",
    "A network": "my_method",
    "A figure": "noisy fine-tuning",
}
"""What standard output then has."""


@dataclass(frozen=True)
class Example:
    """A section of the page."""

    new_files: dict[str, str]
    """Their texts."""
    edits: dict[str, list[tuple[str, str]]]
    """What replaces a line, by file."""
    command: str


def read_examples() -> dict[str, Example]:
    """The sections by title: files are named in the line before their block, edits in the first line of theirs."""
    sections = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {title: read_example(text) for title, text in zip(sections[::2], sections[1::2], strict=True)}


def read_example(text: str) -> Example:
    """One of them."""
    new_files = dict(re.findall(r"^`([\w/.-]+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    edits = {}
    for file, body in re.findall(r"^```diff\n--- (\S+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        edits[file] = [
            (old, "".join(line[1:] + "\n" for line in new.splitlines()))
            for old, new in re.findall(r"^-(.*\n)((?:\+.*\n)+)", body, flags=re.MULTILINE)
        ]
    (command,) = re.findall(r"^```\npython main\.py (.*)\n```$", text, flags=re.MULTILINE)
    return Example(new_files, edits, command)


EXAMPLES = read_examples()


def test_all_that_plugs_in_is_there() -> None:
    """Catches a section that is not read as one."""
    assert list(EXAMPLES) == ["A method", "A metric", "An audit", "A task", "A network", "A figure"]


@pytest.mark.parametrize("title", EXAMPLES)
def test_it_takes_two_files(title: str) -> None:
    """At most: one that is new, and a registry. All edits are of lines that are there, once."""
    example = EXAMPLES[title]
    assert len(example.new_files) == 1
    assert len(example.new_files.keys() | example.edits.keys()) <= 2
    for file, lines in example.edits.items():
        text = (PAGE.parent.parent / file).read_text()
        assert lines
        assert all(text.count(old) == 1 for old, _ in lines)


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_it_works(title: str, make_kit: Callable[[], Kit], results: Path) -> None:
    """The command under it, on less data, comes to an end, and says what was added."""
    example, kit = EXAMPLES[title], make_kit()
    for file, text in example.new_files.items():
        (kit.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (kit.folder / file).write_text(text)
    for file, lines in example.edits.items():
        for old, new in lines:
            kit.edit(file, old, new)
    answer = kit.run(*example.command.split(), *SHORTER[title].split())
    assert answer.code == 0, answer.stderr
    assert SAID[title] in answer.stdout
    if title == "An audit":
        check_audit(kit, f"{example.command} {SHORTER[title]}".split())


def check_audit(kit: Kit, command: list[str]) -> None:
    """It has rows for a spreadsheet, and a schema with its explanations."""
    (header, *rows) = csv.reader(io.StringIO(kit.run(*command, "--csv", "--quiet").stdout))
    assert header[-2:] == ["kind", "agreement"]
    assert [row[-2] for row in rows] == ["unlearned", "retrained"]
    schema = json.loads(kit.run("schema", "agreement").stdout)
    assert schema["$defs"]["Agreement"]["properties"]["unlearned"]["description"] == "Unlearned and retrained models."
