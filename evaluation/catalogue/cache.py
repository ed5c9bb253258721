"""What child processes have said of methods, on disk, for as long as nothing has changed that it came from.

`methods/<class>-<hash>.json` in the cache, the hash being that of the class's name and of its file. An entry holds only
while all these are the same: every file that was opened or that the code names, the modules that were looked for and
are not there, the environment variables that were asked for, Python, PyTorch, and the kit's own files that describe.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from data import UserError
from data.documents import DocumentError, read_json
from data.files import generated_folder, sha256_of, write_atomically
from evaluation.catalogue.facts import Described
from methods.registry import Place

ROOT = Path(__file__).parents[2]


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What a child process says when it could import a method's file, and what that depends on."""

    facts: Described
    elsewhere: list[str]
    """Files outside of the kit."""
    absent: list[str]
    """Modules that are not there."""
    variables: list[str]
    """Of the environment."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    answer: Answer
    files: dict[str, str]
    """Of the kit, with their SHA-256."""
    surroundings: str
    """See there."""


def find(place: Place) -> tuple[Answer, dict[str, str]] | None:
    """What is known of the method in a file, and the hashes of its files; None if it has to be asked for."""
    try:
        entry = msgspec.convert(read_json(_path(place)), _Entry)
        if entry.files != digests(entry.answer.facts.files) or entry.surroundings != surroundings(entry.answer):
            return None
    except (OSError, DocumentError, msgspec.ValidationError):
        return None
    return entry.answer, entry.files


def keep(place: Place, answer: Answer, files: Mapping[str, str], asked: float) -> None:
    """Keep an answer to a question that was asked at a time, in seconds; not if a file was changed meanwhile."""
    try:
        if max(os.stat(ROOT / file).st_mtime for file in files) >= asked:
            return
        entry = msgspec.to_builtins(_Entry(answer, dict(files), surroundings(answer)))
        # JSON of the standard library, which has infinity.
        text = json.dumps(entry)
        write_atomically(_path(place), lambda beside: beside.write_text(text))
    except (OSError, UserError):  # it is only slower without
        return


def digests(files: Collection[str]) -> dict[str, str]:
    """The SHA-256 of files, given by their path in the kit, or where submissions are kept.

    Raises:
        OSError: one is not there, or lies elsewhere (a device could be read for ever).
    """
    kept = generated_folder("UNLEARNING_STRANGERS").resolve()
    for file in files:
        path = PurePosixPath(file)
        elsewhere = ".." in path.parts or (path.is_absolute() and Path(file).parent != kept)
        if elsewhere or not (ROOT / path).is_file():
            raise FileNotFoundError(f"{file} is no file of the kit")
    return {file: sha256_of(ROOT / file) for file in files}


def surroundings(answer: Answer) -> str:
    """A hash of all else that an answer depends on."""
    found: list[Any] = [_versions()]
    for name in answer.elsewhere:
        try:
            status = os.stat(name)
            found.append([name, status.st_size, status.st_mtime_ns])
        except OSError:
            found.append([name, None])
    found += [[name, _is_there(name)] for name in answer.absent]
    found += [[name, os.environ.get(name)] for name in answer.variables]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _is_there(module: str) -> bool:
    """Whether the kit has a module by now."""
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_name(f"{path.name}.py").is_file()


@cache
def _versions() -> list[str]:
    own = [*Path(__file__).parent.glob("*.py"), ROOT / "methods" / "BaseMethod.py", ROOT / "methods" / "registry.py"]
    return [sys.version, version("torch"), *(sha256_of(path) for path in sorted(own))]


def _path(place: Place) -> Path:
    content = (ROOT / place.file).read_bytes()
    digest = hashlib.sha256(json.dumps(place).encode() + content).hexdigest()[:16]
    return generated_folder("UNLEARNING_CACHE") / "methods" / f"{place.class_name}-{digest}.json"
