"""Methods that move the weights away from the original's: weight_distortion, dist_reg, mode_connectivity, not_negation.

What they compute, and what it does to digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from data import Task
from methods.BaseMethod import BaseMethod
from methods.DistReg import DistReg
from methods.Finetune import Finetune
from methods.ModeConnectivity import ModeConnectivity
from methods.NotNegation import NotNegation
from methods.WeightDistortion import WeightDistortion
from tests.methods.trained_digits import (
    assert_close,
    loss,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    same,
    unlearn,
    unlearn_each,
)

ALL = 1000
"""A batch size that takes a whole set: then a step does not depend on the order of images."""

WITH_ADAM = [WeightDistortion, DistReg, ModeConnectivity]
STILL: dict[type[BaseMethod], dict[str, Any]] = {
    WeightDistortion: {"noise": 0.0},
    DistReg: {"weight": 0.0},
    ModeConnectivity: {"weight": 0.0},
}
"""What turns the method's own term off."""


@pytest.fixture(scope="module")
def young(task: Task) -> nn.Module:
    """A network that has learned a little, so that all gradients are far from zero, in eval mode.

    Adam's first steps are as long as the rate whatever the gradient is: where it is zero but for rounding, they point
    anywhere.
    """
    network = build_network(task, 0).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(task.train.images), task.train.labels).backward()
        optimizer.step()
    return network.eval()


def adam(network: nn.Module, value: Callable[[], torch.Tensor], steps: int, decay: float = 0.0) -> None:
    """Steps of Adam at 0.01 down a value, written out: mean and mean square of gradients, both without their bias."""
    weights = list(network.parameters())
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(value(), weights)
        with torch.no_grad():
            for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
                gradient = gradient + decay * weight
                mean.copy_(0.9 * mean + 0.1 * gradient)
                square.copy_(0.999 * square + 0.001 * gradient**2)
                size = (square / (1 - 0.999**step)).sqrt() + 1e-8
                weight.sub_(0.01 * mean / (1 - 0.9**step) / size)


def statistics(network: nn.Module) -> list[torch.Tensor]:
    """Running means and variances."""
    return [value for name, value in network.named_buffers() if value.is_floating_point()]


# ----------------------------------------------------------------------------------------------------------------------
# What the three of Siddiqui et al. have in common
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("method", WITH_ADAM)
def test_without_its_term_it_is_adam(method: type[BaseMethod], freeze_bn: bool, young: nn.Module, task: Task) -> None:
    """Two steps down the retain loss. Catches SGD, decay that is lost or AdamW's, eval mode by mistake, another set."""
    images, labels = part(task, "retain")
    network = copy.deepcopy(young).train(not freeze_bn)
    adam(network, lambda: F.cross_entropy(network(images), labels), steps=2, decay=0.1)
    options = {"epochs": 2, "learning_rate": 0.01, "weight_decay": 0.1, "batch_size": ALL, "freeze_bn": freeze_bn}
    left = unlearn(method(**options, **STILL[method]), young, task)
    assert_close(moves(young, left), moves(young, network), tolerance=0.01)
    kept = [torch.equal(*pair) for pair in zip(statistics(young), statistics(left), strict=True)]
    assert set(kept) == {freeze_bn}


def test_without_their_terms_they_are_equal(young: nn.Module, task: Task) -> None:
    """Bit for bit, in three batches an epoch. Catches a batch of the forget set that is drawn for nothing."""
    options = {"weight": 0.0, "epochs": 2, "learning_rate": 0.01, "batch_size": 64}
    left = unlearn(DistReg(**options), young, task)
    assert same(left, unlearn(ModeConnectivity(**options), young, task))
    assert not same(left, unlearn(DistReg(**{**options, "weight": 1.0}), young, task))
    assert not same(left, unlearn(ModeConnectivity(**{**options, "weight": 1.0}), young, task))


@pytest.mark.parametrize("method", [*WITH_ADAM, NotNegation])
def test_batches(method: type[BaseMethod], young: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batch_size` and `epochs` are obeyed: all retained images once in an epoch, in an order of its own.

    Catches the loader's batches, an order that is the same in every epoch, and the forget set as the retain set.
    """
    taught: list[torch.Tensor] = []
    cross_entropy = F.cross_entropy

    def spy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        taught.append(labels)
        return cross_entropy(logits, labels)

    monkeypatch.setattr(F, "cross_entropy", spy)
    unlearn(method(epochs=2, batch_size=80), young, task, batch_size=64)
    if method is ModeConnectivity:  # each step has two losses, the second with a forget batch of 30 besides
        assert [len(labels) for labels in taught[1::2]] == [110, 110, 40] * 2
        for own, both in zip(taught[::2], taught[1::2], strict=True):
            assert torch.equal(both[: len(own)], own)
            assert torch.equal(both[len(own) :].sort().values, part(task, "forget")[1].sort().values)
        taught = taught[::2]
    assert [len(labels) for labels in taught] == [80, 80, 10] * 2
    first, second = torch.cat(taught[:3]), torch.cat(taught[3:])
    expected = part(task, "retain")[1].sort().values
    assert torch.equal(first.sort().values, expected)
    assert torch.equal(second.sort().values, expected)
    assert not torch.equal(first, second)


# ----------------------------------------------------------------------------------------------------------------------
# weight_distortion
# ----------------------------------------------------------------------------------------------------------------------


def test_noise_is_added_to_all_weights(original: nn.Module, task: Task) -> None:
    """Independent, of mean 0 and the given size; theta0 is still below it. At rate 0 that is all that happens.

    Catches noise that is multiplied, is drawn once for all weights, leaves out vectors, or is uniform; a fresh start.
    """
    changes = moves(original, unlearn(WeightDistortion(noise=0.3, epochs=1, learning_rate=0.0), original, task))
    for weight in changes:
        assert weight.abs().min() > 0
    noise = torch.cat([change.flatten() for change in changes]) / 0.3  # (4,000 weights or so,)
    error = len(noise) ** -0.5
    assert noise.mean() == pytest.approx(0, abs=4 * error)
    assert noise.var() == pytest.approx(1, abs=4 * error * 2**0.5)
    assert (noise**4).mean() == pytest.approx(3, abs=4 * error * 96**0.5)
    values = torch.cat([weight.detach().flatten() for weight in original.parameters()])
    assert abs(torch.corrcoef(torch.stack([noise, values]))[0, 1]) < 4 * error
    assert abs(torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1]) < 4 * error


def test_noise_comes_first(young: nn.Module, task: Task) -> None:
    """Then two steps are made from there. Catches noise that is added again in every epoch, and noise afterwards."""
    noisy = unlearn(WeightDistortion(noise=0.02, epochs=2, learning_rate=0.0), young, task)
    images, labels = part(task, "retain")
    network = copy.deepcopy(noisy).train()
    adam(network, lambda: F.cross_entropy(network(images), labels), steps=2)
    left = unlearn(WeightDistortion(noise=0.02, epochs=2, learning_rate=0.01, batch_size=ALL), young, task)
    assert_close(moves(young, left), moves(young, network), tolerance=0.01)


@pytest.mark.slow
def test_distortion_effect(originals: list[nn.Module], task: Task) -> None:
    """More noise, more forgetting, and the retain set is learned again. Catches fine-tuning that is left out."""
    options = {"epochs": 10, "learning_rate": 0.01, "batch_size": 64}
    little, much = (
        unlearn_each(lambda noise=noise: WeightDistortion(noise=noise, **options), originals, task)  # type: ignore[misc]
        for noise in (0.01, 0.3)
    )
    assert mean_loss(much, task, "forget") > 2 * mean_loss(little, task, "forget") > 0
    assert mean_accuracy(little, task, "retain") > 0.99
    assert mean_accuracy(much, task, "retain") > 0.9


# ----------------------------------------------------------------------------------------------------------------------
# dist_reg
# ----------------------------------------------------------------------------------------------------------------------


def test_dist_reg_steps(young: nn.Module, task: Task) -> None:
    """Three steps down CE - weight sqrt(mean of squared changes + 1e-8); in the first the root has no gradient.

    Catches a plus, a sum or a norm instead of the mean, no root, a mean of roots, and a start that moves along.
    """
    images, labels = part(task, "retain")
    network = copy.deepcopy(young).train()
    count = sum(weight.numel() for weight in network.parameters())

    def value() -> torch.Tensor:
        total = torch.zeros(())
        for weight, before in zip(network.parameters(), young.parameters(), strict=True):
            total = total + ((weight - before.detach()) ** 2).sum()
        return F.cross_entropy(network(images), labels) - 20 * torch.sqrt(total / count + 1e-8)

    adam(network, value, steps=3)
    left = unlearn(DistReg(weight=20.0, epochs=3, learning_rate=0.01, batch_size=ALL), young, task)
    assert_close(moves(young, left), moves(young, network), tolerance=0.01)


@pytest.mark.slow
def test_dist_reg_goes_farther(originals: list[nn.Module], task: Task) -> None:
    """The larger the weight, the farther; a negative one holds back. Catches a distance with the other sign."""

    def distance(weight: float) -> float:
        options = {"epochs": 5, "learning_rate": 0.003, "batch_size": 64}
        left = unlearn_each(lambda: DistReg(weight=weight, **options), originals, task)
        pairs = zip(originals, left, strict=True)
        return sum(float(change.square().sum()) for pair in pairs for change in moves(*pair))

    assert distance(30.0) > 1.2 * distance(0.0)
    assert distance(-30.0) < distance(0.0) / 1.2


@pytest.mark.slow
def test_dist_reg_effect(originals: list[nn.Module], task: Task) -> None:
    """Forgets more than the same without the distance, and keeps. Catches a term that only destroys."""
    options = {"epochs": 10, "learning_rate": 0.01, "batch_size": 64}
    plain, pushed = (
        unlearn_each(lambda weight=weight: DistReg(weight=weight, **options), originals, task)  # type: ignore[misc]
        for weight in (0.0, 10.0)
    )
    assert mean_loss(pushed, task, "forget") > 1.1 * mean_loss(plain, task, "forget")
    assert mean_accuracy(pushed, task, "retain") > 0.95


# ----------------------------------------------------------------------------------------------------------------------
# mode_connectivity
# ----------------------------------------------------------------------------------------------------------------------


def midpoint(network: nn.Module, original: nn.Module, into: nn.Module) -> None:
    """Let all weights and statistics of `into` be in the middle, as attributes with a gradient to the network's."""
    for module, one, other in zip(into.modules(), network.modules(), original.modules(), strict=True):
        for key, weight in one.named_parameters(recurse=False):
            module._parameters.pop(key, None)
            setattr(module, key, 0.5 * weight + 0.5 * other.get_parameter(key).detach())
        for key, value in one.named_buffers(recurse=False):
            if value.is_floating_point():
                module._buffers[key] = 0.5 * value + 0.5 * other.get_buffer(key)


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_mode_connectivity_steps(weight: float, freeze_bn: bool, young: nn.Module, task: Task) -> None:
    """Two steps down CE(retain) - weight CE(retain and forget, halfway).

    Catches a plus, the forget set or the retain set alone, another point than the middle, a middle without gradient,
    and eval mode at the middle. A weight of 0 is what the others are to differ from.
    """
    (kept, kept_labels), (forgotten, forgotten_labels) = part(task, "retain"), part(task, "forget")
    images, labels = torch.cat([kept, forgotten]), torch.cat([kept_labels, forgotten_labels])
    network, middle = (copy.deepcopy(young).train(not freeze_bn) for _ in range(2))

    def value() -> torch.Tensor:
        own = F.cross_entropy(network(kept), kept_labels)
        midpoint(network, young, into=middle)
        return own - weight * F.cross_entropy(middle(images), labels)

    adam(network, value, steps=2)
    options = {"epochs": 2, "learning_rate": 0.01, "batch_size": ALL, "freeze_bn": freeze_bn}
    left = unlearn(ModeConnectivity(weight=weight, **options), young, task)
    assert_close(moves(young, left), moves(young, network), tolerance=0.01)
    for one, other in zip(statistics(left), statistics(network), strict=True):
        torch.testing.assert_close(one, other)  # of the retain set alone
    counts = [value for name, value in left.named_buffers() if "num_batches" in name]
    before = [value for name, value in young.named_buffers() if "num_batches" in name]
    assert [int(one - other) for one, other in zip(counts, before, strict=True)] == [0 if freeze_bn else 2] * 3


def test_mode_connectivity_stops_at_the_ceiling(young: nn.Module, task: Task) -> None:
    """Above it the midpoint has no gradient; below it the ceiling changes nothing. Catches a floor in its place."""
    options = {"epochs": 2, "learning_rate": 0.01, "batch_size": ALL}
    plain = unlearn(ModeConnectivity(weight=0.0, **options), young, task)
    low = unlearn(ModeConnectivity(weight=0.5, ceiling=0.01, **options), young, task)
    assert_close(moves(young, low), moves(young, plain), tolerance=0.01)
    high, higher = (unlearn(ModeConnectivity(weight=0.5, ceiling=top, **options), young, task) for top in (50.0, 99.0))
    assert same(high, higher)
    assert not same(high, low)


def test_mode_connectivity_effect(originals: list[nn.Module], task: Task) -> None:
    """A barrier rises halfway, at which the retain set suffers too; at the end it is kept. Catches the other sign."""
    options = {"epochs": 5, "learning_rate": 0.003, "batch_size": 64}

    def halfway(weight: float) -> float:
        left = unlearn_each(lambda: ModeConnectivity(weight=weight, **options), originals, task)
        assert mean_accuracy(left, task, "retain") > 0.9
        total = 0.0
        for one, other in zip(originals, left, strict=True):
            middle = copy.deepcopy(other)
            with torch.no_grad():
                for value, old in zip(middle.state_dict().values(), one.state_dict().values(), strict=True):
                    if value.is_floating_point():
                        value.copy_((value + old) / 2)
                middle.train()
                total += loss(middle, task, "retain")
        return total

    assert halfway(1.0) > 2 * halfway(0.0)


# ----------------------------------------------------------------------------------------------------------------------
# not_negation
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "layers", "negated"),
    [
        ("small_cnn", "0", ["0.weight"]),
        ("small_cnn", "1, -1", ["3.weight", "11.weight", "11.bias"]),
        ("small_cnn", "", []),
        ("small_cnn", "all", ["0.weight", "3.weight", "6.weight", "11.weight", "11.bias"]),
        ("mlp", "0,-2", ["1.weight", "1.bias"]),
    ],
)
def test_layers_are_negated(network: str, layers: str, negated: list[str], task: Task) -> None:
    """These and no others, once. Catches batch normalisation that is negated, a bias left out, a double negation."""
    given = build_network(replace(task, network=network), 0).eval()
    method = NotNegation(layers=layers, epochs=1, learning_rate=0.0)
    left = dict(unlearn(method, given, task).named_parameters())
    for name, weight in given.named_parameters():
        assert torch.equal(left[name], -weight if name in negated else weight), name


@pytest.mark.parametrize("layers", ["4", "-5", "first", "0;1"])
def test_layers_that_are_not_there(layers: str, original: nn.Module, task: Task) -> None:
    """Are refused, rather than passed over."""
    with pytest.raises(ValueError, match=f"layers are numbers from 0 to 3, with commas, or all; not '{layers}'"):
        unlearn(NotNegation(layers=layers), original, task)


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_without_layers_it_is_finetune(freeze_bn: bool, original: nn.Module, task: Task) -> None:
    """Bit for bit, in three batches an epoch. Catches settings that are not obeyed, or differ."""
    options = {
        "epochs": 2,
        "learning_rate": 0.02,
        "momentum": 0.5,
        "weight_decay": 0.01,
        "batch_size": 70,
        "freeze_bn": freeze_bn,
    }
    plain = unlearn(Finetune(**options), original, task)
    assert same(unlearn(NotNegation(layers="", **options), original, task), plain)
    assert not same(unlearn(NotNegation(**options), original, task), plain)


def test_fine_tuning_starts_at_the_negated_network(original: nn.Module, task: Task) -> None:
    """The step is taken from there. Catches a negation afterwards, and one in every epoch."""
    options = {"epochs": 2, "learning_rate": 0.02, "batch_size": ALL}
    negated = copy.deepcopy(original)
    first = next(negated.parameters())
    with torch.no_grad():
        first.neg_()
    left = unlearn(NotNegation(**options), original, task)
    assert_close(moves(negated, left), moves(negated, unlearn(Finetune(**options), negated, task)))


def test_not_negation_effect(originals: list[nn.Module], task: Task) -> None:
    """The forget loss rises by far, and the retain set is learned again, all but a few. Catches no fine-tuning."""
    left = unlearn_each(lambda: NotNegation(epochs=20), originals, task)
    assert mean_loss(left, task, "forget") > 10 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.9
