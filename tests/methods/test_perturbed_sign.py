"""perturbed_sign: the search for the boundary, the training with what it finds, and composition."""

from __future__ import annotations

import copy
import json
import math
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import NETWORKS
from data import Task
from methods.BoundaryShrink import BoundaryShrink
from methods.PerturbedSign import NOISES, PerturbedSign, _last_layer
from tests.methods.trained_digits import (
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

ONE_STEP: dict[str, Any] = {"steps": 1, "kappa": 0.0, "limit": 0.1, "search_every_epoch": True}
"""The search as the authors' code does it."""
PLAIN: dict[str, Any] = {"gamma": 0.0, "lambda_": 0.0, "retain_weight": 0.0, "cosine": False, "weight_decay": 0.0}
"""Nothing but the boundary."""


# ----------------------------------------------------------------------------------------------------------------------
# With gamma = lambda = 0: boundary_shrink
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 64])
@pytest.mark.parametrize("other_class", [False, True])
@pytest.mark.parametrize("freeze_bn", [False, True])
def test_without_lambda_and_gamma_it_is_boundary_shrink(
    original: nn.Module, task: Task, batch_size: int, other_class: bool, freeze_bn: bool
) -> None:
    """Bit for bit, over three epochs in which the order of 30 images is drawn.

    Catches noise or retained images that are drawn although their weight is 0 (another order), a bound in other units,
    a different treatment of the last batch, and labels of the network instead of the original's.
    """
    shared: dict[str, Any] = {
        "epochs": 3,
        "learning_rate": 0.01,
        "batch_size": batch_size,
        "other_class": other_class,
        "freeze_bn": freeze_bn,
    }
    ours = unlearn(PerturbedSign(**ONE_STEP, **PLAIN, **shared), original, task)
    assert same(ours, unlearn(BoundaryShrink(**shared), original, task))
    assert not same(ours, original)


def test_lambda_does_nothing_in_a_single_step(original: nn.Module, task: Task) -> None:
    """There x' = x. Catches the authors' mistake: the normalised image less the image that is not."""
    settings = {**ONE_STEP, **PLAIN, "learning_rate": 0.01, "epochs": 2}
    without = unlearn(PerturbedSign(**settings), original, task)
    assert same(without, unlearn(PerturbedSign(**{**settings, "lambda_": 1e3}), original, task))


# ----------------------------------------------------------------------------------------------------------------------
# The search
# ----------------------------------------------------------------------------------------------------------------------

Search = tuple[nn.Module, tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def forgotten(original: nn.Module, task: Task) -> Search:
    """What a search takes, in double precision, so that no sign depends on how sums are rounded."""
    images, labels = part(task, "forget")
    images = images.double()
    low, high = images.amin().view(1, 1, 1), images.amax().view(1, 1, 1)
    return copy.deepcopy(original).double(), (low, high), images, labels


def by_hand(search: Search, steps: int, lambda_: float) -> torch.Tensor:
    """x' after so many steps of the formula, image by image, in pixels of [0, 1]; no noise, no stopping."""
    network, (low, high), images, labels = search
    pixels = (images - low) / (high - low)
    moved = pixels.clone()
    for i in range(len(images)):
        for t in range(1, steps + 1):
            x = moved[i : i + 1].clone().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(network(low + (high - low) * x), labels[i : i + 1]), x)
            direction = (slope - lambda_ * (x.detach() - pixels[i]))[0].sign()
            near = (moved[i] + 0.1 / math.sqrt(t) * direction).clamp(pixels[i] - 0.15, pixels[i] + 0.15)
            moved[i] = near.clamp(0, 1)
    return low + (high - low) * moved


@pytest.mark.parametrize("lambda_", [0.0, 0.05])
def test_search_is_the_formula(forgotten: Search, lambda_: float) -> None:
    """Four steps, against the formula written for one image at a time.

    Catches the gradient of the batch's mean, lambda in normalised pixels or with the published sign, steps that do not
    shrink with sqrt(t), a limit that is not kept, and pixels that leave their range.
    """
    method = PerturbedSign(steps=4, kappa=0.0, gamma=0.0, lambda_=lambda_, limit=0.15)
    moved = method._search(*forgotten)
    expected = by_hand(forgotten, 4, lambda_)
    torch.testing.assert_close(moved, expected)
    _, (low, high), images, _ = forgotten
    travelled = (moved - images).abs() / (high - low)
    assert float(travelled.max()) == pytest.approx(0.15), "so the limit was reached"
    if lambda_:
        assert not torch.equal(moved.sign(), PerturbedSign(steps=4, gamma=0.0, lambda_=0.0)._search(*forgotten).sign())
        published = PerturbedSign(steps=4, kappa=0.0, gamma=0.0, lambda_=lambda_, limit=0.15, published_sign=True)
        torch.testing.assert_close(published._search(*forgotten), by_hand(forgotten, 4, -lambda_))
        assert float((published._search(*forgotten) - expected).abs().max()) > 0.1


def test_lambda_keeps_the_search_close(forgotten: Search) -> None:
    """The points across the boundary are nearer with lambda than without, and farther with the published sign."""
    _, _, images, _ = forgotten

    def distance(**settings: Any) -> float:
        torch.manual_seed(0)
        method = PerturbedSign(**{"gamma": 0.1, "lambda_": 0.5, **settings})
        return float((method._search(*forgotten) - images).flatten(1).norm(dim=1).mean())

    close, free, far = distance(), distance(lambda_=0.0), distance(published_sign=True)
    assert close < 0.9 * free
    assert far > 1.05 * free


def test_each_image_stops_on_its_own(forgotten: Search) -> None:
    """An image stays where it was when the probability of its class first fell below kappa; the others go on.

    Catches a batch that stops with its first or goes on with its last image, and a step too many.
    """
    network, _, images, labels = forgotten
    settings: dict[str, Any] = {"gamma": 0.0, "lambda_": 0.0, "step_size": 0.04}
    path = [PerturbedSign(steps=t, kappa=0.0, **settings)._search(*forgotten) for t in range(16)]
    with torch.no_grad():
        certain = torch.stack([network(x).softmax(dim=1).gather(1, labels[:, None])[:, 0] for x in path])  # (16, 30)
    stops = (certain < 0.3).int().argmax(dim=0)
    assert len(stops.unique()) > 2
    assert (certain < 0.3).any(dim=0).all()
    expected = torch.stack([path[int(stop)][i] for i, stop in enumerate(stops)])
    torch.testing.assert_close(PerturbedSign(steps=15, kappa=0.3, **settings)._search(*forgotten), expected)
    assert not torch.equal(expected, images)


def test_noise_is_inside_the_sign(forgotten: Search) -> None:
    """Without a gradient worth mentioning, a step is the sign of the noise. Catches noise added to the sign."""
    _, (low, high), images, _ = forgotten
    torch.manual_seed(3)
    moved = PerturbedSign(**{**ONE_STEP, "gamma": 1e9})._search(*forgotten)
    torch.manual_seed(3)
    expected = images + 0.1 * (high - low) * torch.empty_like(images).normal_().sign()
    torch.testing.assert_close(moved, expected.clamp(low, high))


@pytest.mark.parametrize(
    ("kind", "within"),
    [("gaussian", 0.6827), ("cauchy", 0.5), ("laplacian", 1 - math.exp(-1)), ("uniform", 1.0)],
)
def test_kinds_of_noise(kind: str, within: float) -> None:
    """The share within 1 of 0, symmetry, and independence. Catches a scale, an offset and kinds exchanged."""
    torch.manual_seed(0)
    drawn = NOISES[kind](torch.empty(200_000))
    assert float((drawn.abs() <= 1).double().mean()) == pytest.approx(within, abs=0.005)
    assert float((drawn > 0).double().mean()) == pytest.approx(0.5, abs=0.005)
    assert float((drawn[1:].sign() * drawn[:-1].sign()).mean()) == pytest.approx(0, abs=0.01)
    if kind == "uniform":
        assert float((drawn.abs() <= 0.5).double().mean()) == pytest.approx(0.5, abs=0.005)


def test_schedules_of_lambda() -> None:
    """Lambda at steps 1, 10 and 50 of 50, by their formulas."""
    expected = {
        "none": [2, 2, 2],
        "inverse": [2, 0.2, 0.04],
        "exponential": [2 * math.exp(-0.01), 2 * math.exp(-0.1), 2 * math.exp(-0.5)],
        "linear": [2 * 49 / 50, 2 * 40 / 50, 0],
    }
    for schedule, values in expected.items():
        method = PerturbedSign(lambda_=2.0, schedule=schedule)
        assert [method._lambda_at(step) for step in (1, 10, 50)] == pytest.approx(values)


@pytest.mark.parametrize("wrong", [{"noise": "pink"}, {"schedule": "sometimes"}])
def test_unknown_words_are_refused(original: nn.Module, task: Task, wrong: dict[str, str]) -> None:
    """Before anything is done, and with the words that there are."""
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is one of .*, not '{value}'"):
        unlearn(PerturbedSign(**wrong), original, task)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_search_without_steps_is_refused(original: nn.Module, task: Task, steps: int) -> None:
    """With a sentence, whatever the schedule of lambda is. Catches a division by the number of steps."""
    with pytest.raises(ValueError, match=f"steps must be at least 1, not {steps}"):
        unlearn(PerturbedSign(steps=steps), original, task)


# ----------------------------------------------------------------------------------------------------------------------
# The labels
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_class", [False, True])
def test_labels_are_those_across_the_boundary(forgotten: Search, other_class: bool) -> None:
    """The best class at x', with `other_class` but the true one; soft labels are the softmax over the best few.

    Catches logits in place of probabilities, as in both codes, and the classes of x in place of those of x'.
    """
    network, _, _, labels = forgotten
    settings: dict[str, Any] = {"steps": 1, "kappa": 0.0, "gamma": 0.0, "other_class": other_class}
    moved = PerturbedSign(**settings)._search(*forgotten)
    with torch.no_grad():
        logits = network(moved)
    stuck = logits.argmax(dim=1) == labels
    assert 0 < int(stuck.sum()) < len(labels), "one step takes some across, not all"
    if other_class:
        logits[torch.arange(len(labels)), labels] = -torch.inf
    hard = PerturbedSign(**settings)._relabel(*forgotten)
    assert torch.equal(hard, logits.argmax(dim=1))
    assert bool((hard == labels).any()) != other_class

    soft = PerturbedSign(**settings, top_k=2)._relabel(*forgotten)
    first, second = logits.topk(2, dim=1).indices.T
    chances = logits.softmax(dim=1)
    both = chances.gather(1, first[:, None]) + chances.gather(1, second[:, None])
    expected = torch.zeros_like(soft)
    for best in (first, second):
        expected.scatter_(1, best[:, None], chances.gather(1, best[:, None]) / both)
    torch.testing.assert_close(soft, expected)
    every = PerturbedSign(**settings, top_k=99)._relabel(*forgotten)
    torch.testing.assert_close(every, chances)


@pytest.mark.parametrize(("every_epoch", "searches"), [(False, 2), (True, 8)])
def test_how_often_it_searches(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, every_epoch: bool, searches: int
) -> None:
    """Once for each of 2 batches, or 4 times, in 4 epochs."""
    with monkeypatch.context() as patch:
        search = Mock(side_effect=lambda network, limits, images, labels: images)
        patch.setattr(PerturbedSign, "_search", search)
        unlearn(PerturbedSign(epochs=4, batch_size=16, search_every_epoch=every_epoch), original, task)
    assert search.call_count == searches


def test_labels_stay_with_their_images(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels drawn at random can be learned by heart only if each image keeps its own through all epochs.

    Catches labels that are remembered by their place in a batch, of which every epoch has others.
    """
    wanted: dict[bytes, int] = {}
    random = torch.Generator().manual_seed(0)

    def relabel(self: PerturbedSign, network: Any, limits: Any, images: torch.Tensor, labels: Any) -> torch.Tensor:
        drawn = torch.randint(10, (len(images),), generator=random)
        wanted.update(zip((image.numpy().tobytes() for image in images), drawn.tolist(), strict=True))
        return drawn

    monkeypatch.setattr(PerturbedSign, "_relabel", relabel)
    method = PerturbedSign(epochs=60, learning_rate=0.05, batch_size=10, retain_weight=0.0)
    unlearn(method, original, task)
    assert len(wanted) == 30
    losses = method.notes["history"]["forget_loss"]
    assert losses[0] > 1.5
    assert losses[-1] < 0.3


# ----------------------------------------------------------------------------------------------------------------------
# The training
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("top_k", [1, 3])
def test_one_step(original: nn.Module, task: Task, freeze_bn: bool, top_k: int) -> None:
    """Down CE(forget, y') + phi * CE(retain) + weight decay, all of both sets being one batch each.

    Catches phi left out, retained images with labels y' or normalised together with the forgotten ones, and a weight
    decay that is not there.
    """
    settings: dict[str, Any] = {"gamma": 0.0, "freeze_bn": freeze_bn, "top_k": top_k}
    method = PerturbedSign(
        epochs=1, learning_rate=0.01, batch_size=200, retain_weight=30.0, weight_decay=0.5, **settings
    )
    left = unlearn(method, original, task)

    images, labels = part(task, "forget")
    low, high = images.amin().view(1, 1, 1), images.amax().view(1, 1, 1)
    targets = method._relabel(copy.deepcopy(original), (low, high), images, labels)
    kept, kept_labels = part(task, "retain")
    student = copy.deepcopy(original).train(not freeze_bn)
    forget_loss = F.cross_entropy(student(images), targets)
    retain_loss = F.cross_entropy(student(kept), kept_labels)
    weights = list(student.parameters())
    decay = 0.25 * sum((weight.square().sum() for weight in weights), torch.zeros(()))
    expected = [-0.01 * step for step in gradients(student, forget_loss + 30 * retain_loss + decay)]
    assert_close(moves(original, left), expected)
    assert method.notes["history"]["forget_loss"] == pytest.approx([forget_loss.item()], rel=1e-4)
    assert method.notes["history"]["retain_loss"] == pytest.approx([retain_loss.item()], rel=1e-4)


def test_the_rate_follows_a_cosine(original: nn.Module, task: Task) -> None:
    """In the second of two epochs it is half the first. Catches a schedule by step, or none.

    Without momentum and with one batch an epoch: two epochs equal one at the full rate and one at half.
    """
    shared: dict[str, Any] = {"gamma": 0.0, "momentum": 0.0, "weight_decay": 0.0, "retain_weight": 0.0}
    both = unlearn(PerturbedSign(epochs=2, learning_rate=0.02, freeze_bn=True, **shared), original, task)
    constant = unlearn(
        PerturbedSign(epochs=2, learning_rate=0.02, freeze_bn=True, cosine=False, **shared), original, task
    )
    first = unlearn(PerturbedSign(epochs=1, learning_rate=0.02, freeze_bn=True, **shared), original, task)
    second = zip(moves(first, both), moves(first, constant), strict=True)
    ratios = [float(slowed.norm() / full.norm()) for slowed, full in second]
    assert ratios == pytest.approx([0.5] * len(ratios), abs=1e-3)


def test_history_can_be_written(original: nn.Module, task: Task) -> None:
    """Both losses of each epoch, as JSON; where there is no retain term, zeros. Catches tensors among them."""
    method = PerturbedSign(epochs=3, batch_size=16, learning_rate=0.01, retain_weight=0.0)
    unlearn(method, original, task)
    history = json.loads(json.dumps(method.notes))["history"]
    assert history["retain_loss"] == [0, 0, 0]
    assert history["forget_loss"][0] > history["forget_loss"][2] > 0


def others_loss(networks: list[nn.Module], task: Task) -> float:
    """The mean over networks of the cross-entropy of what is no four in the validation set."""
    images, labels = part(task, "validation")
    with torch.no_grad():
        losses = [F.cross_entropy(network(images[labels != 4]), labels[labels != 4]) for network in networks]
    return float(torch.stack(losses).mean())


@pytest.mark.slow
def test_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are forgotten and the rest is kept, of the validation set too; without the retain term, less of it is.

    Catches phi = 0.
    """
    settings: dict[str, Any] = {"learning_rate": 0.005, "batch_size": 8}
    left = unlearn_each(lambda: PerturbedSign(**settings), originals, one_class)
    assert mean_accuracy(left, one_class, "forget") < 0.35
    assert mean_accuracy(left, one_class, "retain") > 0.9
    assert others_loss(left, one_class) < others_loss(originals, one_class) + 0.5
    unregularised = unlearn_each(lambda: PerturbedSign(**settings, retain_weight=0.0), originals, one_class)
    assert mean_loss(unregularised, one_class, "retain") > 2 * mean_loss(left, one_class, "retain")
    assert others_loss(unregularised, one_class) > others_loss(left, one_class)


# ----------------------------------------------------------------------------------------------------------------------
# Composition
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compose_epochs", [0, 3])
def test_composition(one_class: Task, compose_epochs: int) -> None:
    """The last layer is that of a run with phi = 0, the rest that of a run with phi; both are then fine-tuned.

    Catches layers exchanged, a second run that goes on from the first, and fine-tuning that never comes. All of a set
    is one batch, so that runs differ in no order, and the network is untrained, so that the retain set moves it.
    """
    torch.manual_seed(0)
    untrained = NETWORKS["small_cnn"](1, 8, 10).eval()
    shared: dict[str, Any] = {"gamma": 0.0, "batch_size": 200, "epochs": 3, "learning_rate": 0.05}
    good_remain = unlearn(PerturbedSign(**shared), untrained, one_class)
    good_forget = unlearn(PerturbedSign(**shared, retain_weight=0.0), untrained, one_class)
    method = PerturbedSign(**shared, compose=True, compose_epochs=compose_epochs, compose_learning_rate=0.01)
    composed = unlearn(method, untrained, one_class)
    expected = copy.deepcopy(good_remain)
    _last_layer(expected).load_state_dict(_last_layer(good_forget).state_dict())
    if compose_epochs:
        assert loss(composed, one_class, "retain") < 0.99 * loss(expected, one_class, "retain")
        return
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(composed.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    gaps = [float(gap.abs().max()) for gap in moves(good_remain, good_forget)]
    assert min(gaps[0], gaps[-1]) > 0.003
