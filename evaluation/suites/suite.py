"""What a suite is: a YAML file that names gradings, of which some are for tuning and the others are held out.

Values that were found on the examples that a method is then graded on flatter it. In a suite the methods are tuned on
some forget requests and graded on others, of the same kinds. A file is this:

    about: digits, forgotten in two ways
    task: {name: digits}          # fields as in the config.yaml of a grading
    originals: 2                  # of each grading
    models: 32
    budget: 0.2
    kinds:
      random:
        tuning: ["random:0.15@1"]
        held_out: ["random:0.15@101", "random:0.15@102"]
      small:
        task: {train_size: 200}   # what differs from the task above
        held_out: ["random:20@1", "random:20@2"]

A kind without `tuning` is one that nobody could tune for. Each has two held-out requests or more, so that it can be
told how much a number varies from one forget set to the next.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from data import TaskSpec, UserError
from data.documents import read_yaml
from data.errors import shortened, unknown_name
from evaluation.report import results_folder
from evaluation.spec import GradingSpec
from evaluation.texts import with_numbers
from evaluation.tuned import SUITE, Tuned, tuned_file

FOLDER = Path(__file__).parent
ROLE = "suite:"
"""How the role of its gradings begins; see `TaskSpec.role`."""
FEWEST_HELD_OUT = 2
"""Of a kind: a deviation takes two."""
NOT_OF_A_SUITE = ("forget", "role", "step", "at_once")
"""Fields of a task that the requests of a suite decide."""

NAME = re.compile(r"\w[\w.-]{0,49}")
"""What a suite and a kind may be called: it becomes the name of a folder, and of a column."""
WITH_OWN_DATA = ("folder", "kaggle")
"""Tasks whose images are those of a folder; all others have the same ones, wherever they lie."""
Requests = Annotated[list[Annotated[str, Meta(min_length=1, max_length=10_000)]], Meta(max_length=100)]


class _KindInFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    held_out: Requests
    tuning: Requests = []
    task: dict[str, Any] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    about: Annotated[str, Meta(min_length=1, max_length=200)]
    task: dict[str, Any]
    kinds: Annotated[dict[str, _KindInFile], Meta(min_length=1, max_length=50)]
    originals: Annotated[int, Meta(ge=1, le=1000)] = 2
    models: Annotated[int, Meta(ge=1, le=10_000)] = 32
    budget: Annotated[float, Meta(gt=0, le=1e6)] = 0.2


@dataclass(frozen=True)
class Problem:
    """One grading of a suite, without a method."""

    kind: str
    grading: GradingSpec

    @property
    def request(self) -> str:
        """What is to be forgotten."""
        return self.grading.task.forget[0]

    def in_folder(self, data_dir: str) -> Problem:
        """The same with the images in that folder."""
        return replace(self, grading=replace(self.grading, task=replace(self.grading.task, data_dir=data_dir)))

    def graded(self, method: str, tuned: Tuned | None = None, budget_seconds: float | None = None) -> GradingSpec:
        """The grading of a method, whose runs may take so long."""
        return replace(self.grading, method=method, tuned=tuned, budget_seconds=budget_seconds)


@dataclass(frozen=True)
class Suite:
    """Gradings for tuning, and held-out ones."""

    name: str
    about: str
    tuning: tuple[Problem, ...]
    held_out: tuple[Problem, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the held-out gradings, in the order of the file."""
        return tuple(dict.fromkeys(problem.kind for problem in self.held_out))

    @property
    def folder(self) -> Path:
        """Where its results are kept: `results/suite-<name>-<hash>`, another for other held-out gradings."""
        return results_folder() / f"suite-{self.name}-{_digest(self.held_out)}"

    @property
    def tuned_path(self) -> Path:
        """The file of the values that were found on its tuning part: another for another one."""
        return tuned_file(f"{SUITE}{self.name}-{_digest(self.tuning)}")

    def in_folder(self, data_dir: str) -> Suite:
        """The same with the images in that folder."""
        tuning, held_out = (tuple(one.in_folder(data_dir) for one in part) for part in (self.tuning, self.held_out))
        return replace(self, tuning=tuning, held_out=held_out)


def names_of_suites() -> list[str]:
    """Of those of the kit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_suite(name: str) -> Suite:
    """The suite of the kit of this name, or that in a file.

    Raises:
        UserError: there is none, or the file is not the description of a suite.
    """
    path = Path(name)
    if not path.suffix and path.name == name:
        if name not in names_of_suites():
            raise unknown_name("suite", name, names_of_suites())
        path = FOLDER / f"{name}.yaml"
    try:
        return _read(path.expanduser())
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{path} can't be read: {error}") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Name a suite, or the YAML file of one.") from error
    except (TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the file of a suite: {reason}.") from error


def _read(path: Path) -> Suite:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError("it is no mapping of names to values")
    if "budget" in values:
        values["budget"] = with_numbers(values["budget"])
    file = msgspec.convert(values, _File)
    for name, kind in {path.stem: None, **file.kinds}.items():
        if not NAME.fullmatch(name):
            raise ValueError(
                f"a suite or a kind can't be called {shortened(name)!r}: letters, digits, - and _ can be used"
            )
        if kind is not None and len(kind.held_out) < FEWEST_HELD_OUT:
            raise ValueError(f"kind {name} needs at least {FEWEST_HELD_OUT} held-out requests, to tell how they vary")
    usual = GradingSpec("", originals=file.originals, models=file.models, budget=file.budget)
    parts: dict[str, list[Problem]] = {"tuning": [], "held_out": []}
    for name, kind in file.kinds.items():
        task = _task({**file.task, **kind.task})
        for part, problems in parts.items():
            requests = getattr(kind, part)
            for request in requests:  # each with originals of its own: they are a sample, as forget sets are
                problems.append(
                    Problem(name, replace(usual, task=replace(task, forget=(request,), role=ROLE + request)))
                )
    _check_once([*parts["tuning"], *parts["held_out"]])
    return Suite(path.stem, file.about, tuple(parts["tuning"]), tuple(parts["held_out"]))


def _task(values: dict[str, Any]) -> TaskSpec:
    known = [field.name for field in fields(TaskSpec) if field.name not in NOT_OF_A_SUITE]
    for name in values:
        if name not in known:
            raise ValueError(f"its task has an unknown entry {name}; these are known: {', '.join(known)}")
    recipe = values.get("recipe") or {}
    if not isinstance(recipe, dict):
        raise ValueError("its recipe is no mapping of names to values")
    return msgspec.convert({**values, "recipe": list(recipe.items())}, TaskSpec)


def _check_once(problems: list[Problem]) -> None:
    """Raise ValueError if two gradings are one, which must not be both tuned on and held out, nor count twice."""
    tasks = [problem.grading.task for problem in problems]
    for problem in problems:
        if tasks.count(problem.grading.task) > 1:
            raise ValueError(f"{problem.request} is in it twice")


def _with_data(task: TaskSpec) -> TaskSpec:
    """The task with its folder, if that decides which images it has."""
    folder = task.data_dir and str(Path(task.data_dir).expanduser().resolve())
    return replace(task, data_dir=folder if task.name in WITH_OWN_DATA else None)


def _digest(problems: tuple[Problem, ...]) -> str:
    """A hash of all that decides these gradings."""
    described = [[one.kind, asdict(_with_data(one.grading.task))] for one in problems]
    numbers = [[one.grading.originals, one.grading.models, one.grading.budget, one.grading.metric] for one in problems]
    return hashlib.sha256(json.dumps([described, numbers]).encode()).hexdigest()[:8]
