"""Membership attacks on a network's outputs: does it treat forgotten images as images that it was trained on?

Five attackers look at one feature each. Every one is a support vector machine that has learned to tell images of the
retain set (members) from test images (non-members) of the same network, and is then asked about the forget set. The
share that it takes for non-members is the attack's efficacy, "MIA-efficacy" in the literature: high where much was
forgotten. What it should be is what it is for retrained networks. Its accuracy on images that it has not seen says how
much there is to go by.

Source: Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models" (USENIX Security 2021,
arXiv 2003.10595) for the features; Jia et al., "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023, arXiv
2304.04934) for the attack on unlearning, and the code for both (github.com/OPTML-Group/Unlearn-Sparse). Theirs compares
as many retain images as there are test images, and lets the retain set be smaller; here both sides are of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.outputs import Outputs
from data import Task, UserError
from data.task import RETAIN_SAMPLE
from evaluation.audits.audit import Audit, Evidence

if TYPE_CHECKING:
    from rich.table import Table

FEATURES = ("correctness", "confidence", "entropy", "modified_entropy", "probability")
DIRECTION = (
    "Good is what retrained networks have: less means that forgotten images still look like training images, more that "
    "they stand out. In brackets how often the attack is right about images that it should tell apart; 50 is guessing."
)
MOST = RETAIN_SAMPLE
"""Images of either side that an attacker learns from; of more, this many at random, always the same."""


# ----------------------------------------------------------------------------------------------------------------------
# Features of outputs
# ----------------------------------------------------------------------------------------------------------------------


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    """-sum_c p_c ln p_c in nats, of probabilities `(examples, classes)`: `(examples,)`."""
    return -(p * _log(p)).sum(axis=1)


def modified_entropy(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-(1 - p_y) ln p_y - sum_{c != y} p_c ln(1 - p_c): 0 if sure and right, large if sure and wrong; `(examples,)`.

    `p` are probabilities `(examples, classes)`, `labels` int64 `(examples,)`.
    """
    is_label = np.arange(p.shape[1]) == labels[:, np.newaxis]  # (examples, classes)
    return -np.where(is_label, (1 - p) * _log(p), p * _log(1 - p)).sum(axis=1)


def published_modified_entropy(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the published code computes instead, for comparisons with published numbers; `(examples,)`.

    It has ln p_c where ln(1 - p_c) is meant, and puts 1 - p_c for p_c not in the label's entry of each row, but in
    the columns of all classes that occur in `labels`: -sum_{c occurs} (1 - p_c) ln p_c - sum_{c does not} p_c ln p_c.
    """
    occurs = np.isin(np.arange(p.shape[1]), labels)  # (classes,)
    return -np.where(occurs, (1 - p) * _log(p), p * _log(p)).sum(axis=1)


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-30))


def features(logits: np.ndarray, labels: np.ndarray, compat: bool = False) -> dict[str, np.ndarray]:
    """What each attacker sees: float64 `(examples, 1)`, for "probability" `(examples, classes)`; by name.

    `logits` `(examples, classes)`, `labels` int64 `(examples,)`; `compat` for the modified entropy as published.
    """
    p = probabilities(logits)
    modified = published_modified_entropy if compat else modified_entropy
    columns = {
        "correctness": (p.argmax(axis=1) == labels).astype(np.float64),
        "confidence": p[np.arange(len(p)), labels],
        "entropy": entropy(p),
        "modified_entropy": modified(p, labels),
    }
    return {**{name: values[:, np.newaxis] for name, values in columns.items()}, "probability": p}


# ----------------------------------------------------------------------------------------------------------------------
# Attacks
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """What one attacker comes to, or the mean over networks; both are shares."""

    efficacy: float
    """Of the forget set, what it takes for non-members, having learned from all members and non-members."""
    accuracy: float
    """How often it is right about one half of the members and non-members, having learned from the other."""


def attack(members: np.ndarray, others: np.ndarray, forgotten: np.ndarray) -> Attack:
    """The attack on one feature: `(examples, k)` of the same k columns each; as many members as others."""
    half = len(members) // 2
    learned = _learn(members[:half], others[:half])
    accuracy = (learned(members[half:]).mean() + 1 - learned(others[half:]).mean()) / 2
    return Attack(efficacy=float(1 - _learn(members, others)(forgotten).mean()), accuracy=float(accuracy))


def _learn(members: np.ndarray, others: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A support vector machine that says of examples whether they are members, 1 or 0; `C` and kernel as published."""
    from sklearn.svm import SVC

    truth = np.repeat([1, 0], [len(members), len(others)])
    machine = SVC(C=3, kernel="rbf", gamma="auto").fit(np.concatenate([members, others]), truth)
    return machine.predict


def attack_outputs(outputs: Outputs, task: Task, compat: bool = False) -> dict[str, Attack]:
    """All five attacks on one network of `task`, of which `outputs` are recorded, by the name of the feature.

    Non-members are test images of classes that are retained: a class that is not would be known by being mistaken.

    Raises:
        UserError: there are fewer than four members or non-members; or the outputs are of an early version.
    """
    if outputs.retain is None:
        raise UserError("These outputs lack the retain set, as early versions of the kit recorded them: grade again.")
    retained, tested = task.train.labels.cpu().numpy()[task.retain_sample], task.labels("test")
    known = np.flatnonzero(np.isin(tested, task.labels("retain")))
    size = min(len(task.retain_sample), len(known), MOST)
    if size < 4:
        raise UserError("A membership attack needs four retained and four test images; give it more (--test-size).")
    rng = np.random.default_rng(0)
    rng.permutation(task.retain_indices)  # the draw that `retain_sample` begins with
    others = rng.permutation(known)[:size]
    sides = (
        features(outputs.retain[0, :size], retained[:size], compat),
        features(outputs.test[0, others], tested[others], compat),
        features(outputs.forget[0], task.labels("forget"), compat),
    )
    return {name: attack(*(side[name] for side in sides)) for name in FEATURES}


# ----------------------------------------------------------------------------------------------------------------------
# Of a method, beside originals and retrained models
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Membership:
    """The attacks on originals, retrained and unlearned networks: means over networks, by kind and feature."""

    networks: dict[str, int]
    """How many there are of each kind: "original", "retrained" and "unlearned"."""
    compat: bool
    """Whether the modified entropy is the published one."""
    attacks: dict[str, dict[str, Attack]]
    """Means over the networks of a kind, by kind and attacker: "correctness", "confidence", "entropy",
    "modified_entropy" and "probability"."""

    def as_rows(self) -> list[dict[str, Any]]:
        """For a spreadsheet: a row for each kind and attacker, and how many networks of that kind were attacked."""
        return [
            {"kind": kind, "attacked": count, "attack": feature, **asdict(self.attacks[kind][feature])}
            for kind, count in self.networks.items()
            for feature in FEATURES
        ]

    def as_table(self) -> Table:
        """For a terminal: efficacy, and in brackets accuracy."""
        from rich.table import Table

        table = Table("taken for non-members (accuracy)", *self.networks, box=None, pad_edge=False)
        table.caption, table.caption_justify = DIRECTION, "left"
        for feature in FEATURES:
            cells = [self.attacks[kind][feature] for kind in self.networks]
            texts = [f"{100 * cell.efficacy:5.1f} % ({100 * cell.accuracy:.1f})" for cell in cells]
            table.add_row(feature.replace("_", " "), *texts)
        return table


def examine(evidence: Evidence, runs: int = 4, compat: bool = False) -> Membership:
    """Attack every original, the first `runs` runs from each, and as many retrained models.

    Raises:
        UserError: `runs` is less than 1; or as `attack_outputs`.
    """
    if runs < 1:
        raise UserError("membership: --runs (or --option runs=) must be at least 1.")
    first_runs = Outputs.join([outputs[:runs] for outputs in evidence.unlearned])
    kinds = {
        "original": evidence.originals,
        "retrained": evidence.retrained[: len(first_runs)],
        "unlearned": first_runs,
    }
    attacks = {
        kind: [attack_outputs(outputs[number : number + 1], evidence.task, compat) for number in range(len(outputs))]
        for kind, outputs in kinds.items()
    }
    sizes = {kind: len(each) for kind, each in attacks.items()}
    return Membership(sizes, compat, {kind: _mean(each) for kind, each in attacks.items()})


def _mean(attacks: Sequence[Mapping[str, Attack]]) -> dict[str, Attack]:
    def mean(name: str, field: str) -> float:
        return float(np.mean([getattr(each[name], field) for each in attacks]))

    return {name: Attack(mean(name, "efficacy"), mean(name, "accuracy")) for name in FEATURES}


AUDIT = Audit(
    "membership",
    "do five membership attacks take forgotten images for training images? ideal: as for retrained networks",
    examine,
)
