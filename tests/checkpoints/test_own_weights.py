"""Weights from elsewhere: the forms that people have, and the sentence for what does not fit."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from checkpoints.networks import NETWORKS, build_network
from checkpoints.own_weights import read_weights
from data import Task, UserError
from tests.checkpoints.test_published_networks import make_task

State = dict[str, Tensor]


@pytest.fixture
def task() -> Task:
    """Small grey images, and the network for them."""
    return make_task("small_cnn", 1, 8)


@pytest.fixture
def net(task: Task) -> nn.Module:
    """Weights that no fresh network has."""
    network = build_network(task, seed=1)
    for name, value in network.state_dict().items():
        value += 3 if name.endswith("num_batches_tracked") else 0.25
    return network


class Lightning(nn.Module):
    """Somebody's module around the network, with a weight of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network
        self.loss = nn.Linear(2, 2)


def pruned(network: nn.Module) -> nn.Module:
    """With 30 % of its weights masked."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", amount=0.3)
    return network


def inner_parallel(network: nn.Module) -> nn.Module:
    """With DataParallel around its first layer only."""
    assert isinstance(network, nn.Sequential)
    network[0] = nn.DataParallel(network[0])
    return network


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "a state_dict": lambda net: net.state_dict(),
    "DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "DataParallel inside": lambda net: inner_parallel(net).state_dict(),
    "torch.compile": lambda net: {f"_orig_mod.{name}": value for name, value in net.state_dict().items()},
    "DataParallel of torch.compile": lambda net: {f"module._orig_mod.{n}": v for n, v in net.state_dict().items()},
    "AveragedModel": lambda net: AveragedModel(net).state_dict(),
    "a module around it": lambda net: {"state_dict": Lightning(net).state_dict(), "epoch": 3},
    "state_dict": lambda net: {"state_dict": net.state_dict(), "optimizer": optimizer_of(net)},
    "model": lambda net: {"model": net.state_dict(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9)},
    "model_state_dict": lambda net: {"epoch": 9, "model_state_dict": net.state_dict(), "curve": np.arange(3.0)},
    "an unusual entry": lambda net: {"generator_of_answers": net.state_dict()},
    "entries within entries": lambda net: {"checkpoint": {"model": {"state_dict": net.state_dict()}}},
    "double precision": lambda net: copy.deepcopy(net).double().state_dict(),
    "parameters": lambda net: {**net.state_dict(), **{n: nn.Parameter(p) for n, p in net.named_parameters()}},
    "with counts": lambda net: {**net.state_dict(), "total_ops": torch.ones(1), "0.total_params": torch.ones(1)},
}  # fmt: skip


def optimizer_of(net: nn.Module) -> dict[str, Any]:
    """What an optimiser with momentum saves after a step."""
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    net(torch.zeros(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_people_have(form: str, task: Task, net: nn.Module, tmp_path: Path) -> None:
    """Each gives the very weights. Catches a prefix or an entry that is not taken off, and a lost buffer."""
    path = tmp_path / "weights.pth"
    content = FORMS[form](copy.deepcopy(net) if form != "state_dict" else net)
    torch.save(content, path)
    found = read_weights(path, task)
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
    assert all(found[name].dtype == value.dtype for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(kind: torch.dtype, task: Task, net: nn.Module, tmp_path: Path) -> None:
    """Weights become float32, as the network has them, with the values of half precision; counts stay."""
    path = tmp_path / "weights.pth"
    torch.save(copy.deepcopy(net).to(kind).state_dict(), path)
    found = read_weights(path, task)
    for name, value in net.state_dict().items():
        assert found[name].dtype == value.dtype
        expected = value.to(kind).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(found[name], expected)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.bin"])
def test_safetensors(name: str, task: Task, net: nn.Module, tmp_path: Path) -> None:
    """A file of safetensors is one by its content, too; cut short, it is refused in a sentence."""
    from safetensors.torch import save

    data = save({f"module.{name}": value for name, value in net.state_dict().items()})
    path = tmp_path / name
    path.write_bytes(data)
    found = read_weights(path, task)
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
    path.write_bytes(data[:-3])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_weights(path, task)


def test_pruned_networks(task: Task, net: nn.Module, tmp_path: Path) -> None:
    """`weight_orig` and `weight_mask` are one weight, with the zeros in it, as `prune.remove` leaves it."""
    torch.save(pruned(copy.deepcopy(net)).state_dict(), tmp_path / "pruned.pth")
    expected = pruned(copy.deepcopy(net))
    for module in expected.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.remove(module, "weight")
    found = read_weights(tmp_path / "pruned.pth", task)
    assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
    assert (found["0.weight"] == 0).any()


def test_early_versions_have_no_counts(task: Task, net: nn.Module, tmp_path: Path) -> None:
    """Counts of batches that are left out are 0; any other buffer that is left out is missing."""
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "early.pth")
    assert read_weights(tmp_path / "early.pth", task)["1.num_batches_tracked"] == 0
    torch.save({name: value for name, value in state.items() if name != "1.running_var"}, tmp_path / "early.pth")
    with pytest.raises(UserError, match=r"missing: 1\.running_var"):
        read_weights(tmp_path / "early.pth", task)


def test_of_several_entries_that_fit_the_usual_one_is_taken_and_told(
    task: Task, net: nn.Module, tmp_path: Path
) -> None:
    """A checkpoint with an average beside the weights: "model" is taken, whatever the order. Catches silence."""
    other = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    torch.save({"ema": other, "model": net.state_dict()}, tmp_path / "two.pth")
    told: list[str] = []
    found = read_weights(tmp_path / "two.pth", task, told.append)
    assert torch.equal(found["0.weight"], net.state_dict()["0.weight"])
    assert len(told) == 1
    assert "'model'" in told[0]
    assert "'ema'" in told[0]


def test_what_is_wrong_is_named(task: Task, net: nn.Module, tmp_path: Path) -> None:
    """Missing, unknown and misshapen weights, the first few of each, in one sentence."""
    state = dict(net.state_dict())
    del state["0.weight"]
    state["head.bias"] = torch.zeros(3)
    last = [name for name in state if name.endswith(".weight")][-1]
    state[last] = torch.zeros(7, 16)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / "odd.pth", task)
    kinds = f"missing: 0.weight; unknown: head.bias; of another shape: {last} is (7, 16), not (10, 16)"
    assert f"does not fit small_cnn: {kinds}." in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("small_cnn", "resnet18", "three_layer")])
def test_the_network_that_would_fit_is_named(name: str, task: Task, tmp_path: Path) -> None:
    """Weights of another network of the kit for such images, with a prefix, too. Catches advice that names nothing."""
    torch.save(nn.DataParallel(NETWORKS[name](1, 8, 10)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"They fit --network {name}\."):
        read_weights(tmp_path / "other.pth", task)


def test_another_number_of_classes(task: Task, tmp_path: Path) -> None:
    """Of the right network, for more classes: the shape is named, and what the task has."""
    torch.save(NETWORKS["small_cnn"](1, 8, 100).state_dict(), tmp_path / "hundred.pth")
    with pytest.raises(
        UserError, match=r"\(100, 16\), not \(10, 16\).*The task has 10 classes and images of 1 x 8 x 8"
    ):
        read_weights(tmp_path / "hundred.pth", task)
    torch.save(NETWORKS["resnet18"](3, 32, 1000).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match="named as those of --network resnet18"):
        read_weights(tmp_path / "imagenet.pth", task)


class Pickled(nn.Module):
    """A network that is pickled whole."""


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], State]:
    """Each weight of a network, changed."""
    return lambda net: {name: change(value) for name, value in net.state_dict().items()}


NOT_FINITE = "NaN or infinite numbers in 0.weight"
WRONG: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "a pickled module": (Pickled, r"pickled object .* torch\.save\(torch\.load\('wrong\.pth', weights_only=False\)"),
    "a checkpoint with one": (lambda net: {"model": net}, r"pickled object"),
    "a number": (lambda net: 3, "has no weights in it"),
    "an empty dict": (lambda net: {}, "has no weights in it"),
    "a list of weights": (lambda net: list(net.state_dict().values()), "has no weights in it"),
    "only an optimizer": (lambda net: {"optimizer": optimizer_of(net)}, "has no weights in it"),
    "NaN": (changed(lambda value: value * float("nan")), NOT_FINITE),
    "too large for float32": (changed(lambda value: value.double() + 1e300), NOT_FINITE),
    "complex numbers": (changed(lambda value: value.to(torch.complex64)), "no plain numbers"),
    "sparse tensors": (changed(lambda value: value.to_sparse()), "no plain numbers"),
    "tensors without content": (changed(lambda value: value.to("meta")), "no plain numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_wrong_files(case: str, task: Task, net: nn.Module, tmp_path: Path) -> None:
    """Each is a sentence that names the file. Catches a traceback, and weights that are taken though they can't be."""
    make, message = WRONG[case]
    path = tmp_path / "wrong.pth"
    torch.save(make(net) if make is not Pickled else Pickled(), path)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(path, task)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("data", [b"", b"no weights", b"\x80\x02}q\x00.", bytes(100), b"\x05" + bytes(7) + b"{abc}"])
def test_files_that_are_none(data: bytes, task: Task, tmp_path: Path) -> None:
    """Bytes of anything else, and no file at all, are a sentence."""
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.pth"):
        read_weights(tmp_path / "x.pth", task)
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match="can't be read"):
            read_weights(path, task)
