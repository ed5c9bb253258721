"""Networks that can't be grouped: they are found out, and trained by vmap, or one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from checkpoints.grouped import GroupedNetwork
from checkpoints.jobs import _restore
from checkpoints.networks import NETWORKS, build_network
from checkpoints.pruning import PrunedTrainer, pruned_steps
from checkpoints.stacked import StackedNetwork
from checkpoints.together import SeparateNetworks, together, way_of
from checkpoints.training import GroupTrainer, group_logits, train_one
from data.files import write_tensors
from tests.checkpoints.test_bank import TINY, build, digests
from tests.checkpoints.test_grouped import make_task

Register = Callable[[Callable[[], nn.Module]], str]


class Net(nn.Module):
    """A convolution, something in between, and a linear layer on `features` numbers."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor], features: int, convolution: nn.Module) -> None:
        super().__init__()
        self.between = between
        self.convolution = convolution
        self.last = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.last(self.between(x, self.convolution(x)))


def average(x: Tensor) -> Tensor:
    """Of each channel, `(batch, channels)`."""
    return x.mean((2, 3))


def concatenated(x: Tensor, y: Tensor) -> Tensor:
    """As in a DenseNet."""
    return average(torch.cat([x, y.relu()], 1))


class Standardised(nn.Conv2d):
    """Its weights have no mean."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


def plain(x: Tensor, y: Tensor) -> Tensor:
    """What can be grouped."""
    return average(y.relu())


def convolution() -> nn.Conv2d:
    """From one channel to four."""
    return nn.Conv2d(1, 4, 3, padding=1)


def frozen(module: nn.Module) -> nn.Module:
    """The same, not to be trained."""
    return module.requires_grad_(False)


MIXING: dict[str, Callable[[], nn.Module]] = {
    "concatenation": lambda: Net(concatenated, 5, convolution()),
    "mean over channels": lambda: Net(lambda x, y: average(y - y.mean(1, keepdim=True)), 4, convolution()),
    "softmax over channels": lambda: Net(lambda x, y: average(y.softmax(1)), 4, convolution()),
    "norm over channels": lambda: Net(lambda x, y: average(F.normalize(y, dim=1)), 4, convolution()),
    "group norm of a function": lambda: Net(lambda x, y: average(F.group_norm(y, 2)), 4, convolution()),
    "layer without weights": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.LocalResponseNorm(3))),
    "another order of axes": lambda: Net(lambda x, y: y.permute(0, 2, 3, 1).flatten(1), 256, convolution()),
    "shape of one model": lambda: Net(lambda x, y: average(y.view(-1, 4, 8, 8)), 4, convolution()),
    "half of the channels": lambda: Net(lambda x, y: average(y[:, :2]), 2, convolution()),
    "layer with unknown weights": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.LayerNorm([4, 8, 8]))),
    "weights of its own": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.PReLU(4))),
    "another kind of convolution": lambda: Net(plain, 4, Standardised(1, 4, 3, padding=1)),
    "weights that are computed": lambda: Net(plain, 4, parametrizations.weight_norm(convolution())),
    "one layer twice": lambda: twice(),
    "frozen layer": lambda: Net(plain, 4, frozen(convolution())),
    "random in training": lambda: Net(lambda x, y: average(y * torch.rand(())), 4, convolution()),
    "float32 inside": lambda: Net(lambda x, y: concatenated(x.float(), y.float()), 5, convolution()),
}


def twice() -> nn.Module:
    """A network one of whose layers has two names."""
    network = Net(plain, 4, nn.Sequential(convolution(), nn.Conv2d(4, 4, 1)))
    network.again = network.convolution[1]  # type: ignore[index]
    network.between = lambda x, y: plain(x, network.again(y))  # type: ignore[operator]
    return network


NOT_MIXING: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Net(plain, 4, convolution()),
    "dropout": lambda: Net(lambda x, y: average(y), 4, nn.Sequential(convolution(), nn.Dropout(0.5))),
    "dropout of channels": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.Dropout2d(0.5))),
    "float32 inside": lambda: Net(lambda x, y: average(y + torch.ones(8, 8).float()), 4, convolution()),
    "sum with a shortcut": lambda: Net(lambda x, y: average(y + y.relu()), 4, convolution()),
    "group norm": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.GroupNorm(2, 4))),
    "batch norm after a linear layer": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)
    ),
    "batch norm": lambda: Net(plain, 4, nn.Sequential(convolution(), nn.BatchNorm2d(4))),
    "instance norm": lambda: Net(lambda x, y: average(F.instance_norm(y).relu()), 4, convolution()),
}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Adds a network to `NETWORKS`; its name."""

    def add(build: Callable[[], nn.Module]) -> str:
        monkeypatch.setitem(NETWORKS, "mine", lambda channels, size, classes: build())
        return "mine"

    return add


NOT_MAPPED = ("one layer twice", "random in training")
"""What vmap can't do either: the first has a function that knows one model's layer."""


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is small enough for vmap."""
    monkeypatch.setattr("checkpoints.together.pays", lambda network, image: False)


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_models_is_found_out(name: str, register: Register) -> None:
    """Then vmap computes what each model gives alone; or, where that can't be done either, they are computed alone.

    Catches the bank of a network that joins its input with its channels: each model was trained on the others' images.
    """
    task = make_task(register(MIXING[name]))
    way = way_of(task, 3)
    assert way.name == ("separate" if name in NOT_MAPPED else "stacked")
    assert way.objection is not None
    networks = [build_network(task, seed).eval() for seed in (1, 2, 3)]
    joined = together(task, networks)
    assert isinstance(joined, SeparateNetworks if name in NOT_MAPPED else StackedNetwork)
    if name != "random in training":
        with torch.no_grad():
            single = torch.stack([network(task.train.images) for network in networks])
        torch.testing.assert_close(group_logits(joined, task.train.images), single, rtol=1e-4, atol=1e-5)
    joined.load_states(list(reversed(joined.states())))
    for state, network in zip(joined.states(), reversed(networks), strict=True):
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.usefixtures("one_by_one")
def test_large_ones_are_computed_alone(name: str, register: Register) -> None:
    """Models give the very bits that they give by themselves."""
    task = make_task(register(MIXING[name]))
    assert way_of(task, 2).name == "separate"
    networks = [build_network(task, seed).eval() for seed in (1, 2, 3)]
    with torch.no_grad():
        single = torch.stack([network(task.train.images) for network in networks])
    if name != "random in training":
        assert torch.equal(group_logits(together(task, networks), task.train.images), single)


@pytest.mark.parametrize("build", NOT_MIXING.values(), ids=NOT_MIXING)
def test_what_does_not_mix_models_is_grouped(build: Callable[[], nn.Module], register: Register) -> None:
    """Catches a comparison that takes rounding, or dropped numbers, for a difference: training would be slow."""
    task = make_task(register(build))
    assert way_of(task, 16).name == "grouped"
    assert isinstance(together(task, [build_network(task)]), GroupedNetwork)


LARGE = ("all_cnn", "resnet18", "resnet18_3x3")


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NETWORKS]
)
def test_every_network_is_grouped(network: str) -> None:
    """The kit's own networks keep their bits: images of one pixel behind batch normalisation are no difference."""
    way = way_of(make_task(network, 3, size=8), 2)
    assert (way.name, way.objection, way.remark(network)) == ("grouped", None, None)


@pytest.mark.parametrize("name", ["concatenation", "frozen layer", "layer with unknown weights"])
@pytest.mark.usefixtures("one_by_one")
def test_models_one_by_one_are_those_of_the_plain_loop(name: str, register: Register) -> None:
    """Same seed, same batches, same steps; a snapshot goes on with the same bits."""
    task = make_task(register(MIXING[name]))
    trainer, other = (GroupTrainer(task, task.retain_indices, seeds=[5, 6]) for _ in range(2))
    trainer.train_epoch()
    other.restore(copy.deepcopy(trainer.snapshot()))
    for one in (trainer, other):
        one.train_epoch()
    for seed, state, resumed in zip((5, 6), trainer.states(), other.states(), strict=True):
        for key, value in train_one(task, task.retain_indices, seed).state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(state[key], resumed[key])


@pytest.mark.parametrize("way", ["stacked", "separate"])
def test_pruned_models_are_those_of_the_plain_loop(
    way: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask belongs to its own model."""
    monkeypatch.setattr("checkpoints.together.pays", lambda network, image: way == "stacked")
    task = make_task(register(MIXING["concatenation"]), pruning="omp", sparsity=0.5, rewind_epoch=1, epochs=3)
    assert way_of(task, 2).name == way
    trainer = PrunedTrainer(task, task.retain_indices, seeds=[5, 6])
    while not trainer.finished:
        trainer.train_epoch()
    for seed, state in zip((5, 6), trainer.states(), strict=True):
        *_, single = pruned_steps(task, task.retain_indices, seed)
        for key, value in single.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6)
        assert (state["convolution.weight"] == 0).float().mean() == 0.5


def test_dropout_is_a_function_of_the_seeds(register: Register) -> None:
    """Whatever was computed before in this process, and if training is interrupted. Catches global random numbers."""
    task = make_task(register(NOT_MIXING["dropout"]))
    straight, first, second = (GroupTrainer(task, task.retain_indices, seeds=[1, 2]) for _ in range(3))
    for _ in range(2):
        straight.train_epoch()
    torch.rand(5)
    first.train_epoch()
    second.restore(copy.deepcopy(first.snapshot()))
    torch.rand(5)
    before = torch.get_rng_state()
    second.train_epoch()
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(straight.states(), second.states(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


REMARKS = {"stacked": "trained many at once by vmap, because as", "separate": "trained one by one, which takes longer"}


@pytest.mark.parametrize("way", REMARKS)
def test_a_bank_of_such_a_network(
    way: str, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how it is trained, and why, in the manifest, too; outputs that are recorded again are the same."""
    monkeypatch.setattr("checkpoints.together.pays", lambda network, image: way == "stacked")
    spec = replace(TINY, network=register(MIXING["concatenation"]))
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path))
    bank, _, told = build(tmp_path, spec, originals=2, models=2)
    assert len(told) == 1
    assert told[0].startswith(f"mine: its models are {REMARKS[way]}")
    record = bank.retrained.manifest()[bank.retrained.model_path(0).name]
    assert record["way"] == way
    assert "differ from those of single ones" in record["because"]
    before = digests(tmp_path)
    bank.retrained.outputs_path(0).unlink()
    _, workers, told = build(tmp_path, spec, originals=2, models=2)
    assert [job[0] for job in workers.jobs] == ["record_group"]
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("noted", "kept"),
    [
        ({"way": "stacked"}, True),
        ({"way": "separate"}, False),
        ({"one_by_one": None}, False),  # of a version that knew two ways: grouped
        ({"one_by_one": "why"}, False),
    ],
    ids=str,
)
def test_a_group_goes_on_in_the_way_it_began(
    noted: dict[str, str | None], kept: bool, register: Register, tmp_path: Path
) -> None:
    """A snapshot of models that were computed in another way has other names, and is left."""
    task = make_task(register(MIXING["concatenation"]))
    trainer, other = (GroupTrainer(task, task.retain_indices, seeds=[5, 6]) for _ in range(2))
    trainer.train_epoch()
    path = tmp_path / "snapshot.pt"
    write_tensors(path, {"seconds": 3.0, **noted, **trainer.snapshot()})
    assert _restore(other, path, way_of(task, 2)) == (3.0 if kept else 0.0)
    assert other.epoch == int(kept)
    assert path.exists() == kept
