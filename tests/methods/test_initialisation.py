"""Weights drawn anew are drawn as the network's builder draws them, and nothing of the original's is left."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from checkpoints.networks import NETWORKS
from data import Task
from data.loaders import run_loaders
from methods import all_method_handlers
from methods.CertifiedRetrain import CertifiedRetrain
from methods.initialisation import freshly_initialised, reinitialise
from methods.Retrain import Retrain
from tests.methods.trained_digits import part, unlearn


@pytest.mark.parametrize("name", NETWORKS)
def test_as_its_builder(name: str) -> None:
    """Mean and deviation of each weight are those of new networks; statistics are fresh; no weight stays.

    Catches PyTorch's default where torchvision, or He et al., have another, and a module that is passed over.
    """
    torch.manual_seed(0)
    build = NETWORKS[name]
    size = 32 if name.startswith("resnet") else 8
    old, new = build(3, size, 10), build(3, size, 10)
    with torch.no_grad():
        for tensor in old.state_dict().values():
            tensor.fill_(77)
    reinitialise(old)
    for key, value in old.state_dict().items():
        expected = new.state_dict()[key]
        assert not torch.any(value == 77), key
        if value.numel() > 1000:
            assert float(value.std()) == pytest.approx(float(expected.std()), rel=0.1), key
        if torch.all(expected == expected.flatten()[0]):  # ones, zeros, and the statistics of batch normalisation
            assert torch.equal(value, expected), key


def test_a_copy_leaves_the_network_alone() -> None:
    """And is another one."""
    network = NETWORKS["small_cnn"](1, 8, 10)
    before = copy.deepcopy(network.state_dict())
    fresh = freshly_initialised(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(fresh.state_dict()["0.weight"], before["0.weight"])


class Scaled(nn.Module):
    """A parameter of its own that no module draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.scale = nn.Parameter(torch.full((10,), 5.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled logits."""
        logits: torch.Tensor = self.layer(images.flatten(1)) * self.scale
        return logits


class Owner(Scaled):
    """One that says how it starts."""

    def reset_parameters(self) -> None:
        """Both."""
        self.layer.reset_parameters()
        nn.init.ones_(self.scale)


@pytest.mark.parametrize("method", [Retrain(epochs=1), CertifiedRetrain(epochs=1)])
def test_what_nobody_can_draw_is_refused(method: Retrain, task: Task) -> None:
    """Rather than retrained with the original's weight in it; a network that draws it itself is trained."""
    with pytest.raises(
        ValueError, match=r"scale can't be drawn anew: neither its module nor the network has reset_par"
    ):
        unlearn(method, Scaled(), task)
    left = unlearn(method, Owner(), task)
    assert isinstance(left, Owner)
    assert float((left.scale.detach() - 1).abs().max()) < 1


class Reparametrised(nn.Sequential):
    """Its ends compute their weights from other parameters, which `reset_parameters()` does not draw."""

    def __init__(self) -> None:
        first, last = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)
        middle = nn.Conv2d(4, 4, 3, padding=1)
        layers = parametrizations.weight_norm(first), middle, nn.Flatten(), parametrizations.weight_norm(last)
        super().__init__(*layers)


METHODS = all_method_handlers()
DRAWING = [name for name in METHODS if "reinitialise" in vars(inspect.getmodule(METHODS[name]))]
DRAWING += [name for name in METHODS if "freshly_initialised" in vars(inspect.getmodule(METHODS[name]))]


ASKED: dict[str, dict[str, Any]] = {"constrained": {"stop": "confusion"}, "forget": {"layers": 50}}
"""What makes those draw that need not, or that may choose another layer."""
ASKED |= {name: {"fresh_start": True} for name in DRAWING if "fresh_start" in METHODS[name].hyper_parameters()}


@pytest.mark.parametrize("name", DRAWING)
def test_every_method_that_draws_refuses(name: str, task: Task) -> None:
    """A network whose `reset_parameters()` leave the original's weights: none is taken for a new one."""
    method = METHODS[name](**METHODS[name].tried_with, **ASKED.get(name, {}))
    with pytest.raises(ValueError, match=r"original0 can't be drawn anew"):
        unlearn(method, Reparametrised(), task)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_draws_by_itself(name: str) -> None:
    """What it draws anew is drawn by `methods/initialisation.py`, which notices what is left."""
    assert "reset_parameters" not in inspect.getsource(METHODS[name])


def test_the_owner_has_the_last_word() -> None:
    """Its own draw comes after that of the modules in it, whatever their depth."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(Owner()))
    for _ in range(3):
        reinitialise(network)
        inner = network[0][0]  # type: ignore[index]
        assert torch.all(inner.scale == 1)
    attention = nn.MultiheadAttention(4, 2)
    with torch.no_grad():
        attention.in_proj_weight.fill_(77)
    reinitialise(attention)  # whose method of this kind has an underscore
    assert not torch.any(attention.in_proj_weight == 77)


def test_retrain_weighs_classes(task: Task, original: nn.Module) -> None:
    """By 1 / their count in both sets, on the device of the network. Catches counts for weights."""
    loaders = [[dict(zip(("image", "age_group"), part(task, which), strict=True))] for which in ("retain", "forget")]
    weights = Retrain._class_weights(original, *loaders)  # type: ignore[arg-type]
    counts = torch.bincount(torch.cat([part(task, which)[1] for which in ("retain", "forget")]), minlength=10)
    torch.testing.assert_close(weights, 1 / counts)
    assert weights.device == next(original.parameters()).device
    on_meta = copy.deepcopy(original).to("meta")
    assert Retrain._class_weights(on_meta, *loaders).device.type == "meta"  # type: ignore[arg-type]


def test_retrain_sees_the_retain_set_alone(task: Task, original: nn.Module) -> None:
    """Every image of it in each epoch, and no other; from other weights than the original's."""
    seen: list[torch.Tensor] = []
    network = copy.deepcopy(original)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    Retrain(epochs=2, batch_size=50).run(network, *run_loaders(task, 1))
    images = [image.numpy().tobytes() for image in torch.cat(seen)]
    retained = [image.numpy().tobytes() for image in part(task, "retain")[0]]
    assert sorted(images) == sorted(2 * retained)
    still = unlearn(Retrain(epochs=1, learning_rate=0.0), original, task)
    assert not torch.equal(still.get_parameter("0.weight"), original.get_parameter("0.weight"))


@pytest.mark.parametrize("weighted", [False, True])
def test_retrain_by_sharpness(weighted: bool, task: Task, original: nn.Module) -> None:
    """The gradient is that at w + rho w^2 g / |w g|, taken from w, both of the loss that is minimised.

    Catches a step from there, rho g / |g|, and classes that weigh alike in the second gradient.
    """
    method = Retrain(epochs=1, batch_size=1000, weight_decay=0.0, momentum=0.0, learning_rate=0.1, sharpness=0.5)
    method.class_weights = weighted
    weight = torch.arange(1.0, 11.0) if weighted else None  # digits have as many images in each class
    torch.manual_seed(3)
    start = freshly_initialised(original).train()
    images, labels = part(task, "retain")
    torch.nn.functional.cross_entropy(start(images), labels, weight=weight).backward()
    weights = list(start.parameters())
    grads = [weight.grad.clone() for weight in weights if weight.grad is not None]
    norm = math.sqrt(sum(float((w.detach() * g).square().sum()) for w, g in zip(weights, grads, strict=True)))
    ahead = copy.deepcopy(start)
    with torch.no_grad():
        for w, g in zip(ahead.parameters(), grads, strict=True):
            w.add_(0.5 * w**2 * g / norm)
    value = torch.nn.functional.cross_entropy(ahead(images), labels, weight=weight)
    steps = torch.autograd.grad(value, list(ahead.parameters()))
    expected = [weight.detach() - 0.1 * step for weight, step in zip(weights, steps, strict=True)]
    method_net = copy.deepcopy(original)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("methods.Retrain.reinitialise", lambda net: net.load_state_dict(start.state_dict()))
        patch.setattr(Retrain, "_class_weights", staticmethod(lambda net, *loaders: weight))
        left = unlearn(method, method_net, task)
    for found, wanted in zip(left.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-3, atol=1e-5)
