"""Networks that are mapped over models by vmap: any layers, the models of the plain loop, dropout of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from checkpoints.grouped import GroupedNetwork
from checkpoints.networks import NETWORKS, build_network
from checkpoints.pruning import PrunedTrainer
from checkpoints.stacked import MOST_WORK, StackedNetwork, pays
from checkpoints.together import SeparateNetworks, way_of
from checkpoints.training import GroupTrainer, train_one
from data import Task, TaskSpec, load
from tests.checkpoints.alike import accuracy_and_confidence
from tests.checkpoints.test_grouped import float64, make_task  # noqa: F401


class Attention(nn.Module):
    """A block of a vision transformer on four patches of 4x4 pixels."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.places = nn.Parameter(torch.randn(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.last = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places  # (batch, 4, 8)
        normed = self.norm(tokens)
        return self.last((tokens + self.attention(normed, normed, normed, need_weights=False)[0]).mean(1))


class ByFunctions(nn.Module):
    """Attention and dropout without layers of their own."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.all = nn.Linear(8, 24)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.all(x[:, 0]).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.last(F.dropout(attended, self.dropout, self.training).flatten(1))


class Words(nn.Module):
    """Pixels as words of a vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.last(self.words((2 * x[:, 0].flatten(1) + 8).clamp(0, 15).long()).mean(1))


def dense(*between: nn.Module, first: nn.Module | None = None) -> nn.Module:
    """Two linear layers with others between."""
    return nn.Sequential(nn.Flatten(), first or nn.Linear(64, 12), *between, nn.Linear(12, 10))


def tied() -> nn.Module:
    """Two layers that share a weight, and a module that has two names."""
    norm = nn.LayerNorm(12)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 12), norm, nn.Linear(12, 12), norm)
    network[4].weight = network[2].weight
    return network.append(nn.Linear(12, 10))


STACKED: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: dense(nn.LayerNorm(12), nn.ReLU()),
    "batch norm behind layer norm": lambda: dense(nn.LayerNorm(12), nn.BatchNorm1d(12), nn.ReLU()),
    "PReLU": lambda: dense(nn.PReLU()),
    "weight norm": lambda: dense(nn.ReLU(), first=parametrizations.weight_norm(nn.Linear(64, 12))),
    "shared weights": tied,
    "attention": Attention,
    "attention by a function": ByFunctions,
    "embedding": Words,
}
RANDOM: dict[str, Callable[[], nn.Module]] = {
    "layer of dropout": lambda: dense(nn.LayerNorm(12), nn.Dropout(0.5)),
    "attention": lambda: Attention(0.2),
    "functions": lambda: ByFunctions(0.2),
}
SEPARATE: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: dense(nn.ReLU(), first=parametrizations.spectral_norm(nn.Linear(64, 12))),
    "average without end": lambda: dense(nn.LayerNorm(12), nn.BatchNorm1d(12, momentum=None)),
}


@pytest.fixture
def task_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """A task of random images whose network is the given one."""

    def make(build: Callable[[], nn.Module], **recipe: Any) -> Task:
        monkeypatch.setitem(NETWORKS, "mine", lambda channels, size, classes: build())
        return make_task("mine", **recipe)

    return make


@pytest.mark.parametrize(
    ("name", "optimizer"),  # where a gradient is 0 but for rounding (of a key's bias), Adam makes steps of that
    [*((name, "sgd") for name in STACKED), ("layer norm", "adam"), ("shared weights", "adam")],
)
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("error")
def test_stacked_models_are_those_of_the_plain_loop(name: str, optimizer: str, task_with: Callable[..., Task]) -> None:
    """Same seed, same batches, same steps, and the same statistics of batch normalisation; PyTorch warns of nothing.

    Catches models that see each other's batches, and a weight with two names that is trained twice, or half.
    """
    task = task_with(STACKED[name], optimizer=optimizer, learning_rate=0.01)
    way = way_of(task, 2)
    assert way.name == "stacked"
    assert "its models are trained many at once by vmap, because as one grouped" in (way.remark("mine") or "")
    trainer = GroupTrainer(task, task.retain_indices, seeds=[5, 6])
    while not trainer.finished:
        trainer.train_epoch()
    for seed, state in zip((5, 6), trainer.states(), strict=True):
        for key, value in train_one(task, task.retain_indices, seed).state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", SEPARATE)
def test_what_vmap_can_not_do_is_trained_alone(name: str, task_with: Callable[..., Task]) -> None:
    """And both reasons are told."""
    task = task_with(SEPARATE[name])
    way = way_of(task, 2)
    assert way.name == "separate"
    assert "and by vmap they fail (RuntimeError" in (way.remark("mine") or "")
    trainer = GroupTrainer(task, task.retain_indices, seeds=[5])
    trainer.train_epoch()
    trainer.train_epoch()
    (state,) = trainer.states()
    for key, value in train_one(task, task.retain_indices, 5).state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_each_model_draws_dropout_of_its_own(name: str, task_with: Callable[..., Task]) -> None:
    """Three models of one seed on the same images: other numbers are dropped in each. In evaluation, none are."""
    task = task_with(RANDOM[name])
    assert way_of(task, 3).name == "stacked"
    network = StackedNetwork([build_network(task, 1) for _ in range(3)])
    images = task.train.images.expand(3, *task.train.images.shape)
    one, other, third = network.train()(images)
    assert not torch.equal(one, other)
    assert not torch.equal(other, third)
    one, other, third = network.eval()(images)
    assert torch.equal(one, other)
    assert torch.equal(other, third)
    torch.testing.assert_close(one, build_network(task, 1).eval()(images[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_bits_depend_on_the_seeds_alone(name: str, task_with: Callable[..., Task]) -> None:
    """Whatever was computed before in this process, and if training is interrupted."""
    task = task_with(RANDOM[name], epochs=3)
    straight, first, second = (GroupTrainer(task, task.retain_indices, seeds=[1, 2]) for _ in range(3))
    while not straight.finished:
        straight.train_epoch()
    torch.rand(5)
    first.train_epoch()
    GroupTrainer(task, task.retain_indices, seeds=[3, 4, 5]).train_epoch()
    second.restore(copy.deepcopy(first.snapshot()))
    while not second.finished:
        second.train_epoch()
    for one, other in zip(straight.states(), second.states(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_pruned_group_goes_on_with_the_same_bits(task_with: Callable[..., Task]) -> None:
    """Masks are joined as weights are."""
    recipe = {"pruning": "imp", "sparsity": 0.4, "rewind_epoch": 1, "epochs": 2}
    task = task_with(RANDOM["attention"], **recipe)
    straight, first, second = (PrunedTrainer(task, task.retain_indices, seeds=[1, 2]) for _ in range(3))
    while not straight.finished:
        straight.train_epoch()
    for _ in range(3):
        first.train_epoch()
    second.restore(copy.deepcopy(first.snapshot()))
    while not second.finished:
        second.train_epoch()
    for one, other in zip(straight.states(), second.states(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert float((one["patches.weight"] == 0).float().mean()) == pytest.approx(0.4, abs=0.01)


def test_weights_come_back_as_they_went_in() -> None:
    """Also those of a weight with two names, and counters; the networks themselves are left alone."""
    networks = [nn.Sequential(tied(), nn.BatchNorm1d(10)) for _ in range(3)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    stacked = StackedNetwork(networks)
    for state, expected, network in zip(stacked.states(), before, networks, strict=True):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert all(torch.equal(network.state_dict()[key], expected[key]) for key in expected)
    shared = dict(stacked.named_parameters(remove_duplicate=False))
    assert shared["network.0.2.weight"] is shared["network.0.4.weight"]


def test_what_pays_is_little_work_in_many_layers() -> None:
    """In multiply-adds for each layer with weights, that of normalisation included."""
    layers = dense(nn.LayerNorm(12))
    assert MOST_WORK > (64 * 12 + 12 * 10) / 3
    assert pays(layers, torch.zeros(1, 8, 8))
    width = 1 + 3 * MOST_WORK // 74
    large = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.Linear(width, 10))
    assert not pays(large, torch.zeros(1, 8, 8))
    assert large.training
    assert not pays(NETWORKS["all_cnn"](3, 32, 10), torch.zeros(3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layer of dropout", "attention"])
def test_three_ways_have_one_distribution(name: str, task_with: Callable[..., Task]) -> None:
    """On digits, other seeds: accuracies and confidences of stacked, separate and plain models are alike over models.

    Kolmogorov-Smirnov over 24 models each. The control, a set that is trained a quarter as long, must be told apart.
    """
    task_with(RANDOM[name])
    task = load(TaskSpec("digits", train_size=150, network="mine"))
    task = replace(task, recipe=replace(task.recipe, epochs=12, learning_rate=0.05))
    shorter = replace(task, recipe=replace(task.recipe, epochs=3))

    def trained(task: Task, way: type[StackedNetwork] | type[SeparateNetworks], first: int) -> np.ndarray:
        trainer = GroupTrainer(task, task.retain_indices, seeds=range(first, first + 24))
        trainer.network = way([build_network(task, seed) for seed in trainer.seeds])
        trainer.optimizer = type(trainer.optimizer)(trainer.network.parameters(), **trainer.optimizer.defaults)
        while not trainer.finished:
            trainer.train_epoch()
        return accuracy_and_confidence(task, trainer.network)

    singles = [train_one(task, task.retain_indices, 1000 + seed) for seed in range(24)]
    plain = accuracy_and_confidence(task, SeparateNetworks(singles))
    same = [trained(task, StackedNetwork, 0), trained(task, SeparateNetworks, 100)]
    other = trained(shorter, StackedNetwork, 200)
    for statistic in range(2):
        for found in same:
            assert stats.ks_2samp(plain[statistic], found[statistic]).pvalue > 1e-3
        assert stats.ks_2samp(plain[statistic], other[statistic]).pvalue < 1e-4


def test_group_norm_is_grouped() -> None:
    """As if each model were alone. Catches groups that reach into the next model's channels."""
    networks = [nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6), nn.Flatten()).eval() for _ in range(3)]
    for network in networks:
        for parameter in network[1].parameters():
            nn.init.normal_(parameter)
    images = torch.randn(3, 5, 1, 8, 8)
    grouped = GroupedNetwork(networks)(images)
    for logits, network, batch in zip(grouped, networks, images, strict=True):
        torch.testing.assert_close(logits, network(batch), rtol=1e-4, atol=1e-5)
