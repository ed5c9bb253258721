"""Networks that are published with a number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints.networks import NETWORKS, build_network
from checkpoints.training import GroupTrainer, train_one
from data import Recipe, Split, Task, TaskSpec, UserError
from data.task import Request


def make_task(network: str, channels: int, size: int, classes: int = 10) -> Task:
    """30 random images."""
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        images = torch.randn(examples, channels, size, size, generator=generator)
        return Split(images, torch.arange(examples) % classes, np.arange(examples).astype(str))

    names, request = tuple(map(str, range(classes))), Request("by hand", np.arange(5))
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.02)
    return Task(TaskSpec(), split(30), split(10), split(10), names, network, recipe, (request,), "random")


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in float64, in which two ways to the same number stay equal over many steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes", "parameters"),
    [
        ("mlp", 1, 28, 10, 3_985),
        ("tiny_conv", 3, 32, 10, 20_042),
        ("three_layer", 512, 1, 10, 17_802),
        ("three_layer", 512, 1, 100, 20_772),
    ],
)
def test_number_of_parameters(name: str, channels: int, size: int, classes: int, parameters: int) -> None:
    """As in the code of "Certified Unlearning for Neural Networks". Catches a lost bias or another width."""
    network = NETWORKS[name](channels, size, classes)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


@pytest.mark.parametrize(("name", "channels", "size"), [("tiny_conv", 3, 32), ("three_layer", 512, 1)])
def test_he_initialisation(name: str, channels: int, size: int) -> None:
    """Weights have variance 2 / inputs, biases are 0. Catches PyTorch's own initialisation (variance 1/3 / inputs)."""
    torch.manual_seed(0)
    layers = [
        module for module in NETWORKS[name](channels, size, 10).modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    assert len(layers) == 3
    for layer in layers:
        inputs = layer.weight[0].numel()
        tolerance = 5 / math.sqrt(2 * layer.weight.numel())  # five standard errors of a standard deviation
        assert float(layer.weight.detach().std()) * math.sqrt(inputs / 2) == pytest.approx(1, abs=tolerance)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_tiny_conv_averages_over_places() -> None:
    """Its logits are those of the mean over all places, and an image of any size of at least 4 has one.

    Catches pooling that leaves more than one place, or none, and a maximum in place of an average.
    """
    for size in (4, 5, 8, 15, 32):
        network = NETWORKS["tiny_conv"](1, size, 3).eval()
        assert isinstance(network, nn.Sequential)
        images = torch.randn(2, 1, size, size)
        with torch.no_grad():
            features = network[:6](images)  # (2, 64, size // 4, size // 4)
            pooled = network[4](network[3](nn.functional.avg_pool2d(network[1](network[0](images)), 2)))
            expected = network[-1](features.mean(dim=(2, 3)))
            assert features.shape == (2, 64, size // 4, size // 4)
            torch.testing.assert_close(features, nn.functional.avg_pool2d(pooled, 2))
            torch.testing.assert_close(network(images), expected)


def test_tiny_conv_refuses_features() -> None:
    """Of images without room for its pooling, a sentence says so, instead of an error of PyTorch's."""
    with pytest.raises(UserError, match="at least 4x4 pixels, not 1x1: three_layer"):
        build_network(make_task("tiny_conv", 512, 1))


@pytest.mark.parametrize(("name", "channels", "size"), [("tiny_conv", 3, 9), ("three_layer", 24, 1)])
@pytest.mark.usefixtures("float64")
def test_trained_in_groups_as_alone(name: str, channels: int, size: int) -> None:
    """The models of a group are those of the plain loop. Catches channels or biases mixed up between models."""
    task = make_task(name, channels, size)
    trainer = GroupTrainer(task, task.all_indices, seeds=[5, 6, 7])
    while not trainer.finished:
        trainer.train_epoch()
    for seed, state in zip((5, 6, 7), trainer.states(), strict=True):
        for key, value in train_one(task, task.all_indices, seed).state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-8, atol=1e-10)
