"""What a method may leave: the weights of the network that it was given, and nothing else about it."""

from __future__ import annotations

import torch
from torch import nn

from checkpoints.grouped import State
from checkpoints.networks import build_network
from data import Task


class MethodError(Exception):
    """The method broke its contract; the message says how."""


def check_structure(fresh: nn.Module, net: nn.Module, method: str) -> None:
    """Hooks, replaced modules and replaced `forward`s would be lost with the network, so they are refused.

    This is for honest mistakes: it runs where the method has run. Only weights leave that process.

    Raises:
        MethodError: `net` is not built like `fresh`, a network that no method has seen.
    """
    expected = {name: type(module) for name, module in fresh.named_modules()}
    modules = dict(net.named_modules())
    if {name: type(module) for name, module in modules.items()} != expected:
        changed = expected.keys() ^ modules.keys() or {
            name for name in expected if type(modules[name]) is not expected[name]
        }
        where = ", ".join(name or "the network itself" for name in sorted(changed)[:3])
        raise MethodError(f"{method} changed the architecture ({where}); only weights may change.")
    if net.state_dict().keys() != fresh.state_dict().keys():
        odd = sorted(net.state_dict().keys() ^ fresh.state_dict().keys())
        raise MethodError(f"{method} added or removed weights ({', '.join(odd[:3])}); undo that before the end.")
    for name, module in modules.items():
        if "forward" in vars(module):
            raise MethodError(f"{method} replaced forward() of {name or 'the network'}; only weights are taken over.")
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, kind, None) for kind in hooks):
            raise MethodError(f"{method} left a hook on {name or 'the network'}; remove it before the end.")


def fresh_network(task: Task, weights: State, method: str) -> nn.Module:
    """A fresh network, on the task's device, with the weights that a method has left.

    Raises:
        MethodError: they are not those of the task's network, or one is NaN or infinite.
    """
    network = build_network(task).to(task.train.images.device)
    take_over(network, weights, method)
    return network


def take_over(network: nn.Module, weights: State, method: str) -> None:
    """Give a network of the task, whatever its weights, those that a method has left. Raises as `fresh_network`."""
    expected = network.state_dict()
    if weights.keys() != expected.keys():
        odd = sorted(weights.keys() ^ expected.keys())
        raise MethodError(f"{method} added or removed weights ({', '.join(odd[:3])}); undo that before the end.")
    converted = {}
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            raise MethodError(f"{method} changed the shape of {name}: {shapes}.")
        if value.is_complex():
            raise MethodError(f"{method} left complex numbers in {name}.")
        converted[name] = value.to(expected[name].dtype)
        finite = torch.isfinite(value).all()
        if converted[name] is not value:
            finite &= torch.isfinite(converted[name]).all()
        if not finite:
            raise MethodError(f"{method} left NaN or infinite values in {name}.")
    network.load_state_dict(converted)
