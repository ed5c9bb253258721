"""Many networks of one architecture as a single network with grouped convolutions.

The channels of the models lie side by side: activations are `(batch, models * channels, H, W)`, a convolution has
`groups = models`, batch and group normalisation (which treat channels, or groups of them, one by one) need no change
but their width, and a linear layer becomes a batched matrix product. One call then does the work of all models, which
on small networks costs hardly more than the work of one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class GroupedLinear(nn.Module):
    """One linear layer for each model: `(batch, models * inputs)` to `(batch, models * outputs)`."""

    def __init__(self, models: int, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.models = models
        self.weight = nn.Parameter(torch.empty(models, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(models, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = x.unflatten(1, (self.models, -1)).transpose(0, 1)  # (models, batch, inputs)
        x = torch.bmm(x, self.weight.transpose(1, 2))  # (models, batch, outputs)
        if self.bias is not None:
            x = x + self.bias[:, None]
        return x.transpose(0, 1).flatten(1)


class GroupedNetwork(nn.Module):
    """`networks`, which share an architecture, as one network: `(models, batch, C, H, W)` to `(models, batch, K)`.

    Starts from their weights and leaves them alone; `states()` gives the weights back, one dict per model.

    Raises:
        TypeError: a layer with weights is none of Conv2d, BatchNorm1d, BatchNorm2d, GroupNorm and Linear.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = len(networks)
        self.shapes = {name: value.shape for name, value in networks[0].state_dict().items()}
        self.network = _widen(copy.deepcopy(networks[0]), self.models)
        self.load_states([network.state_dict() for network in networks])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = x.transpose(0, 1).flatten(1, 2)  # (batch, models * C, H, W)
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return logits.unflatten(1, (self.models, -1)).transpose(0, 1)

    def join(self, states: Sequence[State]) -> State:
        """What each model has of (some of) its weights, `(models, ...)` in all, by this network's own names."""
        own = self.network.state_dict()
        joined = {}
        for name in states[0]:
            stacked = torch.stack([state[name] for state in states])  # (models, *shape)
            joined[f"network.{name}"] = stacked.reshape(own[name].shape) if self.shapes[name] else stacked[0]
        return joined

    def load_states(self, states: Sequence[State]) -> None:
        """Take over the weights of the models, one `state_dict` each."""
        self.load_state_dict(self.join(states))

    def states(self) -> list[State]:
        """The `state_dict` of each model, copied."""
        own = self.network.state_dict()
        split = {
            name: own[name].reshape(self.models, *shape) if shape else own[name].expand(self.models)
            for name, shape in self.shapes.items()
        }
        return [{name: values[m].clone() for name, values in split.items()} for m in range(self.models)]


def _widen(module: nn.Module, models: int) -> nn.Module:
    """`module` with each layer that has weights replaced by one for `models` models (weights to be loaded)."""
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            raise TypeError(f"Conv2d with padding mode {module.padding_mode!r} can't be trained in groups yet.")
        return nn.Conv2d(
            module.in_channels * models,
            module.out_channels * models,
            module.kernel_size,  # type: ignore[arg-type]
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            dilation=module.dilation,  # type: ignore[arg-type]
            groups=module.groups * models,
            bias=module.bias is not None,
        ).to(memory_format=torch.channels_last)
    if isinstance(module, nn.GroupNorm):
        return nn.GroupNorm(module.num_groups * models, module.num_channels * models, module.eps, module.affine)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return type(module)(
            module.num_features * models,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
    if isinstance(module, nn.Linear):
        return GroupedLinear(models, module.in_features, module.out_features, module.bias is not None)
    if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
        raise TypeError(f"{type(module).__name__} can't be trained in groups: teach checkpoints/grouped.py how.")
    for name, child in module.named_children():
        setattr(module, name, _widen(child, models))
    return module
