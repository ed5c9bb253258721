"""Methods that learn from a teacher: scrub, bad_teacher and delete. What they compute, and what it does to digits."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from checkpoints.networks import build_network
from data import Task
from data.loaders import run_loaders
from methods.BadTeacher import BadTeacher
from methods.Delete import Delete
from methods.initialisation import freshly_initialised
from methods.Scrub import Scrub, _reference_error
from tests.methods.trained_digits import (
    accuracy,
    assert_close,
    gradients,
    loss,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    same,
    unlearn,
    unlearn_each,
)


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(wanted || found) of probabilities, written out; the mean over the rows."""
    return (wanted * (wanted.clamp(min=1e-30).log() - found.log())).sum(dim=1).mean()


# ----------------------------------------------------------------------------------------------------------------------
# scrub
# ----------------------------------------------------------------------------------------------------------------------

BATCHES: dict[str, Any] = {"retain_batch_size": 128, "forget_batch_size": 32, "decay_after": ""}


def test_scrub_max_step(original: nn.Module, task: Task) -> None:
    """One step up KL_T(teacher || student) T^2, then momentum alone.

    Catches a sign that is wrong, KL's sides exchanged, T^2 forgotten, a mean over classes too, and an optimizer over
    the teacher's weights (a published slip: nothing is learned).
    """
    rate, temperature = 0.01, 4.0
    method = Scrub(
        epochs=1,
        max_epochs=1,
        gamma=0,
        alpha=0,
        weight_decay=0,
        learning_rate=rate,
        temperature=temperature,
        retain_batch_size=128,
    )
    images, _ = part(task, "forget")
    student = copy.deepcopy(original).train()
    with torch.no_grad():
        wanted = F.softmax(original(images) / temperature, dim=1)
    up = gradients(student, temperature**2 * divergence(wanted, F.softmax(student(images) / temperature, dim=1)))
    coasting = 1 + 0.9 + 0.9**2  # 170 retained images are two batches, on which the loss is zero
    assert_close(moves(original, unlearn(method, original, task)), [rate * coasting * step for step in up])


def test_scrub_min_step(original: nn.Module, task: Task) -> None:
    """One step down gamma CE + alpha KL_T. Catches exchanged weights, and a distance with a minus sign."""
    rate, gamma, alpha = 0.01, 0.7, 0.3
    method = Scrub(
        epochs=1,
        max_epochs=0,
        gamma=gamma,
        alpha=alpha,
        weight_decay=0,
        learning_rate=rate,
        temperature=2.0,
        retain_batch_size=1000,
    )
    images, labels = part(task, "retain")
    student = copy.deepcopy(original).train()
    with torch.no_grad():
        wanted = F.softmax(original(images) / 2, dim=1)
    logits = student(images)
    value = gamma * F.cross_entropy(logits, labels) + alpha * 4 * divergence(wanted, F.softmax(logits / 2, dim=1))
    expected = [-rate * step for step in gradients(student, value)]
    assert_close(moves(original, unlearn(method, original, task)), expected)


def test_scrub_teacher_stays(originals: list[nn.Module], task: Task) -> None:
    """After moving away, the min pass brings the student back. Catches a teacher that is the student itself."""

    def distance(alpha: float) -> float:
        images, _ = part(task, "retain")
        make = partial(Scrub, epochs=6, max_epochs=1, gamma=0, alpha=alpha, learning_rate=0.01, **BATCHES)
        students = unlearn_each(make, originals, task)
        with torch.no_grad():
            return sum(
                float(divergence(F.softmax(teacher(images), dim=1), F.softmax(student(images), dim=1)))
                for teacher, student in zip(originals, students, strict=True)
            )

    assert distance(0.5) < 0.5 * distance(0.0)


def test_scrub_reference_error(original: nn.Module, task: Task) -> None:
    """The validation error, each image weighed by the share of its class in the forget set over that in its own.

    Catches the retain set's shares, counts for shares, and classes that count alike.
    """
    network = copy.deepcopy(original)
    with torch.no_grad():
        network.get_parameter("11.bias")[[1, 2, 3]] -= 3  # so that classes differ in their errors
    _, forget, validation = run_loaders(task, 1)
    images, labels = part(task, "validation")
    forgotten = part(task, "forget")[1]
    with torch.no_grad():
        wrong = (network(images).argmax(dim=1) != labels).double()
    errors = torch.stack([wrong[labels == k].mean() for k in range(10)])
    shares = torch.bincount(forgotten, minlength=10) / len(forgotten)
    found = float(_reference_error(network, forget, validation))
    assert found == pytest.approx(float((shares * errors).sum()), rel=1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_scrub_decays(
    optimizer: type[torch.optim.Optimizer], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a tenth after epochs 2 and 3, counted from 1, in batches of their sizes; both optimizers get the decay.

    Catches a decay one epoch off, or for each batch, weight decay that is lost, and batch sizes exchanged.
    """
    steps: list[tuple[float, float]] = []
    step = optimizer.step

    def spy(one: torch.optim.Optimizer, *args: Any) -> Any:
        steps.append((one.param_groups[0]["lr"], one.param_groups[0]["weight_decay"]))
        return step(one, *args)

    monkeypatch.setattr(optimizer, "step", spy)
    method = Scrub(
        epochs=4,
        max_epochs=1,
        optimizer="sgd" if optimizer is torch.optim.SGD else "adam",
        learning_rate=0.01,
        weight_decay=0.25,
        decay_after="2,3",
        retain_batch_size=60,
        forget_batch_size=15,
    )
    unlearn(method, original, task)
    rates = [0.01] * (2 + 3 + 3) + [0.001] * 3 + [0.0001] * 3  # 30 images to forget, 170 to retain
    assert [rate for rate, _ in steps] == pytest.approx(rates)
    assert {decay for _, decay in steps} == {0.25}


def test_scrub_mistakes(original: nn.Module, task: Task) -> None:
    """A sentence for each."""
    for settings, complaint in (
        ({"optimizer": "rmsprop"}, "optimizer is sgd or adam, not 'rmsprop'"),
        ({"decay_after": "a"}, "decay_after is a list of epochs like 5,8,9, not 'a'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            unlearn(Scrub(**settings), original, task)


def test_scrub_order_of_passes(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `max_epochs` epochs begin with a max pass, each has a min pass. Catches max passes in all epochs."""
    passes = []
    monkeypatch.setattr(Scrub, "_pass", lambda *args, maximise: passes.append(maximise))
    unlearn(Scrub(epochs=3, max_epochs=2), original, task)
    assert passes == [True, False, True, False, False]


def test_scrub_rewind(original: nn.Module, one_class: Task) -> None:
    """It ends where the forget error is nearest to the validation error, on fours, of the last epoch.

    Catches the epoch of the largest distance, the last epoch, and a reference over all classes.
    """
    settings: dict[str, Any] = {"max_epochs": 3, "learning_rate": 0.04, "alpha": 0.5, **BATCHES}
    after = [unlearn(Scrub(epochs=epochs, **settings), original, one_class) for epochs in (1, 2, 3, 4)]
    images, labels = part(one_class, "validation")
    with torch.no_grad():
        wrong = (after[-1](images).argmax(dim=1) != labels)[labels == 4]
    reference = float(wrong.double().mean())
    errors = [1 - accuracy(network, one_class, "forget") for network in after]
    best = int(np.argmin([abs(error - reference) for error in errors]))
    assert best != 3, "the test would not notice a method that does not rewind"
    rewound = unlearn(Scrub(epochs=4, rewind=True, **settings), original, one_class)
    assert same(rewound, after[best])
    assert not same(rewound, after[3])


def test_scrub_effect(originals: list[nn.Module], task: Task) -> None:
    """Forget loss up, retain accuracy held."""
    left = unlearn_each(lambda: Scrub(learning_rate=0.01, alpha=0.5), originals, task)
    assert mean_loss(left, task, "forget") > 1.3 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.95


# ----------------------------------------------------------------------------------------------------------------------
# bad_teacher
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sgd_for_adam")
@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_bad_teacher_step(original: nn.Module, task: Task, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step down KL_T(teacher || student), the bad teacher's answer wanted on forgotten images.

    Catches exchanged teachers, KL's sides exchanged, and, known bug B9, a mean over classes where none is asked for.
    """
    bad = build_network(task, seed=7).eval()
    monkeypatch.setattr(sys.modules[BadTeacher.__module__], "freshly_initialised", lambda network: bad)
    images = torch.cat([part(task, "retain")[0], part(task, "forget")[0]])
    student = copy.deepcopy(original).train()
    with torch.no_grad():
        logits = torch.cat([original(images[:-30]), bad(images[-30:])])
    value = 4 * divergence(F.softmax(logits / 2, dim=1), F.softmax(student(images) / 2, dim=1))
    value = value / (10 if reduction == "mean" else 1)
    method = BadTeacher(temperature=2.0, retain_fraction=1.0, learning_rate=0.01, reduction=reduction)
    expected = [-0.01 * step for step in gradients(student, value)]
    assert_close(moves(original, unlearn(method, original, task)), expected)


def test_bad_teacher_is_ignorant(original: nn.Module, task: Task) -> None:
    """The bad teacher has fresh weights and fresh statistics. Catches a bad teacher that is a copy of the original."""
    torch.manual_seed(0)
    fresh = freshly_initialised(original).state_dict()
    for name, value in original.state_dict().items():
        assert not torch.equal(value, fresh[name]), name
    assert accuracy(freshly_initialised(original), task, "retain") < 0.4


@pytest.mark.slow
def test_bad_teacher_is_as_its_builder_makes_it(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet's convolutions have He's standard deviation by fan out. Catches PyTorch's default, .0085 here."""
    resnet = replace(task, network="resnet18_3x3")
    made = []
    module = sys.modules[BadTeacher.__module__]

    def make(net: nn.Module) -> nn.Module:
        made.append(freshly_initialised(net))
        return made[-1]

    monkeypatch.setattr(module, "freshly_initialised", make)
    unlearn(BadTeacher(retain_fraction=0.1), build_network(resnet, seed=0).eval(), resnet)
    deviation = float(made[0].get_parameter("layer4.1.conv2.weight").detach().std())
    assert deviation == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


def test_bad_teacher_takes_a_part_of_the_retain_set(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 % of 170, and all 30 forgotten images. Catches a fraction of the whole, or of the forget set."""
    chosen: list[TensorDataset] = []

    def spy(dataset: TensorDataset, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        chosen.append(dataset)
        assert shuffle, "the two kinds are mixed"
        return DataLoader(dataset, batch_size, shuffle)

    monkeypatch.setattr(sys.modules[BadTeacher.__module__], "DataLoader", spy)
    unlearn(BadTeacher(batch_size=16), original, task)
    images, unwanted = chosen[0].tensors
    assert int((~unwanted).sum()) == 51
    wanted, forgotten = part(task, "retain")[0], part(task, "forget")[0]
    assert all(bool((wanted == image).flatten(1).all(dim=1).any()) for image in images[~unwanted])
    assert sorted(images[unwanted].sum(dim=(1, 2, 3)).tolist()) == sorted(forgotten.sum(dim=(1, 2, 3)).tolist())


def test_bad_teacher_unknown_reduction(original: nn.Module, task: Task) -> None:
    """A typing error must not be taken for the default."""
    with pytest.raises(ValueError, match="reduction is batchmean or mean, not 'sum'"):
        unlearn(BadTeacher(reduction="sum"), original, task)


def test_bad_teacher_effect(original: nn.Module, task: Task) -> None:
    """Forget loss up by far, retain accuracy nearly held."""
    left = unlearn(BadTeacher(epochs=6, learning_rate=0.003, batch_size=32, retain_fraction=1.0), original, task)
    assert loss(left, task, "forget") > 3 * loss(original, task, "forget") + 0.1
    assert accuracy(left, task, "retain") > 0.85


# ----------------------------------------------------------------------------------------------------------------------
# delete
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_delete_step(original: nn.Module, task: Task, freeze_bn: bool) -> None:
    """One step down KL(q || p), q the original's softmax without the true class.

    Catches q with the true class in it, q renormalised by something else than its sum, KL's sides exchanged, and
    batch normalisation that is not frozen when it should be.
    """
    images, labels = part(task, "forget")
    student = copy.deepcopy(original).train(not freeze_bn)
    with torch.no_grad():
        wanted = F.softmax(original(images), dim=1)
        wanted[torch.arange(30), labels] = 0
        wanted /= wanted.sum(dim=1, keepdim=True)
    value = divergence(wanted, F.softmax(student(images), dim=1))
    left = unlearn(Delete(epochs=1, learning_rate=0.01, freeze_bn=freeze_bn), original, task)
    assert_close(moves(original, left), [-0.01 * step for step in gradients(student, value)])
    statistics = [name for name in original.state_dict() if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(original.state_dict()[name], left.state_dict()[name]) == freeze_bn


def test_delete_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are no longer fours, and what they are not is still known."""
    left = unlearn_each(lambda: Delete(freeze_bn=True), originals, one_class)
    assert mean_accuracy(originals, one_class, "forget") == 1
    assert mean_accuracy(left, one_class, "forget") < 0.35
    assert mean_accuracy(left, one_class, "retain") > 0.8
    assert mean_loss(left, one_class, "validation") > mean_loss(originals, one_class, "validation")
