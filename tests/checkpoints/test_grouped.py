"""The batched trainer against the plain loop, and grouped networks against single ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from checkpoints.grouped import GroupedNetwork
from checkpoints.networks import NETWORKS, build_network
from checkpoints.training import GroupTrainer, group_logits, learning_rate, train_one
from data import Recipe, Split, Task, TaskSpec, UserError, load
from data.task import Request
from tests.checkpoints.alike import accuracy_and_confidence


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in float64, in which two ways to the same number stay equal over many steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_task(network: str = "small_cnn", channels: int = 1, size: int = 8, **recipe: Any) -> Task:
    """A small task of random images, where what is tested does not depend on the data."""
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        images = torch.randn(examples, channels, size, size, generator=generator)
        labels = torch.arange(examples) % 10
        return Split(images, labels, np.arange(examples).astype(str))

    settings = Recipe(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **recipe})
    request = Request("random", np.arange(0, 40, 8))
    classes = tuple("0123456789")
    return Task(TaskSpec(), split(40), split(20), split(20), classes, network, settings, (request,), "random images")


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[pytest.mark.slow] if "resnet" in name else []) for name in NETWORKS]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grouped_network_computes_what_its_members_compute(network: str, channels: int) -> None:
    """Every registered network can be trained in groups. Catches channels mixed between models, or a lost bias."""
    task = make_task(network, channels, size=16)
    members = [build_network(task, seed).eval() for seed in (1, 2, 3)]
    grouped = GroupedNetwork(members)
    logits = group_logits(grouped, task.train.images)  # (models, examples, classes)
    with torch.no_grad():
        single = torch.stack([member(task.train.images) for member in members])
    torch.testing.assert_close(logits, single, rtol=1e-3, atol=1e-4)
    for state, member in zip(grouped.states(), members, strict=True):
        assert all(torch.equal(state[name], value) for name, value in member.state_dict().items())


@pytest.mark.parametrize(("models", "examples", "channels"), [(1, 1, 1), (1, 5, 1), (2, 1, 1), (1, 1, 3), (2, 5, 1)])
def test_a_group_does_not_care_how_images_lie(models: int, examples: int, channels: int) -> None:
    """Same images, same bits, however their axes lie in memory. Catches a convolution that is chosen by strides.

    With one model, one channel or one image, tensors of many strides count as channels-last already.
    """
    task = make_task("small_cnn", channels)
    network = GroupedNetwork([build_network(task, seed) for seed in range(models)]).eval()
    images = task.train.images[:examples].expand(models, -1, -1, -1, -1)
    answers = []
    for order in itertools.permutations(range(5)):
        lying = images.permute(order).clone(memory_format=torch.contiguous_format)
        answers.append(network(lying.permute([order.index(axis) for axis in range(5)])))
    assert all(torch.equal(answer, network(images)) for answer in answers)


def test_grouping_refuses_a_layer_it_does_not_know() -> None:
    """A layer with weights that is silently shared between models would make them all alike."""
    with pytest.raises(TypeError, match="LayerNorm can't be trained in groups"):
        GroupedNetwork([nn.Sequential(nn.LayerNorm(4)) for _ in range(2)])


@pytest.mark.parametrize(
    "recipe",
    [{}, {"optimizer": "adam", "learning_rate": 1e-3}, {"class_weights": True}, {"schedule": "constant"}],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_group_trainer_makes_the_models_of_the_plain_loop(recipe: dict[str, Any]) -> None:
    """Same seed, same initial weights, same batches, same steps: equal up to rounding after two epochs.

    Catches: models that see each other's batches, a loss averaged over models, a wrong learning rate, batch
    statistics over all models, weights of the wrong class.
    """
    task = make_task(**recipe)
    trainer = GroupTrainer(task, task.retain_indices, seeds=[5, 6])
    while not trainer.finished:
        trainer.train_epoch()
    for seed, state in zip((5, 6), trainer.states(), strict=True):
        plain = train_one(task, task.retain_indices, seed).state_dict()
        for name, value in plain.items():
            torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_a_last_batch_of_one_image_can_be_trained_on() -> None:
    """A ResNet on small images normalises over one pixel there; both trainers take the running statistics instead."""
    task = make_task("resnet18", 3, size=32, epochs=1, batch_size=8)
    indices = np.arange(17)  # two batches of 8, and one image
    trainer = GroupTrainer(task, indices, seeds=[1])
    trainer.train_epoch()
    (state,) = trainer.states()
    for name, value in train_one(task, indices, seed=1).state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("float64")
def test_a_model_does_not_depend_on_its_group() -> None:
    """The same seed beside other seeds gives the same model, up to rounding."""
    task = make_task()
    together = GroupTrainer(task, task.retain_indices, seeds=[1, 2, 3, 4])
    alone = GroupTrainer(task, task.retain_indices, seeds=[3])
    for trainer in (together, alone):
        trainer.train_epoch()
    for name, value in alone.states()[0].items():
        torch.testing.assert_close(together.states()[2][name], value, rtol=1e-8, atol=1e-10)


def test_snapshot_restores_bit_for_bit() -> None:
    """Catches a momentum buffer, a generator or an epoch number that the snapshot forgets."""
    task = make_task(epochs=4)
    straight, first, second = (GroupTrainer(task, task.retain_indices, seeds=[1, 2]) for _ in range(3))
    for _ in range(4):
        straight.train_epoch()
    for _ in range(2):
        first.train_epoch()
    second.restore(first.snapshot())
    while not second.finished:
        second.train_epoch()
    for one, other in zip(straight.states(), second.states(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_group_has_the_distribution_of_the_plain_loop() -> None:
    """On digits, other seeds: accuracies and confidences of a batched and a plain set are alike over models.

    Kolmogorov-Smirnov over 20 models each. The control, a set that is trained a quarter as long, must be told
    apart, so the comparison can fail.
    """
    task = load(TaskSpec("digits", train_size=150))
    task = replace(task, recipe=replace(task.recipe, epochs=12))
    shorter = replace(task, recipe=replace(task.recipe, epochs=3))

    def batched(task: Task) -> np.ndarray:
        trainer = GroupTrainer(task, task.retain_indices, seeds=range(20))
        while not trainer.finished:
            trainer.train_epoch()
        return accuracy_and_confidence(task, trainer.network)

    singles = [train_one(task, task.retain_indices, 1000 + seed) for seed in range(20)]
    plain = accuracy_and_confidence(task, GroupedNetwork(singles))
    same, other = batched(task), batched(shorter)
    for statistic in range(2):
        assert stats.ks_2samp(plain[statistic], same[statistic]).pvalue > 1e-3
        assert stats.ks_2samp(plain[statistic], other[statistic]).pvalue < 1e-4


def test_learning_rate_is_that_of_pytorch() -> None:
    """Equal to `CosineAnnealingLR(T_max=epochs)`, stepped per epoch."""
    recipe = Recipe(epochs=7, learning_rate=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for epoch in range(7):
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_unknown_network_names_the_nearest() -> None:
    """A user's typing error is answered with what they may have meant."""
    with pytest.raises(UserError, match="resnet18"):
        build_network(make_task("resnet-18"))
