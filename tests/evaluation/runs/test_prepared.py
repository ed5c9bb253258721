"""What a method prepares: once for each original, before any request, for every run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoints.jobs import train_group
from checkpoints.pool import Pool
from data import TaskSpec, load
from evaluation.isolation.call import original_network, prepare_once, unlearn_once
from evaluation.isolation.workplace import from_message, to_message
from evaluation.runs.one import load_weights, perform
from evaluation.runs.prepared import prepared_for, prepared_path, prepared_seconds
from evaluation.runs.settings import RunSettings, outside_gradings, run_path, run_seed
from methods.Adversarial import Adversarial

SPEC = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 2),))
SETTINGS = Adversarial(pretrain_steps=2, epochs=1, noisy_copies=2).settings()


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with two originals."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path))
    train_group(SPEC, "cpu", "original", 0, 2)
    return tmp_path


def prepared(spec: TaskSpec = SPEC, original: int = 0, **settings: Any) -> dict[str, Tensor]:
    """What `adversarial` prepares."""
    run_settings = outside_gradings(spec, "adversarial", {**SETTINGS, **settings})
    with open(os.devnull, "wb") as nothing:
        return prepared_for(run_settings, load(spec), original, nothing.fileno())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_it_is_prepared_once_for_each_original(bank: Path) -> None:
    """Whoever asks again, for another request or with values that don't matter, gets what is there; another original or
    a value that matters gives another. Catches a file for each request, one for all, and one that is made again."""
    first = prepared()
    (file,) = bank.glob("*/prepared-adversarial-*.pt")
    before = file.stat().st_mtime_ns
    torch.manual_seed(99)
    assert equal(first, prepared(replace(SPEC, forget=("class:3",)), learning_rate=0.5, epochs=7))
    assert file.stat().st_mtime_ns == before
    assert not equal(first, prepared(original=1))
    assert not equal(first, prepared(pretrain_steps=3))
    assert len(list(bank.glob("*/prepared-adversarial-*.pt"))) == 3
    file.unlink()
    assert equal(first, prepared()), "it is a function of the original and the values"


def test_it_sees_all_training_images_and_no_request(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a request there is no forget set; validation images are those of the task. Catches a retain loader."""
    seen: list[list[str]] = []

    def noted(method: Adversarial, net: Any, train_loader: Any, val_loader: Any) -> dict[str, Tensor]:
        for loader in (train_loader, val_loader):
            seen.append(sorted(name for sample in loader for name in sample["image_id"]))
        assert not net.training
        return {"one": torch.ones(1)}

    monkeypatch.setattr(Adversarial, "prepare", noted)
    task = load(SPEC)
    net = original_network(task, Pool(task, "original").state(0))
    left = prepare_once("adversarial", SETTINGS, from_message(to_message(task), "cpu"), net, seed=1)
    assert left == {"one": torch.ones(1)}
    assert seen == [sorted(task.train.image_ids.tolist()), sorted(task.validation.image_ids.tolist())]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_what_is_damaged_is_made_again(damage: str, bank: Path) -> None:
    """To the same bits. Catches a file that is believed, and one that every run stumbles over for ever."""
    expected = prepared()
    path = prepared_path("adversarial", SETTINGS, load(SPEC), 0, "cpu")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    left = {"flipped": len(content), "cut": len(content) // 2, "empty": 0}
    path.write_bytes(bytes(content[: left[damage]]))
    assert equal(prepared(), expected)


def test_methods_without_preparation(bank: Path) -> None:
    """Nothing is done, and nothing is reported."""
    task = load(SPEC)
    assert prepared_for(outside_gradings(SPEC, "do_nothing", {}), task, 0, log=1) == {}
    assert prepared_seconds("do_nothing", {}, task, "cpu") is None
    assert not list(bank.glob("*/prepared-*"))


def test_seconds_are_those_of_an_original(bank: Path) -> None:
    """The mean over originals; None as long as there is nothing. Catches a sum, and seconds of other values."""
    task = load(SPEC)
    assert prepared_seconds("adversarial", SETTINGS, task, "cpu") is None
    for original, seconds in ((0, 2.0), (1, 4.0)):
        path = prepared_path("adversarial", SETTINGS, task, original, "cpu")
        torch.save({"tensors": {}, "seconds": seconds}, path)
        other = prepared_path("adversarial", {**SETTINGS, "noise": 1.0}, task, original, "cpu")
        torch.save({"tensors": {}, "seconds": 100.0}, other)
        assert path.parent == Pool(task, "original").folder
    assert prepared_seconds("adversarial", SETTINGS, task, "cpu") == 3


def test_every_run_gets_what_is_prepared(bank: Path, tmp_path: Path) -> None:
    """A run in a process of its own leaves what a call in this one leaves that is given it, the second as the first.

    Catches a run that gets nothing, or what the run before has made of it.
    """
    expected, task = prepared(), load(SPEC)
    settings = RunSettings(SPEC, "cpu", "adversarial", SETTINGS, 0, tmp_path / "grading", keep_weights=True)
    for run in range(2):
        assert perform(settings, 0, run) is None
        weights, _ = load_weights(run_path(settings.folder, 0, run, ".pt"))
        net = original_network(task, Pool(task, "original").state(0))
        here = unlearn_once("adversarial", SETTINGS, task, net, run_seed(settings, 0, run), prepared=expected)
        assert equal(weights, here.net.state_dict())
