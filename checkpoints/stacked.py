"""Many networks of one architecture as a single network, by `torch.func.vmap`, whatever layers they have.

Each weight of a model becomes a slice of one tensor, `(models, ...)`, and vmap maps the network's own `forward` over
the slices. What is random in it (dropout) is drawn for each model by itself. That saves the cost of calling PyTorch
once for each model and layer, and nothing else: see `pays`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from checkpoints.grouped import State

MOST_WORK = 25_000
"""Multiply-adds, for each image and layer with weights, up to which stacking is quicker on a CPU than one model after
another. Measured by `python -m benchmarks.speed.network_speed`."""

NOT_MAPPED = "There is a performance drop because we have not yet implemented the batching rule"
"""What PyTorch says of a function that vmap calls once for each model: that is no concern of the user's."""


class StackedNetwork(nn.Module):
    """`networks`, which share an architecture, as one network: `(models, batch, C, H, W)` to `(models, batch, K)`.

    The interface is that of `GroupedNetwork`. Starts from their weights and leaves them alone.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        warnings.filterwarnings("ignore", message=NOT_MAPPED, category=UserWarning)
        self.models = len(networks)
        self.network = copy.deepcopy(networks[0])
        _stack(self.network, self.models)
        self.load_states([network.state_dict() for network in networks])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        weights = _own(self.network, "_parameters") | _own(self.network, "_buffers")
        with _plain_attention():
            logits: Tensor = vmap(self._one, randomness="different")(weights, x)
        return logits

    def _one(self, weights: State, images: Tensor) -> Tensor:
        """The logits `(batch, K)` of the model with these weights."""
        logits: Tensor = functional_call(self.network, weights, (images,), tie_weights=False)
        return logits

    def join(self, states: Sequence[State]) -> State:
        """What each model has of (some of) its weights, `(models, ...)`, by this network's own names."""
        return {f"network.{name}": torch.stack([state[name] for state in states]) for name in states[0]}

    def load_states(self, states: Sequence[State]) -> None:
        """Take over the weights of the models, one `state_dict` each."""
        self.load_state_dict(self.join(states))

    def states(self) -> list[State]:
        """The `state_dict` of each model, copied."""
        own = self.network.state_dict()
        return [{name: value[m].clone() for name, value in own.items()} for m in range(self.models)]


def _own(network: nn.Module, kind: str) -> State:
    """The "_parameters" or "_buffers" that each module has itself, by name; a module that has two names comes once."""
    return {
        f"{place}.{name}" if place else name: value
        for place, module in network.named_modules()
        for name, value in getattr(module, kind).items()
        if value is not None
    }


def _stack(network: nn.Module, models: int) -> None:
    """Repeat each weight and buffer of `network` for `models` models, in place; one with two names stays one."""
    stacked = {value: nn.Parameter(_repeated(value, models), value.requires_grad) for value in network.parameters()}
    buffers = {value: _repeated(value, models) for value in network.buffers()}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else stacked[parameter]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffers[buffer]


def _repeated(value: Tensor, models: int) -> Tensor:
    return value.detach().expand(models, *value.shape).clone()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Inside, attention is computed by products and a softmax, which vmap maps, and not by functions for all of it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def pays(network: nn.Module, image: Tensor) -> bool:
    """Whether stacking networks that compute an `image` `(C, H, W)` like this one saves time on a CPU.

    It does for little work in many calls: large products take longer for many models at once than for one after
    another. By the same numbers on every machine, because the way decides the last bits.
    """
    layers = sum(1 for module in network.modules() if any(True for _ in module.parameters(recurse=False)))
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image[None].to(next(network.parameters()).dtype))
    network.train(training)
    return counter.get_total_flops() / 2 / layers <= MOST_WORK
