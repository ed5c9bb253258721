"""AMS: a saliency that goes on from request to request, the mask that follows, the end, and requests that return."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import Task, TaskSpec, load
from data.loaders import run_loaders
from methods.Ams import Ams, _chance_above, _saliency
from methods.BaseMethod import BaseMethod
from methods.Salun import Salun
from tests.command_line import command
from tests.methods.trained_digits import (
    accuracy,
    gradients,
    loss,
    mean_accuracy,
    mean_loss,
    part,
    same,
    unlearn,
    unlearn_each,
)

REQUESTS = TaskSpec("digits", train_size=200, forget=("random:15", "class:3:6", "random:0.1"))
NEVER: dict[str, Any] = {"accuracy_gap": 1e-9, "attack_gap": 1e-9, "largest_drop": 1.0}
"""Limits that no epoch meets, and none breaks."""
PLAIN: dict[str, Any] = {"stop": False, "recalibrate": False}
"""What SalUn does not have, switched off."""


@pytest.fixture(scope="module")
def steps() -> list[Task]:
    """Three requests, one after another."""
    return [load(replace(REQUESTS, step=step)) for step in range(3)]


def in_sequence(make: Any, original: nn.Module, steps: list[Task]) -> tuple[list[nn.Module], list[BaseMethod]]:
    """The network after each request, as the grader would have it, and the methods, one for each request."""
    networks, methods = [original], list[BaseMethod]()
    memory: dict[str, torch.Tensor] = {}
    for number, step in enumerate(steps):
        method = make()
        if memory:
            method.memory = {name: value.clone() for name, value in memory.items()}
        networks.append(unlearn(method, networks[-1], step, seed=number))
        methods.append(method)
        memory = getattr(method, "memory", {})
    return networks[1:], methods


def own_saliency(network: nn.Module, task: Task) -> torch.Tensor:
    """|Gradient of the forget set's loss|, as shares of 1, `(weights,)`, all at once."""
    images, labels = part(task, "forget")
    flat = torch.cat([each.flatten() for each in gradients(network, F.cross_entropy(network(images), labels))]).abs()
    return flat.double() / flat.double().sum()


def changed(before: nn.Module, after: nn.Module) -> torch.Tensor:
    """True for weights that differ, `(weights,)`."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return torch.cat([(one != other).flatten() for one, other in pairs])


# ----------------------------------------------------------------------------------------------------------------------
# Identities
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_a_single_request_is_salun(original: nn.Module, task: Task, beta: float, recalibrate: bool) -> None:
    """The same bits, whatever beta is. Catches S that starts from 0, random draws of looks, a share or rate of its own.

    So does a check of earlier requests, where there are none.
    """
    settings = {"epochs": 3, "batch_size": 16}
    left = unlearn(Ams(beta=beta, share=0.4, stop=False, recalibrate=recalibrate, **settings), original, task)
    assert same(left, unlearn(Salun(threshold=0.4, **settings), original, task))
    assert not same(left, unlearn(Salun(threshold=0.5, **settings), original, task))


def test_many_requests_at_beta_0_are_salun_again_and_again(original: nn.Module, steps: list[Task]) -> None:
    """Three requests: the same bits after each. Catches masks that stay frozen, and saliency that is not weighed."""
    ours, _ = in_sequence(lambda: Ams(beta=0.0, epochs=2, share=0.5, batch_size=32, **PLAIN), original, steps)
    theirs, _ = in_sequence(lambda: Salun(epochs=2, threshold=0.5, batch_size=32), original, steps)
    for one, other in zip(ours, theirs, strict=True):
        assert same(one, other)
    remembering, _ = in_sequence(lambda: Ams(beta=0.5, epochs=2, share=0.5, batch_size=32, **PLAIN), original, steps)
    assert same(remembering[0], theirs[0])
    assert not same(remembering[1], theirs[1])


# ----------------------------------------------------------------------------------------------------------------------
# Saliency and masks
# ----------------------------------------------------------------------------------------------------------------------


def test_saliency_is_a_share(original: nn.Module, task: Task) -> None:
    """|Sum of the gradients of batches| over its sum. Catches a request that counts more because its loss is larger."""
    found = _saliency(copy.deepcopy(original).train(), run_loaders(task, 1, batch_size=10)[1])
    expected = own_saliency(original, task)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4 * float(expected.max()))
    assert float(found.sum()) == pytest.approx(1)


def test_saliency_is_remembered(original: nn.Module, steps: list[Task]) -> None:
    """S = s_1, then beta S + (1 - beta) s_i, of the network as request i found it.

    Catches beta on the new request, a plain sum, and gradients of the original.
    """
    networks, methods = in_sequence(lambda: Ams(beta=0.8, epochs=1, **PLAIN), original, steps)
    expected = own_saliency(original, steps[0])
    for number, (method, step) in enumerate(zip(methods, steps, strict=True)):
        if number > 0:
            expected = 0.8 * expected + 0.2 * own_saliency(networks[number - 1], step)
        found = method.memory["saliency"].double()
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("union", [False, True])
def test_mask(union: bool) -> None:
    """The share with the largest S; by option the half of it with the largest s_i, too.

    Catches a mask of s_i alone, of the smallest, and a union with as much again.
    """
    before, own = torch.arange(20.0), torch.arange(20.0).flip(0).double()
    method = Ams(beta=0.75, share=0.2, union=union)
    method.memory = {"saliency": before, "touched": torch.arange(20) == 10}
    mask = method._mask(own)
    assert mask.nonzero().flatten().tolist() == ([0, 1] if union else []) + [16, 17, 18, 19]
    torch.testing.assert_close(method.memory["saliency"].double(), 0.75 * before.double() + 0.25 * own)
    assert method.memory["touched"].nonzero().flatten().tolist() == sorted([10, *mask.nonzero().flatten().tolist()])


def test_only_the_mask_moves_and_only_for_a_request(original: nn.Module, steps: list[Task]) -> None:
    """Other weights keep their bits, momentum or not (known bug B10); the next request moves some of them.

    Catches masks from one request held in the next, and a share that grows.
    """
    networks, methods = in_sequence(lambda: Ams(share=0.2, weight_decay=0.01, beta=0.1), original, steps[:2])
    first, second = (changed(one, other) for one, other in zip([original, *networks], networks, strict=False))
    for moved, method in zip((first, second), methods, strict=True):
        assert 0.15 < float(moved.float().mean()) <= method.notes["share"] == pytest.approx(0.2, abs=1e-3)
    assert bool((second & ~first).any())
    assert methods[1].notes["touched"] == pytest.approx(float((first | second).float().mean()), abs=0.02)
    assert not bool((first & ~methods[0].memory["touched"]).any())


# ----------------------------------------------------------------------------------------------------------------------
# Losses, looks, the end
# ----------------------------------------------------------------------------------------------------------------------


def test_uniform_loss_makes_answers_uniform(original: nn.Module, task: Task) -> None:
    """KL(uniform || answer) of the forget set falls by far. Catches its sign, and its use on the retain set."""

    @torch.no_grad()
    def divergence(network: nn.Module, which: str) -> float:
        logits = network(part(task, which)[0])
        return float(-logits.log_softmax(dim=1).mean() - math.log(logits.shape[1]))

    left = unlearn(Ams(loss="uniform", share=1.0, epochs=4, batch_size=32, stop=False), original, task)
    assert divergence(left, "forget") < 0.5 * divergence(original, "forget")
    assert divergence(left, "forget") < divergence(left, "retain")
    assert accuracy(left, task, "retain") > 0.8


def test_chance_above() -> None:
    """The share of pairs, ties counting half. Catches a bound on the wrong side."""
    values, others = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert _chance_above(values, others) == pytest.approx((1 + 0 + 0.5 + 3) / 6)


def test_looks_and_their_distance(original: nn.Module, task: Task) -> None:
    """Accuracies and losses of the network that is left; distance the larger of two. Catches looks before the epoch."""
    method = Ams(epochs=1, recalibrate=True, **NEVER)
    left = unlearn(method, original, task)
    seen = {name: values[0] for name, values in method.notes["history"].items()}
    assert seen["accuracy"] == pytest.approx(accuracy(left, task, "forget"))
    assert seen["loss"] == pytest.approx(loss(left, task, "forget"), rel=1e-4)
    assert seen["validation_accuracy"] == pytest.approx(accuracy(left, task, "validation"))
    assert seen["validation_loss"] == pytest.approx(loss(left, task, "validation"), rel=1e-4)
    gap = abs(seen["accuracy"] - seen["validation_accuracy"]) / 1e-9
    assert seen["distance"] == pytest.approx(max(gap, abs(seen["attack"] - 0.5) / 1e-9))
    assert method.notes["requests"] == [seen]


def test_a_class_that_goes(original: nn.Module, one_class: Task) -> None:
    """Validation fours don't count (known bug B14), and enough is CE_f >= ln 10, or A_f near 0.

    Catches a network that has forgotten fours taken for one that has lost a tenth of its accuracy.
    """
    retained = one_class.train.labels[torch.as_tensor(one_class.retain_indices)].unique()
    _, forget, validation = run_loaders(one_class, 1)
    network = copy.deepcopy(original)
    knows = Ams()._look(network, validation, retained, forget)
    assert knows["distance"] == pytest.approx(math.log(10) / loss(original, one_class, "forget"), rel=1e-3)
    with torch.no_grad():
        network.get_parameter("11.bias")[4] = -100
    forgot = Ams()._look(network, validation, retained, forget)
    assert (forgot["accuracy"], forgot["distance"]) == (0, 0)
    assert forgot["validation_accuracy"] >= knows["validation_accuracy"]
    images, labels = part(one_class, "validation")
    with torch.no_grad():
        hits = (network(images).argmax(dim=1) == labels).double()
    assert forgot["validation_accuracy"] == pytest.approx(float(hits[labels != 4].mean()))


def test_it_ends_when_it_is_enough(original: nn.Module, task: Task) -> None:
    """After the first epoch that is near enough. Catches epochs that go on, and an end before the first."""
    method = Ams(accuracy_gap=1.0, attack_gap=1.0)
    unlearn(method, original, task)
    assert (method.notes["stopped"], method.notes["kept_epoch"], len(method.notes["history"]["loss"])) == (
        "enough",
        1,
        1,
    )
    method = Ams(**NEVER)
    unlearn(method, original, task)
    assert (method.notes["stopped"], len(method.notes["history"]["loss"])) == ("epochs", 3)


def test_what_breaks_the_network_is_taken_back(original: nn.Module, task: Task) -> None:
    """When too much validation accuracy is lost, the last good epoch stays: the bits that it had.

    Catches the last epoch left as it is, and a limit that counts from the epoch before.
    """
    settings = {"learning_rate": 0.002, "momentum": 0.5, "batch_size": 256}
    method = Ams(epochs=40, accuracy_gap=1e-9, **settings)
    left = unlearn(method, original, task)
    history, kept = method.notes["history"]["validation_accuracy"], method.notes["kept_epoch"]
    assert method.notes["stopped"] == "validation accuracy"
    lowest = accuracy(original, task, "validation") - 0.03
    assert history[-1] < lowest <= min(history[:-1])
    assert 1 < len(history) < 40
    assert kept == 1 + int(np.argmin(method.notes["history"]["distance"][:-1]))
    assert same(left, unlearn(Ams(epochs=kept, stop=False, **settings), original, task))


@pytest.mark.slow
def test_effect(originals: list[nn.Module], task: Task) -> None:
    """Forget loss up by far, retain accuracy held. Catches a retain pass that undoes it, or is left out."""
    left = unlearn_each(lambda: Ams(learning_rate=0.002, stop=False), originals, task)
    assert mean_loss(left, task, "forget") > 5 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.85
    assert mean_accuracy(left, task, "validation") > mean_accuracy(originals, task, "validation") - 0.2


@pytest.mark.slow
def test_effect_on_a_class(originals: list[nn.Module], one_class: Task) -> None:
    """In steps that are small and many enough, most fours go and the rest is kept."""
    left = unlearn_each(lambda: Ams(epochs=8, batch_size=16, share=1.0, stop=False), originals, one_class)
    assert mean_accuracy(left, one_class, "forget") < 0.4
    assert mean_accuracy(left, one_class, "retain") > 0.9


# ----------------------------------------------------------------------------------------------------------------------
# Requests that return
# ----------------------------------------------------------------------------------------------------------------------


def test_what_is_kept_of_a_request(original: nn.Module, steps: list[Task]) -> None:
    """Its images and labels, and A - A_val as it was then; by default none of them, as they are what was to be deleted.

    Catches images of the retain set, and gaps that are overwritten by later ones.
    """
    networks, methods = in_sequence(lambda: Ams(epochs=1, recalibrate=True), original, steps[:2])
    memory = methods[1].memory
    for number, step in enumerate(steps[:2]):
        images, labels = part(step, "forget")
        assert torch.equal(memory[f"images {number}"], images)
        assert torch.equal(memory[f"labels {number}"], labels)
    first = accuracy(networks[0], steps[0], "forget") - accuracy(networks[0], steps[0], "validation")
    assert float(memory["gaps"][0]) == pytest.approx(first, abs=1e-6)
    assert len(memory["gaps"]) == 2
    _, methods = in_sequence(lambda: Ams(epochs=1), original, steps[:2])
    assert methods[1].memory.keys() == {"saliency", "touched"}


def with_past(original: nn.Module, first: Task, gap: float, **settings: Any) -> Ams:
    """A method that has fulfilled the first request, with A - A_val as given."""
    method = Ams(**{"recalibrate": True, **settings})
    images, labels = part(first, "forget")
    saliency = own_saliency(original, first).float()
    method.memory = {"saliency": saliency, "touched": saliency < 0, "images 0": images, "labels 0": labels}
    method.memory["gaps"] = torch.tensor([gap])
    return method


@pytest.mark.parametrize("returns", [False, True])
def test_a_request_that_returns_is_forgotten_again(
    original: nn.Module, steps: list[Task], monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    """One more epoch, over its images and the retain set, if A_j - A_val has grown; not if it has shrunk.

    Catches |growth|, an extra pass for all requests or none, one over the present request's images, and one that
    leaves the retain set out.
    """
    trained: list[bytes] = []
    forward = nn.Sequential.forward

    def note(net: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
        if net.training:
            trained.extend(image.numpy().tobytes() for image in images)
        return forward(net, images)

    monkeypatch.setattr(nn.Sequential, "forward", note)
    method = with_past(original, steps[0], -0.9 if returns else 0.9, epochs=1, stop=False)
    unlearn(method, original, steps[1])
    first, second, retained = (
        [image.numpy().tobytes() for image in part(step, which)[0]]
        for step, which in ((steps[0], "forget"), (steps[1], "forget"), (steps[1], "retain"))
    )
    assert sorted(trained) == sorted(second + retained + (first + retained if returns else []))
    assert method.notes["returned"] == ([0] if returns else [])
    assert float(method.memory["gaps"][0]) == pytest.approx(-0.9 if returns else 0.9)


def test_forgetting_again_forgets(originals: list[nn.Module], steps: list[Task]) -> None:
    """A request that was never forgotten is, under the present mask; nothing else moves, the retain set is kept.

    Catches a pass with true labels, and one that the mask does not hold.
    """
    left = []
    for original in originals:
        method = with_past(original, steps[0], -0.9, epochs=0, share=0.3, batch_size=32)
        left.append(unlearn(method, original, steps[1]))
        seen = method.notes["requests"][0]
        assert seen["accuracy"] == pytest.approx(accuracy(left[-1], steps[0], "forget"))
        assert seen["loss"] == pytest.approx(loss(left[-1], steps[0], "forget"), rel=1e-4)
        assert not bool((changed(original, left[-1]) & ~method.memory["touched"]).any())
    assert mean_loss(left, steps[0], "forget") > 3 * mean_loss(originals, steps[0], "forget")
    assert mean_accuracy(left, steps[1], "retain") > 0.6


def test_growth_is_measured_against_what_is_put_up_with(original: nn.Module, steps: list[Task]) -> None:
    """Growth by less than `accuracy_gap` is no return. Catches a limit of 0."""
    now = accuracy(original, steps[0], "forget") - accuracy(original, steps[0], "validation")
    for gap, returned in ((now - 0.3, [0]), (now - 0.1, [])):
        method = with_past(original, steps[0], gap, epochs=0, accuracy_gap=0.2)
        unlearn(method, original, steps[1])
        assert method.notes["returned"] == returned


# ----------------------------------------------------------------------------------------------------------------------
# Graded
# ----------------------------------------------------------------------------------------------------------------------


def graded(method: str, requests: int, results: Path, **settings: Any) -> dict[str, Any]:
    """What the command line says of a method on the first of the requests, one after another."""
    flags = ["--train-size", "160", "--test-size", "100", "--recipe", "epochs=25", "--originals", "1", "--models", "6"]
    asked = [flag for request in REQUESTS.forget[:requests] for flag in ("--forget", request)]
    chosen = [flag for name, value in settings.items() for flag in ("--set", f"{name}={value}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_RESULTS", str(results))
        arguments = ["-m", method, *asked, *flags, *chosen, "--budget-seconds", "60", "--workers", "1", "--json"]
        answer = command(*arguments)
    assert answer.code == 0, answer.stderr
    return dict(json.loads(answer.stdout))


def growth(answer: dict[str, Any], request: int) -> float:
    """By how much A_j - A_val has grown from the step of request j to the last."""
    then, now = (
        report["unlearned"]["forget_by_request"][request] - report["unlearned"]["validation"]
        for report in (answer["steps"][request], answer["steps"][-1])
    )
    return float(now - then)


@pytest.mark.parametrize("requests", [2, 3])
@pytest.mark.slow
def test_in_a_sequence_nothing_returns(requests: int, tmp_path: Path) -> None:
    """Graded: each request's accuracy is what the method noted of it, so its memory is whole; and none comes back.

    SalUn on the same requests gives the same after the first, and other weights then. Catches memory that is lost
    between requests, or mixed up between runs, and a check of other images than those that were forgotten.
    """
    settings = {"epochs": 2, "learning_rate": 0.004}
    ours = graded("ams", requests, tmp_path, stop=False, recalibrate=True, **settings)
    theirs = graded("salun", requests, tmp_path, threshold=0.3, batch_size=64, **settings)
    for step, report in enumerate(ours["steps"]):
        paths = tmp_path.glob(f"*-{report['grading']['task_fingerprint']}/ams-*/runs/original-000-run-*.json")
        notes = [json.loads(path.read_text()) for path in paths]
        noted = np.mean([[seen["accuracy"] for seen in note["requests"]] for note in notes], axis=0)
        assert len(notes) == 6
        np.testing.assert_allclose(noted, report["unlearned"]["forget_by_request"], atol=1e-6)
        assert len(noted) == step + 1
    assert ours["steps"][0]["scores"]["epsilons"] == theirs["steps"][0]["scores"]["epsilons"]
    assert ours["steps"][1]["drift"] != theirs["steps"][1]["drift"]
    for request in range(requests - 1):
        assert growth(ours, request) < 0.05
        assert growth(theirs, request) < 0.05  # SalUn's don't come back either, on so little data


def test_an_unknown_loss_is_named(original: nn.Module, steps: list[Task]) -> None:
    """With those there are."""
    with pytest.raises(ValueError, match="loss is random or uniform, not 'kl'"):
        unlearn(Ams(loss="kl"), original, steps[0])
