"""Methods that distil what may be known: regun and undo. What they compute, and what it does to digits."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from data import Task
from methods.DoNothing import DoNothing
from methods.Finetune import Finetune
from methods.Regun import Regun
from methods.Undo import Undo
from tests.methods.trained_digits import (
    accuracy,
    assert_close,
    gradients,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    same,
    unlearn,
    unlearn_each,
)

ALL = 1000
"""A batch size that takes a whole set: then a step does not depend on the order of images."""


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(wanted || found) of probabilities `(B, classes)`, mean over the batch, written out."""
    return (wanted * (wanted.clamp(min=1e-30).log() - found.log())).sum(dim=1).mean()


def statistics(network: nn.Module) -> list[torch.Tensor]:
    """Running means and variances."""
    return [value for name, value in network.named_buffers() if value.is_floating_point()]


class Spy:
    """What calls of `F.cross_entropy` and `F.kl_div` are given: targets, by the name of the function, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, torch.Tensor]] = []
        for name in ("cross_entropy", "kl_div"):
            monkeypatch.setattr(F, name, self._wrapped(name, getattr(F, name)))

    def _wrapped(self, name: str, function: Any) -> Any:
        def wrapped(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
            self.calls.append((name, target))
            value: torch.Tensor = function(logits, target, **options)
            return value

        return wrapped

    def targets(self, name: str) -> list[torch.Tensor]:
        """Those of one of the functions."""
        return [target for called, target in self.calls if called == name]


# ----------------------------------------------------------------------------------------------------------------------
# regun
# ----------------------------------------------------------------------------------------------------------------------

MANY = 30_000
"""Unseen images for each of the forget set: so many that their mean is the mean over all of their class."""


def mean_by_class(original: nn.Module, task: Task) -> torch.Tensor:
    """The original's mean softmax over the validation images of each class, `(classes, classes)`."""
    images, labels = part(task, "validation")
    with torch.no_grad():
        predictions = F.softmax(original(images), dim=1)
    return torch.stack([predictions[labels == number].mean(dim=0) for number in range(10)])


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("by_class", [False, True])
def test_regun_step(by_class: bool, freeze_bn: bool, original: nn.Module, task: Task) -> None:
    """One step down 0.7 KL(q || p) on the forget set + 0.4 CE on the retain set.

    Catches KL's sides exchanged, a weight that is ignored, sets exchanged, q over all classes alike or of the network
    in training, a q for each class instead of the batch's and the reverse, and eval mode by mistake.
    """
    (kept, kept_labels), (forgotten, forgotten_labels) = part(task, "retain"), part(task, "forget")
    network = copy.deepcopy(original).train(not freeze_bn)
    wanted = mean_by_class(original, task)[forgotten_labels]  # (30, classes)
    if not by_class:
        wanted = wanted.mean(dim=0).expand(30, -1)
    value = 0.4 * F.cross_entropy(network(kept), kept_labels)
    value = value + 0.7 * divergence(wanted, F.softmax(network(forgotten), dim=1))
    options = {"forget_weight": 0.7, "retain_weight": 0.4, "samples": MANY, "by_class": by_class}
    method = Regun(epochs=1, learning_rate=0.01, weight_decay=0.0, batch_size=ALL, freeze_bn=freeze_bn, **options)
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [-0.01 * step for step in gradients(network, value)], tolerance=0.02)
    kept_statistics = [torch.equal(*pair) for pair in zip(statistics(original), statistics(left), strict=True)]
    assert set(kept_statistics) == {freeze_bn}


def test_regun_without_its_term_is_finetune(original: nn.Module, task: Task) -> None:
    """Bit for bit, in three batches an epoch. Catches settings that are not obeyed, and a forget batch for nothing."""
    options = {"epochs": 2, "learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.01, "batch_size": 70}
    plain = unlearn(Finetune(**options), original, task)
    assert same(unlearn(Regun(forget_weight=0.0, **options), original, task), plain)
    assert not same(unlearn(Regun(**options), original, task), plain)


def test_regun_weighs_the_retain_set(original: nn.Module, task: Task) -> None:
    """Without the other term, a step is `retain_weight` times that of `finetune`. Catches a weight that is ignored."""
    options = {"epochs": 1, "weight_decay": 0.0, "batch_size": ALL, "learning_rate": 0.1}
    plain = moves(original, unlearn(Finetune(**options), original, task))
    left = unlearn(Regun(forget_weight=0.0, retain_weight=0.4, **options), original, task)
    assert_close(moves(original, left), [0.4 * step for step in plain], tolerance=0.01)


def test_regun_batches(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each retain batch meets a forget batch; those go on in a cycle over epochs.

    Catches the loaders' batches, forget batches that begin anew in each epoch, and a zip that ends with the shorter.
    """
    spy = Spy(monkeypatch)
    unlearn(Regun(epochs=2, batch_size=20), original, task, batch_size=64)
    assert [len(labels) for labels in spy.targets("cross_entropy")] == [20] * 8 + [10] + [20] * 8 + [10]
    assert [len(wanted) for wanted in spy.targets("kl_div")] == [20, 10] * 9


def test_regun_reference_has_the_classes_of_the_batch() -> None:
    """Of each class as many unseen images as the batch has, times `samples`; all are of that class.

    With predictions that name their image, q tells which were drawn. Catches images of the whole set, a set that is
    drawn once for each class, and a mean over classes instead of images.
    """
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    predictions = torch.eye(6)  # (images, "classes")
    wanted = torch.tensor([1, 2, 2, 1, 2, 2, 2, 2])
    torch.manual_seed(0)
    shares = torch.stack([Regun(samples=4)._reference(wanted, predictions, labels)[0] for _ in range(200)])
    assert torch.equal(shares[:, 0], torch.zeros(200))
    torch.testing.assert_close(shares[:, 1:3].sum(dim=1), torch.full((200,), 0.25))
    torch.testing.assert_close(shares[:, 3:].sum(dim=1), torch.full((200,), 0.75))
    assert set((shares * 32).round().unique().tolist()) <= set(range(33))
    for column, share in ((1, 1 / 8), (2, 1 / 8), (3, 1 / 4), (4, 1 / 4), (5, 1 / 4)):
        assert shares[:, column].mean() == pytest.approx(share, abs=0.03)  # each image as often as any other
    assert shares[:, 1].std() == pytest.approx((8 * 0.25) ** 0.5 / 32, rel=0.3)  # of 8 draws, and 32 in all


def test_regun_reference_by_class() -> None:
    """A row for each image, with images of its class alone. Catches rows in another order, and sums for means."""
    labels = torch.tensor([0, 1, 1])
    wanted = torch.tensor([1, 0, 1, 1])
    found = Regun(by_class=True, samples=2)._reference(wanted, torch.eye(3), labels)
    assert torch.equal(found[:, 0], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4))
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("by_class", [False, True])
def test_regun_class_that_nobody_else_has(by_class: bool) -> None:
    """Its reference is of all unseen images. Catches a mean of none, which is not a number."""
    found = Regun(by_class=by_class, samples=500)._reference(torch.tensor([7]), torch.eye(3), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found, torch.full((1, 3), 1 / 3), atol=0.1, rtol=0)


def test_regun_effect(originals: list[nn.Module], task: Task) -> None:
    """By class, forget images become as unsure as unseen ones are, nearly; the retain set is kept.

    Catches a reference that is the original's on the forget images themselves, and one with a minus sign.
    """
    options = {"by_class": True, "forget_weight": 1.0, "epochs": 8}
    left = unlearn_each(lambda: Regun(**options), originals, task)
    unseen = mean_loss(originals, task, "validation")
    assert mean_loss(originals, task, "forget") < 0.1 * unseen
    assert 0.3 * unseen < mean_loss(left, task, "forget") < 3 * unseen
    assert mean_accuracy(left, task, "retain") > 0.95


# ----------------------------------------------------------------------------------------------------------------------
# undo
# ----------------------------------------------------------------------------------------------------------------------


def undo(**options: Any) -> Undo:
    """With the original as its teacher, and all images in a batch, if not said otherwise."""
    return Undo(**{"teacher": "original", "batch_size": ALL, "tolerance": -1.0, **options})


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.1), (0.6, 0.1), (0.3, 1.0), (1.0, 1.0)])
def test_undo_noise(alpha: float, beta: float, original: nn.Module, task: Task) -> None:
    """At rate 0 the student is (1 - alpha) theta + alpha beta N; vectors have no beta.

    Catches alpha for 1 - alpha, noise that is not scaled or vectors that are, and N with the original's weights in it.
    """
    left = unlearn(undo(alpha=alpha, beta=beta, epochs=1, learning_rate=0.0), original, task)
    for (name, before), after in zip(original.named_parameters(), left.parameters(), strict=True):
        noise = (after - (1 - alpha) * before).detach()
        if alpha == 0:
            assert torch.equal(after, before), name
        elif before.dim() == 1 and name != "11.bias":  # of batch normalisation: begins with 1 and 0
            torch.testing.assert_close(noise, torch.full_like(noise, alpha * float("weight" in name)))
        else:
            bound = before[0].numel() ** -0.5 if before.dim() > 1 else 0.25  # PyTorch's uniform distribution: 1 / sqrt
            size = alpha * (beta if before.dim() > 1 else 1.0) * bound
            assert noise.abs().max() <= size * 1.001, name
            assert noise.std() > 0.3 * size, name
    if alpha > 0:
        change = left.get_parameter("6.weight") - (1 - alpha) * original.get_parameter("6.weight")
        pair = torch.stack([change.detach().flatten(), original.get_parameter("6.weight").detach().flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 0.1


def test_undo_noise_is_of_the_builder(task: Task) -> None:
    """A ResNet's kernels get He's normal distribution by fan out. Catches PyTorch's default for them."""
    resnet = replace(task, network="resnet18_3x3")
    given = build_network(resnet, 0)
    Undo(alpha=1.0, beta=0.5)._damage(given)
    deviation = float(given.get_parameter("layer4.1.conv2.weight").detach().std())
    assert deviation == pytest.approx(0.5 * (2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("on_forget", [False, True])
def test_undo_distils(on_forget: bool, freeze_bn: bool, original: nn.Module, task: Task) -> None:
    """One step of AdamW, without decay, down KL(teacher || student) from the damaged network.

    Catches KL's sides exchanged, a teacher that is damaged too, labels in the loss, weight decay, and the wrong sets.
    A temperature would change this, too.
    """
    options = {"alpha": 0.4, "beta": 1.0, "epochs": 1, "on_forget": on_forget, "freeze_bn": freeze_bn}
    damaged = unlearn(undo(learning_rate=0.0, **options), original, task)
    student = copy.deepcopy(original).train(not freeze_bn)  # for its statistics, which the damage leaves alone
    with torch.no_grad():
        for weight, value in zip(student.parameters(), damaged.parameters(), strict=True):
            weight.copy_(value)
    images = torch.cat([part(task, "retain")[0], part(task, "forget")[0]]) if on_forget else part(task, "retain")[0]
    with torch.no_grad():
        wanted = F.softmax(original(images), dim=1)
    down = gradients(student, divergence(wanted, F.softmax(student(images), dim=1)))
    left = unlearn(undo(learning_rate=0.01, clip=1e9, **options), original, task)
    far = [step.abs() > 1e-6 for step in down]  # from zero: Adam's first step has the size of the rate everywhere
    expected = [-0.01 * step.sign() * where for step, where in zip(down, far, strict=True)]
    found = [move * where for move, where in zip(moves(damaged, left), far, strict=True)]
    assert sum(int(where.sum()) for where in far) > 0.9 * sum(where.numel() for where in far)
    assert_close(found, expected, tolerance=0.02)
    assert torch.equal(statistics(original)[0], statistics(left)[0]) == freeze_bn


def test_undo_clips(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm over all weights, in both phases. Catches a limit that is ignored, and weight decay."""
    norms = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [weight.grad.flatten() for group in self.param_groups for weight in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))
        assert self.defaults["weight_decay"] == 0
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    unlearn(undo(teacher="max_entropy", teacher_epochs=1, epochs=1, clip=0.01), original, task)
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_undo_stops(original: nn.Module, task: Task) -> None:
    """As soon as an epoch ends at most `tolerance` below the teacher; -1 never does, 1 after the first epoch.

    Catches the retain set as the measure, a stop in the wrong direction, and a run that goes on to the last epoch.
    """

    def gaps(**options: Any) -> list[float]:
        method = undo(batch_size=64, epochs=12, learning_rate=0.003, beta=1.0, alpha=0.5, **options)
        left = unlearn(method, original, task)
        found: list[float] = method.notes["accuracy less teacher's"]
        last = accuracy(left, task, "validation") - accuracy(original, task, "validation")
        assert found[-1] == pytest.approx(last)
        return found

    assert len(gaps(tolerance=1.0)) == 1
    assert len(gaps(tolerance=-1.0)) == 12
    some = gaps(tolerance=0.15)
    assert 1 < len(some) < 12
    assert some[-1] >= -0.15
    assert max(some[:-1]) < -0.15


def test_undo_teacher_is_fine_tuned(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cross-entropy on the retain set, in batches; then distilled in passes of its own.

    Catches a number of epochs that is ignored, labels in the second phase, and the forget set in the first.
    """
    spy = Spy(monkeypatch)
    unlearn(Undo(teacher_epochs=2, epochs=3, tolerance=-1.0, batch_size=60), original, task)
    labels = spy.targets("cross_entropy")
    assert [name for name, _ in spy.calls] == ["cross_entropy"] * 6 + ["kl_div"] * 9
    assert [len(target) for target in labels] == [60, 60, 50] * 2
    assert [len(target) for target in spy.targets("kl_div")] == [60, 60, 50] * 3
    for epoch in (labels[:3], labels[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, part(task, "retain")[1].sort().values)


def test_undo_teacher_of_maximal_entropy(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets unsure of the forget set, toward 1 / classes, and not of the retain set; "finetune" doesn't.

    Catches an entropy with the other sign, of the retain set, or in one batch alone.
    """
    options = {"teacher_epochs": 10, "teacher_rate": 0.01, "alpha": 0.0, "epochs": 1, "learning_rate": 0.0}

    def doubt(teacher: str, which: str) -> float:
        left = unlearn(undo(teacher=teacher, batch_size=64, **options), original, task)
        with torch.no_grad():
            return float(F.softmax(left(part(task, which)[0]), dim=1).amax(dim=1).mean())

    assert doubt("max_entropy", "forget") < 0.5
    assert doubt("max_entropy", "retain") > 0.7
    assert doubt("finetune", "forget") > 0.8
    spy = Spy(monkeypatch)
    unlearn(undo(teacher="max_entropy", batch_size=64, **{**options, "teacher_epochs": 1}), original, task)
    uniform = spy.targets("kl_div")[:3]
    assert [target.shape for target in uniform] == [(30, 10)] * 3
    assert all(torch.equal(target, torch.full((30, 10), 0.1)) for target in uniform)


def test_undo_of_nothing_is_nothing(original: nn.Module, task: Task) -> None:
    """No damage, no rate: the weights keep their bits. Catches a student that is not the teacher's copy."""
    options = {"alpha": 0.0, "epochs": 1, "learning_rate": 0.0, "freeze_bn": True}
    left = unlearn(undo(**options), original, task)
    assert same(left, unlearn(DoNothing(), original, task))
    assert not same(left, unlearn(undo(teacher="finetune", **options), original, task))


def test_undo_unknown_teacher(original: nn.Module, task: Task) -> None:
    """A typing error must not be taken for the default."""
    with pytest.raises(ValueError, match="teacher is finetune, max_entropy or original, not 'maxent'"):
        unlearn(Undo(teacher="maxent"), original, task)


@pytest.mark.slow
def test_undo_effect(originals: list[nn.Module], task: Task) -> None:
    """The more is taken away, the more of the forget set is gone; the retain set comes back.

    Catches a damage that is undone, and distillation from the damaged network.
    """
    options = {"beta": 1.0, "epochs": 12, "learning_rate": 0.01, "tolerance": -1.0}
    little, much = (
        unlearn_each(lambda alpha=alpha: Undo(alpha=alpha, **options), originals, task)  # type: ignore[misc]
        for alpha in (0.1, 0.7)
    )
    assert mean_loss(much, task, "forget") > 2 * mean_loss(little, task, "forget")
    assert mean_accuracy(little, task, "retain") > 0.98
    assert mean_accuracy(much, task, "retain") > 0.95
