"""Progressive saliency: its rounds, masks and losses, what it looks at, when it ends, and what then stays."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import Task
from data.loaders import run_loaders
from methods.ProgressiveSaliency import ProgressiveSaliency, _chance_above, _largest, _saliency
from methods.Salun import Salun
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

NEVER: dict[str, Any] = {"accuracy_gap": 1e-9, "attack_gap": 1e-9, "largest_drop": 1.0}
"""Limits that no round meets, and none breaks."""

SLOW: dict[str, Any] = {
    "first_share": 0.1,
    "last_share": 0.1,
    "forget_rate": 0.005,
    "momentum": 0.0,
    "rehearsal": 0,
    "loss": "uniform",
}
"""Settings with which each round forgets a little more, at the cost of some validation accuracy."""


def run(original: nn.Module, task: Task, **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network after a run, and what the run has noted."""
    method = ProgressiveSaliency(**settings)
    network = unlearn(method, original, task)
    return network, method.notes


def changed(before: nn.Module, after: nn.Module) -> torch.Tensor:
    """True for weights that differ, `(weights,)`."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return torch.cat([(one != other).flatten() for one, other in pairs])


# ----------------------------------------------------------------------------------------------------------------------
# Rounds
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
def test_is_salun_at_a_fixed_mask(original: nn.Module, task: Task, rounds: int) -> None:
    """The same share in all rounds, chosen once, equal rates, random labels, all retain batches: the bits of SalUn.

    Catches a look that draws random numbers, momentum that is lost between rounds, a mask held at other weights than
    those before the step, retain batches that do not go on from round to round, and labels drawn in another way.
    """
    batches = math.ceil(170 / 15) // 2  # 12 retain batches, 2 forget batches
    settings = {"first_share": 0.5, "loss": "random", "retain_rate": 0.013, "rehearsal": batches, "stop": False}
    left, _ = run(original, task, rounds=rounds, once=True, batch_size=15, **settings)
    assert same(left, unlearn(Salun(epochs=rounds, batch_size=15), original, task))
    assert not same(left, run(original, task, rounds=3, batch_size=15, **settings)[0])


def test_a_single_round_is_one_of_salun(original: nn.Module, task: Task) -> None:
    """With one round the share is `last_share`, whatever the first is. Catches a schedule that starts at the first."""
    left, notes = run(
        original, task, rounds=1, loss="random", retain_rate=0.013, rehearsal=6, batch_size=30, stop=False
    )
    assert same(left, unlearn(Salun(epochs=1, batch_size=30), original, task))
    assert notes["history"]["share"] == [0.5]


def test_shares_rise_linearly(original: nn.Module, task: Task) -> None:
    """From the first to the last share, both included. Catches a schedule that never gets there, or starts above."""
    _, notes = run(original, task, rounds=5, first_share=0.2, last_share=1.0, **NEVER)
    np.testing.assert_allclose(notes["history"]["share"], [0.2, 0.4, 0.6, 0.8, 1.0])
    touched = notes["history"]["touched"]
    assert touched == sorted(touched)
    assert touched[0] == pytest.approx(0.2, abs=1e-3)
    assert touched[-1] == 1


@pytest.mark.parametrize(("once", "measured"), [(False, 4), (True, 1)])
def test_saliency_is_measured_in_every_round(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, once: bool, measured: int
) -> None:
    """Or once, by option. Catches masks that are not renewed, and a round that measures twice."""
    calls: list[torch.Tensor] = []

    def count(net: nn.Module, loader: Any) -> torch.Tensor:
        calls.append(_saliency(net, loader))
        return calls[-1]

    monkeypatch.setattr(import_module(ProgressiveSaliency.__module__), "_saliency", count)
    run(original, task, rounds=4, once=once, stop=False)
    assert len(calls) == measured
    assert all(not torch.equal(calls[0], other) for other in calls[1:])


@pytest.mark.parametrize("rehearsal", [0, 3])
def test_steps_of_a_round(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, rehearsal: int) -> None:
    """A pass over the forget set at its rate, then `rehearsal` steps for each of its steps at the other rate.

    Catches rates exchanged, an epoch over the retain set, and rehearsal that ignores its number.
    """
    rates: list[float] = []
    step = torch.optim.SGD.step

    def note(optimizer: torch.optim.SGD) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    run(original, task, rounds=2, rehearsal=rehearsal, batch_size=15, forget_rate=0.02, retain_rate=0.03, stop=False)
    assert rates == 2 * (2 * [0.02] + 2 * rehearsal * [0.03])


def test_rehearsal_goes_on_where_it_was(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of 85 images see all 170 once. Catches a new shuffle, which repeats some, in every round."""
    seen: list[bytes] = []
    forward = nn.Sequential.forward

    def note(net: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
        if net.training:
            seen.extend(image.numpy().tobytes() for image in images)
        return forward(net, images)

    monkeypatch.setattr(nn.Sequential, "forward", note)
    run(original, task, rounds=2, rehearsal=1, batch_size=85, stop=False)
    retained = [image.numpy().tobytes() for image in part(task, "retain")[0]]
    assert sorted(set(seen) & set(retained)) == sorted(set(retained))
    assert len(seen) == 170 + 2 * 30


# ----------------------------------------------------------------------------------------------------------------------
# Masks
# ----------------------------------------------------------------------------------------------------------------------


def test_saliency(original: nn.Module, task: Task) -> None:
    """|Sum of the gradients of batches|, and True for its largest, over all parameters together.

    Catches a sum of magnitudes, squares, train mode, a mask of the smallest, and one for each layer.
    """
    network = copy.deepcopy(original).train()
    _, loader, _ = run_loaders(task, 1, batch_size=30)
    saliency = _saliency(network, loader)
    images, labels = part(task, "forget")
    expected = torch.cat([g.flatten() for g in gradients(original, F.cross_entropy(original(images), labels))]).abs()
    torch.testing.assert_close(saliency, expected, rtol=1e-2, atol=1e-4 * float(expected.max()))
    mask = _largest(saliency, 0.3)
    assert int(mask.sum()) == int(0.3 * len(mask))
    assert float(saliency[mask].min()) >= float(saliency[~mask].max())
    halves = _saliency(network, run_loaders(task, 1, batch_size=15)[1])
    torch.testing.assert_close(halves, 2 * expected, rtol=1e-2, atol=1e-4 * float(expected.max()))


def test_only_salient_weights_move(original: nn.Module, task: Task) -> None:
    """In each round only its mask; momentum and weight decay do not carry others on (known bug B10).

    Catches gradients that are masked where weights are not, and masks that are held from the first round on.
    """
    settings = {"rounds": 3, "first_share": 0.1, "last_share": 0.2, "weight_decay": 0.01, "stop": False}
    left, notes = run(original, task, **settings)
    moved = changed(original, left)
    touched = notes["history"]["touched"]
    assert touched[0] == pytest.approx(0.1, abs=1e-3)
    assert touched[0] < touched[1] < touched[2] < 0.1 + 0.15 + 0.2
    assert float(moved.float().mean()) == pytest.approx(touched[2], abs=0.01)
    first = changed(original, run(original, task, **settings | {"rounds": 1, "last_share": 0.1})[0])
    mask = _largest(_saliency(copy.deepcopy(original), run_loaders(task, 1)[1]), 0.1)
    assert not bool((first & ~mask).any())
    assert not bool((first & ~moved).any())


def test_rehearsal_may_have_weights_of_its_own(original: nn.Module, task: Task) -> None:
    """The forget mask, and the share that is most salient for the retain set. Catches one instead of both."""
    settings = {"rounds": 1, "last_share": 0.2, "stop": False}
    left, notes = run(original, task, rehearse_own=True, **settings)
    moved = changed(original, left)
    forgotten = _largest(_saliency(copy.deepcopy(original), run_loaders(task, 1)[1]), 0.2)
    assert bool((moved & ~forgotten).any())
    assert float((moved & forgotten).sum() / forgotten.sum()) > 0.95
    assert 0.2 < notes["history"]["touched"][0] < 0.4
    only = run(original, task, rehearse_own=True, rehearsal=0, **settings)[0]
    assert not bool((changed(original, only) & ~forgotten).any())


# ----------------------------------------------------------------------------------------------------------------------
# Losses and looks
# ----------------------------------------------------------------------------------------------------------------------


def test_uniform_loss() -> None:
    """KL(uniform || answer), class by class: 0 for an answer that says nothing. Catches KL the other way round."""
    logits = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(7, dtype=torch.int64)
    method = ProgressiveSaliency(loss="uniform")
    found = method._forget_loss(logits, labels, level=9.0)
    by_hand = [0.2 * math.log(0.2 / p) for row in logits.softmax(dim=1).tolist() for p in row]
    assert float(found) == pytest.approx(sum(by_hand) / 7)
    assert float(method._forget_loss(torch.ones(3, 4), labels[:3], 9.0)) == pytest.approx(0, abs=1e-6)


def test_random_labels() -> None:
    """Uniform over all classes, the true one too, and drawn anew. Catches fixed labels and a class left out."""
    logits = torch.eye(4).repeat(500, 1) * 3  # (2000, classes)
    labels = torch.arange(4).repeat(500)
    torch.manual_seed(0)
    first, second = (float(ProgressiveSaliency(loss="random")._forget_loss(logits, labels, 9.0)) for _ in range(2))
    expected = float(-logits.log_softmax(dim=1).mean())
    assert first != second
    assert first == pytest.approx(expected, abs=0.1)


def test_match_goes_to_the_level() -> None:
    """Down above the level and up below it, at rest on it. Catches plain ascent, and a level that is not used."""
    slopes = []
    for level in (0.0, math.log(2), 2.0):
        logits = torch.zeros(1, 2, requires_grad=True)
        value = ProgressiveSaliency(loss="match")._forget_loss(logits, torch.tensor([0]), level)
        assert float(value.detach()) == pytest.approx((math.log(2) - level) ** 2, abs=1e-6)
        (slope,) = torch.autograd.grad(value, logits)
        slopes.append(float(slope[0, 0]))
    assert slopes[0] < 0 < slopes[2]
    assert slopes[1] == pytest.approx(0, abs=1e-6)


def test_match_takes_the_validation_loss(originals: list[nn.Module], task: Task) -> None:
    """Without rehearsal, the forget loss goes to the validation loss. Catches the forget loss as the level.

    Where it then goes depends on the network: some are carried beyond it, and ruined.
    """
    settings = {"rounds": 16, "loss": "match", "forget_rate": 0.1, "momentum": 0.0, "rehearsal": 0, "last_share": 1.0}
    nearest = []
    for original in originals:
        _, notes = run(original, task, first_share=1.0, stop=False, **settings)
        history = notes["history"]
        pairs = zip(history["forget_loss"], history["validation_loss"], strict=True)
        start = loss(original, task, "validation") - loss(original, task, "forget")
        nearest.append(min(abs(one - other) for one, other in pairs if math.isfinite(one)) / start)
    assert sum(nearest) / len(nearest) < 0.9


def test_chance_above() -> None:
    """The share of pairs, ties counting half, against all pairs. Catches a bound on the wrong side, and lost ties."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 1), (7, 30), (30, 7)):
        values, others = (torch.randint(0, 6, (n,), generator=generator).float() for n in (rows, columns))
        pairs = [(1.0 if a > b else 0.5 if a == b else 0.0) for a in values.tolist() for b in others.tolist()]
        assert _chance_above(values, others) == pytest.approx(sum(pairs) / len(pairs))
    assert _chance_above(torch.zeros(5), torch.zeros(3)) == 0.5
    assert _chance_above(torch.ones(5), torch.zeros(3)) == 1


def test_a_look(originals: list[nn.Module], task: Task) -> None:
    """Both accuracies, losses and the attack; the distance is the larger of two in units of what is put up with.

    Catches the smaller of both, signed differences, and an attack the wrong way round.
    """
    attacks = []
    for original in originals:
        left, notes = run(original, task, rounds=2, forget_rate=0.005, stop=False)
        history = notes["history"]
        for name, which in (("forget", "forget"), ("validation", "validation")):
            assert history[f"{name}_accuracy"][-1] == pytest.approx(accuracy(left, task, which))
            assert history[f"{name}_loss"][-1] == pytest.approx(loss(left, task, which), rel=1e-4)
        with torch.no_grad():
            losses = [
                F.cross_entropy(left(images), labels, reduction="none").numpy()
                for images, labels in (part(task, "forget"), part(task, "validation"))
            ]
        pairs = losses[1][:, None] - losses[0]
        attacks.append(float((pairs > 0).mean() + (pairs == 0).mean() / 2))
        assert history["attack"][-1] == pytest.approx(attacks[-1], abs=1e-3)
        gap = history["forget_accuracy"][-1] - history["validation_accuracy"][-1]
        assert history["distance"][-1] == pytest.approx(max(abs(gap) / 0.02, abs(history["attack"][-1] - 0.5) / 0.03))
    assert max(abs(attack - 0.5) for attack in attacks) > 0.005, "the direction would not matter"


def test_a_look_where_a_class_goes(original: nn.Module, one_class: Task) -> None:
    """The validation set counts without fours (known bug B14); the distance is ln 10 / CE_f, or 0 once A_f is low.

    Catches a network that has forgotten fours taken for one that has lost a tenth of its accuracy.
    """
    loaders = run_loaders(one_class, 1)
    retained = one_class.train.labels[torch.as_tensor(one_class.retain_indices)].unique()
    assert 4 not in retained.tolist()
    network = copy.deepcopy(original)
    look = ProgressiveSaliency(accuracy_gap=0.1)._look
    knows = look(network, loaders[1], loaders[2], retained)
    assert knows["distance"] == pytest.approx(math.log(10) / loss(network, one_class, "forget"), rel=1e-3)
    with torch.no_grad():
        network.get_parameter("11.bias")[4] = -100
    forgot = look(network, loaders[1], loaders[2], retained)
    assert forgot["forget_accuracy"] == 0
    assert forgot["distance"] == 0
    assert forgot["validation_accuracy"] >= knows["validation_accuracy"]
    images, labels = part(one_class, "validation")
    others = labels != 4
    with torch.no_grad():
        expected = float((network(images[others]).argmax(dim=1) == labels[others]).double().mean())
    assert forgot["validation_accuracy"] == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------------------------
# The end
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "drop", "limit", "why"),
    [
        (1.0, 0.5, 0.0, "enough"),
        (1.01, 0.031, 0.0, "validation accuracy"),
        (1.01, 0.03, 0.0, ""),
        (1.01, -0.5, 0.0, ""),
        (2.0, 0.0, 6.9, "seconds"),  # 1 and 4 have passed, and the third is expected to take 2.5
        (2.0, 0.0, 7.4, "seconds"),
        (2.0, 0.0, 7.6, ""),
    ],
)
def test_stop_rules(distance: float, drop: float, limit: float, why: str) -> None:
    """Each by itself, at its edge. Catches <, >= or the wrong sign, and time that counts the last round alone."""
    assert ProgressiveSaliency(seconds=limit)._why_stop(distance, drop, [1.0, 4.0]) == why


def test_it_ends_when_it_is_enough(original: nn.Module, task: Task) -> None:
    """After the first round that is near enough, and not before. Catches rounds that go on."""
    _, notes = run(original, task, rounds=4, accuracy_gap=1.0, attack_gap=1.0)
    assert notes["stopped"] == "enough"
    assert len(notes["history"]["share"]) == notes["kept_round"] == 1
    _, notes = run(original, task, rounds=4, **NEVER)
    assert notes["stopped"] == "rounds"
    assert len(notes["history"]["share"]) == 4


def test_what_breaks_the_network_is_taken_back(original: nn.Module, task: Task) -> None:
    """When too much validation accuracy is lost, the best round before stays: the bits that it had.

    Catches the last round left as it is, and statistics of batch normalisation that are not taken back.
    """
    left, notes = run(original, task, rounds=8, **SLOW, accuracy_gap=1e-9)
    history = notes["history"]
    assert notes["stopped"] == "validation accuracy"
    assert notes["kept_round"] == 1 + int(np.argmin(history["distance"][:-1]))
    lowest = accuracy(original, task, "validation") - 0.03
    assert history["validation_accuracy"][-1] < lowest <= history["validation_accuracy"][-2]
    assert same(left, run(original, task, rounds=notes["kept_round"], stop=False, **SLOW)[0])


def test_the_best_round_stays(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that have not lost too much, the nearest. Catches the last one, the first, and the farthest."""
    distances = [9.0, 3.0, 2.0, 4.0, 5.0]  # of the network as it comes, and after each round
    look = ProgressiveSaliency._look

    def scripted(self: ProgressiveSaliency, *arguments: Any) -> dict[str, float]:
        return look(self, *arguments) | {"distance": next(coming)}

    coming = iter(distances)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressiveSaliency, "_look", scripted)
        left, notes = run(original, task, rounds=4, **SLOW | {"largest_drop": 1.0})
    assert notes["history"]["distance"] == distances[1:]
    assert notes["kept_round"] == 2
    assert same(left, run(original, task, rounds=2, stop=False, **SLOW)[0])


def test_it_ends_when_time_is_up(original: nn.Module, task: Task) -> None:
    """There is always a first round. Catches a limit that is not looked at, and one that means "no limit" at 0."""
    _, notes = run(original, task, rounds=4, seconds=1e-9, **NEVER)
    assert (notes["stopped"], len(notes["history"]["seconds"])) == ("seconds", 1)
    assert min(notes["history"]["seconds"]) > 0


def test_without_stop_all_rounds_are_done(original: nn.Module, task: Task) -> None:
    """And the last one stays, whatever it broke."""
    _, notes = run(original, task, rounds=3, stop=False, forget_rate=0.3, accuracy_gap=1.0, attack_gap=1.0)
    assert (notes["stopped"], notes["kept_round"], len(notes["history"]["share"])) == ("rounds", 3, 3)


def test_effect(originals: list[nn.Module], task: Task) -> None:
    """The forget loss goes some of the way to the validation loss, and what is known of the rest stays.

    Catches forgetting that rehearsal undoes, and rehearsal that does not repair.
    """
    make = partial(ProgressiveSaliency, loss="match", forget_rate=0.1, rehearsal=6, stop=False)
    left = unlearn_each(make, originals, task)
    assert mean_loss(left, task, "forget") > 1.4 * mean_loss(originals, task, "forget")
    assert mean_accuracy(left, task, "retain") > 0.9
    assert mean_accuracy(left, task, "validation") > mean_accuracy(originals, task, "validation") - 0.15


@pytest.mark.slow
def test_effect_on_a_class(originals: list[nn.Module], one_class: Task) -> None:
    """In steps that are small and many enough, most fours go and most of the rest is kept."""
    settings = {"batch_size": 8, "first_share": 0.3, "last_share": 0.5, "largest_drop": 0.4, "accuracy_gap": 0.1}
    make = partial(ProgressiveSaliency, rehearsal=6, forget_rate=0.03, loss="uniform", **settings)
    left = unlearn_each(make, originals, one_class)
    forgotten, kept = (mean_accuracy(left, one_class, which) for which in ("forget", "retain"))
    assert forgotten < 0.65
    assert kept > max(0.5, forgotten + 0.2)


def test_notes_are_json(original: nn.Module, task: Task) -> None:
    """A list of numbers for each series, all of one length."""
    _, notes = run(original, task, rounds=2, **NEVER)
    history = json.loads(json.dumps(notes))["history"]
    assert {len(series) for series in history.values()} == {2}
    assert {"forget_loss", "validation_loss", "attack", "distance", "share", "touched", "seconds"} <= history.keys()


def test_unknown_loss(original: nn.Module, task: Task) -> None:
    """A typing error must not be taken for one of the three."""
    with pytest.raises(ValueError, match="loss is uniform, random or match, not 'unifrom'"):
        run(original, task, loss="unifrom")
