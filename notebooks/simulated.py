"""A small input folder as a submission finds it on Kaggle: simulated faces and an original model, made once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.cache import cached_folder
from data.faces import FacesSize, make_faces
from data.kaggle import write_layout

if TYPE_CHECKING:
    import torch
    from torch import nn

SIZE = FacesSize("notebook", subjects=60, images=(6, 8))
"""About 420 images: 250 to retain, 80 to forget, 40 each for validation and test."""

_VERSION = 1
"""Raised by one whenever the folder's contents change; folders of older ones are then left alone."""


def simulated_input() -> Path:
    """The folder, in the competition's layout, with `test.csv` and `original_model.pth`; made if it isn't there."""
    return cached_folder(f"notebook-input-{_VERSION}", lambda folder: make_input(folder, SIZE))


def make_input(folder: Path, size: FacesSize, network: str = "resnet18", epochs: int = 3) -> None:
    """Write faces of this size, and an original that has seen the training images a few times."""
    import torch

    parts = make_faces(size)
    write_layout(folder, parts, progress=False)
    images = np.concatenate([parts["retain"]["pixels"], parts["forget"]["pixels"]])
    labels = np.concatenate([parts["retain"]["age_group"], parts["forget"]["age_group"]])
    original = _trained(network, torch.from_numpy(images).float(), torch.from_numpy(labels), epochs)
    torch.save(original.state_dict(), folder / "original_model.pth")


def _trained(network: str, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> nn.Module:
    """A network trained by Adam on `images`, float32 `(n, C, H, W)`, in batches of 64; in eval mode."""
    import torch
    import torch.nn.functional as F

    from checkpoints.networks import NETWORKS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETWORKS[network](images.shape[1], images.shape[2], 10)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        net.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(images[rows]), labels[rows]).backward()
                optimizer.step()
    return net.eval()
