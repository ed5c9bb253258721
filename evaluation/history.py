"""The histories that runs leave in their notes, drawn or tabulated: losses, multipliers, whatever a method notes.

A run's notes are `runs/original-000-run-0000.json` in the folder of its grading. A history is what they have under
"history": an object of series by name, each a list of numbers, one for an epoch or a step as the method likes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from data.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

Histories = dict[str, list[list[float]]]
"""Series by name: a list of numbers for each run, which need not be of one length."""

PANELS = 3
"""Panels in a row."""


def read_histories(folder: Path) -> Histories:
    """The histories of all runs of a grading.

    Raises:
        UserError: there is no run with a history.
    """
    histories: Histories = {}
    for path in sorted((folder / "runs").glob("*.json")):
        for name, values in _history(path).items():
            histories.setdefault(name, []).append([float(value) for value in values])
    if not histories:
        raise UserError(
            f"{folder} has no run with a history: name the folder of a grading in results/, of a method that notes "
            "one (constrained does)."
        )
    return histories


def _history(path: Path) -> Mapping[str, Sequence[float]]:
    """The series of one run that are lists of numbers; none, if its notes are about other things."""
    try:
        notes = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as the notes of a run ({error}): grade the method again.") from error
    history = notes.get("history") if isinstance(notes, dict) else None
    if not isinstance(history, dict):
        return {}
    return {name: values for name, values in history.items() if _is_series(values)}


def _is_series(values: Any) -> bool:
    return isinstance(values, list) and values != [] and all(isinstance(value, (int, float)) for value in values)


def summary(runs: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean, lowest and highest value of each entry, `(3, entries)`, over the runs that have got so far.

    Numbers that are not finite do not count; an entry without any other is NaN.
    """
    longest = max(len(run) for run in runs)
    padded = np.full((len(runs), longest), np.nan)  # (runs, entries)
    for row, run in zip(padded, runs, strict=True):
        row[: len(run)] = run
    found = np.full((3, longest), np.nan)
    for entry, column in enumerate(padded.T):
        values = column[np.isfinite(column)]
        if len(values):
            found[:, entry] = values.mean(), values.min(), values.max()
    return found


def draw(folder: Path, path: Path) -> None:
    """Write a PNG file with a panel for each series: the mean over the runs, and their range as a band.

    Raises:
        UserError: as `read_histories` does.
    """
    from matplotlib.figure import Figure

    histories = read_histories(folder)
    rows = math.ceil(len(histories) / PANELS)
    figure = Figure(figsize=(3.2 * PANELS, 2.3 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{folder.resolve().name}: {max(map(len, histories.values()))} runs, mean and range", fontsize=10)
    panels = figure.subplots(rows, PANELS, squeeze=False).ravel()
    for panel, (name, runs) in zip(panels, histories.items(), strict=False):
        mean, low, high = summary(runs)
        entries = np.arange(1, len(mean) + 1)
        panel.fill_between(entries, low, high, alpha=0.25, linewidth=0)
        panel.plot(entries, mean, marker="." if len(mean) < 40 else "")
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.set_xlim(0.5, len(mean) + 0.5)
        panel.tick_params(labelsize=7)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.ticklabel_format(axis="y", useOffset=False)
    for panel in panels[len(histories) :]:
        panel.set_axis_off()
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))


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
        table.add_row(name, str(len(runs)), entries, f"{first[0]:.4g}", f"{last[0]:.4g}", ends)
    return table
