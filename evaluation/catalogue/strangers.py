"""Methods in files that are none of the kit's: somebody has handed them in, and nobody trusts them.

Such a file lies in a folder of its own (the variable UNLEARNING_STRANGERS), under the name of its content,
`submission_<hash>.py`. That is the method's name, too: no method of the kit is called so. It may import the kit's
methods. What it says about which files it needs is not believed, because a sandbox lets it read those.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from data.files import generated_folder, write_atomically
from evaluation.catalogue.facts import Described
from evaluation.catalogue.sources import PACKAGE
from methods.registry import Place

NAME = re.compile(r"submission_[0-9a-f]{24}")


def admit(content: bytes) -> str:
    """Keep a file of Python that somebody has handed in, and give the name of the method in it. Nothing is executed."""
    name = f"submission_{hashlib.sha256(content).hexdigest()[:24]}"
    path = _path(name)
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, lambda beside: beside.write_bytes(content))
    return name


def stranger(name: str) -> Place | None:
    """Where the method of this name is, if it is one that somebody has handed in."""
    return Place(name, "", str(_path(name).resolve())) if NAME.fullmatch(name) else None


def only_own(said: Described, place: Place) -> None:
    """Of the files that a stranger's method says it is in, leave its own and those in `methods/`."""
    said.source_file = place.file
    said.files = [place.file, *(file for file in said.files if _is_method(file))]


def _is_method(file: str) -> bool:
    path = PurePosixPath(file)
    return path.parts[:1] == (PACKAGE,) and len(path.parts) == 2 and path.suffix == ".py"


def _path(name: str) -> Path:
    return generated_folder("UNLEARNING_STRANGERS") / f"{name}.py"
