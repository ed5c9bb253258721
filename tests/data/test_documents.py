"""Documents from others: whatever is in a file that a command gets, the answer is one sentence, and no code runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data.documents import MOST_BYTES, DocumentError, parse_json, read_json, read_text, read_yaml
from data.errors import UserError
from evaluation.spec import GradingSpec
from tests.command_line import command

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 15))
"""Fifteen lines that stand for some 10^14 values."""

HOSTILE = {
    "nothing": b"",
    "null": b"null",
    "a number": b"3",
    "a text": b"hello",
    "a list": b"[1, 2]",
    "an empty object": b"{}",
    "no UTF-8": b"\xff\xfe\x00\x81",
    "zeros": b"\x00" * 100,
    "cut off": b'{"method": "my_method", "models": [1, 2',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "many values in few lines": LAUGHS.encode(),
    "a list that is in itself": b"method: &a [*a]\ntitle: *a\n",
    "a huge number": b"method: my_method\nmodels: 1" + b"0" * 400,
    "infinity": b"method: my_method\nbudget: .inf\n",
    "no date": b"method: 2020-13-45\n",
    "code": b'!!python/object/apply:os.system ["touch canary"]',
    "more code": b"method: !!python/name:os.system\n",
    "other types": b"method: [1]\ntask: 3\nsettings: x\nmodels: many\n",
    "types in the task": b"method: my_method\ntask: {name: 3, forget: [3], recipe: [1]}\n",
    "a text for a list": b"method: my_method\ntask: {forget: class}\n",
    "true for a number": b"method: my_method\nmodels: true\n",
    "markup": b"method: '[/red]$\\frac{1}{2}$'\nfoo: 1\n",
    "keys that are no text": b"1: 2\n? [a]\n: b\n",
}
COMMANDS = {
    "config": ("--config", "{file}"),
    "sweep": ("sweep", "{file}"),
    "certify": ("certify", "{file}"),
    "score": ("score", "{folder}"),
    "history": ("history", "{folder}"),
}


@pytest.mark.parametrize("start", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_document_of_somebody_else(
    content: bytes, start: tuple[str, ...], tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the file that the command reads, and as a run's notes. Catches a traceback, and code that runs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "digits-1" / "my_method-2"
    (folder / "runs").mkdir(parents=True)
    for name in ("config.yaml", "report.json", "outputs.npz", "runs/original-000-run-0000.json"):
        (folder / name).write_bytes(content)
    answer = command(*(word.format(file=folder / "config.yaml", folder=folder) for word in start))
    assert (answer.code, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1000
    assert not Path("canary").exists()


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link to nothing", "a folder"])
def test_only_files_are_read(kind: str, tmp_path: Path, results: Path) -> None:
    """A pipe that nobody writes to would be waited for, a device read for ever. A zip is no exception."""
    path = tmp_path / "file"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else tmp_path / "nothing")
    for words in (["--config"], ["sweep"], ["certify"], ["grade", "--task", "digits", "--models", "6"]):
        first, *more = words
        answer = command(first, str(path), *more)
        assert (answer.code, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no room, and no time to refuse."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DocumentError, match=f"more than {MOST_BYTES >> 20} MB"):
        read_text(tmp_path / "large")


def test_what_is_right_is_read(tmp_path: Path) -> None:
    """References in YAML too, which sweeps use; NaN in JSON only where it is allowed."""
    path = tmp_path / "file"
    path.write_text("a: &grid {x: [1, 2.5]}\nb: *grid\n")
    assert read_yaml(path) == {"a": {"x": [1, 2.5]}, "b": {"x": [1, 2.5]}}
    path.write_text(json.dumps({"ü": [1, None, "x"]}))
    assert read_json(path) == {"ü": [1, None, "x"]}
    assert parse_json("[Infinity]") == [float("inf")]
    with pytest.raises(DocumentError, match="NaN is not a number"):
        parse_json("[NaN]", with_nan=False)


@pytest.mark.parametrize("name", ["originals", "models", "seed"])
def test_numbers_have_an_end(name: str) -> None:
    """Catches a grading that counts to 10^400."""
    with pytest.raises(UserError, match=f"--{name} can't be more than"):
        GradingSpec("my_method", **{name: 10**400})  # type: ignore[arg-type]
