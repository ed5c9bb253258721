"""Histories of runs: read from their notes, summarised, drawn and tabulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from data import UserError
from evaluation.runs.settings import run_path
from evaluation.views.history import (
    MOST_NAMES,
    _draw_bars,
    _draw_matrix,
    _draw_series,
    as_table,
    draw,
    read_histories,
    summary,
)
from methods.BaseMethod import Bars, Matrix
from methods.Hirs import Hirs

NAN = float("nan")


def write_notes(folder: Path, *notes: Any) -> None:
    """The notes of the runs of one original."""
    for run, content in enumerate(notes):
        path = run_path(folder, 0, run, ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def test_reading(tmp_path: Path) -> None:
    """Every run, in order, by series; notes about other things are passed over, and so is what is no series."""
    write_notes(
        tmp_path,
        {"history": {"loss": [3, 2.5], "norm": [1.0]}, "certificate": {"epsilon": 1}},
        {"certificate": {"epsilon": 1}},
        ["history"],
        {"history": {"loss": [4.0, NAN, 1.0], "stop": "unlearning", "nothing": [], "names": ["a"]}},
    )
    (tmp_path / "runs" / "original-000-run-0000.log").write_text("said something")
    histories = read_histories(tmp_path)
    assert list(histories) == ["loss", "norm"]
    assert histories["norm"] == [[1.0]]
    assert histories["loss"][0] == [3.0, 2.5]
    assert np.array_equal(histories["loss"][1], [4.0, NAN, 1.0], equal_nan=True)


def test_without_a_history(tmp_path: Path) -> None:
    """No folder, no notes, or notes about other things: a sentence. Damaged notes are named."""
    with pytest.raises(UserError, match="has no run with a history"):
        read_histories(tmp_path / "nowhere")
    write_notes(tmp_path, {"certificate": 1})
    for function in (read_histories, as_table, lambda folder: draw(folder, tmp_path / "history.png")):
        with pytest.raises(UserError, match="has no run with a history"):
            function(tmp_path)
    run_path(tmp_path, 0, 7, ".json").write_text("{")
    with pytest.raises(UserError, match=r"run-0007.* can't be read"):
        read_histories(tmp_path)


def test_summary_by_hand() -> None:
    """Runs that have ended do not count, nor do NaN and infinity. Catches zeros for what is missing."""
    found = summary([[1.0, 2.0, 6.0], [3.0, NAN], [5.0, 4.0, float("inf"), NAN]])
    assert np.array_equal(found, [[3, 3, 6, NAN], [1, 2, 6, NAN], [5, 4, 6, NAN]], equal_nan=True)


@pytest.mark.slow
def test_drawing(tmp_path: Path) -> None:
    """A panel for each series: more of them are a higher picture, and another history another picture."""
    pictures = []
    for name, count, slope in (("few", 3, 1.0), ("many", 8, 1.0), ("other", 3, -1.0)):
        history = {f"series_{number}": [slope * step for step in range(50)] for number in range(count)}
        folder = tmp_path / name
        folder.mkdir()
        write_notes(folder, {"history": history}, {"history": {key: values[:20] for key, values in history.items()}})
        draw(folder, folder / "history.png")
        pictures.append(imread(folder / "history.png"))
    few, many, other = pictures
    assert many.shape[0] > 2 * few.shape[0]
    assert few.shape == other.shape
    assert few[..., :3].std() > 0.05
    assert not np.array_equal(few, other)


def test_a_matrix_is_a_heat_map() -> None:
    """Of the mean over runs, of hirs less the identity; rows are logits after. White is 0. Catches a transposed one."""
    panel: Any = Figure().subplots()
    matrices = np.array([[[1.0, 0.4], [0.0, 0.9]], [[1.0, 0.2], [0.0, 0.9]]])
    filtration, _ = Hirs.drawings.values()
    assert isinstance(filtration, Matrix)
    _draw_matrix(panel, filtration, matrices)
    (image,) = panel.images
    np.testing.assert_allclose(image.get_array(), [[0, 0.3], [0, -0.1]], atol=1e-12)
    assert image.get_clim() == pytest.approx((-0.3, 0.3))
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("logit before", "logit after")
    assert panel.get_title() == "filtration, less the identity"
    assert len(panel.figure.axes) == 2, "no colour bar"
    panel = Figure().subplots()
    _draw_matrix(panel, Matrix("as it is", "layer", "epoch"), matrices[:, :1])  # (runs, 1, 2)
    np.testing.assert_allclose(panel.images[0].get_array(), [[1.0, 0.3]], atol=1e-12)


def test_an_object_of_numbers_is_a_bar_for_each() -> None:
    """The mean over runs, first entry on top; by name as long as they can be read."""
    panel: Any = Figure().subplots()
    _, density = Hirs.drawings.values()
    assert isinstance(density, Bars)
    _draw_bars(panel, density, [{"0.weight": 0.2, "0.bias": 0.0}, {"0.weight": 0.4, "0.bias": 1.0}])
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([0.3, 0.5])
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.weight", "0.bias"]
    assert panel.yaxis_inverted()
    assert panel.get_title() == "density: share of weights repaired"
    assert panel.get_xlim() == (0, 1)
    panel = Figure().subplots()
    _draw_bars(panel, density, [{f"{number}.weight": 0.5 for number in range(MOST_NAMES + 1)}])
    assert panel.get_ylabel() == "parameter"
    panel = Figure().subplots()
    _draw_bars(panel, Bars("seconds", "layer"), [{"0": 7.0}])
    assert panel.get_xlim()[1] > 7


@pytest.mark.parametrize("text", [r"$\frac$", "$", "a_b^2", "[unk]"])
def test_titles_are_no_formulas(text: str, tmp_path: Path) -> None:
    """What a method calls its notes is shown as it is. Catches a traceback of Matplotlib's."""
    figure = Figure()
    panels: Any = figure.subplots(1, 3)
    _draw_matrix(panels[0], Matrix(text, text, text), np.ones((1, 2, 2)))
    _draw_bars(panels[1], Bars(text, text), [{f"{number}": 0.5 for number in range(MOST_NAMES + 1)}])
    _draw_series(panels[2], text, [[1.0, 2.0]])
    figure.savefig(tmp_path / "figure.png")
    assert panels[0].get_title() == text.replace("$", r"\$")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["method: hirs", "method: gone", "method: finetune", "method: [hirs]", "[", None])
def test_declared_notes_get_panels(tmp_path: Path, config: str | None) -> None:
    """Beside the series, of the runs that have them; notes of those names about other things are passed over.

    Without a registered method that declares them only the series are drawn, whatever the notes are.
    """
    history = {"history": {name: [1.0, 2.0] for name in "abc"}}  # a full row
    noted = {
        "none": history,
        "odd": history | {"filtration": [[1.0], [2.0, 3.0]], "density": 0.3},
        "off": history | {"filtration": [], "density": {}},
        "both": history | {"filtration": [[1.0, 0.1], [0.0, 1.0]], "density": {"0.weight": 0.3}},
    }
    heights = {}
    for name, notes in noted.items():
        folder = tmp_path / name
        folder.mkdir()
        if config is not None:
            (folder / "config.yaml").write_text(config)
        write_notes(folder, notes, history)
        draw(folder, folder / "history.png")
        heights[name] = imread(folder / "history.png").shape[0]
    assert heights["none"] == heights["odd"] == heights["off"]
    assert (heights["none"] < heights["both"]) == (config == "method: hirs")


def test_runs_whose_notes_differ_in_form(tmp_path: Path) -> None:
    """Those that are like the first are drawn. Catches a mean over matrices of different sizes."""
    history = {"history": {"loss": [1.0]}}
    of_two = history | {"filtration": [[1.0, 0.1], [0.0, 1.0]], "density": {"0.weight": 0.3}}
    write_notes(tmp_path, of_two, history | {"filtration": [[1.0]], "density": {"1.weight": 0.3, "1.bias": 1}}, of_two)
    (tmp_path / "config.yaml").write_text("method: hirs")
    draw(tmp_path, tmp_path / "history.png")


def test_table(tmp_path: Path) -> None:
    """First and last entry of each run, wherever it ends. Catches the last entry of the longest run alone."""
    write_notes(tmp_path, {"history": {"loss": [3.0, 2.0]}}, {"history": {"loss": [5.0, 9.0, 1.0]}})
    screen = Console(width=100, record=True)
    screen.print(as_table(tmp_path))
    header, row = screen.export_text().splitlines()
    assert header.split() == ["series", "runs", "entries", "first", "last", "range", "of", "the", "last"]
    assert row.split() == ["loss", "2", "2", "to", "3", "4", "1.5", "1", "to", "2"]
