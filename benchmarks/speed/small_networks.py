"""The networks that `network_speed` times: one for each kind of layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from checkpoints.library_networks import library_builder
from checkpoints.networks import NETWORKS

Builder = Callable[[int, int, int], nn.Module]


def group_norm_cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions (16, 32, 32 channels) with group normalisation."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((channels, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def layer_norm_mlp(channels: int, size: int, classes: int, width: int = 64) -> nn.Module:
    """Two hidden layers with layer normalisation."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (channels * size * size, width):
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


class Block(nn.Module):
    """Attention and two linear layers, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        inner = nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        self.inner = nn.Sequential(nn.LayerNorm(width), *inner)

    def forward(self, tokens: Tensor) -> Tensor:
        """From `(batch, tokens, width)` to the same."""
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.inner(tokens)


class VisionTransformer(nn.Module):
    """Patches, their places, and two blocks."""

    def __init__(self, channels: int, size: int, classes: int, patch: int = 4, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(Block(width), Block(width), nn.LayerNorm(width))
        self.last = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.last(self.blocks(tokens).mean(1))


def of_torchvision(name: str) -> Builder:
    """A network of torchvision."""
    builder = library_builder(f"torchvision:{name}")
    assert builder is not None
    return builder


NETWORKS_TO_TIME: dict[str, tuple[Builder, int, int]] = {
    "small_cnn": (NETWORKS["small_cnn"], 1, 8),
    "CNN with group norm": (group_norm_cnn, 1, 8),
    "MLP with layer norm, width 64": (layer_norm_mlp, 1, 8),
    "MLP with layer norm, width 256": (partial(layer_norm_mlp, width=256), 1, 8),
    "the same, coloured images": (layer_norm_mlp, 3, 32),
    "ViT, patches of 4, width 32": (VisionTransformer, 1, 8),
    "ViT, patches of 7, width 32": (partial(VisionTransformer, patch=7), 1, 28),
    "ViT, patches of 4, width 64": (partial(VisionTransformer, width=64), 3, 32),
    "torchvision:mobilenet_v3_small": (of_torchvision("mobilenet_v3_small"), 3, 32),
    "torchvision:squeezenet1_1": (of_torchvision("squeezenet1_1"), 3, 32),
}
"""Networks by name: what builds them, channels and size of the images."""
