"""amun: what its search finds, what it teaches and at which rate, and its effect."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import Task
from methods.Amun import Amun
from methods.Finetune import Finetune
from tests.methods.trained_digits import (
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
"""A batch size that takes all images: then a step does not depend on their order."""

Pair = tuple[torch.Tensor, torch.Tensor]


def test_amun_defaults() -> None:
    """Those of the authors' code for CIFAR-10, but for epochs and radius. Catches one that has slipped."""
    assert Amun().settings() == {
        "epochs": 3,
        "learning_rate": 0.01,
        "learning_rate_steps": 1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 128,
        "radius": 0.64,
        "steps": 50,
        "with_retain": True,
        "with_forget": True,
        "freeze_bn": False,
    }


def nearest(network: nn.Module, image: torch.Tensor, label: int, bounds: Pair, radius: float, steps: int) -> Any:
    """The example of one image `(1, C, H, W)` by the slow way, with pixels in [0, 1], and its class; or None."""
    low, high = (bound[:, None, None] for bound in bounds)
    start = ((image - low) / (high - low)).double()
    while radius < 2 * start.numel() ** 0.5:
        here = start.clone()
        for step in range(steps + 1):
            here = here.clone().requires_grad_()
            logits = network((low + here * (high - low)).float())
            if int(logits.argmax()) != label:
                return (low + here * (high - low)).float().detach(), int(logits.argmax())
            if step == steps:
                break
            (up,) = torch.autograd.grad(-logits.log_softmax(dim=1)[0, label], here)
            shift = here.detach() - start + radius / 10 * up / up.norm()
            if float(shift.norm()) > radius:
                shift = shift * radius / shift.norm()
            here = (start + shift).clamp(0, 1)
        radius *= 2
    return None


@pytest.mark.parametrize(("radius", "steps"), [(0.64, 50), (0.1, 12)])
def test_amun_finds_the_nearest_examples(original: nn.Module, task: Task, radius: float, steps: int) -> None:
    """Those of a search that is written out, image by image.

    Catches steps down the loss or by its sign, an unnormalised gradient, one of a mean over the batch, a ball or a
    range that isn't kept to, a radius that doesn't double or that goes on from where the last one ended, a step that
    isn't a tenth of it, one step too few, a search in train mode, and true labels.
    """
    images, labels = part(task, "forget")
    images, labels = images[:8], labels[:8]
    images = torch.cat([images, 2 * images.flip(0)[:4] - 1])  # the range is the batch's own, and not [0, 1]
    labels = torch.cat([labels, labels.flip(0)[:4]])
    found, classes = Amun(radius=radius, steps=steps, batch_size=5)._examples(original, images, labels)
    bounds = (images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3)))
    expected = [
        nearest(original, image[None], int(label), bounds, radius, steps)
        for image, label in zip(images, labels, strict=True)
    ]
    assert len(found) == len(expected)
    for image, label in expected:
        rows = [row for row, other in enumerate(found) if torch.allclose(image[0], other, atol=1e-3)]
        assert [int(classes[row]) for row in rows] == [label]


def test_amun_measures_each_channel_by_its_range() -> None:
    """The same search, in colours of different ranges. Catches a gradient or a distance in the units of the loader."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.Tanh(), nn.Linear(20, 4))
    images = torch.rand(6, 3, 4, 4) * torch.tensor([1.0, 3.0, 0.2])[:, None, None]
    labels = network(images).argmax(dim=1)
    found, classes = Amun(radius=0.2, steps=15)._examples(network, images, labels)
    bounds = (images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3)))
    expected = [
        nearest(network, image[None], int(label), bounds, 0.2, 15) for image, label in zip(images, labels, strict=True)
    ]
    assert len(found) == len(expected)
    for image, label in expected:
        rows = [row for row, other in enumerate(found) if torch.allclose(image[0], other, atol=1e-3)]
        assert [int(classes[row]) for row in rows] == [label]


def test_amun_takes_mistakes_as_they_are(original: nn.Module, task: Task) -> None:
    """An image of another class by the original's lights is its own example. Catches a search that climbs on."""
    images, labels = part(task, "forget")
    wrong = (labels + 1) % 10
    found, classes = Amun()._examples(original, images, wrong)
    assert torch.equal(found, images)
    assert torch.equal(classes, labels)


class Stubborn(nn.Module):
    """Always of the same opinion; what it sees changes nothing."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 3)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        nn.init.ones_(self.layer.bias[1:2])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, `(B, 3)`."""
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits


def test_amun_gives_up() -> None:
    """Where no example exists, there is none, and the others are found. Catches a search without end, and NaN."""
    images = torch.rand(6, 2, 3, 3)
    images[:, 1] = 0.5  # a channel without a range
    found, classes = Amun(radius=0.5, steps=3)._examples(Stubborn(18), images, torch.tensor([1, 1, 0, 1, 2, 1]))
    assert torch.equal(found, images[[2, 4]])
    assert classes.tolist() == [1, 1]


@pytest.mark.parametrize("with_retain", [True, False])
@pytest.mark.parametrize("with_forget", [True, False])
def test_amun_step(original: nn.Module, task: Task, with_retain: bool, with_forget: bool) -> None:
    """One step down the cross-entropy of what is used, all in one batch, and weight decay.

    Catches true labels of the examples, a set that is used or left out by mistake, other weights of the sets, and a
    search that leaves its traces.
    """
    examples = Amun(batch_size=ALL)._examples(copy.deepcopy(original), *part(task, "forget"))
    assert len(examples[0]) == 30
    parts = [examples]
    parts += [part(task, "retain")] if with_retain else []
    parts += [part(task, "forget")] if with_forget else []
    images, labels = (torch.cat(one) for one in zip(*parts, strict=True))
    network = copy.deepcopy(original).train()
    down = gradients(network, F.cross_entropy(network(images), labels))
    expected = [-0.01 * (step + 0.1 * weight) for step, weight in zip(down, original.parameters(), strict=True)]
    method = Amun(epochs=1, weight_decay=0.1, batch_size=ALL, with_retain=with_retain, with_forget=with_forget)
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [step.detach() for step in expected])


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_amun_without_examples_is_fine_tuning(
    original: nn.Module, task: Task, freeze_bn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the retain set, at a constant rate, up to the order of images. Catches momentum and statistics that differ."""
    monkeypatch.setattr(Amun, "_examples", lambda self, net, images, labels: (images[:0], labels[:0]))
    options: dict[str, Any] = {"epochs": 3, "batch_size": ALL, "freeze_bn": freeze_bn}
    left = unlearn(Amun(with_forget=False, learning_rate_steps=10, **options), original, task)
    other = unlearn(Finetune(learning_rate=0.01, **options), original, task)
    assert_close(moves(original, left), moves(original, other), tolerance=0.02)
    before, after = (dict(network.named_buffers()) for network in (original, left))
    assert all(torch.equal(before[name], after[name]) for name in before) == freeze_bn


def test_amun_without_anything(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """No examples and no other set: the network stays. Catches a mean over no images, which is NaN."""
    monkeypatch.setattr(Amun, "_examples", lambda self, net, images, labels: (images[:0], labels[:0]))
    assert same(unlearn(Amun(with_retain=False, with_forget=False), original, task), original)


def test_amun_rate_falls_by_epochs(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth after every second epoch of three batches. Catches batches counted, and another factor.

    Also: `batch_size` is obeyed, each epoch has every image once, and orders differ.
    """
    rates: list[float] = []
    seen: list[torch.Tensor] = []

    class Noted(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Noted)
    monkeypatch.setattr(
        Amun, "_examples", lambda self, net, images, labels: (images[:10] + 100, (labels[:10] + 1) % 10)
    )
    network = copy.deepcopy(original)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].sum(dim=(1, 2, 3))))
    unlearn(Amun(epochs=4, learning_rate_steps=2, batch_size=80), network, task)
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 6)
    assert [len(batch) for batch in seen] == [80, 80, 50] * 4
    epochs = [torch.cat(seen[first : first + 3]) for first in range(0, 12, 3)]
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs[1:]:
        torch.testing.assert_close(epoch.sort().values, epochs[0].sort().values)


def test_amun_effect(originals: list[nn.Module], task: Task) -> None:
    """Less sure of the forget set, more by far without its true labels; retain accuracy held."""
    settings: dict[str, Any] = {"epochs": 5, "learning_rate": 0.05, "learning_rate_steps": 5}
    losses = []
    for with_forget in (True, False):
        left = unlearn_each(lambda: Amun(with_forget=with_forget, **settings), originals, task)  # noqa: B023
        losses.append(mean_loss(left, task, "forget"))
        assert mean_accuracy(left, task, "retain") > 0.95
    assert losses[0] > 1.3 * mean_loss(originals, task, "forget")
    assert losses[1] > 1.5 * losses[0]
