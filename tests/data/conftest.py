"""Shared by the tests of `data/`: caches of their own, and small folders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that no other process of the tests shares: what is looked at here is when something is built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_CACHE", str(tmp_path_factory.getbasetemp() / "data-cache"))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNLEARNING_CACHE", str(folder))
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder of random PNG images, `train` and `test` of them for each class."""

    def make(
        name: str = "images",
        classes: tuple[str, ...] = ("cat", "dog", "owl"),
        train: int = 12,
        test: int = 4,
        mode: str = "RGB",
        size: tuple[int, int] = (7, 5),
    ) -> Path:
        random = np.random.RandomState(0)
        for part, count in (("train", train), ("test", test)):
            for label in classes:
                for i in range(count):
                    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
                    pixels = random.randint(0, 256, shape).astype(np.uint8)
                    file = tmp_path / name / part / label / f"{i}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(file)
        return tmp_path / name

    return make
