"""A picture of what unlearning does inside: how an original, a retrained and an unlearned network see the images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from checkpoints.bank import ensure
from checkpoints.grouped import State
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.own_weights import read_weights
from checkpoints.pool import Pool
from checkpoints.workers import Workers, be_deterministic
from data import Task, UserError
from data.files import write_atomically
from data.texts import unmathematical
from evaluation.console import Console
from evaluation.grading import load_with_one_request, tell_remarks
from evaluation.isolation.call import original_network
from evaluation.isolation.handle import CallFailedError
from evaluation.metrics.accuracies import accuracy_by_class
from evaluation.report import results_folder
from evaluation.runs.foresight import longest_run, tell_seconds
from evaluation.runs.one import single_run
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FORGOTTEN = 200
MOST_RETAINED = 400
"""Training images shown; of larger sets, so many at random, always the same."""
PERPLEXITY = 30.0
"""How many neighbours t-SNE tries to keep near each image."""
NEIGHBOURS = 5
"""The background has the class that most of so many nearest points are taken for."""
GRID = 150
"""Points across the background."""


@dataclass(frozen=True, eq=False)
class Panel:
    """What the picture shows of one network."""

    title: str
    points: np.ndarray
    """Where t-SNE puts each image, `(examples, 2)`."""
    predictions: np.ndarray
    """The class that each is taken for, int64 `(examples,)`."""
    outputs: Outputs
    """Of this network alone."""


def embed(
    spec: GradingSpec,
    workers: Workers,
    console: Console,
    original: int = 0,
    retrained: int = 0,
    run: int = 0,
    path: Path | None = None,
    weights: Path | None = None,
) -> Path:
    """Draw an original, a retrained and an unlearned network side by side; the path of the PNG file.

    The unlearned network is what `run` of `spec.method` from that original leaves, the very run of a grading with
    `spec`; or, where that names no method, the one whose weights are in the file `weights`; with both, both are drawn.
    The models that this takes are trained if they are not there. Without a `path`, the picture is `embedding.png` in
    the folder of the grading, or lies with the results of the task.

    Raises:
        UserError: the task, the file or a setting is wrong, there are several requests, or the method failed.
    """
    if min(original, retrained, run) < 0:
        raise UserError("Originals, retrained models and runs are counted from 0.")
    task = load_with_one_request(spec.task, workers.device)
    grading = resolve(spec, task, workers.device) if spec.method else None
    tell_remarks([grading] if grading else [], console)
    own = {} if weights is None else {weights.name: network_here(task, read_weights(weights, task, console.tell))}

    def foresee(training: float, retraining: float) -> None:
        tell_seconds(training, 1, longest_run(grading, retraining) if grading else 0, console)

    with console.progress("bank", "models") as on_progress:
        ensure(task, original + 1, retrained + 1, workers, console.tell, on_progress, foresee)
    networks = {
        f"original {original}": from_bank(task, "original", original),
        f"retrained {retrained}": from_bank(task, "retrained", retrained),
        **({f"{spec.method}, run {run}": unlearned_network(grading, original, run)} if grading else {}),
        **own,
    }
    with console.waiting("arranging the images"):
        figure = draw(task, panels(task, networks))
    if path is None and weights is not None:
        path = results_folder() / f"{task.name}-{task.fingerprint}" / f"embedding-{weights.stem}.png"
    elif path is None and grading is not None:
        path = grading.folder / "embedding.png"
    assert path is not None, "a method or weights are named"
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png", bbox_inches="tight"))
    return path


def from_bank(task: Task, kind: str, model: int) -> nn.Module:
    """A model of the bank, in eval mode, to be used in this process; `kind` is "original" or "retrained"."""
    return network_here(task, Pool(task, kind).state(model))


def network_here(task: Task, weights: State) -> nn.Module:
    """A network with these weights, in eval mode, to be used in this process."""
    be_deterministic(str(task.train.images.device))  # a run here is so, too: networks are compared
    return original_network(task, weights)


def unlearned_network(grading: Grading, original: int, run: int) -> nn.Module:
    """What a run leaves, without a budget.

    Raises:
        UserError: the method failed, or broke its contract.
    """
    method = grading.spec.method
    try:
        with open(os.devnull, "wb") as nothing:
            _, network = single_run(grading.run_settings, grading.task, original, run, nothing.fileno())
        return network.eval()
    except CallFailedError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{method} failed ({reason}): python main.py -m {method} writes a log with the traceback."
        ) from error


# ----------------------------------------------------------------------------------------------------------------------
# From networks to points
# ----------------------------------------------------------------------------------------------------------------------


def panels(task: Task, networks: Mapping[str, nn.Module]) -> list[Panel]:
    """A panel for each network, all of the same images; `networks` by the title of their panel.

    Each network has a space of features of its own, so t-SNE arranges the images for each network by itself, and the
    arrangement is then turned (and mirrored) towards the first one. What can be compared is who is near whom.
    """
    rows = torch.as_tensor(chosen_examples(task), device=task.train.images.device)
    found: list[Panel] = []
    for title, network in networks.items():
        features, logits = penultimate_features(network, task.train.images[rows])
        points = arrange(features)
        points = turned(points, found[0].points) if found else points
        found.append(Panel(title, points, logits.argmax(axis=1), record_outputs(network, task)))
    return found


def chosen_examples(task: Task) -> np.ndarray:
    """The training indices that are shown, int64 `(examples,)`: first the forgotten ones, then retained ones."""
    rng = np.random.default_rng(0)
    forgotten = rng.permutation(task.forget_indices)[:MOST_FORGOTTEN]
    retained = rng.permutation(task.retain_indices)[:MOST_RETAINED]
    return np.concatenate([np.sort(forgotten), np.sort(retained)])


@torch.no_grad()
def penultimate_features(network: nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer gets, float32 `(examples, features)`, and the logits `(examples, classes)`, in eval mode.

    The last layer is the last linear or convolutional one; what a convolution gets is averaged over the image, as its
    logits are.

    Raises:
        UserError: the network has no such layer.
    """
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    seen: list[torch.Tensor] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0].flatten(2).mean(dim=2) if arguments[0].ndim == 4 else arguments[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in layers[-1:]]
    try:
        network.eval()
        logits = [network(batch) for batch in images.split(1000)]
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or seen[0].ndim != 2:
        raise UserError("What the last layer gets can't be drawn: this network does not end with a linear layer.")
    return torch.cat(seen).cpu().numpy(), torch.cat(logits).cpu().numpy()


def arrange(features: np.ndarray) -> np.ndarray:
    """t-SNE of `(examples, features)` in two dimensions, float64 `(examples, 2)`: the same every time."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with threadpool_limits(1):  # the order in which threads add up would change the last bits, and those the rest
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features).astype(np.float64)


def turned(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`points` `(examples, 2)`, centred, turned and perhaps mirrored to be as near as possible to `reference`."""
    from scipy.linalg import orthogonal_procrustes

    points = points - points.mean(axis=0)
    rotation, _ = orthogonal_procrustes(points, reference - reference.mean(axis=0))
    return points @ rotation


# ----------------------------------------------------------------------------------------------------------------------
# From points to a picture
# ----------------------------------------------------------------------------------------------------------------------


def draw(task: Task, shown: list[Panel]) -> Figure:
    """The panels side by side, and below them the accuracy of each network on the test images of each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(shown), 7.2), layout="constrained")
    requests = unmathematical(", ".join(request.text for request in task.requests))
    figure.suptitle(f"{task.name}: forget {requests}")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 1])
    for axis, panel in zip(parts[0].subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_points(axis, task, panel)
    parts[0].supxlabel("stars: to forget; dots: to keep; dark edge: taken for another class", fontsize=9)
    _draw_bars(parts[1].subplots(), task, shown)
    return figure


def _draw_points(axis: Axes, task: Task, panel: Panel) -> None:
    """Retained images as dots, forgotten ones as stars, coloured by class; with a dark edge where it is mistaken."""
    from sklearn.neighbors import KNeighborsClassifier

    colours = _colours(len(task.classes))
    rows = chosen_examples(task)
    labels = task.train.labels.cpu().numpy()[rows]
    forgotten = np.isin(rows, task.forget_indices)
    low, high = panel.points.min(axis=0), panel.points.max(axis=0)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    x, y = np.meshgrid(*np.linspace(low, high, GRID).T)  # (GRID, GRID) each
    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(rows))).fit(panel.points, panel.predictions)
    ground = nearest.predict(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    extent = (low[0], high[0], low[1], high[1])
    axis.imshow(colours[ground], origin="lower", extent=extent, aspect="auto", alpha=0.18)

    mistaken = panel.predictions != labels
    for marker, size, which in (("o", 14, ~forgotten), ("*", 60, forgotten)):
        for edge, width, told in (("white", 0.3, ~mistaken), ("black", 0.7, mistaken)):
            some = which & told
            where_x, where_y = panel.points[some].T
            face = colours[labels[some]]
            axis.scatter(where_x, where_y, s=size, c=face, marker=marker, edgecolors=edge, linewidths=width)
    axis.set(xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    forget = panel.outputs.accuracy("forget", task.labels("forget"))
    test = panel.outputs.accuracy("test", task.labels("test"))
    kept = panel.outputs.retain_accuracy
    axis.set_title(
        f"{unmathematical(panel.title)}\naccuracy: forget {forget[0]:.1%}, retain {kept[0]:.1%}, test {test[0]:.1%}",
        fontsize=10,
    )


def _draw_bars(axis: Axes, task: Task, shown: list[Panel]) -> None:
    classes = len(task.classes)
    labels = task.labels("test")
    width = 0.8 / len(shown)
    bars = []
    for number, panel in enumerate(shown):
        heights = [share or 0.0 for share in accuracy_by_class(panel.outputs.test, labels, classes)]
        places = np.arange(classes) + (number - (len(shown) - 1) / 2) * width
        shade = str(0.75 - 0.6 * number / max(len(shown) - 1, 1))
        bars.append(axis.bar(places, heights, width, color=shade))
    names = list(map(unmathematical, task.classes))
    axis.set_xticks(np.arange(classes), names, rotation=90 if classes > 20 else 0)
    for tick, colour in zip(axis.get_xticklabels(), _colours(classes), strict=True):
        tick.set(color=colour, fontweight="bold")
    axis.set(ylim=(0, 1), ylabel="test accuracy", xlabel="class", xlim=(-0.6, classes - 0.4))
    titles = [unmathematical(panel.title) for panel in shown]  # as labels of the bars, those like _x would be left out
    axis.legend(bars, titles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)


def _colours(classes: int) -> np.ndarray:
    """One for each class, RGBA `(classes, 4)`."""
    from matplotlib import colormaps

    few = colormaps["tab10"](np.arange(10))
    return few[:classes] if classes <= len(few) else colormaps["gist_rainbow"](np.linspace(0, 1, classes))
