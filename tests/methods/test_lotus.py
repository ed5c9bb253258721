"""lotus: its targets, its temperature, what its step computes, when it ends, and its effect."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data import Task
from methods.Lotus import Lotus
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


def test_lotus_defaults() -> None:
    """Those of the authors' code and their script for ResNet-18 on CIFAR-10. Catches one that has slipped."""
    assert Lotus().settings() == {
        "epochs": 10,
        "learning_rate": 1e-4,
        "weight_decay": 5e-4,
        "batch_size": 128,
        "alpha": 8.0,
        "retain_fraction": 0.3,
        "gumbel": True,
        "margin": 0.01,
        "freeze_bn": False,
    }


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("which", ["task", "one_class"])
def test_lotus_step(
    original: nn.Module, which: str, freeze_bn: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step down -sum t log p, without noise: t is softmax(z / tau) or the original's class; and weight decay.

    Catches exchanged sets, true labels for the original's, tau that multiplies, an accuracy of another set in tau, the
    validation accuracy where a class is forgotten, a mean over classes, and statistics that move when frozen.
    """
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)  # which shows the gradient, and decays alike
    task: Task = request.getfixturevalue(which)
    rate, alpha, decay = 0.01, 3.0, 0.1
    target = accuracy(original, task, "validation") if which == "task" else 0.0
    temperature = math.exp(alpha * (accuracy(original, task, "forget") - target))
    assert temperature > 1.1
    images = torch.cat([part(task, "retain")[0], part(task, "forget")[0]])
    kept = len(part(task, "retain")[0])
    network = copy.deepcopy(original).train(not freeze_bn)
    losses = []
    with torch.no_grad():
        logits = original(images)
    for row, (learned, known) in enumerate(zip(network(images).log_softmax(dim=1), logits, strict=True)):
        if row < kept:
            losses.append(-learned[int(known.argmax())])
        else:
            wanted = (known / temperature).exp() / (known / temperature).exp().sum()
            losses.append(-(wanted * learned).sum())
    down = gradients(network, torch.stack(losses).mean())
    expected = [-rate * (step + decay * weight) for step, weight in zip(down, original.parameters(), strict=True)]
    method = Lotus(
        epochs=1,
        learning_rate=rate,
        alpha=alpha,
        weight_decay=decay,
        gumbel=False,
        retain_fraction=1.0,
        batch_size=ALL,
        freeze_bn=freeze_bn,
    )
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [step.detach() for step in expected])
    statistics = [name for name in original.state_dict() if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(original.state_dict()[name], left.state_dict()[name]) == freeze_bn


def test_lotus_targets_are_drawn() -> None:
    """Classes as often as the original's softmax says; smooth ones whose logarithms lie (z + g) / tau apart.

    Catches noise that isn't Gumbel's or has another sign, noise outside of the temperature, one draw for the whole
    batch, hard targets of forgotten images, and soft ones of retained images.
    """
    draws, temperature = 20000, 2.0
    logits = torch.tensor([1.0, 0.0, -1.0, -5.0])
    torch.manual_seed(0)
    unwanted = torch.arange(2 * draws) >= draws
    found = Lotus()._targets(nn.Identity(), logits.repeat(2 * draws, 1), unwanted, temperature)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2 * draws))
    drawn, smooth = found[:draws], found[draws:]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(dim=0), logits.softmax(dim=0), rtol=0, atol=0.015)
    assert float(smooth.max()) < 1
    classes = nn.functional.one_hot(smooth.argmax(dim=1), 4).float()
    torch.testing.assert_close(classes.mean(dim=0), logits.softmax(dim=0), rtol=0, atol=0.015)
    apart = (smooth[:, 0].log() - smooth[:, 1].log()) * temperature  # z0 - z1, and a logistic variable
    assert float(apart.mean()) == pytest.approx(1.0, abs=0.06)
    assert float(apart.std()) == pytest.approx(math.pi / math.sqrt(3), rel=0.03)


def targets_of(method: Lotus, original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was wanted of which images in every step, and the temperature."""
    seen: list[dict[str, Any]] = []
    targets = Lotus._targets

    def spy(self: Lotus, teacher: nn.Module, images: Any, unwanted: Any, temperature: float) -> torch.Tensor:
        wanted = targets(self, teacher, images, unwanted, temperature)
        seen.append({"images": images, "unwanted": unwanted, "temperature": temperature, "wanted": wanted})
        return wanted

    with monkeypatch.context() as patch:
        patch.setattr(Lotus, "_targets", spy)
        unlearn(method, original, task)
    return seen


def test_lotus_temperature_follows_the_forget_accuracy(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an epoch, of four batches here, by the network as it is by now; the validation accuracy is the original's.

    Catches a temperature that is fixed, one that changes within the epoch, and the accuracy of the new network.
    """
    settings: dict[str, Any] = {"learning_rate": 0.006, "batch_size": 50, "retain_fraction": 1.0, "margin": 2.0}
    seen = targets_of(Lotus(epochs=4, **settings), original, task, monkeypatch)
    after = [unlearn(Lotus(epochs=epochs, **settings), original, task) for epochs in range(4)]
    target = accuracy(original, task, "validation")
    expected = [math.exp(8 * (accuracy(network, task, "forget") - target)) for network in after for _ in range(4)]
    assert [step["temperature"] for step in seen] == pytest.approx(expected)
    assert len(set(expected)) > 1
    assert [len(step["images"]) for step in seen] == [50] * 16


def test_lotus_teacher_is_the_original(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the network has changed, targets are still the original's, in eval mode. Catches a teacher that learns."""
    method = Lotus(epochs=3, learning_rate=0.01, gumbel=False, batch_size=50, margin=2.0)
    for step in targets_of(method, original, task, monkeypatch):
        with torch.no_grad():
            logits = original(step["images"])
        smooth = (logits / step["temperature"]).softmax(dim=1)
        torch.testing.assert_close(step["wanted"][step["unwanted"]], smooth[step["unwanted"]])
        hard = nn.functional.one_hot(logits.argmax(dim=1), 10).float()
        assert torch.equal(step["wanted"][~step["unwanted"]], hard[~step["unwanted"]])


def test_lotus_draws_anew_in_every_epoch(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same image has another target. Catches targets that are drawn once."""
    seen = targets_of(Lotus(epochs=3, learning_rate=1e-9, batch_size=ALL), original, task, monkeypatch)
    assert len(seen) == 3
    wanted = []
    for step in seen:
        order = step["images"].sum(dim=(1, 2, 3)).argsort()
        assert step["temperature"] == seen[0]["temperature"]
        wanted.append(step["wanted"][order][step["unwanted"][order]])
    assert not torch.allclose(wanted[0], wanted[1])
    assert not torch.allclose(wanted[1], wanted[2])


def test_lotus_takes_a_part_of_the_retain_set(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 % of 170, another part with another seed, and all 30 forgotten images. Catches the first ones, and all."""
    chosen: list[TensorDataset] = []

    def spy(dataset: TensorDataset, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        chosen.append(dataset)
        assert shuffle, "the two kinds are mixed"
        return DataLoader(dataset, batch_size, shuffle)

    monkeypatch.setattr(sys.modules[Lotus.__module__], "DataLoader", spy)
    for seed in (1, 2):
        unlearn(Lotus(epochs=1), original, task, seed)
    kept = []
    for dataset in chosen:
        images, unwanted = dataset.tensors
        assert int((~unwanted).sum()) == 51
        wanted, forgotten = part(task, "retain")[0], part(task, "forget")[0]
        assert all(bool((wanted == image).flatten(1).all(dim=1).any()) for image in images[~unwanted])
        assert sorted(images[unwanted].sum(dim=(1, 2, 3)).tolist()) == sorted(forgotten.sum(dim=(1, 2, 3)).tolist())
        kept.append(sorted(images[~unwanted].sum(dim=(1, 2, 3)).tolist()))
    assert kept[0] != kept[1]


@pytest.mark.parametrize("margin", [0.01, 0.1])
def test_lotus_stops(original: nn.Module, task: Task, margin: float) -> None:
    """Before the first epoch that begins with a forget accuracy so far under the validation accuracy.

    Catches no stop, a stop at the difference 0, one with the wrong sign, and one that undoes the last epoch.
    """
    target = accuracy(original, task, "validation") - margin
    settings: dict[str, Any] = {"learning_rate": 0.01, "batch_size": 64, "margin": margin}
    after = [unlearn(Lotus(epochs=epochs, **settings), original, task) for epochs in range(9)]
    first = next(epoch for epoch, network in enumerate(after) if accuracy(network, task, "forget") <= target)
    assert 0 < first < 8
    assert same(after[first], after[8])
    assert not same(after[first - 1], after[first])


def test_lotus_effect(originals: list[nn.Module], task: Task) -> None:
    """Forget loss up, retain accuracy held; smoother targets forget more. Catches an alpha with the wrong sign."""
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": 0.003, "batch_size": 32, "retain_fraction": 1.0}
    losses = []
    for alpha in (0.0, 8.0):
        left = unlearn_each(lambda alpha=alpha: Lotus(alpha=alpha, **settings), originals, task)  # type: ignore[misc]
        losses.append(mean_loss(left, task, "forget"))
        assert mean_accuracy(left, task, "retain") > 0.9
    assert losses[1] > 1.3 * losses[0]
    assert losses[1] > 3 * mean_loss(originals, task, "forget")


def test_lotus_effect_on_a_class(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are forgotten, most of the rest is held."""
    settings: dict[str, Any] = {"epochs": 6, "learning_rate": 0.005, "batch_size": 50, "retain_fraction": 1.0}
    left = unlearn_each(lambda: Lotus(alpha=32.0, **settings), originals, one_class)
    assert mean_accuracy(originals, one_class, "forget") == 1
    assert mean_accuracy(left, one_class, "forget") < 0.5
    assert mean_accuracy(left, one_class, "retain") > 0.9
