"""The five membership attacks: their features against the formulas, the attack against known answers, the command."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints.outputs import record_outputs
from checkpoints.workers import Workers
from data import Split, Task, TaskSpec, UserError, load
from evaluation.audits import AUDITS
from evaluation.audits.examination import audit_grading
from evaluation.audits.membership import (
    FEATURES,
    Attack,
    Membership,
    attack,
    attack_outputs,
    entropy,
    features,
    modified_entropy,
    probabilities,
    published_modified_entropy,
)
from evaluation.console import Console
from evaluation.spec import GradingSpec
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Kit

SPEC = GradingSpec(
    "my_method", TaskSpec("digits", forget=("class:3:12",), train_size=160, recipe=(("epochs", 3),)), originals=2
)

# ----------------------------------------------------------------------------------------------------------------------
# Features
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outputs() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 40 examples in 5 classes, float32 as they are recorded, and labels of which class 4 has none."""
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(40, 5))).astype(np.float32), rng.integers(0, 4, size=40)


def slow_modified_entropy(p: list[float], label: int) -> float:
    """Song and Mittal's formula, entry by entry."""
    total = -(1 - p[label]) * math.log(p[label])
    for number, share in enumerate(p):
        if number != label:
            total -= share * math.log(1 - share)
    return total


def test_features_are_those_of_the_formulas(outputs: tuple[np.ndarray, np.ndarray]) -> None:
    """Example by example. Catches ln p in place of ln(1 - p), whole columns changed in place of the label's entry, base
    2, the confidence of the prediction in place of the label's, and columns in another order."""
    logits, labels = outputs
    found = features(logits, labels)
    assert tuple(found) == FEATURES
    for number, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        exponentials = [math.exp(value) for value in row]
        p = [value / sum(exponentials) for value in exponentials]
        assert found["correctness"][number].tolist() == [float(max(p) == p[label])]
        assert found["confidence"][number] == pytest.approx([p[label]])
        assert found["entropy"][number] == pytest.approx([-sum(share * math.log(share) for share in p)])
        assert found["modified_entropy"][number] == pytest.approx([slow_modified_entropy(p, label)])
        assert found["probability"][number] == pytest.approx(p)


def test_modified_entropy_tells_sure_and_right_from_sure_and_wrong() -> None:
    """0 and infinity, where the entropy is 0 for both: that is what it is for. Catches the published formula, which
    takes them for the same, and a logarithm of 0."""
    logits = np.array([[800.0, 0, 0], [800.0, 0, 0]], dtype=np.float32)
    labels = np.array([0, 1])
    p = probabilities(logits)
    assert entropy(p) == pytest.approx([0, 0])
    right, wrong = modified_entropy(p, labels)
    assert right == pytest.approx(0)
    assert wrong > 100
    one, other = published_modified_entropy(p, labels)
    assert one == other
    assert all(np.isfinite(values).all() for values in features(logits, labels).values())


def test_published_modified_entropy_has_the_published_mistakes(outputs: tuple[np.ndarray, np.ndarray]) -> None:
    """Term by term: 1 - p in the columns of all classes that occur, ln p everywhere; `compat` chooses it."""
    logits, labels = outputs
    p = probabilities(logits)
    expected = [
        -sum((1 - share if number in labels else share) * math.log(share) for number, share in enumerate(row))
        for row in p.tolist()
    ]
    assert 4 not in labels
    np.testing.assert_allclose(published_modified_entropy(p, labels), expected)
    both = features(logits, labels), features(logits, labels, compat=True)
    differing = [name for name in FEATURES if not np.array_equal(both[0][name], both[1][name])]
    assert differing == ["modified_entropy"]
    np.testing.assert_allclose(both[1]["modified_entropy"][:, 0], expected)


# ----------------------------------------------------------------------------------------------------------------------
# Attacks
# ----------------------------------------------------------------------------------------------------------------------


def column(*parts: tuple[int, float]) -> np.ndarray:
    """So many examples of each value, `(examples, 1)`."""
    return np.concatenate([np.full((count, 1), value) for count, value in parts])


def test_attack_on_what_can_be_told() -> None:
    """Members are at 1, others at 0: a quarter of the forget set is taken for non-members. Catches the share that is
    taken for members, and a machine that learned with the sides exchanged."""
    found = attack(column((40, 1.0)), column((40, 0.0)), column((15, 1.0), (5, 0.0)))
    assert found == Attack(efficacy=0.25, accuracy=1.0)


def test_accuracy_is_of_images_that_it_has_not_learned_from() -> None:
    """Noise that could be learned by heart: it is right by chance. Catches an accuracy on what it has learned from."""
    rng = np.random.default_rng(0)
    members, others, forgotten = (rng.normal(size=(400, 20)) for _ in range(3))
    found = attack(members, others, forgotten)
    assert 0.4 < found.accuracy < 0.6
    assert 0.4 < found.efficacy < 0.6


def test_efficacy_learns_from_all() -> None:
    """What only the second half of the members looks like counts. Catches an efficacy by the machine for accuracy."""
    members, others = column((20, 1.0), (20, 5.0)), column((20, 0.0), (20, 9.0))
    assert attack(members, others, column((10, 5.0))).efficacy == 0
    assert attack(members, others, column((10, 9.0))).efficacy == 1
    assert attack(members, others, column((10, 5.0))).accuracy == 0.5, "5 and 9 are alike, if 1 and 0 are all one knows"


class Lookup(nn.Module):
    """Takes an image for its logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 1, 1, classes)` to `(B, classes)`."""
        return images.flatten(1)


def make_task(sure: list[bool], classes: int = 2) -> Task:
    """Images are logits: of training images sure ones where `sure` says so, of test images unsure ones.

    Half of the training images are to be forgotten; class 1 is all there is to forget and 0 to retain if `classes`
    is 2 and the first half is of class 0.
    """
    small = load(TaskSpec("digits", train_size=60, forget=("random:12",)))
    examples = len(sure)
    labels = torch.arange(examples) // (examples // classes)
    certain = 8.0 * nn.functional.one_hot(labels, classes)
    logits = torch.where(torch.tensor(sure)[:, None], certain, 0.1 * certain)

    def split(values: torch.Tensor) -> Split:
        return Split(values[:, None, None, :].float(), labels, np.arange(examples).astype(str))

    request = replace(small.requests[0], indices=np.arange(examples // 2, examples))
    names = tuple("abcdefgh"[:classes])
    return replace(small, train=split(logits), test=split(0.1 * certain), classes=names, requests=(request,))


@pytest.mark.parametrize(("remembered", "efficacy"), [(20, 0.0), (5, 0.75), (0, 1.0)])
def test_a_network_that_remembers_is_caught(remembered: int, efficacy: float) -> None:
    """It is sure of what it was trained on: of the 20 to forget, those of which it is still sure are members.

    Catches rows of another split, retained images in place of forgotten ones, and a class that is gone counted among
    the non-members (here that of all forgotten images).
    """
    task = make_task([True] * (20 + remembered) + [False] * (20 - remembered))
    found = attack_outputs(record_outputs(Lookup(), task), task)
    for name in ("confidence", "entropy", "modified_entropy"):
        assert found[name].efficacy == pytest.approx(efficacy)
    assert found["correctness"].accuracy == pytest.approx(0.5), "it is right about all"


def test_both_sides_are_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fewer retained than test images, and equal outputs: the machine that sees more of one side would always
    guess that. Catches sides as they come."""
    sizes: list[tuple[int, int]] = []

    def noted(members: np.ndarray, others: np.ndarray, forgotten: np.ndarray) -> Attack:
        sizes.append((len(members), len(others)))
        return Attack(0, 0)

    monkeypatch.setattr("evaluation.audits.membership.attack", noted)
    task = load(TaskSpec("digits", train_size=60, forget=("random:40",)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    attack_outputs(record_outputs(network, task), task)
    assert set(sizes) == {(20, 20)}
    monkeypatch.setattr("evaluation.audits.membership.MOST", 7)
    attack_outputs(record_outputs(network, task), task)
    assert set(sizes[5:]) == {(7, 7)}


def test_too_few_images_are_refused() -> None:
    """A sentence in place of an error deep inside."""
    task = load(TaskSpec("digits", train_size=60, forget=("random:57",)))
    with pytest.raises(UserError, match="four retained"):
        attack_outputs(record_outputs(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task), task)


def test_rows_for_a_spreadsheet() -> None:
    """Kind by kind, attack by attack, with the numbers of each. Catches kinds that are exchanged."""
    kinds = {"original": 2, "retrained": 8, "unlearned": 8}
    attacks = {
        kind: {name: Attack(number / 4 + place / 32, 0.5) for place, name in enumerate(FEATURES)}
        for number, kind in enumerate(kinds)
    }
    rows = Membership(kinds, False, attacks).as_rows()
    assert [(row["kind"], row["attack"]) for row in rows] == [(kind, name) for kind in kinds for name in FEATURES]
    assert rows[7] == {"kind": "retrained", "attacked": 8, "attack": "entropy", "efficacy": 0.3125, "accuracy": 0.5}


# ----------------------------------------------------------------------------------------------------------------------
# Of a method
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("results")
@pytest.mark.slow
def test_networks_of_all_kinds_are_attacked(workers: Workers) -> None:
    """Two originals, two runs from each, as many retrained models. What nothing was done to has the original's attacks.

    Catches an attack on the wrong networks, and means over the wrong ones.
    """
    spec = replace(SPEC, method="do_nothing", models=8)
    idle, path = audit_grading(AUDITS["membership"], spec, {"runs": 2}, workers, Console(quiet=True))
    assert isinstance(idle, Membership)
    assert idle.networks == {"original": 2, "retrained": 4, "unlearned": 4}
    for name, one in idle.attacks["original"].items():
        assert idle.attacks["unlearned"][name].efficacy == pytest.approx(one.efficacy)
        assert idle.attacks["unlearned"][name].accuracy == pytest.approx(one.accuracy)
    assert idle.attacks["retrained"] != idle.attacks["original"]
    stored = json.loads(path.read_text())["result"]
    assert stored["attacks"]["retrained"]["entropy"]["efficacy"] == idle.attacks["retrained"]["entropy"].efficacy
    assert [column.header for column in idle.as_table().columns][1:] == ["original", "retrained", "unlearned"]
    assert idle.as_table().row_count == len(FEATURES)
    assert "Good is what retrained networks have" in str(idle.as_table().caption)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "runs", "message"),
    [
        (SPEC, 0, "--runs"),
        (replace(SPEC, settings=(("speed", "1"),)), 1, "no hyper-parameter"),
        (replace(SPEC, task=replace(SPEC.task, forget=("class:3", "class:4"))), 1, "--at-once"),
    ],
)
def test_mistakes_are_refused(spec: GradingSpec, runs: int, message: str, workers: Workers) -> None:
    """Before anything is trained."""
    with pytest.raises(UserError, match=message):
        audit_grading(AUDITS["membership"], spec, {"runs": runs}, workers, Console(quiet=True))


@pytest.mark.slow
def test_the_command(kit: Kit, results: object) -> None:
    """`python main.py membership` prints a row for each feature and the path of the file."""
    options = ["--train-size", "100", "--recipe", "epochs=2", "--originals", "1", "--runs", "1", "--workers", "1", "-q"]
    answer = kit.run("membership", "-m", "do_nothing", "--compat", *options)
    assert answer.code == 0, answer.stderr
    assert all(name.replace("_", " ") in answer.stdout for name in FEATURES)
    assert "membership.json" in answer.stdout

    printed = command(
        "audit", "membership", "-m", "do_nothing", "--option", "runs=1", "--csv", *options[:6], *options[8:]
    )
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert [(row["audit"], row["kind"]) for row in rows[::5]] == [
        ("membership", kind) for kind in ("original", "retrained", "unlearned")
    ]
