"""From the results of single runs to what a figure shows: the best settings at each place, mean and standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation import texts
from evaluation.sweeps.plan import Curve, Settings, Sweep
from evaluation.sweeps.running import Result, Results
from evaluation.texts import counted, in_markdown

SPLITS = ("validation", "test", "retain", "forget")
"""Accuracies that a table has. The first chooses settings, and is what figures of the literature show."""

SERIES = "validation accuracy"
"""The name, in the history of a run, of what a convergence figure shows: first the start, then after each pass."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and its standard error, which is NaN for a single seed."""

    value: float
    error: float

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        """Of at least one value. The error is s / sqrt(n), where s has n - 1 degrees of freedom.

        >>> Mean.of([1.0, 3.0])
        Mean(value=2.0, error=1.0)
        """
        n = len(values)
        mean = math.fsum(values) / n
        squares = math.fsum((value - mean) ** 2 for value in values)
        return Mean(mean, math.sqrt(squares / (n - 1) / n) if n > 1 else math.nan)


@dataclass(frozen=True)
class Point:
    """A curve at one place of x, with the best of its settings."""

    curve: str
    method: str
    x: float
    accuracy: Mapping[str, Mean]
    """By split; in the course of a run the validation accuracy alone."""
    settings: Mapping[str, Any]
    """Those that the grid was searched for and found best; empty if there was nothing to choose."""
    seeds: int
    configurations: int
    """How many settings were compared: the more, the more the best validation accuracy flatters."""
    published: float | None


@dataclass(frozen=True)
class SweepResult:
    """All points of a sweep, curve by curve."""

    sweep: Sweep
    points: tuple[Point, ...]
    originals: Mapping[str, Mean]
    """The validation accuracy that the runs of each curve started from."""
    failures: tuple[str, ...]
    """Sentences."""
    data: tuple[str, ...] = ()
    """Names of the tasks, as in `Results`."""

    @property
    def title(self) -> str:
        """That of the sweep, with what the data are if that is not what one would expect."""
        unexpected = [name for name in self.data if "random-features" in name]
        return self.sweep.title + "".join(f" ({name})" for name in unexpected)


def summarise(sweep: Sweep, results: Results) -> SweepResult:
    """Choose the settings with the best mean validation accuracy over seeds, at each place by itself.

    Settings of which a run failed are left out; so is a place where all have, and from a figure of the course of runs
    a method that does not note it, which is a failure too.
    """
    points: list[Point] = []
    originals: dict[str, Mean] = {}
    failures = list(results.failed.values())
    for curve in sweep.curves:
        for length in sweep.lengths:
            complete = _complete(sweep, curve, length, results)
            if not complete:
                continue
            originals[curve.name] = Mean.of([run["original"] for run in next(iter(complete.values()))])
            if sweep.figure != "budget" and not _all_have_history(complete, sweep):
                failures.append(f"{curve.method} notes no history of the {SERIES}: {curve.name} has no curve.")
                continue
            points += _points(sweep, curve, length, complete)
    return SweepResult(sweep, tuple(points), originals, tuple(failures), results.data)


def _complete(sweep: Sweep, curve: Curve, length: float, results: Results) -> dict[Settings, list[Result]]:
    """The results of all seeds of a curve's runs of this length, for those settings that never failed."""
    found = {}
    for configuration in curve.configurations:
        runs = [results.finished.get(sweep.run(curve, configuration, length, seed)) for seed in range(sweep.seeds)]
        if None not in runs:
            found[configuration] = [run for run in runs if run is not None]
    return found


def _all_have_history(complete: Mapping[Settings, Sequence[Result]], sweep: Sweep) -> bool:
    """Whether there is one of each run, and as long as the figure needs."""
    needed = 1 + (int(max(sweep.values)) if sweep.figure == "course" else 0)
    return all(len(run["history"].get(SERIES, ())) >= needed for runs in complete.values() for run in runs)


def _points(
    sweep: Sweep, curve: Curve, length: float, complete: Mapping[Settings, Sequence[Result]]
) -> Iterator[Point]:
    """Those that runs of this length give: one, or one for each place of a course, or for each pass of the best."""

    def point(x: float, settings: Settings, accuracy: Mapping[str, Mean]) -> Point:
        return Point(
            curve=curve.name,
            method=curve.method,
            x=x,
            accuracy=accuracy,
            settings=_varying(curve, settings),
            seeds=sweep.seeds,
            configurations=len(curve.configurations),
            published=curve.published.get(x),
        )

    if sweep.figure == "course":
        for x in sweep.values:
            after = {one: _mean_after(int(x), runs) for one, runs in complete.items()}
            best = max(after, key=lambda settings: after[settings].value)
            yield point(x, best, {"validation": after[best]})
        return
    best = max(complete, key=lambda one: Mean.of([run["accuracy"]["validation"] for run in complete[one]]).value)
    runs = complete[best]
    if sweep.figure == "budget":
        yield point(length, best, {split: Mean.of([run["accuracy"][split] for run in runs]) for split in SPLITS})
        return
    for number in range(min(len(run["history"][SERIES]) for run in runs)):
        yield point(number, best, {"validation": _mean_after(number, runs)})


def _mean_after(passes: int, runs: Sequence[Result]) -> Mean:
    """The validation accuracy after this many passes over the retain set."""
    noted = [run["history"][SERIES][passes] for run in runs]
    return Mean.of([math.nan if value is None else value for value in noted])


def _varying(curve: Curve, settings: Settings) -> dict[str, Any]:
    """The settings in which the configurations of a curve differ."""
    return {
        name: value for name, value in settings if any(dict(other).get(name) != value for other in curve.configurations)
    }


# ----------------------------------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------------------------------


def as_csv(outcome: SweepResult) -> str:
    """A row for each point: accuracies with their standard errors, unrounded, and the settings as JSON."""
    columns = ["curve", "method", "x"]
    columns += [column for split in SPLITS for column in (split, f"{split}_standard_error")]
    columns += ["seeds", "configurations", "settings", "published"]
    rows = []
    for point in outcome.points:
        row: dict[str, Any] = {name: getattr(point, name) for name in ("curve", "method", "x", "seeds")}
        for split, mean in point.accuracy.items():
            row |= {split: mean.value, f"{split}_standard_error": mean.error}
        row |= {"configurations": point.configurations, "published": point.published}
        rows.append({**row, "settings": dict(point.settings)})
    return texts.as_csv(rows, columns)


def as_json(outcome: SweepResult) -> str:
    """The same as an object, with title, tasks, failures and what the runs started from."""
    described = {
        "title": outcome.title,
        "figure": outcome.sweep.figure,
        "data": outcome.data,
        "tasks": {curve.name: asdict(curve.task) for curve in outcome.sweep.curves},
        "originals": {name: asdict(mean) for name, mean in outcome.originals.items()},
        "points": [asdict(point) for point in outcome.points],
        "failures": list(outcome.failures),
    }
    return json.dumps(_without_nan(described), indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    """None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_markdown(outcome: SweepResult) -> str:
    """Validation accuracies as a table, a line for each curve, published ones below; and the best settings."""
    places = sorted({point.x for point in outcome.points})
    head = ["validation accuracy", *(f"{x:g}" for x in places)]
    rows = [head, ["---"] * len(head)]
    for curve in outcome.sweep.curves:
        points = {point.x: point for point in outcome.points if point.curve == curve.name}
        rows.append(
            [
                in_markdown(curve.name),
                *(_shown(points[x].accuracy["validation"]) if x in points else "" for x in places),
            ]
        )
        if curve.published:
            published = (curve.published.get(x) for x in places)
            rows.append(["published", *("" if value is None else f"{value:.3f}" for value in published)])
    lines = [f"**{in_markdown(outcome.title)}**", "", *("| " + " | ".join(row) + " |" for row in rows), ""]
    lines += [f"Mean ± standard error of {counted(outcome.sweep.seeds, 'seed')}. {_what_x_is(outcome)}"]
    for curve in outcome.sweep.curves:
        lines += _best_lines(curve.name, outcome)
    lines += [f"- {in_markdown(failure)}" for failure in outcome.failures]
    return "\n".join(lines) + "\n"


def _what_x_is(outcome: SweepResult) -> str:
    if outcome.sweep.figure == "course":
        return f"Columns: passes over the retain set, of runs that make {outcome.sweep.length:g}."
    if outcome.sweep.figure == "convergence":
        return "Columns: passes over the retain set; 0 is the start, after the noise."
    return f"Columns: {in_markdown(', '.join(dict.fromkeys(curve.x for curve in outcome.sweep.curves)))}."


def _shown(mean: Mean) -> str:
    return f"{mean.value:.3f}" if math.isnan(mean.error) else f"{mean.value:.3f} ± {mean.error:.3f}"


def _best_lines(name: str, outcome: SweepResult) -> list[str]:
    """Which settings were best where, if there was a choice."""
    points = [point for point in outcome.points if point.curve == name and point.settings]
    by_settings: dict[str, list[str]] = {}
    for point in points:
        text = in_markdown(", ".join(f"{key} {value}" for key, value in point.settings.items()))
        by_settings.setdefault(text, []).append(f"{point.x:g}")
    name = in_markdown(name)
    if outcome.sweep.figure == "convergence":
        return [f"- {name}: best of {points[0].configurations} with {text}" for text in by_settings]
    return [
        f"- {name}, {points[0].configurations} settings, best at {', '.join(places)}: {text}"
        for text, places in by_settings.items()
    ]
