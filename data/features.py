"""Features of a network that was trained elsewhere, in place of images: 512 numbers each, computed once.

`--features resnet18` gives every image to torchvision's ResNet-18 with its ImageNet weights, resized to 224x224 and
without augmentation, and takes what goes into its last layer, as in certified unlearning (Koloskova et al., arXiv
2506.06985). They are handed on as images of 512 channels and one pixel, so that networks, methods and loaders need to
know nothing about it. Pixels of CIFAR-10 and CIFAR-100 are normalised by these sets' own statistics, as there; all
others, and with `--features resnet18-imagenet` these too, by ImageNet's, which the network was trained with.

The weights are those in the folder of `torch.hub`, else they are downloaded, 45 MB. Where they can't be had, a network
with random weights takes their place, always the same one. Its features are much worse, and the task says in its name
that they are random. That is settled once, by a file in the cache, lest some processes go on with other features.

Features are kept in the cache, `features-<kind>-<hash>/`, a file for each few hundred images: who interrupts loses the
last of them. They depend on the processor in their last bits; nothing that is made from them once does.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.cache import cache_dir, cache_lock, short_digest
from data.errors import UserError, unknown_name
from data.files import sha256_of, write_arrays, write_atomically
from data.progress import with_bar
from data.raw import RawData
from data.weights import WeightsError, as_state, check_names, load_tensors

if TYPE_CHECKING:
    import torch

FEATURES = ("resnet18", "resnet18-imagenet")
"""What `--features` can name."""
DIMENSIONS = 512
IMAGE_SIZE = 224
"""Height and width of what the network sees."""
BATCH = 32
"""Images that the network sees at once."""
CHUNK = 256
"""Images whose features go into one file."""
SEED = 0
"""Of the random weights."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of pixels between 0 and 1, for each channel."""
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the network was trained on."""

_log = logging.getLogger(__name__)


def with_features(
    raw: RawData,
    rows: np.ndarray,
    name: str,
    brightest: float,
    device: str | torch.device,
    progress: bool,
    own: Statistics | None = None,
) -> tuple[RawData, str]:
    """The source with features in place of pixels, and their kind: the name, or "random".

    Args:
        raw: the source; grey images are shown to the network in three equal channels.
        rows: whose features are wanted, int64 `(k,)`. The features of other rows are NaN.
        name: one of `FEATURES`.
        brightest: the value of a white pixel.
        device: where to compute features that are not in the cache.
        progress: False shows no bar meanwhile.
        own: what "resnet18" normalises the pixels of this source by, in place of ImageNet's statistics.

    Raises `UserError` for an unknown name and for a cache that can't be written.
    """
    if name not in FEATURES:
        raise unknown_name("kind of features", name, FEATURES)
    weights = _pretrained_weights()
    kind = "random" if weights is None else name
    statistics = own if own is not None and name == "resnet18" else IMAGENET
    network = "random" if weights is None else "resnet18"
    identity = f"{network} {SEED if weights is None else sha256_of(weights)} {raw.content_sha256} {brightest}"
    if statistics != IMAGENET:
        identity += f" {statistics}"
    folder = cache_dir() / f"features-{kind}-{short_digest(identity)}"
    with cache_lock(folder.name):
        features = _read(folder, len(raw.labels))  # (n, 512)
        missing = rows[np.isnan(features[rows, 0])]
        if len(missing):
            if weights is None:
                _log.warning("Features are of a network with random weights: %s", _settled().read_text().strip())
            found = _extract(raw.pixels, missing, brightest, statistics, weights, device, folder)
            bar = with_bar(found, f"{kind} features", progress, total=len(missing))
            features[missing] = np.stack(list(bar))
    content = hashlib.sha256(identity.encode()).hexdigest()
    return replace(raw, pixels=features[:, :, None, None], content_sha256=content), kind


def _read(folder: Path, count: int) -> np.ndarray:
    """What the cache has of the features of `count` images, float32 `(count, 512)`; NaN where it has nothing."""
    features = np.full((count, DIMENSIONS), np.nan, dtype=np.float32)
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as chunk:
                features[chunk["rows"]] = chunk["features"]
        except Exception as error:  # as in data/cache.py: there are many kinds of damage, and one remedy
            _log.warning("The cache file %s is damaged (%s): its features are computed again.", path, error)
            path.unlink()
    return features


def _extract(
    pixels: np.ndarray,
    rows: np.ndarray,
    brightest: float,
    statistics: Statistics,
    weights: Path | None,
    device: str | torch.device,
    folder: Path,
) -> Iterator[np.ndarray]:
    """The features of each of the rows, in order, `(512,)`; on disk before they are handed out."""
    import torch

    network = _network(weights).to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in statistics)

    def features_of(some: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels[some]).to(device).float().div(brightest).expand(-1, 3, -1, -1)
        images = torch.nn.functional.interpolate(images, IMAGE_SIZE, mode="bilinear", antialias=True)
        with torch.no_grad():
            found: np.ndarray = network((images - mean) / std).cpu().numpy()
        return found

    for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        features = np.concatenate([features_of(some) for some in np.split(chunk, range(BATCH, len(chunk), BATCH))])
        name = hashlib.sha256(chunk.astype("<i8").tobytes()).hexdigest()[:12]
        write_arrays(folder / f"{name}.npz", {"rows": chunk, "features": features})
        yield from features


def _network(weights: Path | None) -> torch.nn.Module:
    """ResNet-18 without its last layer, in eval mode: with these weights, or the random ones."""
    import torch
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network: torch.nn.Module = models.resnet18(weights=None)
    if weights is not None:
        _load_weights(network, weights)
    network.fc = torch.nn.Identity()
    return network.eval()


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    """Load a file that somebody may have put there. Raises `UserError` if it holds something else."""
    import torch

    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of somebody's file: whatever pickle, zipfile or PyTorch stumble over
        raise UserError(
            f"{path} {_complaint(path, network)}. It should hold torchvision's ResNet-18 with its ImageNet weights: "
            "delete it, and it is downloaded, or replace it."
        ) from error


def _complaint(path: Path, network: torch.nn.Module) -> str:
    """What is wrong with a file of weights that `network` can't load."""
    try:
        state = as_state(load_tensors(path.read_bytes()))
        check_names(state, network.state_dict())
    except WeightsError as error:
        return str(error)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return "holds weights of other shapes"


def _pretrained_weights() -> Path | None:
    """The file of the ImageNet weights; None if it is not here and could not be had."""
    import torch
    from torchvision import models

    url = models.ResNet18_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    with cache_lock("features-weights"):
        if not path.is_file() and not _settled().is_file():
            try:
                _download(url, path)
            except OSError as error:
                text = f"{path.name} could not be downloaded ({error}). Put it into {path.parent}, or delete "
                text += f"{_settled()} to try the download again.\n"
                write_atomically(_settled(), lambda beside: beside.write_text(text))
    return path if path.is_file() else None


def _settled() -> Path:
    """The file whose existence means that features are random while the weights are not there."""
    return cache_dir() / "features-are-random.txt"


def _download(url: str, path: Path) -> None:
    """Raises `OSError` if there is no network, or what came is not what the name promises."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except RuntimeError as error:  # another hash
        raise OSError(str(error)) from error
