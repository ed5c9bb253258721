"""Sweeps: what is run, what is chosen and drawn, and that nothing is lost when they stop or a run fails."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from benchmarks.published import published_mnist
from data import UserError, all_tasks
from data.raw import RawData, content_digest
from evaluation.certification.dp_sgd import dp_sgd_epsilon
from evaluation.certification.verification import certify
from evaluation.sweeps.figure import make_figure
from evaluation.sweeps.outcome import Mean, as_csv, as_json, as_markdown, summarise
from evaluation.sweeps.plan import Run, Sweep, read_sweep
from evaluation.sweeps.running import Results
from evaluation.texts import in_markdown
from methods import all_method_handlers
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Kit

SHIPPED = sorted((Path(__file__).parents[3] / "benchmarks" / "sweeps").glob("*.yaml"))

TASK: dict[str, Any] = {
    "name": "digits",
    "network": "mlp",
    "forget": "random:6",
    "train_size": 60,
    "recipe": {"epochs": 2, "models_together": 2},
}
PRIVATE: dict[str, Any] = {"optimizer": "dp_sgd", "noise_multiplier": 20, "batch_size": 15}
TINY: dict[str, Any] = {
    "title": "Digits, 64-5-10",
    "figure": "budget",
    "values": [1, 3],
    "seeds": 2,
    "task": TASK,
    "curves": [
        {"name": "retrain", "method": "certified_retrain", "published": {1: 0.5, 3: 0.75}},
        {
            "name": "clipping, {accounting}",
            "method": "certified_gradient_clipping",
            "for_each": {"accounting": ["exact", "code_compat"]},
            "settings": {"batch_size": 16},
            "grid": [
                {"gradient_clip": [10], "noisy_weight_decay": [750]},
                {"gradient_clip": [100], "noisy_weight_decay": [10, 20]},
            ],
        },
        {
            "name": "DP-SGD",
            "method": "certified_dp_sgd",
            "x": "finetune_epochs",
            "task": {"forget": "random:2", "recipe": PRIVATE},
        },
    ],
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a sweep's file: `TINY`, with some keys changed."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({**TINY, **changes}))
        return path

    return write


# ----------------------------------------------------------------------------------------------------------------------
# What is run
# ----------------------------------------------------------------------------------------------------------------------


def test_a_file_says_which_runs_there_are(write: Write) -> None:
    """Grids are products, a list of them is their union, for_each makes curves, tasks are joined.

    Longest runs first, one task after another: else the last run is a long one, and workers load tasks again.
    """
    sweep = read_sweep(write())
    assert [curve.name for curve in sweep.curves] == ["retrain", "clipping, exact", "clipping, code_compat", "DP-SGD"]
    assert [len(curve.configurations) for curve in sweep.curves] == [1, 3, 3, 1]
    assert dict(sweep.curves[1].configurations[2]) == {
        "accounting": "exact", "batch_size": 16, "gradient_clip": 100, "noisy_weight_decay": 20
    }  # fmt: skip
    private = sweep.curves[3].task
    assert (private.forget, private.network) == (("random:2",), "mlp")
    assert dict(private.recipe) == {**TASK["recipe"], **PRIVATE}
    runs = sweep.runs()
    assert len(runs) == len(set(runs)) == 2 * 2 * (1 + 3 + 3 + 1)
    tasks = [run.task for run in runs]
    assert sorted(tasks, key=tasks.index) == tasks
    of_first = [dict(run.settings)["epochs"] for run in runs if run.method == "certified_retrain"]
    assert of_first == [3, 3, 1, 1]


def test_a_run_of_two_curves_is_done_once(write: Write) -> None:
    """Two names for the same settings are the same runs."""
    curves = [{"name": name, "method": "certified_retrain"} for name in ("one", "two")]
    assert len(read_sweep(write(curves=curves)).runs()) == 2 * 2


def test_seeds_are_four_unless_said(write: Write) -> None:
    """By the file, or by the command line, which counts more."""
    path = write()
    described = yaml.safe_load(path.read_text())
    del described["seeds"]
    path.write_text(yaml.safe_dump(described))
    assert read_sweep(path).seeds == 4
    assert read_sweep(path, seeds=3).seeds == 3
    assert read_sweep(path, {"name": "folder", "data_dir": "here"}).curves[3].task.name == "folder"


def test_there_are_shipped_sweeps() -> None:
    """Catches a folder that was moved: the tests below would pass without a file."""
    assert "mnist-course" in [path.stem for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_can_be_read(path: Path) -> None:
    """And their hyper-parameters exist; what adds noise has an amount of it for every setting of its grid.

    Catches a product of rate and weight decay that no noise makes up for.
    """
    sweep = read_sweep(path)
    assert sweep.seeds == 4
    assert sweep.runs()
    for curve in sweep.curves:
        for configuration in curve.configurations:
            settings = dict(sweep.run(curve, configuration, sweep.values[-1], 0).settings)
            method: Any = all_method_handlers()[curve.method](**settings)
            if hasattr(method, "noise"):
                noise = method.noise()
                assert all(0 < each < math.inf for each in (noise if isinstance(noise, list) else [noise]))


def test_all_figures_are_shipped() -> None:
    """Course, budget, convergence, DP-SGD and epsilon, on three kinds of network and all published data."""
    names = {path.stem for path in SHIPPED}
    assert {
        "mnist-course",
        "mnist-budget",
        "mnist-epsilon",
        "mnist-dp-sgd",
        "cifar10-convergence",
        "features-dp-sgd",
    } <= names
    assert {"cifar10-course", "cifar10-epsilon", "features-cifar100"} <= names


@pytest.mark.parametrize(
    ("stem", "images", "forgotten"), [("features-cifar100", 45_000, 225), ("features-small", 5_000, 25)]
)
def test_noise_of_dp_sgd_is_enough(stem: str, images: int, forgotten: int) -> None:
    """For epsilon = 50 and 0.5 % of the images, and hardly more. Catches epochs or noise of another figure."""
    (path,) = (path for path in SHIPPED if path.stem == stem)
    (task,) = (curve.task for curve in read_sweep(path).curves if curve.method == "certified_dp_sgd")
    recipe = dict(task.recipe)
    batches = math.ceil(images / 128)
    steps = int(recipe["epochs"]) * batches
    assert task.forget == ("random:0.005",)
    assert 49.9 < dp_sgd_epsilon(float(recipe["noise_multiplier"]), 1 / batches, steps, 1e-5, forgotten) <= 50


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"figur": "budget"}, "no key of a sweep 'figur': did you mean figure"),
        ({"figure": "pie"}, "figure is one of budget, course, convergence, not 'pie'"),
        ({"figure": "course"}, "length is the number of passes of each run of a course"),
        ({"length": 3}, "length is the number of passes of each run of a course"),
        ({"figure": "course", "length": 2}, "no value may exceed length"),
        ({"figure": "course", "length": 2.5, "values": [1]}, "whole numbers of passes"),
        ({"figure": "course", "length": 3, "values": [0.5]}, "whole numbers of passes"),
        ({"figure": "course", "length": 3, "values": [-1]}, "whole numbers of passes"),
        ({"values": []}, "values must be a list"),
        ({"values": [3, 1]}, "increasing numbers"),
        ({"values": ["one"]}, "increasing numbers"),
        ({"seeds": 0}, "seeds must be a whole number from 1"),
        ({"curves": {}}, "curves must be a list"),
        ({"curves": [{"name": "a"}]}, "a curve needs the key method"),
        (
            {"curves": [{"name": "a", "method": "certified_retrian"}]},
            "no method 'certified_retrian': did you mean cert",
        ),
        ({"curves": [{"name": "a", "method": "retrain", "gird": {}}]}, "no key of a curve 'gird': did you mean grid"),
        ({"curves": [{"name": "a", "method": "retrain", "grid": {"epochs": 3}}]}, "grid: epochs must be a list"),
        ({"curves": [{"name": "a", "method": "retrain", "settings": {"epochs": [3]}}]}, "epochs must be a number"),
        ({"curves": [{"name": "a", "method": "ssd"}]}, "ssd has no hyper-parameter 'epochs' for the x axis"),
        ({"curves": [{"name": "{b}", "method": "retrain"}]}, "refers to something that for_each does not have"),
        ({"curves": [{"name": "a", "method": "retrain"}] * 2}, "Two curves are called 'a'"),
        ({"curves": [{"name": "a", "method": "retrain", "published": [1]}]}, "published must be a mapping"),
        ({"curves": [{"name": "a", "method": "retrain", "published": {1: "x"}}]}, "accuracies by x"),
        ({"task": "digits"}, "task must be a mapping"),
        ({"task": {"name": "digits", "netwrok": "mlp"}}, "no key of task 'netwrok': did you mean network"),
        ({"task": {"name": "digits", "train_size": "many"}}, "train_size must be a whole number"),
        ({"task": {"name": "digits", "network": 3}}, "network must be a text"),
        ({"task": {"name": "digit"}}, "no task 'digit': did you mean digits"),
        ({"task": {**TASK, "network": "mpl"}}, "no network 'mpl'"),
        ({"task": {**TASK, "recipe": {"epoch": 3}}}, "no recipe value 'epoch': did you mean epochs"),
        ({"curves": [{"name": "a", "method": "retrain", "settings": {"rate": 1}}]}, "no hyper-parameter 'rate'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(changes: dict[str, Any], sentence: str, write: Write, tmp_path: Path) -> None:
    """Which names what is wrong; exit code 2, no traceback, and nothing has been run."""
    answer = command("sweep", str(write(**changes)), "--out", str(tmp_path / "out"), "--devices", "cpu")
    assert answer.code == 2
    assert sentence in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    "method",
    [
        *("retrain,certified_retrain", "retrain,", ",retrain", "retrain , certified_retrain", ",", "all", " all ", " "),
        *("", ["retrain", "certified_retrain"], ["retrain"], None, 3, True, {"name": "retrain"}),
    ],
    ids=repr,
)
def test_a_curve_has_one_method(method: object, write: Write) -> None:
    """Catches a second method that is dropped without a word, and "all" that becomes the first of them."""
    with pytest.raises(UserError) as error:
        read_sweep(write(curves=[{"name": "a", "method": method}]))
    said = f"A curve has one method, not {method!r}: write a curve for each method."
    assert str(error.value).endswith(f"sweep.yaml: {said}")


def test_names_of_methods_are_not_guessed(write: Write) -> None:
    """Blanks around a name don't count; between two names they make one that nobody knows."""
    (curve,) = read_sweep(write(curves=[{"name": "a", "method": " retrain  ", "x": "epochs"}])).curves
    assert curve.method == "retrain"
    with pytest.raises(UserError, match="There is no method 'retrain certified_retrain'"):
        read_sweep(write(curves=[{"name": "a", "method": "retrain certified_retrain"}]))


@pytest.mark.parametrize(("low", "high"), [("1e-3", "1e-2"), ("1E-3", "0.01"), ("1.e-3", "+1e-2"), (".1e-2", "1.0e-2")])
def test_numbers_without_a_point_are_numbers(low: str, high: str, tmp_path: Path) -> None:
    """YAML takes 1e-3 for a text. Catches "values must be increasing numbers", and texts among the settings."""
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"title: A\nfigure: budget\ntask: {{name: digits}}\nx: learning_rate\nvalues: [{low}, {high}]\ncurves:\n"
        f"  - name: rate {{momentum:.2g}}\n    method: finetune\n    for_each: {{momentum: [{high}]}}\n"
        f"    published: {{rate 0.01: {{{low}: {high}}}}}\n"
    )
    sweep = read_sweep(path)
    (curve,) = sweep.curves
    assert sweep.values == (0.001, 0.01)
    assert (curve.name, curve.configurations) == ("rate 0.01", ((("momentum", 0.01),),))
    assert curve.published == {0.001: 0.01}


@pytest.mark.parametrize("content", ["curves: [", "- a\n- b", "\0", ""])
def test_files_that_are_no_sweep(content: str, tmp_path: Path) -> None:
    """Broken YAML, a list, no text, nothing: a sentence that begins with the file's name. And no file at all."""
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    for where in (path, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UserError, match=rf"^{where}") as error:
            read_sweep(where)
        assert "\n" not in str(error.value)


def test_images_as_the_published_experiment_saw_them(tmp_path: Path) -> None:
    """Training images are flipped or turned, test images stay; the task `mnist` reads them as its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 28, 28), dtype=np.uint8)
    labels, parts = np.arange(80) % 10, np.repeat(["train", "test"], 40)
    names = np.array([f"{number}" for number in range(80)])
    classes = tuple("0123456789")
    raw = RawData(pixels, labels, names, parts, classes, content_digest(pixels, labels))
    published_mnist.write(raw, tmp_path)
    found = all_tasks()["mnist"].read(str(tmp_path), False)
    for given, read in ((raw.labels, found.labels), (raw.parts, found.parts)):
        np.testing.assert_array_equal(given, read)
    np.testing.assert_array_equal(found.pixels[40:], pixels[40:])
    straight, seen = pixels[:40, 0].astype(float), found.pixels[:40, 0].astype(float)
    away = np.stack([np.abs(seen - one).mean(axis=(1, 2)) for one in (straight, straight[:, :, ::-1])])  # (2, n)
    assert (away.min(axis=0) > 1).mean() > 0.7  # turned as well; by too little, some of them
    assert 0.2 < (away[1] < away[0]).mean() < 0.8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--task", "digits"), "no grey images of 28x28 pixels"),
        (("--task", "mnits"), "no task 'mnits': did you mean mnist"),
        (("--data-dir", "nowhere"), "The files of mnist could not be read"),
    ],
)
def test_other_images_are_not_taken_for_mnist(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as digits of 8x8 pixels, and such as are not there: a sentence."""
    monkeypatch.setattr("sys.argv", ["published_mnist", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
        published_mnist.main()


# ----------------------------------------------------------------------------------------------------------------------
# What is chosen
# ----------------------------------------------------------------------------------------------------------------------


def invented(sweep: Sweep, validation: Callable[[Run], float]) -> Results:
    """Results with this validation accuracy; test accuracies go the other way."""

    def result(run: Run) -> dict[str, Any]:
        value = validation(run)
        accuracy = {"validation": value, "test": 1 - value, "retain": 0.5, "forget": 0.25}
        return {"accuracy": accuracy, "original": 0.9, "history": {"validation accuracy": [0.1, 0.2 + run.seed / 10]}}

    return Results({run: result(run) for run in sweep.runs()})


def test_the_best_settings_are_chosen_for_each_x_on_the_validation_set(write: Write) -> None:
    """By the mean over seeds. Catches a choice by the test set, by one seed, or once for all x."""
    sweep = read_sweep(write(curves=[TINY["curves"][1]]))
    table = {(10, 1): (0.1, 0.9), (100, 1): (0.6, 0.6), (10, 3): (0.7, 0.7), (100, 3): (0.9, 0.3)}

    def validation(run: Run) -> float:
        values = dict(run.settings)
        return table[values["gradient_clip"], values["epochs"]][run.seed] - (values["noisy_weight_decay"] == 20) / 100

    outcome = summarise(sweep, invented(sweep, validation))
    points = [point for point in outcome.points if point.curve == "clipping, exact"]
    assert [(point.x, point.settings["gradient_clip"]) for point in points] == [(1, 100), (3, 10)]
    assert points[0].settings == {"gradient_clip": 100, "noisy_weight_decay": 10}  # what is fixed is not repeated
    assert points[0].accuracy["validation"] == Mean.of([0.6, 0.6])
    assert points[0].accuracy["test"].value == pytest.approx(0.4)
    assert [point.configurations for point in points] == [3, 3]


def test_mean_and_standard_error() -> None:
    """s / sqrt(n) with n - 1 degrees of freedom. Catches the standard deviation, and n in place of n - 1."""
    assert Mean.of([0.2, 0.4, 0.6, 0.8]).value == pytest.approx(0.5)
    assert Mean.of([0.2, 0.4, 0.6, 0.8]).error == pytest.approx(math.sqrt(0.2 / 3 / 4))
    assert math.isnan(Mean.of([0.3]).error)


def test_settings_with_a_failed_run_are_left_out(write: Write) -> None:
    """Else the mean of the seeds that did well would win. A place where all failed is empty, and the table says why."""
    sweep = read_sweep(write(curves=[TINY["curves"][0], TINY["curves"][1]]))
    results = invented(sweep, lambda run: 0.9 if dict(run.settings).get("gradient_clip") == 10 else 0.5)
    for run in list(results.finished):
        values = dict(run.settings)
        if run.seed == 0 and (
            values.get("gradient_clip") == 10 or (run.method, values["epochs"]) == ("certified_retrain", 3)
        ):
            del results.finished[run]
            results.failed[run] = "It failed."
    outcome = summarise(sweep, results)
    assert {point.settings["gradient_clip"] for point in outcome.points if point.settings} == {100}
    assert [point.x for point in outcome.points if point.curve == "retrain"] == [1]
    assert "- It failed." in as_markdown(outcome)


def test_tables_have_the_same_numbers(write: Write) -> None:
    """CSV unrounded, JSON without NaN, Markdown with the published values below them."""
    sweep = read_sweep(write(), seeds=1)
    outcome = summarise(sweep, invented(sweep, lambda run: 0.123456 + 0.1 * float(dict(run.settings).get("epochs", 0))))
    rows = list(csv.DictReader(as_csv(outcome).splitlines()))
    assert len(rows) == len(outcome.points) == 8
    assert float(rows[1]["validation"]) == outcome.points[1].accuracy["validation"].value
    assert (rows[1]["curve"], rows[1]["x"], rows[1]["published"]) == ("retrain", "3", "0.75")
    described = json.loads(as_json(outcome))
    assert described["points"][1]["accuracy"]["validation"] == {"value": pytest.approx(0.423456), "error": None}
    lines = as_markdown(outcome).splitlines()
    assert "| retrain | 0.223 | 0.423 |" in lines
    assert "| published | 0.500 | 0.750 |" in lines


def test_random_features_are_marked(write: Write) -> None:
    """In the table, the JSON and the figure, whose title stays within it; other data are not worth a word."""
    sweep = replace(
        read_sweep(write(), seeds=1), title="A title that is longer than a figure of this size is wide " * 2
    )
    results = invented(sweep, lambda run: 0.5)
    for data, marks in (("digits-random-features", 1), ("digits-resnet18-features", 0), ("digits", 0)):
        results.data = (data,)
        outcome = summarise(sweep, results)
        title = make_figure(outcome).axes[0].get_title()
        shown = (as_markdown(outcome).splitlines()[0], json.loads(as_json(outcome))["title"], title.replace("\n", " "))
        assert [text.count("(digits-random-features)") for text in shown] == [marks] * 3
        assert max(map(len, title.splitlines())) <= 85


@pytest.mark.parametrize("name", ["a|b", "<unk>", "_x_", r"$\frac$", "[a](b)", "*a*"])
def test_names_are_shown_as_they_are(name: str, write: Write, tmp_path: Path) -> None:
    """In the table, and in the figure's legend. Catches a column too many, HTML, formulas, and a curve left out."""
    sweep = read_sweep(write(title=name, curves=[{**TINY["curves"][0], "name": name}]), seeds=1)
    outcome = summarise(sweep, invented(sweep, lambda run: 0.5))
    lines = as_markdown(outcome).splitlines()
    assert lines[0] == f"**{in_markdown(name)}**"
    assert any(line.startswith(f"| {in_markdown(name)} |") for line in lines)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1
    figure = make_figure(outcome)
    legend: Any = figure.axes[0].get_legend()
    (shown,) = legend.get_texts()
    assert shown.get_text().replace(r"\$", "$") == name
    figure.savefig(tmp_path / "figure.png")


def test_a_convergence_figure_follows_the_longest_runs(write: Write) -> None:
    """From the history: 0 is the start, then after each pass; runs of other lengths are not needed."""
    sweep = read_sweep(write(figure="convergence", curves=[TINY["curves"][0]]))
    assert [dict(run.settings)["epochs"] for run in sweep.runs()] == [3, 3]
    outcome = summarise(sweep, invented(sweep, lambda run: 0.5))
    assert [(point.x, point.accuracy["validation"]) for point in outcome.points] == [
        (0, Mean(0.1, 0.0)),
        (1, Mean.of([0.2, 0.2 + 1 / 10])),
    ]
    assert outcome.originals == {"retrain": Mean(0.9, 0.0)}


def test_a_course_is_that_of_the_longest_runs_with_the_best_settings_at_each_place(write: Write) -> None:
    """By the mean over seeds of what the history has there. Catches the choice at the end, and a shift by one pass."""
    sweep = read_sweep(write(figure="course", values=[1, 3], length=4, curves=[TINY["curves"][1]]))
    assert {dict(run.settings)["epochs"] for run in sweep.runs()} == {4}
    table = {(10, 750): [0.0, 0.8, 0.1, 0.5, 0.9], (100, 10): [0.9, 0.7, 0.9, 0.6, 0.3], (100, 20): [0.9, 0, 0.9, 0, 1]}
    results = invented(sweep, lambda run: 0.5)
    for run, result in results.finished.items():
        values = dict(run.settings)
        history = table[values["gradient_clip"], values["noisy_weight_decay"]]
        result["history"] = {"validation accuracy": [value + run.seed / 10 for value in history]}
    outcome = summarise(sweep, results)
    points = [point for point in outcome.points if point.curve == "clipping, exact"]
    assert [(point.x, point.settings["gradient_clip"]) for point in points] == [(1, 10), (3, 100)]
    assert [dict(point.accuracy) for point in points] == [
        {"validation": Mean.of([0.8, 0.8 + 1 / 10])},
        {"validation": Mean.of([0.6, 0.6 + 1 / 10])},
    ]
    assert [point.configurations for point in points] == [3, 3]
    assert "of runs that make 4" in as_markdown(outcome)
    assert make_figure(outcome).axes[0].get_xlabel() == "passes over the retain set, of 4"


@pytest.mark.parametrize("history", [{}, {"validation accuracy": []}, {"validation accuracy": [0.1, 0.2]}])
def test_a_method_without_a_history_has_no_course(history: dict[str, Any], write: Write) -> None:
    """Or with one that is too short. Which is said, and stops no other curve."""
    curves = [TINY["curves"][0], {"name": "plain", "method": "finetune"}]
    sweep = read_sweep(write(figure="course", values=[1, 2], length=3, curves=curves))
    results = invented(sweep, lambda run: 0.5)
    for run, result in results.finished.items():
        result["history"] = history if run.method == "finetune" else {"validation accuracy": [0.1, 0.2, 0.3, 0.4]}
    outcome = summarise(sweep, results)
    assert outcome.failures == ("finetune notes no history of the validation accuracy: plain has no curve.",)
    assert {point.curve for point in outcome.points} == {"retrain"}


@pytest.mark.parametrize("history", [{}, {"validation accuracy": []}])
def test_a_method_without_a_history_has_no_convergence(history: dict[str, Any], write: Write) -> None:
    """Which is said, and stops no other curve; budgets need none. Catches an empty curve without a word."""
    for figure, failures in (
        ("convergence", ("finetune notes no history of the validation accuracy: plain has no curve.",)),
        ("budget", ()),
    ):
        sweep = read_sweep(write(figure=figure, curves=[TINY["curves"][0], {"name": "plain", "method": "finetune"}]))
        results = invented(sweep, lambda run: 0.5)
        for run, result in results.finished.items():
            if run.method == "finetune" and run.seed == 1:
                result["history"] = history
        outcome = summarise(sweep, results)
        assert outcome.failures == failures
        shown = {"retrain", "plain"} if figure == "budget" else {"retrain"}
        assert {point.curve for point in outcome.points} == shown


@pytest.mark.parametrize("figure", ["budget", "convergence"])
def test_the_figure_shows_means_errors_and_published_values(figure: str, write: Write) -> None:
    """Catches curves that are mixed up, and bars that are not standard errors."""
    sweep = read_sweep(write(figure=figure))
    outcome = summarise(sweep, invented(sweep, lambda run: 0.3 + 0.1 * run.seed))
    (axes,) = make_figure(outcome).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [curve.name for curve in sweep.curves]
    drawn = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
    for curve in sweep.curves:
        means = [point.accuracy["validation"] for point in outcome.points if point.curve == curve.name]
        assert any(
            values == pytest.approx([mean.value for mean in means]) for values in drawn if len(values) == len(means)
        )
        assert any(values == pytest.approx([mean.value + mean.error for mean in means]) for values in drawn)
    assert [0.5, 0.75] in drawn
    assert ("passes" in axes.get_xlabel()) == (figure == "convergence")


# ----------------------------------------------------------------------------------------------------------------------
# Doing it
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The file and the folder of `TINY`, done by two processes on a queue of two devices (which are one)."""
    folder = tmp_path_factory.mktemp("sweep")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    answer = command("sweep", str(path), "--out", str(folder / "out"), "--jobs", "1", "--devices", "cpu,cpu", "--quiet")
    assert answer.code == 0, answer.stderr
    assert answer.stderr == ""
    assert answer.stdout.startswith("**Digits, 64-5-10**\n\n| validation accuracy | 1 | 3 |")
    return path, folder / "out"


def runs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of all runs by file name, without how long they took."""
    return {
        path.name: {name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"}
        for path in (folder / "runs").glob("*.json")
    }


@pytest.mark.slow
def test_the_table_is_that_of_the_runs(done: tuple[Path, Path]) -> None:
    """Each row is the mean over the seeds' files; accuracies are those that the method itself notes in the end."""
    rows = list(csv.DictReader((done[1] / "table.csv").read_text().splitlines()))
    runs = runs_of(done[1])
    assert len(runs) == 32
    for run in runs.values():
        assert run["accuracy"]["validation"] == run["history"]["validation accuracy"][-1]
    for row in rows:
        along = "finetune_epochs" if row["curve"] == "DP-SGD" else "epochs"
        wanted = {along: int(row["x"]), **json.loads(row["settings"])}
        if row["curve"].startswith("clipping, "):
            wanted["accounting"] = row["curve"].removeprefix("clipping, ")
        chosen = [
            run for run in runs.values() if run["method"] == row["method"] and wanted.items() <= run["settings"].items()
        ]
        assert len(chosen) == 2
        for split in ("validation", "test", "retain", "forget"):
            mean = Mean.of([run["accuracy"][split] for run in chosen])
            assert float(row[split]) == pytest.approx(mean.value)
            assert float(row[f"{split}_standard_error"]) == pytest.approx(mean.error)
    assert (done[1] / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_each_seed_starts_from_an_original_of_its_own(done: tuple[Path, Path]) -> None:
    """And has other noise: no two runs of a setting end alike."""
    for run in runs_of(done[1]).values():
        assert run["seed"] in (0, 1)
    runs = [run for run in runs_of(done[1]).values() if run["method"] == "certified_gradient_clipping"]
    assert len({run["original"] for run in runs if run["seed"] == 0}) == 1
    assert len({json.dumps(run["history"]) for run in runs}) > len(runs) / 2


@pytest.mark.slow
def test_certificates_can_be_recomputed(done: tuple[Path, Path]) -> None:
    """From the file of each run: none is a guarantee; those of right accountings would be with a secret seed."""
    for name, run in runs_of(done[1]).items():
        verdict = certify(done[1] / "runs" / name)
        assert not verdict.holds
        assert verdict.holds_otherwise == (run["settings"].get("accounting") != "code_compat")


def test_nothing_is_done_twice(done: tuple[Path, Path]) -> None:
    """The same command again: the same table, and no file of a run is touched."""
    before = {path: path.stat().st_mtime_ns for path in (done[1] / "runs").iterdir()}
    table = (done[1] / "table.csv").read_bytes()
    assert command("sweep", str(done[0]), "--out", str(done[1]), "--devices", "cpu", "--quiet").code == 0
    assert {path: path.stat().st_mtime_ns for path in (done[1] / "runs").iterdir()} == before
    assert (done[1] / "table.csv").read_bytes() == table


@pytest.mark.slow
def test_goes_on_after_a_kill(done: tuple[Path, Path], kit: Kit, tmp_path: Path) -> None:
    """kill -9 when some runs are done: these are kept, a damaged file is made again, and the results are the same."""
    arguments = ("sweep", str(done[0]), "--out", str(tmp_path / "out"), "--jobs", "1", "--devices", "cpu")
    process = kit.start(*arguments)
    runs = tmp_path / "out" / "runs"
    while len(list(runs.glob("*.json"))) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
    assert 5 <= len(kept) < 32
    damaged, _ = kept.popitem()
    damaged.write_text(damaged.read_text()[:40])
    assert command(*arguments, "--quiet").code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert runs_of(tmp_path / "out") == runs_of(done[1])


KILLED_ONCE = """
import os, pathlib, signal
from methods.BaseMethod import BaseMethod


class KilledOnce(BaseMethod):
    \"\"\"Is killed the first time: the run itself, or the process that watches it.\"\"\"

    who: str = "run"
    \"\"\"Which.\"\"\"
    epochs: int = 1
    \"\"\"Of nothing.\"\"\"
    ledger: str = ""
    \"\"\"A folder in which it notes that it was.\"\"\"

    def run(self, net, retain_loader, forget_loader, val_loader):
        mark = pathlib.Path(self.ledger, self.who)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid() if self.who == "run" else os.getppid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_is_tried_again(kit: Kit, write: Write, tmp_path: Path) -> None:
    """From outside, as by Linux when memory is short. Catches a point of the figure that is lost for it."""
    kit.add_method("killed_once", KILLED_ONCE)
    settings = {"ledger": str(tmp_path)}
    curves = [{"name": who, "method": "killed_once", "settings": {**settings, "who": who}} for who in ("run", "parent")]
    task = {"name": "digits", "train_size": 60, "test_size": 60, "recipe": {"epochs": 1}}
    path = write(task=task, seeds=1, values=[1], curves=curves)
    answer = kit.run("sweep", str(path), "--out", str(tmp_path / "out"), "--devices", "cpu", "--jobs", "1", "--quiet")
    assert answer.code == 0, answer.stderr
    assert (tmp_path / "run").exists()
    assert (tmp_path / "parent").exists()


@pytest.mark.slow
def test_a_failed_run_stops_no_other(write: Write, tmp_path: Path) -> None:
    """Too little noise for epsilon: a sentence, exit code 2, a traceback in the log, and all other curves are there."""
    little = {**TINY["curves"][2], "settings": {"epsilon": 0.01}}
    path = write(curves=[little, TINY["curves"][0]])
    answer = command("sweep", str(path), "--out", str(tmp_path / "out"), "--devices", "cpu", "--jobs", "1", "--quiet")
    assert answer.code == 2
    assert "| retrain | 0." in answer.stdout
    assert "too little for epsilon = 0.01" in answer.stdout
    assert answer.stderr == "error: 4 failed, see above; the same command tries failed runs again.\n"
    logs = sorted((tmp_path / "out" / "runs").glob("*.log"))
    assert len(logs) == 4
    assert all("Traceback" in log.read_text() for log in logs)
    assert len(runs_of(tmp_path / "out")) == 4


def test_jobs_and_devices_that_are_not_there(write: Write, tmp_path: Path) -> None:
    """A sentence each."""
    path = str(write())
    for arguments, sentence in (
        (["--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["--devices", "tpu"], "--device tpu is not available"),
        (["--devices", "cpu,"], "name devices with commas between them"),
    ):
        answer = command("sweep", path, "--out", str(tmp_path / "out"), *arguments)
        assert (answer.code, answer.stderr.count("\n")) == (2, 1), answer.stderr
        assert sentence in answer.stderr
