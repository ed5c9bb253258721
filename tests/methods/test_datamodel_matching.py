"""datamodel_matching: what it predicts, what its step computes, whether predictions come true, and its effect."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from data import Task
from methods.DatamodelMatching import DatamodelMatching, _margins, _margins_of
from tests.methods.trained_digits import (
    accuracy,
    assert_close,
    gradients,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    same,
    unlearn,
    unlearn_each,
)

ALL = 1000
"""A batch size that takes both sets: then a step does not depend on the order of images."""


def sets(task: Task) -> tuple[Any, Any, Any]:
    """Images and labels to retain, to forget and unseen."""
    return part(task, "retain"), part(task, "forget"), part(task, "validation")


def margin(logits: np.ndarray, label: int) -> float:
    """The logit of the probability of a class, written out."""
    likelihood = np.exp(logits - logits.max())[label] / np.exp(logits - logits.max()).sum()
    return float(np.log(likelihood) - np.log1p(-likelihood))


def test_defaults() -> None:
    """All of them ours. Catches one that has slipped."""
    assert DatamodelMatching().settings() == {
        "epochs": 5,
        "learning_rate": 0.003,
        "batch_size": 64,
        "width": 1.0,
        "ridge": 0.5,
        "surrogate_images": 2000,
        "noise": 1.0,
        "freeze_bn": False,
    }


def test_margin() -> None:
    """Catches the best other logit alone, the logarithm of the probability, and a sum with one's own class."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
    expected = [margin(logits[0].numpy(), 1), margin(logits[1].numpy(), 0)]
    assert _margins(logits, torch.tensor([1, 0])).tolist() == pytest.approx(expected)


def predictions(original: nn.Module, task: Task, width: float, ridge: float) -> tuple[list[float], float]:
    """m* by the slow way, without chance; and the standard deviation of what the calibration leaves over."""
    (retained, known), (forgotten, labels), (unseen, truth) = (
        (images.flatten(1).double().numpy(), of_them.numpy()) for images, of_them in sets(task)
    )
    square = ((retained[:, None] - retained[None]) ** 2).sum(axis=2)
    scale = width / np.sort(square, axis=None)[(square.size - 1) // 2]
    one_hot = np.eye(10)[known]
    weights = np.linalg.inv(np.exp(-scale * square) + ridge * np.eye(len(square))) @ (one_hot - one_hot.mean(axis=0))

    def own(image: np.ndarray, label: int) -> float:
        scores = np.exp(-scale * ((retained - image) ** 2).sum(axis=1)) @ weights
        return float(scores[label] - np.delete(scores, label).max())

    with torch.no_grad():
        logits = original(part(task, "validation")[0]).double().numpy()
    rows = [row for row, label in enumerate(truth) if label in set(known)]
    scores = [own(unseen[row], truth[row]) for row in rows]
    margins = [margin(logits[row], truth[row]) for row in rows]
    slope, intercept = np.polyfit(scores, margins, 1)
    left_over = np.sqrt(np.mean((np.array(margins) - slope * np.array(scores) - intercept) ** 2))
    return [slope * own(image, label) + intercept for image, label in zip(forgotten, labels, strict=True)], left_over


@pytest.mark.parametrize("which", ["task", "one_class"])
def test_predictions(original: nn.Module, which: str, request: pytest.FixtureRequest) -> None:
    """Those that are written out.

    Catches a surrogate that has seen the forget or the validation set, one of features, labels that aren't centred,
    another width or ridge, a calibration on other images or on the class that is forgotten, and one without intercept.
    """
    task: Task = request.getfixturevalue(which)
    method = DatamodelMatching(noise=0.0, width=1.7, ridge=0.2)
    found = method._predictions(copy.deepcopy(original), *sets(task))
    expected, _ = predictions(original, task, 1.7, 0.2)
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_chance(original: nn.Module, task: Task, noise: float) -> None:
    """As large as what the calibration leaves over, for each image by itself, with the seed.

    Catches a variance for a deviation, one draw for all images, and noise that doesn't scale.
    """
    method, still = DatamodelMatching(noise=noise), DatamodelMatching(noise=0.0)
    torch.manual_seed(0)
    draws = torch.stack([method._predictions(original, *sets(task)) for _ in range(40)])  # (40, 30)
    expected, left_over = predictions(original, task, 1.0, 0.5)
    chance = draws - still._predictions(original, *sets(task))
    assert float(chance.std()) == pytest.approx(noise * left_over, rel=0.1)  # 4 standard deviations
    assert abs(float(chance.mean())) < 0.15 * noise * left_over
    assert len(chance[0].unique()) == 30
    assert len(expected) == 30


def test_surrogate_learns_a_part(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many retained images, others with another seed. Catches the first ones, and labels in another order."""
    learned: list[Any] = []
    surrogate = DatamodelMatching._surrogate

    def spy(self: DatamodelMatching, images_and_labels: Any, asked: Any, classes: int) -> Any:
        learned.append(images_and_labels)
        return surrogate(self, images_and_labels, asked, classes)

    monkeypatch.setattr(DatamodelMatching, "_surrogate", spy)
    torch.manual_seed(0)
    for _ in range(2):
        DatamodelMatching(surrogate_images=50)._predictions(original, *sets(task))
    known = {image.numpy().tobytes(): int(label) for image, label in zip(*part(task, "retain"), strict=True)}
    chosen = [[image.numpy().tobytes() for image in images] for images, _ in learned]
    assert [len(set(images)) for images in chosen] == [50, 50]
    assert set(chosen[0]) != set(chosen[1])
    for images, (_, labels) in zip(chosen, learned, strict=True):
        assert [known[image] for image in images] == labels.tolist()


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_step(original: nn.Module, task: Task, freeze_bn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step down the mean of (m - m*)^2, predictions for the forget set, the original's margins for the retain set.

    Catches exchanged sets, margins of the retain set in train mode, a sum, two means, targets of other images, and
    statistics that move.
    """
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)  # which shows the gradient
    monkeypatch.setattr(
        DatamodelMatching, "_predictions", lambda self, net, retain, forget, unseen: forget[0].mean(dim=(1, 2, 3))
    )
    network = copy.deepcopy(original).train(not freeze_bn)
    images, labels = (torch.cat(pair) for pair in zip(part(task, "forget"), part(task, "retain"), strict=True))
    likelihoods = network(images).softmax(dim=1)[torch.arange(200), labels]
    margins = likelihoods.log() - (1 - likelihoods).log()
    with torch.no_grad():
        targets = torch.cat([images[:30].mean(dim=(1, 2, 3)), _margins(original(images), labels)[30:]])
    down = gradients(network, (margins - targets).square().mean())
    left = unlearn(DatamodelMatching(epochs=1, learning_rate=1e-3, batch_size=ALL, freeze_bn=freeze_bn), original, task)
    assert_close(moves(original, left), [-1e-3 * step for step in down], tolerance=5e-3)
    before, after = (dict(network.named_buffers()) for network in (original, left))
    assert all(torch.equal(before[name], after[name]) for name in before) == freeze_bn


def test_epochs_and_batches(original: nn.Module, task: Task) -> None:
    """Three batches an epoch, every image once, in another order each time. Catches sizes that aren't obeyed."""
    network = copy.deepcopy(original)
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].sum(dim=(1, 2, 3))) if module.training else None
    )
    unlearn(DatamodelMatching(epochs=2, batch_size=80), network, task)
    assert [len(batch) for batch in seen] == [80, 80, 40] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sort().values, second.sort().values)


def test_rate_and_seed(original: nn.Module, task: Task) -> None:
    """The step of Adam is the rate; another seed draws other targets. Catches a rate that is ignored."""
    first, again, other = (
        unlearn(DatamodelMatching(epochs=1, learning_rate=1e-5, batch_size=ALL), original, task, seed)
        for seed in (1, 1, 2)
    )
    largest = max(float(move.abs().max()) for move in moves(original, first))
    assert largest == pytest.approx(1e-5, rel=0.05)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.slow
def test_predictions_come_true(originals: list[nn.Module], task: Task) -> None:
    """They are nearer than the original's margins to the mean of models that were trained without the forget set.

    Catches a surrogate that knows nothing, and one that has learned the forget set.
    """
    images, labels = part(task, "retain")
    margins = []
    for seed in range(4):
        network = build_network(task, seed)
        torch.manual_seed(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        network.train()
        for _ in range(40):
            for rows in torch.randperm(170).split(50):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
        margins.append(_margins_of(network, part(task, "forget")))
    truth = torch.stack(margins).mean(dim=0)
    missed, known = [], []
    for original in originals:
        predicted = DatamodelMatching(noise=0.0)._predictions(original, *sets(task))
        missed.append((predicted - truth).square().mean())
        known.append((_margins_of(original, part(task, "forget")) - truth).square().mean())
    assert torch.stack(missed).mean() < 0.6 * torch.stack(known).mean()


def test_effect(originals: list[nn.Module], task: Task) -> None:
    """The margins come to what was predicted; forget loss up by far, retain accuracy held."""
    left = unlearn_each(lambda: DatamodelMatching(noise=0.0), originals, task)
    for before, after in zip(originals, left, strict=True):
        wanted = DatamodelMatching(noise=0.0)._predictions(before, *sets(task))
        apart = [float((_margins_of(one, part(task, "forget")) - wanted).square().mean()) for one in (before, after)]
        assert apart[1] < 0.5 * apart[0]
    assert mean_loss(left, task, "forget") > 3 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.97


def test_effect_on_a_class(original: nn.Module, one_class: Task) -> None:
    """Fours are forgotten, the rest is held. Catches predictions that go by what the original knows of fours."""
    left = unlearn(DatamodelMatching(epochs=10, learning_rate=0.01), original, one_class)
    assert accuracy(left, one_class, "forget") < 0.1
    assert accuracy(left, one_class, "retain") > 0.95
