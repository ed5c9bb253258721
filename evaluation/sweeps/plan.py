"""What a sweep's YAML file asks for: curves, each a method with settings to choose among, at several places of x."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

from data import TaskSpec, UserError
from data.documents import DocumentError, read_yaml
from data.errors import shortened, unknown_name
from evaluation.catalogue.lookup import facts_of
from evaluation.spec import choose_methods
from evaluation.texts import with_numbers
from methods.BaseMethod import PLAIN_TYPES

MOST_RUNS, MOST_SEEDS, MOST_X = 100_000, 10_000, 1_000_000
"""Of a sweep: runs, seeds, and numbers along the x axis, such as epochs. More is a mistake."""
MOST_INTEGER, MOST_CHARACTERS = 2**64, 10_000
"""Of a value."""
FORMAT = re.compile(r"[.0-9]{0,4}[bcdeEfFgGns%]?")
"""How a value may be written in the name of a curve."""

FIGURES = ("budget", "course", "convergence")
"""What is drawn over x: the accuracy after a run with this x; that after x passes of a run of a given length, with the
best settings for each x; or the whole course of the longest run, with the settings that are best in the end."""

Settings = tuple[tuple[str, Any], ...]
"""Hyper-parameters and their values."""


@dataclass(frozen=True)
class Curve:
    """One line of the figure."""

    name: str
    method: str
    task: TaskSpec
    x: str
    """The hyper-parameter that goes along the x axis: `epochs`, as a rule."""
    configurations: tuple[Settings, ...]
    """The settings to choose the best of, for each x by itself."""
    published: Mapping[float, float]
    """Published accuracies by x, to be put beside; empty if there are none."""


@dataclass(frozen=True)
class Run:
    """One run of a method: the settings in full, and the seed, which is also the number of the original."""

    task: TaskSpec
    method: str
    settings: Settings
    seed: int


@dataclass(frozen=True)
class Sweep:
    """A figure, and all the runs that it takes."""

    title: str
    figure: str
    values: tuple[float, ...]
    """The places on the x axis; of a convergence figure the last is the length of the runs."""
    seeds: int
    curves: tuple[Curve, ...]
    length: float | None = None
    """That of the runs of a course."""

    @property
    def lengths(self) -> tuple[float, ...]:
        """The values of x that there are runs for."""
        if self.length is not None:
            return (self.length,)
        return self.values if self.figure == "budget" else self.values[-1:]

    def run(self, curve: Curve, configuration: Settings, x: float, seed: int) -> Run:
        """One of the runs of a curve."""
        return Run(curve.task, curve.method, (*configuration, (curve.x, x)), seed)

    def runs(self) -> list[Run]:
        """All of them, each once: the longest first, and those of one task together."""
        found = dict.fromkeys(
            self.run(curve, configuration, x, seed)
            for curve in self.curves
            for x in sorted(self.lengths, reverse=True)
            for configuration in curve.configurations
            for seed in range(self.seeds)
        )
        tasks = list(dict.fromkeys(run.task for run in found))
        return sorted(found, key=lambda run: tasks.index(run.task))


def read_sweep(path: Path, task: Mapping[str, Any] | None = None, seeds: int | None = None) -> Sweep:
    """The sweep that a file describes; `task` and `seeds` replace what it says of them.

    Raises:
        UserError: the file can't be read, or a key or value in it makes no sense; the message names it.
    """
    try:
        described = with_numbers(read_yaml(path))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): name a YAML file of benchmarks/sweeps/.") from error
    except DocumentError as error:
        raise UserError(f"{path} can't be used: {error}.") from error
    try:
        return _sweep(described, task or {}, seeds)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sweep(described: Any, task: Mapping[str, Any], seeds: int | None) -> Sweep:
    known = ("title", "figure", "x", "values", "length", "seeds", "task", "curves")
    top = _mapping(described, "a sweep", known, required=("title", "figure", "values", "task", "curves"))
    if top["figure"] not in FIGURES:
        raise UserError(f"figure is one of {', '.join(FIGURES)}, not {_shown(top['figure'])}.")
    values = _list(top["values"], "values")
    if not all(_is_number(value) for value in values) or sorted(set(values)) != values:
        raise UserError("values must be increasing numbers, like [1, 2, 3].")
    if not all(abs(value) <= MOST_X for value in values):
        raise UserError(f"values can't be beyond {MOST_X:,}.")
    length = top.get("length")
    if (length is not None) != (top["figure"] == "course"):
        raise UserError("length is the number of passes of each run of a course: only that figure needs it.")
    if length is not None and not all(_is_whole(one) and 0 <= one <= length <= MOST_X for one in (length, *values)):
        raise UserError("values and length of a course are whole numbers of passes, and no value may exceed length.")
    count = top.get("seeds", 4) if seeds is None else seeds
    if not _is_whole(count) or count < 1:
        raise UserError(f"seeds must be a whole number from 1, not {_shown(count)}.")
    if count > MOST_SEEDS:
        raise UserError(f"seeds can't be more than {MOST_SEEDS:,}.")
    curves: dict[str, Curve] = {}
    for entry in _list(top["curves"], "curves"):
        for curve in _curves(entry, top["task"], task, str(top.get("x", "epochs"))):
            if curve.name in curves:
                raise UserError(f"Two curves are called {_shown(curve.name)}: give each its own name.")
            curves[curve.name] = curve
    sweep = Sweep(
        shortened(str(top["title"]), 1000), top["figure"], tuple(values), count, tuple(curves.values()), length
    )
    runs = sum(len(curve.configurations) for curve in sweep.curves) * len(sweep.lengths) * count
    if runs > MOST_RUNS:
        raise UserError(f"It asks for {runs:,} runs, and can't have more than {MOST_RUNS:,}.")
    return sweep


def _curves(entry: Any, task: Any, overrides: Mapping[str, Any], x: str) -> Iterator[Curve]:
    """The curve of an entry; or several, one for each value of `for_each`."""
    known = ("name", "method", "x", "settings", "grid", "for_each", "task", "published")
    values = _mapping(entry, "a curve", known, required=("name", "method"))
    method = _one_method(values["method"])
    spec = _task({**_joined(task, values.get("task", {})), **overrides})
    grids = values.get("grid", {})
    points = [point for grid in (grids if isinstance(grids, list) else [grids]) for point in _product(grid, "grid")]
    fixed = _mapping(values.get("settings", {}), "settings")
    along = str(values.get("x", x))
    if along not in facts_of(method).hyper_parameters:
        raise UserError(f"{method} has no hyper-parameter {_shown(along)} for the x axis: name one with x.")
    published = {} if values.get("published") is None else _published(values["published"], bool(values.get("for_each")))
    for one in _product(values.get("for_each", {}), "for_each"):
        name = _filled_in(str(values["name"]), one)
        configurations = tuple(_settings({**fixed, **one, **point}) for point in points)
        yield Curve(name, method, spec, along, configurations, published.get(name, published.get("", {})))


def _one_method(value: Any) -> str:
    """The registered method that an entry names."""
    name = value.strip() if isinstance(value, str) else ""
    if name in ("", "all") or "," in name:
        raise UserError(f"A curve has one method, not {_shown(value)}: write a curve for each method.")
    (method,) = choose_methods(name)
    return method


def _filled_in(name: str, values: Mapping[str, Any]) -> str:
    """The name of a curve with the values in place of their names in braces, which may have a format, like {noise:.2g}.

    An attribute of a value, or a width of a thousand million, is refused: the file may be somebody else's.
    """
    try:
        parts = list(Formatter().parse(name))
        for _, field_name, how, conversion in parts:
            if field_name is not None and (field_name not in values or conversion or not FORMAT.fullmatch(how or "")):
                raise KeyError(field_name)
        return shortened(name.format(**values), 200)
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"The name {_shown(name)} of a curve refers to something that for_each does not have."
        ) from error


def _settings(values: Mapping[str, Any]) -> Settings:
    for name, value in values.items():
        if not isinstance(value, PLAIN_TYPES):
            raise UserError(f"{shortened(str(name))} must be a number, a text, true or false, not {_shown(value)}.")
        if (isinstance(value, int) and abs(value) >= MOST_INTEGER) or len(str(value)) > MOST_CHARACTERS:
            raise UserError(f"{shortened(str(name))} can't have a value as long as {_shown(value)}.")
    return tuple(sorted((str(name), value) for name, value in values.items()))


def _published(values: Any, several: bool) -> dict[str, dict[float, float]]:
    """Accuracies by x, under the name of the curve; or under "" where there is one curve only."""
    by_curve = _mapping(values, "published") if several else {"": values}
    found = {}
    for name, accuracies in by_curve.items():
        accuracies = _mapping(accuracies, "published")
        if not all(_is_number(number) for pair in accuracies.items() for number in pair):
            raise UserError("published must have accuracies by x, like {1: 0.7, 2: 0.75}.")
        found[str(name)] = {float(x): float(accuracy) for x, accuracy in accuracies.items()}
    return found


def _product(grid: Any, what: str) -> list[dict[str, Any]]:
    """Every combination of the values of a grid.

    >>> _product({"a": [1, 2], "b": [3]}, "grid")
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    values = {name: _list(choices, f"{what}: {name}") for name, choices in _mapping(grid, what).items()}
    combinations = math.prod(map(len, values.values()))
    if combinations > MOST_RUNS:
        raise UserError(f"{what} has {combinations:,} combinations, and can't have more than {MOST_RUNS:,}.")
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _joined(task: Any, other: Any) -> dict[str, Any]:
    """The task of a curve: that of the sweep, with what the curve says otherwise; recipes are joined."""
    first, second = _mapping(task, "task"), _mapping(other, "task")
    recipe = {**_mapping(first.get("recipe", {}), "recipe"), **_mapping(second.get("recipe", {}), "recipe")}
    return {**first, **second, "recipe": recipe}


def _task(values: Mapping[str, Any]) -> TaskSpec:
    known = [field.name for field in fields(TaskSpec) if field.name not in ("role", "step", "at_once")]
    values = _mapping(values, "task", known, required=("name",))
    for name in ("train_size", "test_size"):
        if not isinstance(values.get(name), (int, type(None))):
            raise UserError(f"{name} must be a whole number, not {_shown(values[name])}.")
    for name in set(values) - {"train_size", "test_size", "recipe", "forget"}:
        if not isinstance(values[name], (str, type(None))):
            raise UserError(f"{name} must be a text, not {_shown(values[name])}.")
    requests = values.get("forget", [])
    requests = requests if isinstance(requests, list) else [requests]
    return TaskSpec(**{**values, "forget": tuple(map(str, requests)), "recipe": tuple(values["recipe"].items())})


def _mapping(
    values: Any, what: str, known: Iterable[str] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{what} must be a mapping of keys to values, not {_shown(values)}.")
    for name in values:
        if known is not None and name not in known:
            raise unknown_name(f"key of {what}", str(name), known)
    for name in required:
        if name not in values:
            raise UserError(f"{what} needs the key {name}.")
    return values


def _list(values: Any, what: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{what} must be a list, like [1, 2], not {_shown(values)}.")
    return values


def _shown(value: Any) -> str:
    """A value in a message."""
    return shortened(repr(value), 100)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < MOST_INTEGER  # neither NaN nor infinity, nor 10^400, which is no floating point number


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
