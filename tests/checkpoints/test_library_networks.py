"""Networks of torchvision and timm."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torchvision import models

from checkpoints.library_networks import library_builder
from checkpoints.networks import build_network
from checkpoints.together import way_of
from data import UserError
from tests.checkpoints.test_grouped import make_task


@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 32), ("mobilenet_v3_small", 16), ("resnet18", 8)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torchvision_with_any_number_of_channels(name: str, size: int, channels: int) -> None:
    """Of the right number of classes, and a function of the seed. Of three channels it is torchvision's own."""
    task = make_task(f"torchvision:{name}", channels, size=size)
    network = build_network(task, 3)
    assert network.train()(task.train.images[:4]).shape == (4, 10)
    if channels == 3:
        torch.manual_seed(3)
        own = models.get_model(name, weights=None, num_classes=10).named_parameters()
        assert all(torch.equal(network.get_parameter(key), value) for key, value in own)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("vit_b_32", 32), ("googlenet", 64), ("densenet121", 32)])
def test_torchvision_networks_of_other_kinds(name: str, size: int) -> None:
    """A transformer is told the size; no additional outputs in training."""
    task = make_task(f"torchvision:{name}", 3, size=size)
    assert build_network(task, 1).train()(task.train.images[:2]).shape == (2, 10)


def test_a_first_convolution_is_drawn_as_the_others() -> None:
    """He et al.: a deviation of sqrt(2 / (outputs times places)), whatever the channels."""
    builder = library_builder("torchvision:resnet18")
    assert builder is not None
    torch.manual_seed(0)
    first = next(module for module in builder(1, 8, 10).modules() if isinstance(module, nn.Conv2d))
    assert (first.in_channels, first.bias) == (1, None)
    assert float(first.weight.detach().std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.1)


@pytest.mark.slow
def test_what_is_no_network_of_a_library() -> None:
    """Other texts are none of its business; unknown names are answered with near ones, or with where they are."""
    assert library_builder("small_cnn") is None
    assert library_builder("timm") is None
    for name, sentence in (
        ("torchvision:resnet500", "no classification network of torchvision 'resnet500': did you mean resnet50"),
        ("torchvision:xyz", r"docs\.pytorch\.org/vision/stable/models\.html#classification shows them"),
        ("torchvision:", "no classification network of torchvision ''"),
        ("torchvision:fcn_resnet50", "no classification network"),
    ):
        with pytest.raises(UserError, match=sentence):
            build_network(make_task(name))
    with pytest.raises(UserError, match=r"vit_b_16 can't be built for images of 1 x 8 x 8 .* indivisible by patch"):
        build_network(make_task("torchvision:vit_b_16"))
    with pytest.raises(UserError, match=r"inception_v3 can't compute with images of 1 x 8 x 8"):
        build_network(make_task("torchvision:inception_v3"))


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how to install it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"Networks of timm need a package: pip install timm"):
        library_builder("timm:resnet18")


def test_timm() -> None:
    """Transformers are told the size of the images, others have any; grey images, too."""
    pytest.importorskip("timm")
    for name, size in (("vit_tiny_patch16_224", 32), ("mobilenetv3_small_050", 32)):
        task = make_task(f"timm:{name}", 1, size=size)
        assert build_network(task, 1).train()(task.train.images[:2]).shape == (2, 10)
    with pytest.raises(UserError, match=r"no classification network of timm 'resnet1888': did you mean resnet18"):
        library_builder("timm:resnet1888")
    with pytest.raises(UserError, match="can't compute with images of 1 x 8 x 8"):
        build_network(make_task("timm:vit_tiny_patch16_224", 1, size=8))
    assert way_of(make_task("timm:vit_tiny_patch16_224", 1, size=32), 2).name == "separate"
