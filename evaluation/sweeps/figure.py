"""The figure of a sweep as a PNG file."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import write_atomically
from data.texts import unmathematical
from evaluation.sweeps.outcome import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"

LINE = 85
"""Letters that a line of the title holds."""

WIDE = 50
"""From this ratio of the largest to the smallest x on, the axis is logarithmic."""


def draw(outcome: SweepResult, path: Path) -> None:
    """Write `make_figure` as a PNG file."""
    figure = make_figure(outcome)
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=130, format="png"))


def make_figure(outcome: SweepResult) -> Figure:
    """Validation accuracy over x: means with their standard errors as bars; published values as dotted lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    drawn: list[Any] = []
    for number, curve in enumerate(outcome.sweep.curves):
        points = [point for point in outcome.points if point.curve == curve.name]
        means = [point.accuracy["validation"] for point in points]
        errors = [0.0 if math.isnan(mean.error) else mean.error for mean in means]
        style: dict[str, Any] = {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}
        places, values = [point.x for point in points], [mean.value for mean in means]
        drawn.append(axes.errorbar(places, values, errors, markersize=4, capsize=2, **style))
        if curve.published:
            places, values = map(list, zip(*sorted(curve.published.items()), strict=True))
            axes.plot(places, values, linestyle=":", linewidth=1.2, markersize=2.5, **style)
    label = ", ".join(dict.fromkeys(curve.x.replace("_", " ") for curve in outcome.sweep.curves))
    if outcome.sweep.figure == "course":
        label = f"passes over the retain set, of {outcome.sweep.length:g}"
    if outcome.sweep.figure == "convergence":
        label = "passes over the retain set (dashed: the original)"
        for level in {round(mean.value, 4) for mean in outcome.originals.values()}:
            axes.axhline(level, color="grey", linewidth=0.8, linestyle="--")
    dotted = " (dotted: published)" if any(curve.published for curve in outcome.sweep.curves) else ""
    axes.set(xlabel=label, ylabel="validation accuracy")
    title = textwrap.wrap(f"{unmathematical(outcome.title)}{dotted}", LINE)
    axes.set_title("\n".join(title), fontsize=9)
    places = [point.x for point in outcome.points]
    if places and min(places) > 0 and max(places) / min(places) >= WIDE:
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    # Named here, as a label of its own that begins with an underscore would be left out.
    axes.legend(drawn, [unmathematical(curve.name) for curve in outcome.sweep.curves], fontsize=7)
    return figure
