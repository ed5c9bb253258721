"""Forget batches beside retain batches, and forget sets that are part class, part chance."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data import TaskSpec, load
from methods.Ams import Ams
from methods.BaseMethod import BaseMethod
from methods.Duck import Duck
from methods.Lotus import Lotus
from methods.ModeConnectivity import ModeConnectivity
from methods.NegGradPlus import NegGradPlus
from methods.ProgressiveSaliency import ProgressiveSaliency
from tests.methods.trained_digits import trained, unlearn


class Recorded(Dataset[dict[str, Any]]):
    """Random images, which notes down which of them are asked for."""

    def __init__(self, images: int, classes: tuple[int, ...] = (0, 1)) -> None:
        generator = torch.Generator().manual_seed(images)
        self.images = torch.rand(images, 1, 4, 4, generator=generator)
        self.labels = torch.tensor([classes[number % len(classes)] for number in range(images)])
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.asked.append(number)
        return {"image": self.images[number], "age_group": self.labels[number]}


def loader(dataset: Recorded) -> Any:
    """Batches of four."""
    return DataLoader(dataset, batch_size=4, shuffle=True)


@pytest.mark.parametrize("method", [NegGradPlus(batch_size=4, epochs=3), ModeConnectivity(batch_size=4, epochs=3)])
def test_forget_batches_come_in_a_cycle(method: BaseMethod) -> None:
    """Over all epochs: with 5 of them and 2 to retain, each image comes once before one comes again.

    Catches a loader that begins anew in each epoch, of which the last batches never come.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    retain, forget = Recorded(8), Recorded(20)
    method.run(network, loader(retain), loader(forget), loader(Recorded(8)))
    assert sorted(forget.asked[:20]) == list(range(20))
    assert len(forget.asked) >= 24


@pytest.mark.parametrize("method", [Lotus(epochs=1, margin=-0.5), Duck(epochs=1)])
def test_one_class_and_others(method: BaseMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forget set with one whole class, and images of others, is one of classes: what it aims at is nothing known.

    Catches a method that takes it for one by chance, and compares with the accuracy on the validation set.
    """
    forget = ("class:4", "random:20")
    task = load(TaskSpec("digits", train_size=200, forget=forget, at_once=True))
    compared: list[bool] = []
    module = importlib.import_module(type(method).__module__)
    look = module._accuracy

    def noted(net: nn.Module, of: Any) -> float:
        compared.append(len(of.dataset) == len(task.validation))
        return float(look(net, of))

    monkeypatch.setattr(module, "_accuracy", noted)
    unlearn(method, trained(0), task)
    assert compared
    assert not any(compared)


@pytest.mark.parametrize("method", [Ams(epochs=1, batch_size=4), ProgressiveSaliency(rounds=1, batch_size=4)])
def test_a_validation_set_without_any_class_to_retain(method: BaseMethod) -> None:
    """All of it is looked at, then. Catches a division by zero."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    parts = Recorded(12, (0, 1)), Recorded(8, (2,)), Recorded(8, (2,))
    method.run(network, *map(loader, parts))
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
