"""The rate that each run finds: which copy is kept, and that it is the one whose forget images look the most unseen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch import nn

from data import Task
from data.loaders import run_loaders
from methods.NoisyFinetune import NoisyFinetune
from methods.SelfTuned import SelfTuned
from tests.methods.trained_digits import digits, part, same, unlearn


def confidences(net: nn.Module, task: Task, which: str) -> NDArray[np.float64]:
    """log p - log(1 - p) of the true classes, in double precision: slow and obvious."""
    images, labels = part(task, which)
    net.eval()
    with torch.no_grad():
        p = F.softmax(net(images).double(), 1).gather(1, labels[:, None])[:, 0]
    return np.array((p.log() - (-p).log1p()).tolist())


def test_one_try_without_noise_is_fine_tuning(original: nn.Module) -> None:
    """Bit for bit that of `noisy_finetune` at the lowest rate. Catches a rate, an optimiser or a mode that differs."""
    own = SelfTuned(tries=1, lowest_rate=0.07, noise=0.0, epochs=2)
    other = NoisyFinetune(noise=0.0, epochs=2, learning_rate=0.07)
    assert same(unlearn(own, original, digits()), unlearn(other, original, digits()))


def test_quantiles_are_those_of_the_confidences(original: nn.Module) -> None:
    """All 21, of all images, the least and the greatest among them."""
    task = digits()
    loaders = run_loaders(task, 0)
    found = SelfTuned().quantiles(original, loaders[2])
    expected = np.quantile(confidences(original, task, "validation"), np.linspace(0, 1, 21))
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_the_nearest_copy_is_kept(original: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three, by SciPy's Wasserstein distance to what the original says of the validation images.

    Catches the nearest of the wrong sets, the farthest, and the last.
    """
    task: Task = digits()
    copies: list[nn.Module] = []
    fine_tune = SelfTuned.fine_tune

    def watched(self: SelfTuned, net: nn.Module, loader: object, rate: float) -> None:
        fine_tune(self, net, loader, rate)  # type: ignore[arg-type]
        copies.append(copy.deepcopy(net))

    monkeypatch.setattr(SelfTuned, "fine_tune", watched)
    left = unlearn(SelfTuned(tries=3, lowest_rate=0.001, highest_rate=0.3), original, task)
    unseen = confidences(original, task, "validation")
    distances = [wasserstein_distance(confidences(one, task, "forget"), unseen) for one in copies]
    assert len(copies) == 3
    assert same(left, copies[int(np.argmin(distances))])
    assert max(distances) > 1.5 * min(distances)  # so that it matters


def test_rates_are_a_geometric_series(original: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the lowest to the highest, both included."""
    rates: list[float] = []
    monkeypatch.setattr(SelfTuned, "fine_tune", lambda self, net, loader, rate: rates.append(rate))
    unlearn(SelfTuned(tries=4, lowest_rate=0.01, highest_rate=0.08), original, digits())
    assert rates == pytest.approx([0.01, 0.02, 0.04, 0.08])


def test_forget_images_come_to_look_unseen(original: nn.Module) -> None:
    """With its defaults, a run halves their distance from what the original says of unseen ones."""
    task = digits()
    unseen = confidences(original, task, "validation")
    before = wasserstein_distance(confidences(original, task, "forget"), unseen)
    after = [
        wasserstein_distance(confidences(unlearn(SelfTuned(), original, task, seed=seed), task, "forget"), unseen)
        for seed in range(4)
    ]
    assert np.mean(after) < before / 2
