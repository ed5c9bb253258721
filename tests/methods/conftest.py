"""Shared by the tests of single methods: a few digits, and a network that knows them by heart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data import Task
from tests.methods.trained_digits import ORIGINALS, digits, trained


@pytest.fixture(scope="module")
def task() -> Task:
    """200 digits, 30 of them to forget: one batch."""
    return digits()


@pytest.fixture(scope="module")
def one_class() -> Task:
    """The same digits; all fours are to be forgotten."""
    return digits("class:4")


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """A network that knows its training set by heart."""
    return trained(0)


@pytest.fixture(scope="module")
def originals() -> list[nn.Module]:
    """Several such networks, for what differs from one to the next."""
    return [trained(number) for number in range(ORIGINALS)]


@pytest.fixture
def sgd_for_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first step show the gradient, which Adam reduces to its sign."""
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, lr: torch.optim.SGD(weights, lr=lr))
