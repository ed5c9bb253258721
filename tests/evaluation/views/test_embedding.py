"""Features, their arrangement, the picture of them, and accuracy by class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import nn

from checkpoints.bank import ensure
from checkpoints.networks import NETWORKS, build_network
from checkpoints.pool import Pool
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError, load
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.metrics import METRICS
from evaluation.metrics.accuracies import accuracy_by_class
from evaluation.report import Report
from evaluation.runs import foresight
from evaluation.runs.resolve import resolve
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec
from evaluation.views import debug as debugging
from evaluation.views import embedding
from evaluation.views.embedding import (
    MOST_FORGOTTEN,
    MOST_RETAINED,
    Panel,
    arrange,
    chosen_examples,
    draw,
    embed,
    panels,
    penultimate_features,
    turned,
    unlearned_network,
)

TASK = TaskSpec("digits", forget=("class:3:12",), train_size=160, recipe=(("epochs", 3),))
N = METRICS["official"].fewest_models
SPEC = GradingSpec("my_method", TASK, (("learning_rate", "0.1"),), originals=2, models=N, budget_seconds=60.0)
QUIET = Console(quiet=True)


# ----------------------------------------------------------------------------------------------------------------------
# Accuracy by class
# ----------------------------------------------------------------------------------------------------------------------


def test_accuracy_by_class_by_hand() -> None:
    """Two models, three classes, no example of the last. Catches precision in place of recall, and 0 for None."""
    predictions = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])  # (models, examples)
    logits = np.eye(3)[predictions]
    assert accuracy_by_class(logits, np.array([0, 0, 0, 1]), 3) == [pytest.approx(3 / 6), pytest.approx(1 / 2), None]


# ----------------------------------------------------------------------------------------------------------------------
# From networks to points
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_last_layer_gets(name: str) -> None:
    """The last layer's weights turn them into the network's logits; images of two batches keep their order.

    Catches features of another layer, or of its output, train mode, and a hook that stays behind.
    """
    torch.manual_seed(0)
    network = NETWORKS[name](1, 16, 5).train()
    images = torch.randn(1003 if name in ("mlp", "small_cnn") else 9, 1, 16, 16)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    features, logits = penultimate_features(network, images)
    last: Any = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    with torch.no_grad():
        expected = network.eval()(images)
        torch.testing.assert_close(torch.as_tensor(logits), expected)
        weight = last.weight.flatten(1)
        torch.testing.assert_close(F.linear(torch.as_tensor(features), weight, last.bias), expected)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_shown_are_all_forgotten_images_of_a_small_task() -> None:
    """First the forgotten, then the retained ones, each once; of many, so many of each, always the same."""
    small = load(TASK)
    assert chosen_examples(small).tolist() == [*small.request_indices, *small.retain_indices]
    large = load(TaskSpec("digits", forget=("random:600",), train_size=1200))
    rows = chosen_examples(large)
    assert len(set(rows)) == MOST_FORGOTTEN + MOST_RETAINED
    assert np.isin(rows, large.request_indices).tolist() == [True] * MOST_FORGOTTEN + [False] * MOST_RETAINED
    assert rows.tolist() == chosen_examples(large).tolist()
    assert np.median(rows[:MOST_FORGOTTEN]) == pytest.approx(600, abs=150), "from all over, not the first ones"


def test_arrangement_keeps_neighbours_and_is_the_same_every_time() -> None:
    """Three distant clouds stay apart. Catches an arrangement that depends on a global random state, or on nothing."""
    clouds = np.random.default_rng(0).normal(size=(60, 200)) + 30 * np.repeat(np.eye(3, 200), 20, axis=0)
    features = clouds.astype(np.float32)
    points = arrange(features)
    assert points.shape == (60, 2)
    centres = points.reshape(3, 20, 2).mean(axis=1)
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    assert nearest.tolist() == np.repeat(range(3), 20).tolist()
    np.random.seed(1)
    np.testing.assert_array_equal(arrange(features), points)


def test_a_handful_of_images_can_be_arranged() -> None:
    """Fewer than the neighbours that t-SNE would like to have."""
    assert np.isfinite(arrange(np.random.default_rng(0).normal(size=(5, 4)))).all()


@pytest.mark.parametrize("mirror", [1, -1])
def test_panels_are_turned_towards_the_first(mirror: int) -> None:
    """A turned, shifted and perhaps mirrored copy comes back; a scale stays. Catches the inverse of the rotation."""
    reference = np.random.default_rng(0).normal(size=(40, 2)) * [3, 1]
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    copied = 2 * reference * [1, mirror] @ turn + [5, -7]
    np.testing.assert_allclose(turned(copied, reference), 2 * (reference - reference.mean(axis=0)), atol=1e-9)


# ----------------------------------------------------------------------------------------------------------------------
# The picture
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(workers: Workers) -> Report:
    """A grading of 2 x 3 runs, of which there are outputs."""
    (found,) = grade_methods([SPEC], workers, QUIET)
    assert isinstance(found, Report)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("original", "run"), [(0, 0), (1, 2)])
def test_the_unlearned_network_is_that_of_the_grading(report: Report, original: int, run: int) -> None:
    """Its logits on the forget set are those that the grading has recorded. Catches another seed or original."""
    task = load(TASK)
    stored = Unlearned.load(resolve(SPEC, task, "cpu").folder / "outputs.npz")
    assert stored is not None
    network = unlearned_network(resolve(SPEC, task, "cpu"), original, run)
    with torch.no_grad():
        logits = network(task.train.images[task.request_indices]).numpy()
    np.testing.assert_array_equal(logits, stored.outputs.forget[original * N + run])


def test_a_grading_reports_accuracies_by_class(report: Report) -> None:
    """Weighted with the sizes of the classes they give the accuracies of all; class 3 alone is to be forgotten.

    Catches the outputs of one split with the labels of another, and unlearned and retrained models exchanged.
    """
    task = load(TASK)
    sizes = {"test": task.test.labels, "validation": task.validation.labels}
    for accuracies in (report.unlearned, report.retrained):
        by_class = accuracies.by_class
        assert by_class is not None
        for split, labels in sizes.items():
            weights = torch.bincount(labels, minlength=10).numpy()
            mean = np.average(np.array(by_class[split], dtype=float), weights=weights)
            assert mean == pytest.approx(getattr(accuracies, split))
        assert [share is None for share in by_class["forget"]] == [number != 3 for number in range(10)]
        assert by_class["forget"][3] == pytest.approx(accuracies.forget)
    assert report.unlearned.by_class != report.retrained.by_class


def test_the_picture_shows_what_it_says(report: Report) -> None:
    """Three panels with their accuracies; as many stars as images to forget; edges where a network is mistaken.

    Catches panels, predictions or labels of other images than their points, and bars that are not the test accuracy.
    """
    task = load(TASK)
    networks = {}
    for kind in ("original", "retrained"):
        networks[kind] = build_network(task)
        networks[kind].load_state_dict(Pool(task, kind).state(0))
    shown = panels(task, networks)
    figure = draw(task, shown)
    first, second, bars = figure.axes
    for axis, panel, (kind, network) in zip((first, second), shown, networks.items(), strict=True):
        kept, kept_mistaken, forgotten, forgotten_mistaken = (
            np.shape(each.get_offsets())[0] for each in axis.collections
        )
        wrong = {}
        for name, rows in (("forget", task.request_indices), ("retain", task.retain_indices)):
            with torch.no_grad():
                right = network.eval()(task.train.images[rows]).argmax(dim=1) == task.train.labels[rows]
            wrong[name] = int((~right).sum())
            assert f"{name} {float(right.double().mean()):.1%}" in axis.get_title()
        assert axis.get_title().startswith(kind)
        assert (forgotten + forgotten_mistaken, forgotten_mistaken) == (12, wrong["forget"])
        assert (kept + kept_mistaken, kept_mistaken) == (148, wrong["retain"])
        assert len(panel.points) == 160
    assert wrong["retain"] > 0, "after three epochs there is something to edge"
    with torch.no_grad():
        right = networks["retrained"](task.test.images).argmax(dim=1) == task.test.labels
    legend = draw(task, [shown[0], replace(shown[1], title="_x")]).axes[-1].get_legend()
    assert legend is not None
    assert legend.get_texts()[1].get_text() == "_x", "a name that Matplotlib would leave out"
    heights = [bar.get_height() for bar in bars.containers[1]]
    assert heights == pytest.approx([float(right[task.test.labels == c].double().mean()) for c in range(10)])


@pytest.mark.slow
def test_the_file(workers: Workers, report: Report, tmp_path: Path) -> None:
    """A PNG that is not blank, beside the report unless it is told where, with the same bytes every time.

    Catches models that nobody has trained: the grading needed 2 originals and 3 retrained ones.
    """
    path = embed(SPEC, workers, QUIET, original=2, retrained=4, run=1)
    assert path == resolve(SPEC, load(TASK), "cpu").folder / "embedding.png"
    assert path.with_name("report.json").is_file()
    picture = imread(path)
    assert picture.shape[1] > picture.shape[0] > 500
    assert picture[..., :3].std() > 0.1
    again = embed(SPEC, workers, QUIET, original=2, retrained=4, run=1, path=tmp_path / "new" / "again.png")
    assert again.read_bytes() == path.read_bytes()
    other = embed(SPEC, workers, QUIET, path=tmp_path / "other.png")
    assert other.read_bytes() != path.read_bytes()


def test_own_weights(workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model in a file is a panel of its own, without a method or beside one; a wrong file is told before the work.

    Catches a panel of another model: the file is a copy of the original's, and so is its panel.
    """
    drawn: list[list[Panel]] = []

    def noting(task: Task, shown: list[Panel]) -> Figure:
        drawn.append(shown)
        return draw(task, shown)

    task = load(TASK)
    ensure(task, 1, 1, workers)
    monkeypatch.setattr(embedding, "draw", noting)
    path = embed(replace(SPEC, method=""), workers, QUIET, weights=Pool(task, "original").model_path(0))
    assert path.name == "embedding-model-00000.png"
    assert path.is_file()
    embed(SPEC, workers, QUIET, path=tmp_path / "both.png", weights=Pool(task, "original").model_path(0))
    titles = [[panel.title for panel in shown] for shown in drawn]
    assert titles[0] == ["original 0", "retrained 0", "model-00000.pt"]
    assert titles[1] == ["original 0", "retrained 0", f"{SPEC.method}, run 0", "model-00000.pt"]
    for shown in drawn:
        assert np.array_equal(shown[0].outputs.test, shown[-1].outputs.test)
        assert not np.array_equal(shown[0].outputs.test, shown[1].outputs.test)
    (tmp_path / "odd.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"odd\.pth"):
        embed(replace(SPEC, method=""), workers, QUIET, weights=tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("changes", "numbers", "said"),
    [
        ({}, {"original": -1}, "counted from 0"),
        ({"task": replace(TASK, forget=("class:3", "class:4"))}, {}, "one after another; add --at-once"),
        ({"settings": (("speed", "1"),)}, {}, "no hyper-parameter 'speed'"),
        ({"method": "perturbed_sign", "settings": (("noise", "pink"),)}, {}, "failed .*noise is one of .*-m perturbed"),
    ],
)
def test_mistakes_are_said(
    workers: Workers,
    changes: dict[str, Any],
    numbers: dict[str, Any],
    said: str,
) -> None:
    """In a sentence: a number that can't be, a setting that is not there, and a method that fails."""
    with pytest.raises(UserError, match=said):
        embed(replace(SPEC, **changes), workers, QUIET, **numbers)


@pytest.mark.parametrize("what", ["embed", "debug"])
def test_hours_are_asked_for(what: str, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before a grading. Catches models that are trained for hours without a question."""

    def ensure(*arguments: Any) -> None:
        arguments[-1](7200.0, 3600.0)

    module, call = {"embed": (embedding, embed), "debug": (foresight, debugging.ready_to_debug)}[what]
    monkeypatch.setattr(module, "ensure", ensure)
    with pytest.raises(UserError, match=r"about 2.0 hours to train models.*With --yes it begins without a question"):
        call(SPEC, workers, Console(asks=True))  # type: ignore[operator]
