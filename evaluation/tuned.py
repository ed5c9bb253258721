"""Hyper-parameters that `python main.py tune` has found: `methods/tuned/<task>.yaml`, one entry for each method."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from data import TaskSpec, UserError, task_info
from data.documents import read_yaml
from data.files import generated_folder, locked, write_atomically

HEADER = "# Found by `python main.py tune`; `-m NAME` uses these values, `-m NAME --published` does not.\n"
SUITE = "suite-"
"""How the names of files begin that hold the values for a suite."""
HEADER_OF_SUITES = "# Found by `python main.py suite NAME -m METHOD --trials N`, on the tuning part of the suite.\n"


@dataclass(frozen=True)
class Tuned:
    """Values for a method, and what it took to find them."""

    settings: tuple[tuple[str, Any], ...]
    """Hyper-parameters by name; the others keep their published values."""
    trials: int
    """Settings that were tried, the published one among them."""

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Tuned:
        """From an entry of a file, or part of a `config.yaml`. Raises KeyError, TypeError or ValueError."""
        trials = int(values["trials"])
        if trials < 1:
            raise ValueError(f"{trials} trials")
        return Tuned(tuple(dict(values["settings"]).items()), trials)

    def to_dict(self) -> dict[str, Any]:
        """As what a file holds."""
        return {"settings": dict(self.settings), "trials": self.trials}


def tuned_path(task: TaskSpec) -> Path:
    """The file of a problem: `digits.yaml`, `faces-full.yaml`; a hash follows if the user changed more than the size.

    Another forget request, network or recipe is another problem: values that suit one are not passed on to the other.
    """
    size = None if task.size == task_info(TaskSpec(task.name)).size else task.size  # the default, named or not
    name = task.name if size is None else f"{task.name}-{size}"
    if task != TaskSpec(task.name, size=task.size):
        # Values of the recipe are texts from the command line, and numbers from Python.
        recipe = tuple(sorted((key, str(value)) for key, value in task.recipe))
        changed = asdict(replace(task, size=size, recipe=recipe))
        name += "-" + hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]
    return tuned_file(name)


def tuned_file(name: str) -> Path:
    """A file of tuned values: in `methods/tuned/`, or where the environment variable UNLEARNING_TUNED says."""
    return generated_folder("UNLEARNING_TUNED") / f"{name}.yaml"


def find_tuned(task: TaskSpec, method: str) -> Tuned | None:
    """The values that were found for `method` on this problem; None if it has not been tuned.

    Raises:
        UserError: the file is damaged.
    """
    return tuned_in(tuned_path(task), method)


def tuned_in(path: Path, method: str) -> Tuned | None:
    """The values for `method` in a file; None if it has none, or is not there. Raises `UserError` if it is damaged."""
    found = search_in(path, method)
    return None if found is None else found.tuned


@dataclass(frozen=True)
class Search:
    """All that a file keeps of the search for a method's values."""

    tuned: Tuned
    code: str | None
    """Hash of the code that they were found with; None if the file does not say."""
    best: float | None
    """Share of the ceiling that the best values had; None if the file does not say. (The values of methods that certify
    are chosen by the validation accuracy.)"""
    published: float | None
    """That of the published values, likewise."""


def search_in(path: Path, method: str) -> Search | None:
    """The search for a method's values in a file; None, and errors, as of `tuned_in`."""
    entry = _read(path).get(method)
    if entry is None:
        return None
    try:
        tuned = Tuned.from_dict(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the entry of {method} is damaged ({error}): {_remedy(path)}.") from error
    best, published, ceiling = map(_number, map(entry.get, ("score", "published_score", "ceiling")))
    code = entry.get("code")
    return Search(
        tuned,
        code if isinstance(code, str) else None,
        best / ceiling if best is not None and ceiling else None,
        published / ceiling if published is not None and ceiling else None,
    )


def _number(value: Any) -> float | None:
    """A score in a file; None for what is none."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value < math.inf else None


def write_tuned(path: Path, method: str, entry: dict[str, Any]) -> None:
    """Write or replace the entry of a method; `entry` has what `Tuned` has, and whatever else is worth keeping."""
    with locked(path.with_name(f".{path.name}.lock")):
        entries = dict(sorted({**_read(path), method: entry}.items()))
        header = HEADER_OF_SUITES if path.name.startswith(SUITE) else HEADER
        text = header + yaml.safe_dump(entries, sort_keys=False)
        write_atomically(path, lambda beside: beside.write_text(text))


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_yaml(path) or {})
    except FileNotFoundError:
        return {}
    except (OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} can't be read ({reason}): {_remedy(path)}.") from error


def _remedy(path: Path) -> str:
    """What to do about a file of values that can't be used."""
    return "repair or remove it" if path.name.startswith(SUITE) else "repair it, or use --published"
