"""The histories that runs leave in their notes, drawn or tabulated: losses, multipliers, whatever a method notes.

A run's notes are `runs/original-000-run-0000.json` in the folder of its grading. Every list of numbers in them is a
series, one number for an epoch or a step as the method likes. Other notes are drawn beside them if the method says how:
see `BaseMethod.drawings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.documents import read_json, read_yaml
from data.errors import UserError
from data.files import write_atomically
from data.texts import printable, unmathematical
from evaluation.runs.notes import curves, is_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

    from methods.BaseMethod import Bars, Drawing, Matrix

Histories = dict[str, list[list[float]]]
"""Series by name: a list of numbers for each run, which need not be of one length."""

PANELS = 3
"""Panels in a row."""

MOST_SERIES, MOST_ENTRIES = 100, 100_000
"""Series that are drawn, and numbers in one of them."""

MOST_NAMES = 16
"""The most bars in a panel whose names can be read beside it; more are numbered."""


def read_histories(folder: Path) -> Histories:
    """The histories of all runs of a grading.

    Raises:
        UserError: there is no run with a history.
    """
    return _histories(_read_notes(folder), folder)


def _histories(notes: Sequence[Mapping[str, Any]], folder: Path) -> Histories:
    histories: Histories = {}
    for of_run in notes:
        for name, values in curves(of_run).items():
            if len(values) > MOST_ENTRIES:
                raise UserError(f"{folder} has a history of more than {MOST_ENTRIES:,} entries, too long to be drawn.")
            histories.setdefault(name, []).append(values)
            if len(histories) > MOST_SERIES:
                raise UserError(f"{folder} has more than {MOST_SERIES} series, too many to be drawn.")
    if not histories:
        raise UserError(
            f"{folder} has no run with a history: name the folder of a grading in results/, of a method that leaves "
            'lists of numbers in self.notes, like self.notes = {"loss": [0.7, 0.5]} (constrained does).'
        )
    return histories


def _read_notes(folder: Path) -> list[dict[str, Any]]:
    """The notes of all runs of a grading, in order, that are objects."""
    found = []
    for path in sorted((folder / "runs").glob("*.json")):
        try:
            notes = read_json(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{path} can't be read as the notes of a run ({reason}): grade the method again."
            ) from error
        if isinstance(notes, dict):
            found.append(notes)
    return found


def _is_matrix(values: Any) -> bool:
    return (
        isinstance(values, list) and all(map(is_series, values)) and len(set(map(len, values))) == 1 and _fits(values)
    )


def _fits(matrix: Sequence[Sequence[float]]) -> bool:
    """Whether all entries are finite, and not too many for a picture."""
    entries = len(matrix) * len(matrix[0])
    return entries <= MOST_ENTRIES and all(one is not None and math.isfinite(one) for row in matrix for one in row)


def _is_object_of_numbers(values: Any) -> bool:
    return isinstance(values, dict) and _is_matrix([list(values.values())])


def summary(runs: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean, lowest and highest value of each entry, `(3, entries)`, over the runs that have got so far.

    Numbers that are not finite do not count; an entry without any other is NaN.
    """
    longest = max(len(run) for run in runs)
    total, count = np.zeros(longest), np.zeros(longest)
    low, high = np.full(longest, np.inf), np.full(longest, -np.inf)
    for run in runs:
        values = np.array(run)
        finite = np.isfinite(values)
        reached = slice(len(run))
        total[reached] += np.where(finite, values, 0.0)
        count[reached] += finite
        low[reached] = np.minimum(low[reached], np.where(finite, values, np.inf))
        high[reached] = np.maximum(high[reached], np.where(finite, values, -np.inf))
    none = count == 0
    found = np.stack([total / np.maximum(count, 1), low, high])  # (3, entries)
    found[:, none] = np.nan
    return found


def draw(folder: Path, path: Path) -> None:
    """Write a PNG file with a panel for each series: the mean over the runs, and their range as a band.

    And one for each other note that the method declares how to draw, if the runs have it.

    Raises:
        UserError: as `read_histories` does.
    """
    from matplotlib.figure import Figure

    notes = _read_notes(folder)
    histories = _histories(notes, folder)
    drawings: list[Callable[[Axes], None]] = []
    drawings += [partial(_draw_series, name=name, runs=runs) for name, runs in histories.items()]
    drawings += _other_drawings(notes, _declared(folder))
    rows = math.ceil(len(drawings) / PANELS)
    figure = Figure(figsize=(3.2 * PANELS, 2.3 * rows + 0.5), layout="constrained")
    name = unmathematical(folder.resolve().name, most=100)
    figure.suptitle(f"{name}: {max(map(len, histories.values()))} runs, mean and range", fontsize=10)
    panels = figure.subplots(rows, PANELS, squeeze=False).ravel()
    for panel, drawing in zip(panels, drawings, strict=False):
        drawing(panel)
        panel.tick_params(labelsize=7)
    for panel in panels[len(drawings) :]:
        panel.set_axis_off()
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))


def _draw_series(panel: Axes, name: str, runs: Sequence[Sequence[float]]) -> None:
    mean, low, high = summary(runs)
    entries = np.arange(1, len(mean) + 1)
    panel.fill_between(entries, low, high, alpha=0.25, linewidth=0)
    panel.plot(entries, mean, marker="." if len(mean) < 40 else "")
    panel.set_title(unmathematical(name.replace("_", " "), most=60), fontsize=9)
    panel.set_xlim(0.5, len(mean) + 0.5)
    panel.locator_params(axis="x", integer=True)
    panel.ticklabel_format(axis="y", useOffset=False)


def _declared(folder: Path) -> Mapping[str, Drawing]:
    """How the method of a grading has its notes drawn, by their name; nothing if there is none that can be used."""
    from evaluation.catalogue.lookup import facts_of  # here, because that imports PyTorch

    try:
        config = read_yaml(folder / "config.yaml")
    except (OSError, ValueError):
        return {}
    method = config.get("method") if isinstance(config, dict) else None
    try:
        return facts_of(str(method)).drawings
    except UserError:
        return {}


def _other_drawings(
    notes: Sequence[Mapping[str, Any]], declared: Mapping[str, Drawing]
) -> Iterator[Callable[[Axes], None]]:
    """What draws the notes that are not series; notes that are not what has been declared are passed over."""
    from methods.BaseMethod import Matrix

    for name, drawing in declared.items():
        values = [one[name] for one in notes if name in one and can_be_drawn(one[name], drawing)]
        if not values:
            continue
        if isinstance(drawing, Matrix):
            alike = [value for value in values if np.shape(value) == np.shape(values[0])]
            yield partial(_draw_matrix, drawing=drawing, matrices=np.array(alike))
        else:
            alike = [value for value in values if list(value) == list(values[0])]
            yield partial(_draw_bars, drawing=drawing, runs=alike)


def can_be_drawn(note: Any, drawing: Drawing) -> bool:
    """Whether a note is of the kind that its drawing is for."""
    from methods.BaseMethod import Matrix

    return _is_matrix(note) if isinstance(drawing, Matrix) else _is_object_of_numbers(note)


def _draw_matrix(panel: Axes, drawing: Matrix, matrices: np.ndarray) -> None:
    """The mean of matrices, `(runs, rows, columns)`, as a heat map in which 0 is white."""
    mean = matrices.mean(axis=0)
    shown = mean - np.eye(*mean.shape) if drawing.less_identity else mean
    largest = np.abs(shown).max()
    image = panel.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest)
    panel.set_title(unmathematical(drawing.title), fontsize=9)
    panel.set_xlabel(unmathematical(drawing.columns), fontsize=8)
    panel.set_ylabel(unmathematical(drawing.rows), fontsize=8)
    panel.locator_params(integer=True)
    bar = panel.figure.colorbar(image, ax=panel)
    bar.ax.tick_params(labelsize=7)


def _draw_bars(panel: Axes, drawing: Bars, runs: Sequence[Mapping[str, float]]) -> None:
    """A bar for each entry of the runs' objects, the first on top; lines are the range of the runs."""
    values = np.array([list(run.values()) for run in runs])  # (runs, entries)
    mean = values.mean(axis=0)
    places = np.arange(1, len(mean) + 1)
    panel.barh(places, mean, alpha=0.6)
    panel.hlines(places, values.min(axis=0), values.max(axis=0), color="black", linewidth=1)
    panel.set_title(unmathematical(drawing.title), fontsize=9)
    if drawing.limits:
        panel.set_xlim(*drawing.limits)
    panel.invert_yaxis()
    if len(places) <= MOST_NAMES:
        panel.set_yticks(places, [unmathematical(name, most=30) for name in runs[0]])
    else:
        panel.set_ylabel(unmathematical(drawing.entries), fontsize=8)


def as_table(folder: Path) -> Table:
    """The same in numbers, for a terminal: how each series begins and ends, and how many entries runs have.

    Raises:
        UserError: as `read_histories` does.
    """
    from rich.table import Table

    table = Table("series", "runs", "entries", "first", "last", "range of the last", box=None, pad_edge=False)
    for name, runs in read_histories(folder).items():
        first, last = (summary([[run[entry]] for run in runs])[:, 0] for entry in (0, -1))
        lengths = sorted({len(run) for run in runs})
        entries = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        ends = f"{last[1]:.4g} to {last[2]:.4g}"
        table.add_row(printable(name, most=60), str(len(runs)), entries, f"{first[0]:.4g}", f"{last[0]:.4g}", ends)
    return table
