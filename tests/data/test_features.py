"""Features in place of images: what they are, where they are kept, and what happens without the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.transforms import functional

import data
from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from commands.main_job import read_config
from data import Task, TaskSpec, UserError, features
from data.folder import read_folder
from data.loaders import run_loaders
from data.raw import RawData, content_digest
from evaluation.isolation.structure import check_structure, fresh_network
from evaluation.spec import GradingSpec
from methods import all_method_handlers

WEIGHTS = "resnet18-f37072fd.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> Path:
    """An empty folder of `torch.hub`, and no network: nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(url: str, path: Path) -> None:
        raise OSError("no network")

    monkeypatch.setattr(features, "_download", no_network)
    monkeypatch.setattr(features, "IMAGE_SIZE", 32)  # a fiftieth of the time
    return tmp_path / "torch" / "hub" / "checkpoints"


def put_weights(hub: Path, seed: int = 5) -> torch.nn.Module:
    """Put the weights of some ResNet-18 where the ImageNet weights would be; the network, in eval mode."""
    torch.manual_seed(seed)
    network = models.resnet18(weights=None)
    for _ in range(2):  # batch statistics that are not those of a fresh network
        network(torch.rand(8, 3, 32, 32))
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), hub / WEIGHTS)
    return network.eval()


def raw_of(pixels: np.ndarray) -> RawData:
    """A source of these pixels, `(n, C, H, W)`."""
    labels = np.arange(len(pixels)) % 2
    ids, parts = np.arange(len(pixels)).astype(str), np.full(len(pixels), "")
    return RawData(pixels, labels, ids, parts, ("a", "b"), content_digest(pixels, labels))


def random_raw(count: int = 10, channels: int = 3, seed: int = 0) -> RawData:
    """A source of random images of 7x5 pixels."""
    return raw_of(np.random.RandomState(seed).randint(0, 256, (count, channels, 5, 7)).astype(np.uint8))


def extract(raw: RawData, rows: Any = None, brightest: float = 255) -> np.ndarray:
    """The features of some rows (or all), `(n, 512)`."""
    wanted = np.arange(len(raw.labels)) if rows is None else np.array(rows)
    found, _ = features.with_features(raw, wanted, "resnet18", brightest, "cpu", progress=False)
    assert found.pixels.shape == (len(raw.labels), 512, 1, 1)
    assert found.pixels.dtype == np.float32
    return found.pixels[:, :, 0, 0]


def folder_task(make_folder: Callable[..., Path], **changes: Any) -> Task:
    """A task of 36 training and 12 test images, as features."""
    return data.load(TaskSpec("folder", data_dir=str(make_folder()), features="resnet18", **changes))


class CountedNetwork:
    """Stands for `features._network`: counts images, and gives up at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 10**9) -> None:
        self.images, self.most = 0, most
        self.make = features._network
        monkeypatch.setattr(features, "_network", self)

    def __call__(self, weights: Path | None) -> torch.nn.Module:
        network = self.make(weights)
        network.register_forward_pre_hook(self._count)
        return network

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.images += len(inputs[0])
        if self.images > self.most:
            raise KeyboardInterrupt


# ----------------------------------------------------------------------------------------------------------------------
# What they are
# ----------------------------------------------------------------------------------------------------------------------


CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "own", "statistics"),
    [
        ("resnet18", None, features.IMAGENET),
        ("resnet18", CIFAR, CIFAR),
        ("resnet18-imagenet", CIFAR, features.IMAGENET),
    ],
)
def test_features_are_what_goes_into_the_last_layer(
    hub: Path, monkeypatch: pytest.MonkeyPatch, channels: int, size: int, name: str, own: Any, statistics: Any
) -> None:
    """The same with torchvision's transforms, one image at a time, the average pooling's output seen by a hook.

    Catches logits, training mode, another order of scaling, a forgotten normalisation, grey images in one channel,
    height and width exchanged, and the wrong size (224 is the default: the fixture makes it small for other tests).
    """
    monkeypatch.setattr(features, "IMAGE_SIZE", size)
    network = put_weights(hub)
    seen: list[torch.Tensor] = []
    network.get_submodule("avgpool").register_forward_hook(lambda module, inputs, output: seen.append(output.flatten()))
    raw = random_raw(3, channels)
    for pixels in raw.pixels:
        image = functional.resize(torch.from_numpy(pixels).float() / 255, [size, size], antialias=True)
        image = functional.normalize(image.expand(3, -1, -1), *map(list, statistics))
        with torch.no_grad():
            network(image[None])
    found, _ = features.with_features(raw, np.arange(3), name, 255, "cpu", progress=False, own=own)
    np.testing.assert_allclose(found.pixels[:, :, 0, 0], torch.stack(seen).numpy(), rtol=1e-3, atol=1e-3)


def test_imagenets_statistics_are_imagenets() -> None:
    """As torchvision documents them. Those of CIFAR-10 and CIFAR-100 are their tasks' own, and of no other task."""
    assert features.IMAGENET == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert {name for name, info in data.all_tasks().items() if info.own_statistics} == {"cifar10", "cifar100"}


def test_other_statistics_are_other_features(hub: Path) -> None:
    """The cache tells them apart, and the source's digest, too. Catches features of one kind taken for the other."""
    put_weights(hub)
    raw, wanted = random_raw(3), np.arange(3)
    one, other = (
        features.with_features(raw, wanted, "resnet18", 255, "cpu", progress=False, own=own)[0] for own in (None, CIFAR)
    )
    assert not np.allclose(one.pixels, other.pixels)
    assert one.content_sha256 != other.content_sha256


def test_images_are_shown_at_224() -> None:
    """As in the published code. Catches another default, which the fixture of the other tests would hide."""
    assert features.IMAGE_SIZE == 224


def test_brightness(hub: Path) -> None:
    """White is white, whether it is 16 (digits) or 255. Catches a fixed maximum."""
    dark = random_raw(4, channels=1).pixels % 17
    bright = (dark * 15).astype(np.uint8)
    np.testing.assert_allclose(
        extract(raw_of(dark), brightest=16), extract(raw_of(bright), brightest=240), rtol=1e-4, atol=1e-4
    )


def test_random_features_are_always_the_same(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty cache, after other use of the generator; which they leave alone. Catches an unseeded network."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = extract(random_raw())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    monkeypatch.setenv("UNLEARNING_CACHE", str(tmp_path / "other"))
    np.testing.assert_array_equal(extract(random_raw()), first)
    assert not np.isnan(first).any()
    assert first.std(axis=0).mean() > 0.01


# ----------------------------------------------------------------------------------------------------------------------
# Tasks
# ----------------------------------------------------------------------------------------------------------------------


def test_a_task_of_features(hub: Path, make_folder: Callable[..., Path]) -> None:
    """Same images, labels and splits as without; only the pixels are others, row by row, and the network has changed.

    Catches features that are normalised as pixels are, of the wrong rows, or NaN.
    """
    put_weights(hub)
    task = folder_task(make_folder)
    plain = data.load(replace(task.spec, features=None))
    assert (task.name, task.network, plain.network) == ("folder-resnet18-features", "three_layer", "resnet18_3x3")
    raw = read_folder(task.spec.data_dir)
    rows = {image: row for row, image in enumerate(raw.image_ids)}
    expected = extract(raw)
    for part in ("train", "validation", "test"):
        split, images = getattr(task, part), getattr(plain, part)
        np.testing.assert_array_equal(split.image_ids, images.image_ids)
        assert torch.equal(split.labels, images.labels)
        np.testing.assert_array_equal(split.images[:, :, 0, 0], expected[[rows[name] for name in split.image_ids]])
    assert data.load(replace(task.spec, network="mlp")).network == "mlp"


def test_fingerprints(hub: Path, make_folder: Callable[..., Path]) -> None:
    """Random features, real ones, those of other weights, and images make four banks; the same ones make one.

    Tasks without features have the fingerprints that they had before there were features.
    """
    random = folder_task(make_folder)
    assert random.name == "folder-random-features"
    put_weights(hub, seed=5)
    real = data.load(random.spec)
    assert real.name == "folder-resnet18-features"
    again = data.load(random.spec)
    put_weights(hub, seed=6)
    others = [data.load(random.spec), data.load(replace(random.spec, features=None))]
    assert again.fingerprint == real.fingerprint
    assert len({task.fingerprint for task in (random, real, *others)}) == 4
    digits = data.load(TaskSpec("digits"))
    assert digits.fingerprint == "b3b5aa3d73d3"
    assert digits.training_fingerprint(digits.all_indices) == "4cde80819c9a"


def test_other_features_are_refused(make_folder: Callable[..., Path]) -> None:
    """In a sentence with the ones that there are."""
    with pytest.raises(UserError, match=r"kind of features 'resnet81'.*resnet18"):
        data.load(TaskSpec("folder", data_dir=str(make_folder()), features="resnet81"))


@pytest.mark.parametrize("name", ["my_method", "ftsu", "salun", "boundary_shrink", "certified_gradient_clipping"])
def test_methods_work_on_features(hub: Path, make_folder: Callable[..., Path], name: str) -> None:
    """They come as images of 512 channels and one pixel, in the loaders' usual batches."""
    task = folder_task(make_folder)
    loaders = run_loaders(task, seed=1, batch_size=8)
    assert next(iter(loaders[0]))["image"].shape == (8, 512, 1, 1)
    network = build_network(task, seed=0).eval()
    before = build_network(task, seed=0).state_dict()
    seed_everything(1)
    all_method_handlers()[name]().run(network, *loaders)
    check_structure(build_network(task), network, name)
    after = fresh_network(task, network.state_dict(), name).state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items())


def test_a_config_remembers_features(tmp_path: Path) -> None:
    """`--config config.yaml` repeats the grading. Catches an option that is lost on the way to the command line."""
    spec = GradingSpec("my_method", TaskSpec("digits", features="resnet18"))
    assert "features: resnet18" in spec.to_yaml()
    (tmp_path / "config.yaml").write_text(spec.to_yaml())
    assert read_config(tmp_path / "config.yaml") == spec


# ----------------------------------------------------------------------------------------------------------------------
# The cache
# ----------------------------------------------------------------------------------------------------------------------


def test_computed_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are asked for again, nothing is computed; of others, only what is missing."""
    network = CountedNetwork(monkeypatch)
    raw = random_raw(10)
    some = extract(raw, [1, 5, 7])
    assert network.images == 3
    assert np.isnan(some[[0, 2, 3, 4, 6, 8, 9]]).all()
    every = extract(raw)
    assert network.images == 10
    np.testing.assert_array_equal(every[[1, 5, 7]], some[[1, 5, 7]])
    np.testing.assert_array_equal(extract(raw), every)
    assert network.images == 10
    extract(random_raw(10, seed=1))
    assert network.images == 20


def test_goes_on_after_an_interruption(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done by then is kept, and all comes out as without. Catches a file that is written at the end alone."""
    monkeypatch.setattr(features, "CHUNK", 4)
    monkeypatch.setattr(features, "BATCH", 2)
    raw = random_raw(10)
    with monkeypatch.context() as patch:
        CountedNetwork(patch, most=7)
        with pytest.raises(KeyboardInterrupt):
            extract(raw)
    network = CountedNetwork(monkeypatch)
    resumed = extract(raw)
    assert network.images == 6
    monkeypatch.setenv("UNLEARNING_CACHE", str(hub / "other"))
    np.testing.assert_allclose(resumed, extract(raw), rtol=1e-5, atol=1e-5)


def test_a_damaged_file_is_made_again(hub: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed byte is noticed, and what was in the file is computed again. Catches reading without the checksum."""
    monkeypatch.setattr(features, "CHUNK", 4)
    raw = random_raw(8)
    before = extract(raw)
    path = sorted(empty_cache.glob("features-random-*/*.npz"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    network = CountedNetwork(monkeypatch)
    np.testing.assert_allclose(extract(raw), before, rtol=1e-5, atol=1e-5)
    assert network.images == 4


# ----------------------------------------------------------------------------------------------------------------------
# Without the weights
# ----------------------------------------------------------------------------------------------------------------------


def test_random_features_are_settled_once(
    hub: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One attempt at a download, then random features until the weights are there; a file and a warning say what to do.

    Catches an attempt by each process, of which some might succeed, so that workers would have other features.
    """
    tries = []

    def no_network(url: str, path: Path) -> None:
        tries.append(url)
        raise OSError("no network")

    monkeypatch.setattr(features, "_download", no_network)
    raw = random_raw(2)
    with caplog.at_level(logging.WARNING):
        extract(raw)
    assert "random weights" in caplog.text
    assert "(no network)" in caplog.text
    assert str(hub) in caplog.text
    caplog.clear()
    extract(raw)
    assert caplog.text == ""
    assert tries == [f"https://download.pytorch.org/models/{WEIGHTS}"]
    (empty_cache / "features-are-random.txt").unlink()
    extract(raw)
    assert len(tries) == 2
    put_weights(hub)
    assert features.with_features(raw, np.arange(2), "resnet18", 255, "cpu", progress=False)[1] == "resnet18"


def test_a_download_is_checked(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file whose hash is not the one in its name nothing is left, and it is an `OSError`, as without a network."""
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    source = tmp_path / "served"
    source.write_bytes(b"not the weights")
    with pytest.raises(OSError, match="hash"):
        features._download(source.as_uri(), hub / WEIGHTS)
    assert not (hub / WEIGHTS).exists()


def resnet(**settings: Any) -> dict[str, torch.Tensor]:
    """The weights of a ResNet-18."""
    state: dict[str, torch.Tensor] = models.resnet18(weights=None, **settings).state_dict()
    return state


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page": (lambda path: path.write_text("<html>"), "is not a file of torch.save"),
    "network": (lambda path: torch.save(torch.nn.Linear(1, 1), path), "holds a pickled object"),
    "prefix": (
        lambda path: torch.save({f"module.{name}": value for name, value in resnet().items()}, path),
        r"has 'module\.' before the name of each weight, as torch\.nn\.DataParallel",
    ),
    "around it": (lambda path: torch.save({"model": resnet()}, path), "has one in its entry 'model'"),
    "other classes": (lambda path: torch.save(resnet(num_classes=3), path), "holds weights of other shapes"),
}


@pytest.mark.parametrize(("write", "words"), OTHERS.values(), ids=OTHERS)
def test_weights_that_are_others_are_told(write: Callable[[Path], object], words: str, hub: Path) -> None:
    """What a user has put there is named, with what to do. Catches a traceback of PyTorch, and its advice."""
    hub.mkdir(parents=True)
    write(hub / WEIGHTS)
    with pytest.raises(UserError, match=words) as refused:
        extract(raw_of(np.zeros((2, 1, 8, 8), np.uint8)))
    assert "or replace it" in str(refused.value)
    assert str(refused.value).isprintable()


def test_weights_without_counters_are_taken(hub: Path) -> None:
    """Those of ImageNet are older than `num_batches_tracked`, and in PyTorch's old format perhaps."""
    put_weights(hub)
    raw = raw_of(np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8))
    expected = extract(raw)
    state = torch.load(hub / WEIGHTS, weights_only=True)
    plain = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(plain, hub / WEIGHTS, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(extract(raw), expected)
