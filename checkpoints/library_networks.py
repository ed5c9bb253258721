"""Networks of torchvision and timm, untrained: `--network torchvision:resnet50`, `--network timm:vit_tiny_patch16_224`.

They are built with the right number of classes. Those whose size depends on that of the images are told it. timm makes
networks for any number of channels. torchvision's take three: for another number, the first convolution is replaced by
one that is drawn as He et al. do (normal, fan out; arXiv 1502.01852).
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from torch import nn

from checkpoints.trial import Builder
from data.errors import UserError, shortened, unknown_name

SIZE_ARGUMENTS = {"vit_": "image_size", "maxvit_": "input_size"}
"""What those networks of torchvision whose names begin so call the size of the images."""
WITH_OTHER_OUTPUTS = ("googlenet", "inception_v3")
"""Those that have additional outputs in training, unless they are told not to."""


def library_builder(text: str) -> Builder | None:
    """The builder of a network named `torchvision:NAME` or `timm:NAME`; None if the text is neither.

    Raises:
        UserError: there is no such network; or timm is not installed.
    """
    library, colon, name = text.partition(":")
    if not colon or library not in ("torchvision", "timm"):
        return None
    known = _torchvision_names() if library == "torchvision" else _timm().list_models()
    if name not in known:
        raise _unknown(library, name, known)
    make = _from_torchvision if library == "torchvision" else _from_timm

    def build(channels: int, size: int, classes: int) -> nn.Module:
        try:
            return make(name, channels, size, classes)
        except UserError:
            raise
        except Exception as error:  # some sizes and numbers don't go together, which each network says in its own way
            reason = shortened(" ".join(str(error).split()).rstrip("."), 300)
            raise UserError(
                f"{text} can't be built for images of {channels} x {size} x {size} (channels, height, width): "
                f"{type(error).__name__}: {reason}."
            ) from error

    return build


def _unknown(library: str, name: str, known: Iterable[str]) -> UserError:
    shown_by = {
        "torchvision": "https://docs.pytorch.org/vision/stable/models.html#classification",
        "timm": "python -c 'import timm; print(timm.list_models())'",
    }
    return unknown_name(f"classification network of {library}", name, known, shown_by[library])


# ----------------------------------------------------------------------------------------------------------------------
# torchvision
# ----------------------------------------------------------------------------------------------------------------------


def _torchvision_names() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


def _from_torchvision(name: str, channels: int, size: int, classes: int) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"num_classes": classes}
    for beginning, argument in SIZE_ARGUMENTS.items():
        if name.startswith(beginning):
            options[argument] = (size, size) if argument == "input_size" else size
    if name in WITH_OTHER_OUTPUTS:
        options |= {"aux_logits": False, "init_weights": True}
    network: nn.Module = models.get_model(name, weights=None, **options)
    if channels != 3:
        _take_channels(network, name, channels)
    return network


def _take_channels(network: nn.Module, name: str, channels: int) -> None:
    """Give a network that takes three channels a first convolution for another number of them, in place."""
    parts = [(place, part) for place, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    if not parts or parts[0][1].in_channels != 3:
        raise UserError(
            f"torchvision:{name} takes images of 3 channels, and these have {channels}: it does not begin with a "
            "convolution that could be replaced; use another network."
        )
    place, old = parts[0]
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    outer, _, own = place.rpartition(".")
    setattr(network.get_submodule(outer), own, new)


# ----------------------------------------------------------------------------------------------------------------------
# timm
# ----------------------------------------------------------------------------------------------------------------------


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError("Networks of timm need a package: pip install timm (or pip install -e .[extra]).") from error
    return timm


def _from_timm(name: str, channels: int, size: int, classes: int) -> nn.Module:
    options = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    try:
        network: nn.Module = _timm().create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        network = _timm().create_model(name, **options)  # it takes images of any size
    return network
