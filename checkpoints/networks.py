"""The networks a task can name: the kit's, those of libraries, and the user's own.

Each builder takes `(channels, size, classes)` of square images.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from checkpoints.library_networks import library_builder
from checkpoints.own_networks import own_builder
from checkpoints.trial import Builder, try_network
from data.errors import UserError, unknown_name

if TYPE_CHECKING:
    from data.task import Task


def small_cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions (8, 16, 16 channels) with batch normalisation, the second of stride 2, and an average.

    For small grey images. Averaging over the image leaves only 16 features, so training goes on to fit each
    image by moving the features, not the last layer: on 8x8 digits it memorises more than wider networks do.
    """

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    average = nn.AvgPool2d((size + 1) // 2)  # over all that the stride leaves
    layers = [*block(channels, 8, 1), *block(8, 16, 2), *block(16, 16, 1), average]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, classes))


def strided_cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Three strided convolutions (5x5 by 4, then 3x3 by 2 twice; 16, 32, 64 channels) with batch normalisation.

    For small coloured images. Few multiplications, because it strides at once, and many weights, because the last
    layer has some for each place: 27,034 parameters on 32x32, enough to remember each of 500 faces.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, kernel, stride in ((16, 5, 4), (32, 3, 2), (64, 3, 2)):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
        size = (size + stride - 1) // stride
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * size * size, classes))


def all_cnn(channels: int, size: int, classes: int) -> nn.Module:
    """All-CNN-C of Springenberg et al. (arXiv 1412.6806, table 1): convolutions only, striding instead of pooling.

    With batch normalisation in place of the paper's dropout, as the unlearning literature uses it.
    """
    layers: list[nn.Module] = []
    widths = [
        (96, 3, 1),
        (96, 3, 1),
        (96, 3, 2),
        (192, 3, 1),
        (192, 3, 1),
        (192, 3, 2),
        (192, 3, 1),
        (192, 1, 1),
    ]
    inputs = channels
    for outputs, kernel, stride in widths:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(192, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mlp(channels: int, size: int, classes: int) -> nn.Module:
    """Two layers with 5 hidden units: 784-5-10 on MNIST, 3,985 parameters, as in certified unlearning.

    Source: Koloskova et al., "Certified Unlearning for Neural Networks", ICML 2025 (arXiv 2506.06985).
    """
    hidden = nn.Linear(channels * size * size, 5)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(5, classes))


def tiny_conv(channels: int, size: int, classes: int) -> nn.Module:
    """Two 3x3 convolutions (32, 64 channels) with biases, average pooling by 2 after each, and an average at the end.

    20,042 parameters on coloured images of 10 classes; no batch normalisation; He initialisation, biases 0. Raises
    `UserError` for images smaller than 4x4. Source: as `mlp`, the network for CIFAR-10.
    """
    if size < 4:
        raise UserError(
            f"tiny_conv needs images of at least 4x4 pixels, not {size}x{size}: three_layer takes features."
        )
    layers = [
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.AvgPool2d(size // 4), nn.Flatten(), nn.Linear(64, classes)),
    ]
    return _HeInitialised(*layers)


def three_layer(channels: int, size: int, classes: int) -> nn.Module:
    """Two hidden layers of 32: 17,802 parameters on 512 features and 10 classes; He initialisation, biases 0.

    For features (`--features resnet18`). Source: as `mlp`, the network for transfer learning.
    """
    inputs = channels * size * size
    layers = [nn.Flatten(), nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes)]
    return _HeInitialised(*layers)


class _HeInitialised(nn.Sequential):
    """Layers that start as He et al. say (arXiv 1502.01852), also when a method draws them anew."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights; biases are 0."""
        for layer in self:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


def resnet18(channels: int, size: int, classes: int) -> nn.Module:
    """torchvision's ResNet-18, untrained, as in the competition: 7x7 stem of stride 2 and max pooling."""
    from torchvision import models

    network: nn.Module = models.resnet18(weights=None, num_classes=classes)
    if channels != 3:
        _replace_stem(network, nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False))
    return network


def resnet18_3x3(channels: int, size: int, classes: int) -> nn.Module:
    """ResNet-18 for 32x32 images: 3x3 stem of stride 1, no max pooling (He et al., arXiv 1512.03385, 4.2)."""
    from torchvision import models

    network: nn.Module = models.resnet18(weights=None, num_classes=classes)
    _replace_stem(network, nn.Conv2d(channels, 64, 3, padding=1, bias=False))
    network.maxpool = nn.Identity()
    return network


def _replace_stem(network: nn.Module, stem: nn.Conv2d) -> None:
    # torchvision initialises every convolution of its ResNets this way.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = stem


NETWORKS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (small_cnn, strided_cnn, all_cnn, mlp, tiny_conv, three_layer, resnet18, resnet18_3x3)
}


OTHER_NETWORKS = {
    "FILE.py:NAME": "your own: a class or function in a file, of (channels, size, classes) or of classes",
    "torchvision:NAME": "any classification network of torchvision, untrained, like torchvision:resnet50",
    "timm:NAME": "any network of timm, untrained, like timm:vit_tiny_patch16_224; needs pip install timm",
}
"""How networks are named that are not in `NETWORKS`."""


def builder_of(task: Task) -> Builder:
    """What builds the networks of `task`; the same object for the same network, in one process.

    Raises:
        UserError: the task names a network that is not in `NETWORKS`, nor in a library; or its own can't be used.
    """
    if task.network_source is not None:
        return _own_builder(task.network, task.network_source)
    if task.network in NETWORKS:
        return NETWORKS[task.network]
    builder = _library_builder(task.network)
    if builder is None:
        raise unknown_name("network", task.network, [*NETWORKS, *OTHER_NETWORKS])
    return builder


_own_builder = lru_cache(own_builder)
_library_builder = lru_cache(library_builder)


def build_network(task: Task, seed: int | None = None) -> nn.Module:
    """A freshly initialised network of `task`, on the CPU; a function of `seed` alone when one is given.

    One that is none of the kit's is tried out on two images the first time.

    Raises:
        UserError: as `builder_of` does; the images are not square; the recipe is DP-SGD and the network has batch
            normalisation, or prunes weights that are not there; what `try_network` finds.
    """
    builder = builder_of(task)
    _, channels, height, width = task.train.images.shape
    if height != width:
        raise UserError(f"Networks take square images, but those of {task.name} are {height}x{width}.")
    if builder is not NETWORKS.get(task.network):
        try_network(builder, task.network, channels, height, len(task.classes))
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = builder(channels, height, len(task.classes))
    _check_recipe(task, network)
    return network


def _check_recipe(task: Task, network: nn.Module) -> None:
    """Raises `UserError` if the recipe of `task` is not for such a network."""
    modules = list(network.modules())
    if task.recipe.optimizer == "dp_sgd" and any(isinstance(module, _BATCH_NORMS) for module in modules):
        raise UserError(
            f"{task.network} has batch normalisation, which mixes images before their gradients can be clipped one by "
            "one: DP-SGD needs a network without it, like --network mlp."
        )
    if task.recipe.pruning == "none":
        return
    pruned: list[nn.Module] = [module for module in modules if isinstance(module, nn.Conv2d)]
    pruned = pruned or [module for module in modules if isinstance(module, nn.Linear)]
    if not pruned or any(is_parametrized(module, "weight") for module in pruned):
        why = "computes these from others" if pruned else "has no such layer"
        raise UserError(
            f"recipe: pruning={task.recipe.pruning} prunes weights of convolutions and linear layers, and "
            f"{task.network} {why}: leave out the pruning, or use another network."
        )


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
