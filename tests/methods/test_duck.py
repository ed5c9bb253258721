"""duck: what its step computes, which centroid it takes, how many steps it makes and when it ends, and its effect."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import Task
from data.loaders import run_loaders
from methods.Duck import Duck, _centroids, _distance, _forward, _nearest
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

MODULE = sys.modules[Duck.__module__]


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of two vectors, written out."""
    return (one * other).sum() / (one.square().sum().sqrt() * other.square().sum().sqrt())


def features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the last of the layers in a row gets."""
    got: torch.Tensor = network[:-1](images)  # type: ignore[index]
    return got


def wrong_centroids(original: nn.Module, task: Task, classes: int = 10) -> list[torch.Tensor]:
    """For each forgotten image, the nearest mean of retained features of another class, by the slow way."""
    images, labels = part(task, "retain")
    with torch.no_grad():
        known, ours = features(original, images), features(original, part(task, "forget")[0])
    means = {label: known[labels == label].mean(dim=0) for label in range(classes) if bool((labels == label).any())}
    found = []
    for row, own in zip(ours, part(task, "forget")[1].tolist(), strict=True):
        others = [mean for label, mean in means.items() if label != own]
        found.append(min(others, key=lambda mean: 1 - float(cosine(row, mean))))
    return found


@pytest.fixture
def sgd_for_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first step show the gradient, which Adam reduces to its sign."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)


@pytest.mark.usefixtures("sgd_for_adam")
@pytest.mark.parametrize("freeze_bn", [False, True])
def test_duck_step(original: nn.Module, task: Task, freeze_bn: bool) -> None:
    """One step down lambda_1 (1 - cos) + lambda_2 CE(logits / T), and weight decay.

    Catches a step away from the centroid, exchanged weights or sets, a centroid of one's own class, a sum for a mean,
    a temperature that multiplies or is left out, features of the new network for the centroids, and a batch
    normalisation that isn't frozen when it should be.
    """
    rate, lambda_1, lambda_2, temperature, decay = 0.01, 0.7, 0.3, 2.5, 0.1
    network = copy.deepcopy(original).train(not freeze_bn)
    forgotten = features(network, part(task, "forget")[0])
    pairs = zip(forgotten, wrong_centroids(original, task), strict=True)
    distance = sum((1 - cosine(row, wanted) for row, wanted in pairs), start=torch.zeros(())) / 30
    images, labels = part(task, "retain")
    log_likelihood = (network(images) / temperature).log_softmax(dim=1)[torch.arange(170), labels]
    down = gradients(network, lambda_1 * distance - lambda_2 * log_likelihood.mean())
    expected = [-rate * (step + decay * weight) for step, weight in zip(down, original.parameters(), strict=True)]
    method = Duck(
        epochs=1,
        learning_rate=rate,
        lambda_1=lambda_1,
        lambda_2=lambda_2,
        temperature=temperature,
        weight_decay=decay,
        freeze_bn=freeze_bn,
    )
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [step.detach() for step in expected])
    statistics = [name for name in original.state_dict() if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(original.state_dict()[name], left.state_dict()[name]) == freeze_bn


def test_duck_defaults() -> None:
    """Those of the authors' code and of its example of random images of CIFAR-10. Catches one that has slipped."""
    assert Duck().settings() == {
        "epochs": 10,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "first_milestone": 25,
        "second_milestone": 40,
        "batch_size": 1024,
        "retain_batches": 6,
        "lambda_1": 1.0,
        "lambda_2": 1.4,
        "temperature": 2.0,
        "freeze_bn": False,
    }


def test_duck_features(original: nn.Module, task: Task) -> None:
    """What the last layer gets, a convolution's averaged over the image; no hook stays. Catches logits as features."""
    images, _ = part(task, "forget")
    logits, found = _forward(original, images)
    torch.testing.assert_close(found, features(original, images))
    torch.testing.assert_close(logits, original(images))
    ends_in_convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inner = ends_in_convolution[0](images)  # (B, 3, 6, 6)
    torch.testing.assert_close(_forward(ends_in_convolution, images)[1], inner.mean(dim=(2, 3)))
    for network in (original, ends_in_convolution):
        assert not any(module._forward_pre_hooks for module in network.modules())


def test_duck_centroids(original: nn.Module, one_class: Task) -> None:
    """Means by class over all batches; NaN for fours, of which none is retained. Catches a mean over batches' means."""
    found = _centroids(copy.deepcopy(original), run_loaders(one_class, 1, 64)[0])
    images, labels = part(one_class, "retain")
    with torch.no_grad():
        known = features(original, images)
    for label in set(range(10)) - {4}:
        torch.testing.assert_close(found[label], known[labels == label].mean(dim=0))
    assert bool(found[4].isnan().all())


def test_duck_nearest_is_of_another_class_by_the_angle() -> None:
    """Catches one's own class, a class without images, the Euclidean distance, and the farthest."""
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0], [torch.nan, torch.nan]])
    rows = torch.tensor([[1.0, 0.1], [1.0, 0.1], [0.2, 1.0]])
    found = _nearest(rows, torch.tensor([0, 2, 1]), centroids)
    torch.testing.assert_close(found, centroids[[2, 0, 2]])


def test_duck_without_another_class() -> None:
    """An image of the only class that is known has nowhere to go, and gives no gradient. Catches NaN in the weights."""
    centroids = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]])
    rows = torch.tensor([[3.0, 4.0], [3.0, 4.0]], requires_grad=True)
    wanted = _nearest(rows.detach(), torch.tensor([0, 1]), centroids)
    assert bool(wanted[0].isnan().all())
    value = _distance(rows, wanted)
    assert float(value.detach()) == pytest.approx((1 - 0.6) / 2)
    (gradient,) = torch.autograd.grad(value, rows)
    assert bool(gradient.isfinite().all())
    assert not bool(gradient[0].any())


def steps_of(method: Duck, original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rate, the images of both sets and the centroids of every step."""
    seen: list[dict[str, Any]] = []
    step = Duck._step

    def spy(self: Duck, net: nn.Module, optimizer: Any, images: Any, wanted: Any, kept: Any) -> None:
        rate = optimizer.param_groups[0]["lr"]
        seen.append({"rate": rate, "images": images, "wanted": wanted, "kept": kept["image"]})
        step(self, net, optimizer, images, wanted, kept)

    with monkeypatch.context() as patch:
        patch.setattr(Duck, "_step", spy)
        unlearn(method, original, task)
    return seen


@pytest.mark.parametrize(("retain_batches", "expected"), [(1, 1), (3, 3), (100, 5)])
def test_duck_steps_of_a_forget_batch(
    original: nn.Module, task: Task, retain_batches: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forget batch stays for so many steps, each with another retain batch, or for all that there are.

    Catches one step only, one more, the same retain batch again, and a batch size that isn't obeyed.
    """
    method = Duck(epochs=1, retain_batches=retain_batches, batch_size=40)
    seen = steps_of(method, original, task, monkeypatch)  # 30 to forget, 170 to retain
    assert [len(step["images"]) for step in seen] == [30] * expected
    assert [len(step["kept"]) for step in seen] == [40, 40, 40, 40, 10][:expected]
    kept = torch.cat([step["kept"] for step in seen])
    assert len(kept.unique(dim=0)) == len(kept)


def test_duck_rate_is_halved_by_epochs(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """At both milestones, which count epochs of three forget batches and two steps each. Catches batches counted."""
    method = Duck(epochs=4, learning_rate=1e-7, first_milestone=1, second_milestone=3, batch_size=10, retain_batches=2)
    rates = [step["rate"] for step in steps_of(method, original, task, monkeypatch)]
    assert rates == pytest.approx([1e-7] * 6 + [5e-8] * 12 + [2.5e-8] * 6)


def test_duck_centroids_stay(original: nn.Module, one_class: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image goes to the same centroid throughout, however far it has come. Catches a target that is chosen anew."""
    seen = steps_of(Duck(epochs=6, learning_rate=0.01, lambda_2=0.0), original, one_class, monkeypatch)
    assert len(seen) > 2
    expected = {
        image.numpy().tobytes(): wanted
        for image, wanted in zip(part(one_class, "forget")[0], wrong_centroids(original, one_class), strict=True)
    }
    for step in seen:
        for image, wanted in zip(step["images"], step["wanted"], strict=True):
            torch.testing.assert_close(wanted, expected[image.numpy().tobytes()])


def test_duck_stops(original: nn.Module, task: Task) -> None:
    """At the end of the first epoch with the forget accuracy below the original's validation accuracy.

    Catches a stop at 0.01, which is for whole classes, none at all, and the accuracy of the network as it is by now.
    """
    target = accuracy(original, task, "validation")
    settings: dict[str, Any] = {"learning_rate": 0.003}
    after = [unlearn(Duck(epochs=epochs, **settings), original, task) for epochs in range(9)]
    first = next(epoch for epoch, network in enumerate(after) if accuracy(network, task, "forget") < target)
    assert 1 < first < 8
    assert same(after[first], after[8])
    assert not same(after[first - 1], after[first])


def test_duck_goes_on_with_a_class(original: nn.Module, one_class: Task) -> None:
    """Down to 0.01. Catches the stop of random images, for which a class would be left half-known."""
    left = unlearn(Duck(epochs=60, learning_rate=0.003), original, one_class)
    assert accuracy(left, one_class, "forget") < 0.01
    longer = unlearn(Duck(epochs=90, learning_rate=0.003), original, one_class)
    assert same(left, longer)


def test_duck_without_distance_is_fine_tuning(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """At lambda_1 = 0, lambda_2 = 1, T = 1: Adam on the retain set, if forget batches leave no trace.

    Catches a forget loss that lambda_1 doesn't weigh, and a retain loss that lambda_2 or T doesn't.
    """
    method = Duck(epochs=3, learning_rate=1e-3, lambda_1=0.0, lambda_2=1.0, temperature=1.0, freeze_bn=True)
    monkeypatch.setattr(MODULE, "_accuracy", lambda network, loader: 1.0)  # no stop
    network = copy.deepcopy(original).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, labels = part(task, "retain")
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert_close(moves(original, unlearn(method, original, task)), moves(original, network), tolerance=0.02)


def test_duck_effect(originals: list[nn.Module], task: Task) -> None:
    """Forget loss up, retain accuracy held."""
    left = unlearn_each(lambda: Duck(learning_rate=0.003), originals, task)
    assert mean_loss(left, task, "forget") > 2 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "forget") < mean_accuracy(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.95


def test_duck_effect_on_a_class(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are forgotten, the rest is held."""
    left = unlearn_each(lambda: Duck(epochs=60, learning_rate=0.003), originals, one_class)
    assert mean_accuracy(originals, one_class, "forget") == 1
    assert mean_accuracy(left, one_class, "forget") < 0.1
    assert mean_accuracy(left, one_class, "retain") > 0.95
