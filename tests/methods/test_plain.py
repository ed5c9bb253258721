"""The plain baselines: what a step of each computes, what it leaves alone, and what it does to digits."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Task
from data.loaders import run_loaders
from methods.BaseMethod import BaseMethod
from methods.CfK import CfK
from methods.EuK import EuK
from methods.Finetune import Finetune
from methods.FtPrune import FtPrune
from methods.GradientAscent import GradientAscent
from methods.L1Sparse import L1Sparse
from methods.MyMethod import MyMethod
from methods.NegGrad import NegGrad
from methods.NegGradPlus import NegGradPlus
from methods.RandomLabel import RandomLabel
from methods.SuccessiveRandomLabel import SuccessiveRandomLabel
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
    unlearn_each,
)
from tests.methods.trained_digits import unlearn as unlearn_in_batches

ALL = 1000
"""A batch size that takes a whole set: then a step does not depend on the order of images."""


def unlearn(method: BaseMethod, original: nn.Module, task: Task, seed: int = 1) -> nn.Module:
    """A copy of the original after a run of the method, with each set in one batch where the loaders decide."""
    return unlearn_in_batches(method, original, task, seed, batch_size=ALL)


class Lesson:
    """What a network was taught in one call of the loss: its images, `(B, C, H, W)`, and their labels, `(B,)`."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, training: bool) -> None:
        self.labels = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        self.training = training


def lessons(
    method: BaseMethod, original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, batch_size: int = ALL
) -> list[Lesson]:
    """Every image with the label that it was taught with, by step."""
    network = copy.deepcopy(original)
    seen: list[torch.Tensor] = []
    taught = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    cross_entropy = F.cross_entropy

    def spy(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        taught.append(Lesson(seen[-1], labels, network.training))
        return cross_entropy(logits, labels, **options)

    seed_everything(1)
    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", spy)
        method.run(network, *run_loaders(task, 1, batch_size))
    return taught


def true_labels(task: Task, which: str) -> dict[bytes, int]:
    """The label of every image of a set."""
    return Lesson(*part(task, which), training=False).labels


# ----------------------------------------------------------------------------------------------------------------------
# finetune and l1_sparse
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_finetune_step(original: nn.Module, task: Task, freeze_bn: bool) -> None:
    """One step down the retain loss. Catches another set, eval mode by mistake, weight decay that is lost."""
    method = Finetune(epochs=1, learning_rate=0.01, weight_decay=0.1, batch_size=ALL, freeze_bn=freeze_bn)
    images, labels = part(task, "retain")
    network = copy.deepcopy(original).train(not freeze_bn)
    down = gradients(network, F.cross_entropy(network(images), labels))
    expected = [-0.01 * (step + 0.1 * weight) for step, weight in zip(down, original.parameters(), strict=True)]
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [step.detach() for step in expected])
    before, after = (dict(network.named_buffers()) for network in (original, left))
    assert all(torch.equal(before[name], after[name]) for name in before) == freeze_bn


def test_finetune_takes_batches(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batch_size` is obeyed, not the loader's; each epoch is all images once, in an order of its own."""
    taught = lessons(Finetune(epochs=2, batch_size=50), original, task, monkeypatch, batch_size=64)
    assert [len(lesson.labels) for lesson in taught] == [50, 50, 50, 20] * 2
    first, second = ([image for lesson in taught[part] for image in lesson.labels] for part in (slice(4), slice(4, 8)))
    assert set(first) == set(second) == true_labels(task, "retain").keys()
    assert first != second


def test_finetune_on_a_cosine_is_the_baseline(original: nn.Module, task: Task) -> None:
    """Up to the order of images, which full batches leave no room for. Catches a rate that falls at another pace."""
    options = {"epochs": 3, "learning_rate": 0.05, "weight_decay": 0.1}
    baseline = moves(original, unlearn(MyMethod(**options), original, task))
    on_a_cosine, constant = (Finetune(batch_size=ALL, cosine=cosine, **options) for cosine in (True, False))
    assert_close(moves(original, unlearn(on_a_cosine, original, task)), baseline)
    with pytest.raises(AssertionError):
        assert_close(moves(original, unlearn(constant, original, task)), baseline)


def test_l1_sparse_without_penalty_is_finetune(original: nn.Module, task: Task) -> None:
    """Bit for bit. Catches a penalty that does not scale with alpha, and settings that differ."""
    left = unlearn(L1Sparse(alpha=0.0, epochs=3, batch_size=64), original, task)
    assert same(left, unlearn(Finetune(epochs=3, batch_size=64), original, task))
    assert not same(left, unlearn(L1Sparse(alpha=1e-4, epochs=3, batch_size=64), original, task))


def test_l1_sparse_step(original: nn.Module, task: Task) -> None:
    """The penalty pulls all weights to zero by alpha. Catches an L2 penalty, and a mean instead of a sum."""
    images, labels = part(task, "retain")
    network = copy.deepcopy(original).train()
    down = gradients(network, F.cross_entropy(network(images), labels))
    expected = [-0.01 * (step + 0.3 * weight.sign()) for step, weight in zip(down, original.parameters(), strict=True)]
    method = L1Sparse(alpha=0.3, epochs=1, learning_rate=0.01, weight_decay=0, batch_size=ALL)
    assert_close(moves(original, unlearn(method, original, task)), [step.detach() for step in expected])


def test_l1_sparse_penalty_fades() -> None:
    """alpha (1 - e / (E - unpenalised)). Catches a penalty that grows, is constant, or divides by zero."""
    assert [L1Sparse(alpha=1.0, epochs=4).alpha_in(epoch) for epoch in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [L1Sparse(alpha=1.0, epochs=4, unpenalised=2).alpha_in(epoch) for epoch in range(4)] == [1, 0.5, 0, 0]
    assert L1Sparse(alpha=1.0, epochs=1, unpenalised=1).alpha_in(0) == 0


def test_l1_sparse_prunes(original: nn.Module, task: Task) -> None:
    """Weights get smaller than those of `finetune`, much. Catches a penalty with a minus sign."""

    def size(network: nn.Module) -> float:
        return float(sum(weight.detach().abs().sum() for weight in network.parameters()))

    options = {"epochs": 10, "learning_rate": 0.02, "batch_size": 64}
    plain, sparse = (
        unlearn(Finetune(**options), original, task),
        unlearn(L1Sparse(alpha=0.005, **options), original, task),
    )
    assert size(sparse) < 0.9 * size(plain)
    assert accuracy(sparse, task, "retain") > 0.95


# ----------------------------------------------------------------------------------------------------------------------
# gradient_ascent, neg_grad, neg_grad_plus
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_gradient_ascent_step(original: nn.Module, task: Task, freeze_bn: bool) -> None:
    """One step up the forget loss. Catches the wrong sign, and a step that sees the retain set."""
    method = GradientAscent(epochs=1, learning_rate=0.01, weight_decay=0, freeze_bn=freeze_bn)
    images, labels = part(task, "forget")
    network = copy.deepcopy(original).train(not freeze_bn)
    up = gradients(network, F.cross_entropy(network(images), labels))
    assert_close(moves(original, unlearn(method, original, task)), [0.01 * step for step in up])


def test_gradient_ascent_stops_at_chance(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `stop_at_chance` more epochs change nothing once guessing is reached. Catches a stop that does not hold.

    The first batch that is so bad ends the run. Catches a batch that is merely skipped.
    """
    options = {"learning_rate": 0.001, "freeze_bn": True}
    stopped, longer = (
        unlearn(GradientAscent(epochs=epochs, stop_at_chance=True, **options), original, task) for epochs in (60, 61)
    )
    assert same(stopped, longer)
    assert loss(stopped, task, "forget") >= math.log(10)
    method = GradientAscent(epochs=60, stop_at_chance=True, batch_size=10, **options)
    assert 3 < len(lessons(method, original, task, monkeypatch)) < 3 * 60
    unstopped = unlearn(GradientAscent(epochs=60, **options), original, task)
    assert not loss(unstopped, task, "forget") < 2 * loss(stopped, task, "forget")  # it may be beyond all numbers


def test_neg_grad_step(original: nn.Module, task: Task) -> None:
    """The signed mean over all images of a batch.

    Catches forget examples that have no gradient (a published clamp between 0 and 1 / classes), two means where one is
    due, and a set left out.
    """
    network = copy.deepcopy(original).train()
    (kept, kept_labels), (forgotten, forgotten_labels) = part(task, "retain"), part(task, "forget")
    losses = F.cross_entropy(
        network(torch.cat([kept, forgotten])), torch.cat([kept_labels, forgotten_labels]), reduction="none"
    )
    down = gradients(network, (losses[:170].sum() - losses[170:].sum()) / 200)
    method = NegGrad(epochs=1, learning_rate=1.0, weight_decay=0, batch_size=ALL)
    assert_close(moves(original, unlearn(method, original, task)), [-step for step in down])


def test_neg_grad_cap(task: Task) -> None:
    """Capped, a forget example worse than guessing has no gradient; any other has. Catches a cap for all, or none."""
    network = build_network(task, seed=3).train()
    before = copy.deepcopy(network)
    (kept, kept_labels), (forgotten, forgotten_labels) = part(task, "retain"), part(task, "forget")
    losses = F.cross_entropy(
        network(torch.cat([kept, forgotten])), torch.cat([kept_labels, forgotten_labels]), reduction="none"
    )
    better = losses[170:] < math.log(10)
    assert 0 < better.sum() < 30
    down = gradients(network, (losses[:170].sum() - losses[170:][better].sum()) / 200)
    method = NegGrad(epochs=1, learning_rate=0.01, weight_decay=0, batch_size=ALL, capped=True)
    assert_close(moves(before, unlearn(method, before, task)), [-0.01 * step for step in down])


@pytest.mark.parametrize("method", [NegGrad, SuccessiveRandomLabel])
def test_mixed_epochs_end_together(
    method: type[BaseMethod], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step has its share of the forget set, every image comes once. Catches a forget set that ends early."""
    taught = lessons(method(epochs=2, batch_size=50), original, task, monkeypatch)
    assert [len(lesson.labels) for lesson in taught] == [58, 58, 57, 27] * 2
    everything = true_labels(task, "retain").keys() | true_labels(task, "forget").keys()
    for epoch in (taught[:4], taught[4:]):
        assert {image for lesson in epoch for image in lesson.labels} == everything


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_neg_grad_plus_without_forget_loss_is_finetune(original: nn.Module, task: Task, freeze_bn: bool) -> None:
    """At alpha = 1, bit for bit. Catches forget batches that leak in by normalisation or by random numbers."""
    options = {"epochs": 3, "batch_size": 50, "freeze_bn": freeze_bn, "momentum": 0.9, "weight_decay": 0.1}
    left = unlearn(NegGradPlus(alpha=1.0, pull=0.0, **options), original, task)
    assert same(left, unlearn(Finetune(**options), original, task))
    assert not same(left, unlearn(NegGradPlus(alpha=0.95, pull=0.0, **options), original, task))
    assert not same(left, unlearn(NegGradPlus(alpha=1.0, **options), original, task))


def test_neg_grad_plus_step(original: nn.Module, task: Task) -> None:
    """alpha CE_r - (1 - alpha) CE_f in eval mode. Catches exchanged weights, two steps, and train mode."""
    network = copy.deepcopy(original)
    retain, forget = (
        F.cross_entropy(network(part(task, which)[0]), part(task, which)[1]) for which in ("retain", "forget")
    )
    down = gradients(network, 0.6 * retain - 0.4 * forget)
    method = NegGradPlus(epochs=1, learning_rate=1.0, weight_decay=0, alpha=0.6, batch_size=ALL)
    left = unlearn(method, original, task)
    assert_close(moves(original, left), [-step for step in down])
    assert all(torch.equal(*pair) for pair in zip(original.buffers(), left.buffers(), strict=True))


def test_neg_grad_plus_pulls_to_the_original(original: nn.Module, task: Task) -> None:
    """In the second step there is alpha pull (w - w0), too, and no momentum. Catches half and twice of it, and 0.9."""
    network = copy.deepcopy(original)
    (kept, kept_labels), (forgotten, forgotten_labels) = part(task, "retain"), part(task, "forget")
    for _ in range(2):
        value = 0.6 * F.cross_entropy(network(kept), kept_labels)
        value = value - 0.4 * F.cross_entropy(network(forgotten), forgotten_labels)
        steps = gradients(network, value)
        with torch.no_grad():
            for weight, start, step in zip(network.parameters(), original.parameters(), steps, strict=True):
                weight.sub_(0.1 * (step + 0.6 * 3.0 * (weight - start)))
    method = NegGradPlus(epochs=2, learning_rate=0.1, alpha=0.6, pull=3.0, batch_size=ALL)
    assert_close(moves(original, unlearn(method, original, task)), moves(original, network))


def test_neg_grad_plus_cycles(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch is the retain set; forget batches come again and again. Catches an epoch that ends with the shorter."""
    taught = lessons(NegGradPlus(epochs=1, batch_size=34), original, task, monkeypatch, batch_size=20)
    assert [len(lesson.labels) for lesson in taught] == [34, 20, 34, 10, 34, 20, 34, 10, 34, 20]
    forget = true_labels(task, "forget")
    assert taught[1].labels.keys() | taught[3].labels.keys() == forget.keys()


# ----------------------------------------------------------------------------------------------------------------------
# random_label and successive_random_label
# ----------------------------------------------------------------------------------------------------------------------


def test_random_label_order(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget set first, retain set next, with its true labels. Catches random labels for all, and a set left out."""
    taught = lessons(RandomLabel(epochs=2), original, task, monkeypatch)
    assert [len(lesson.labels) for lesson in taught] == [30, 170] * 2
    assert taught[1].labels == taught[3].labels == true_labels(task, "retain")
    assert taught[0].labels.keys() == true_labels(task, "forget").keys()


def random_labels(taught: list[Lesson], task: Task) -> list[dict[bytes, int]]:
    """The labels of the forget set in each epoch of 30 images in one batch (of them alone, or of all)."""
    forget = true_labels(task, "forget")
    epochs = [lesson.labels for lesson in taught if forget.keys() <= lesson.labels.keys()]
    return [{image: labels[image] for image in forget} for labels in epochs]


@pytest.mark.parametrize("method", [RandomLabel, SuccessiveRandomLabel])
def test_random_labels_are_redrawn_and_uniform(
    method: type[BaseMethod], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New ones in each epoch; each class as often, the true one included, as published.

    Catches labels that are drawn once, a range without the last class, and a permutation of the true labels.
    """
    epochs = random_labels(lessons(method(epochs=40, batch_size=ALL), original, task, monkeypatch), task)
    assert len(epochs) == 40
    assert all(one != other for one, other in itertools.pairwise(epochs))
    drawn = torch.tensor([list(epoch.values()) for epoch in epochs])  # (40, 30)
    assert torch.all((torch.bincount(drawn.flatten(), minlength=10) - 120).abs() < 45)  # 4 standard deviations
    forget = true_labels(task, "forget")
    hits = sum(epoch[image] == forget[image] for epoch in epochs for image in forget)
    assert abs(hits - 120) < 45


@pytest.mark.parametrize("method", [RandomLabel, SuccessiveRandomLabel])
def test_true_labels_can_be_excluded(
    method: type[BaseMethod], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the true one, and each of the others as often. Catches an option without effect, or "the next class"."""
    taught = lessons(method(epochs=40, exclude_true=True, batch_size=ALL), original, task, monkeypatch)
    forget = true_labels(task, "forget")
    steps = torch.tensor(
        [(epoch[image] - forget[image]) % 10 for epoch in random_labels(taught, task) for image in forget]
    )
    counts = torch.bincount(steps, minlength=10)
    assert counts[0] == 0
    assert torch.all((counts[1:] - 1200 / 9).abs() < 45)


# ----------------------------------------------------------------------------------------------------------------------
# cf_k and eu_k
# ----------------------------------------------------------------------------------------------------------------------

LAST_LAYERS = [
    ("small_cnn", 1, ("11.",)),
    ("small_cnn", 2, ("11.", "6.", "7.")),
    ("all_cnn", 2, ("24.", "21.", "22.")),
    ("mlp", 1, ("3.",)),
    ("resnet18_3x3", 3, ("fc.", "layer4.1.")),
]
"""Network, k, and where the names of what is trained begin."""


@pytest.mark.parametrize("method", [CfK, EuK])
@pytest.mark.parametrize(("architecture", "k", "trained_names"), LAST_LAYERS)
def test_other_layers_are_frozen(
    method: type[BaseMethod], architecture: str, k: int, trained_names: tuple[str, ...], task: Task
) -> None:
    """The last k layers all change, statistics too; the rest stays bit for bit, and can be trained afterwards.

    Catches batch normalisation that drifts in frozen layers, weight decay on them, and layers counted from the front.
    """
    original = build_network(_with_network(task, architecture), seed=0).eval()
    left = unlearn(method(k=k, epochs=1), original, _with_network(task, architecture))
    before = original.state_dict()
    changed = {name for name, value in left.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(trained_names)}
    assert all(weight.requires_grad for weight in left.parameters())


def _with_network(task: Task, architecture: str) -> Task:
    return replace(task, network=architecture)


@pytest.mark.parametrize("method", [CfK, EuK])
def test_more_layers_than_there_are(method: type[BaseMethod], original: nn.Module, task: Task) -> None:
    """All are trained then. Catches a slice that wraps around to few layers."""
    left = unlearn(method(k=99, epochs=1), original, task)
    assert not any(torch.equal(*pair) for pair in zip(original.parameters(), left.parameters(), strict=True))


@pytest.mark.parametrize("method", [CfK, EuK])
def test_no_layers_are_refused(method: type[BaseMethod], original: nn.Module, task: Task) -> None:
    """Rather than `layers[-0:]`, which is all of them."""
    with pytest.raises(ValueError, match="k is a number of layers, 1 or more, and stages 0 or more: not 0 and 0"):
        unlearn(method(k=0), original, task)
    with pytest.raises(ValueError, match="not 3 and -1"):
        unlearn(method(stages=-1), original, task)


@pytest.mark.slow
@pytest.mark.parametrize("method", [CfK, EuK])
@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"stages": 1, "freeze_head": True}, ("layer4.",)),  # SCRUB's
        ({"stages": 2}, ("layer4.", "fc.")),  # Deep Unlearn's
        ({"k": 6}, ("layer4.", "fc.")),
        ({"k": 2, "freeze_head": True}, ("layer4.1.",)),
        ({"stages": 1}, ("fc.",)),
    ],
)
def test_stages(method: type[BaseMethod], settings: dict[str, Any], trained: tuple[str, ...], task: Task) -> None:
    """Parts of a ResNet, with and without the head. Catches layers counted for parts, and a head that moves."""
    resnet = _with_network(task, "resnet18_3x3")
    original = build_network(resnet, seed=0).eval()
    before = original.state_dict()
    left = unlearn(method(epochs=1, **settings), original, resnet).state_dict()
    assert {name for name in before if not torch.equal(before[name], left[name])} == {
        name for name in before if name.startswith(trained)
    }


@pytest.mark.parametrize("method", [CfK, EuK])
def test_stages_of_a_flat_network(method: type[BaseMethod], original: nn.Module, task: Task) -> None:
    """Each layer is a part, with what follows it. Catches batch normalisation that is left behind."""
    one, other = (unlearn(method(epochs=2, **settings), original, task) for settings in ({"stages": 2}, {"k": 2}))
    assert same(one, other)
    frozen = unlearn(method(epochs=2, k=1, freeze_head=True), original, task).state_dict()
    changed = {name for name, value in original.state_dict().items() if not torch.equal(value, frozen[name])}
    assert changed == {name for name in frozen if name.startswith(("6.", "7."))}


def test_cf_k_freezes_statistics(original: nn.Module, task: Task) -> None:
    """`freeze_bn` keeps those of the trained layers, too, and uses them: a step in eval mode, written out."""
    left = unlearn(
        CfK(k=99, epochs=1, learning_rate=0.1, weight_decay=0, batch_size=ALL, freeze_bn=True), original, task
    )
    assert all(torch.equal(*pair) for pair in zip(original.buffers(), left.buffers(), strict=True))
    network = copy.deepcopy(original)
    images, labels = part(task, "retain")
    down = gradients(network, F.cross_entropy(network(images), labels))
    assert_close(moves(original, left), [-0.1 * step for step in down])


def test_cf_k_pulls_to_the_original(original: nn.Module, task: Task) -> None:
    """Two steps, written out: the second has pull (w - w0). Catches half and twice of it, and a pull to 0."""
    network = copy.deepcopy(original)
    images, labels = part(task, "retain")
    for _ in range(2):
        steps = gradients(network, F.cross_entropy(network(images), labels))
        with torch.no_grad():
            for weight, start, step in zip(network.parameters(), original.parameters(), steps, strict=True):
                weight.sub_(0.1 * (step + 3.0 * (weight - start)))
    options = {"learning_rate": 0.1, "momentum": 0, "weight_decay": 0, "batch_size": ALL, "freeze_bn": True}
    left = unlearn(CfK(k=99, epochs=2, pull=3.0, **options), original, task)
    assert_close(moves(original, left), moves(original, network))


def test_eu_k_is_pulled_to_where_it_starts(original: nn.Module, task: Task) -> None:
    """Not to the original's weights, which would undo the re-initialisation."""
    options = {"k": 1, "learning_rate": 0.05, "momentum": 0, "weight_decay": 0, "batch_size": ALL, "freeze_bn": True}
    start, free, held = (
        unlearn(EuK(epochs=epochs, pull=pull, **options), original, task).get_parameter("11.weight").detach()
        for epochs, pull in ((0, 0.0), (20, 0.0), (20, 10.0))
    )
    assert (held - start).norm() < 0.5 * (free - start).norm()


def test_random_labels_can_be_drawn_once(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for an image in all epochs, in batches of any order. Catches labels that stay with a place."""
    taught = lessons(RandomLabel(epochs=4, batch_size=7, draw_once=True), original, task, monkeypatch)
    forget = true_labels(task, "forget")
    labels = [lesson.labels for lesson in taught if lesson.labels.keys() <= forget.keys()]
    assert len(labels) == 4 * 5
    for image in forget:
        assert len({lesson[image] for lesson in labels if image in lesson}) == 1
    assert len({label for lesson in labels for label in lesson.values()}) > 5


def test_gradient_ascent_with_a_penalty(original: nn.Module, task: Task) -> None:
    """Up CE - l1 |w|_1. Catches a penalty that pushes away from 0."""
    images, labels = part(task, "forget")
    network = copy.deepcopy(original).train()
    up = gradients(network, F.cross_entropy(network(images), labels))
    expected = [0.01 * (step - 0.3 * weight.sign()) for step, weight in zip(up, original.parameters(), strict=True)]
    method = GradientAscent(epochs=1, learning_rate=0.01, weight_decay=0, l1=0.3)
    assert_close(moves(original, unlearn(method, original, task)), [step.detach() for step in expected])


# ----------------------------------------------------------------------------------------------------------------------
# ft_prune
# ----------------------------------------------------------------------------------------------------------------------


def test_ft_prune_without_pruning(original: nn.Module, task: Task) -> None:
    """It is `l1_sparse` then, and without penalty `finetune`, bit for bit."""
    options = {"epochs": 3, "batch_size": 50}
    assert same(
        unlearn(FtPrune(share=0.0, alpha=0.01, **options), original, task),
        unlearn(L1Sparse(alpha=0.01, **options), original, task),
    )
    assert same(unlearn(FtPrune(share=0.0, **options), original, task), unlearn(Finetune(**options), original, task))


def test_ft_prune_prunes_the_smallest(original: nn.Module, task: Task) -> None:
    """Of all layers together; zeros stay zero through momentum and weight decay, biases and the rest are free.

    Catches the largest, a share of each layer, and zeros that grow.
    """
    names = ("0.weight", "3.weight", "6.weight", "11.weight")
    sizes = torch.cat([original.get_parameter(name).detach().abs().flatten() for name in names])
    limit = sizes.kthvalue(int(0.7 * len(sizes))).values
    left = unlearn(FtPrune(share=0.7, epochs=2, batch_size=50, learning_rate=0.05), original, task)
    for name in names:
        pruned = original.get_parameter(name).detach().abs() <= limit
        after = left.get_parameter(name).detach()
        assert torch.equal(after == 0, pruned), name
        assert not torch.equal(after[~pruned], original.get_parameter(name).detach()[~pruned])
    assert not torch.equal(left.get_parameter("11.bias"), original.get_parameter("11.bias"))


def test_cf_k_starts_from_the_original(original: nn.Module, task: Task) -> None:
    """At rate 0 no weight moves. Catches a re-initialisation."""
    left = unlearn(CfK(k=2, epochs=1, learning_rate=0.0), original, task)
    assert all(torch.equal(*pair) for pair in zip(original.parameters(), left.parameters(), strict=True))


def test_eu_k_starts_anew(original: nn.Module, task: Task) -> None:
    """At rate 0 the last layers have nothing of the original's. Catches layers that are copied from themselves."""
    left = unlearn(EuK(k=2, epochs=1, learning_rate=0.0), original, task)
    before, after = dict(original.named_parameters()), dict(left.named_parameters())
    for name in ("6.weight", "11.weight"):
        pair = torch.stack([before[name].detach().flatten(), after[name].detach().flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 0.3
    assert torch.equal(after["7.weight"], torch.ones(16))
    assert torch.equal(after["7.bias"], torch.zeros(16))
    assert left.get_buffer("7.num_batches_tracked") == 1


def test_eu_k_initialises_as_torchvision(task: Task) -> None:
    """A ResNet's convolutions get He's normal distribution by fan out. Catches PyTorch's default for them."""
    resnet = _with_network(task, "resnet18_3x3")
    left = unlearn(EuK(k=3, epochs=1, learning_rate=0.0), build_network(resnet, seed=0).eval(), resnet)
    deviation = float(left.get_parameter("layer4.1.conv2.weight").detach().std())
    assert deviation == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


# ----------------------------------------------------------------------------------------------------------------------
# Effects
# ----------------------------------------------------------------------------------------------------------------------

EFFECTS = [
    (Finetune(epochs=10, learning_rate=0.05, batch_size=64), 1.1, 0.99),
    (L1Sparse(epochs=10, learning_rate=0.05, batch_size=64, alpha=1e-3), 1.5, 0.99),
    (RandomLabel(epochs=10, batch_size=64), 20, 0.9),
    (SuccessiveRandomLabel(epochs=10, batch_size=64), 20, 0.9),
    (CfK(epochs=10, learning_rate=0.05, batch_size=64), 1.1, 0.99),
    (EuK(epochs=20, learning_rate=0.1, batch_size=64), 10, 0.95),
    (FtPrune(epochs=20, learning_rate=0.05, batch_size=64, share=0.5), 1.5, 0.95),
]
"""Method, how often its forget loss is the original's at least, and its retain accuracy at least."""


@pytest.mark.parametrize(("method", "factor", "kept"), EFFECTS, ids=lambda value: type(value).__name__)
def test_forgets_and_keeps(
    method: BaseMethod, factor: float, kept: float, originals: list[nn.Module], task: Task
) -> None:
    """The forget loss rises above the original's, and the retain set is still known.

    Catches a method that does nothing, learns the forget set again, or destroys the network.
    """
    left = unlearn_each(lambda: method, originals, task)
    assert mean_loss(left, task, "forget") > factor * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") >= kept
    assert mean_accuracy(left, task, "validation") > 0.65


def until_forgotten(method: BaseMethod, original: nn.Module, task: Task, batch_size: int) -> nn.Module:
    """What is left when the forget loss, which ascent raises faster and faster, first is 20 times the original's.

    The method runs again and again, for a few epochs each time: how many it takes differs from network to network.
    """
    left = original
    for seed in range(60):
        left = unlearn_in_batches(method, left, task, seed, batch_size)
        if loss(left, task, "forget") > 20 * loss(original, task, "forget"):
            return left
    raise AssertionError("the forget loss does not rise")


ASCENTS = [
    (NegGrad(epochs=2, learning_rate=0.03, batch_size=64), 0.75),
    (NegGradPlus(epochs=2, learning_rate=0.01, alpha=0.8, batch_size=64), 0.65),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kept"), ASCENTS, ids=lambda value: type(value).__name__)
def test_ascent_forgets_and_keeps(method: BaseMethod, kept: float, originals: list[nn.Module], task: Task) -> None:
    """When the forget loss has risen by far, the retain set is mostly known.

    Catches a method that does nothing, learns the forget set again, or destroys the network.
    """
    left = [until_forgotten(method, original, task, 64) for original in originals]
    assert mean_accuracy(left, task, "retain") >= kept
    assert mean_loss(left, task, "retain") < 0.5 * mean_loss(left, task, "forget")


def test_gradient_ascent_effect(originals: list[nn.Module], task: Task) -> None:
    """The forget loss rises, and it drags the retain loss along. Catches an ascent on the wrong set."""
    method = GradientAscent(epochs=4, learning_rate=0.001, freeze_bn=True)
    left = [until_forgotten(method, original, task, ALL) for original in originals]
    before, after = (mean_loss(networks, task, "retain") for networks in (originals, left))
    assert before < after < mean_loss(left, task, "forget")
