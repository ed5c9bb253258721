"""Checks of the models that methods start from and are compared with: is there something to forget, and is it known?

They need a few models of each kind. A comparison of two kinds of models on an example goes by chances: how often has a
model of one kind the larger confidence in the true class, `log p - log(1 - p)`, among all pairs? 0.5: they are alike.
It does not depend on the scale of confidences, and a few models suffice, as it is averaged over the examples.

With two originals and four retrained models, originals are surer of the forget set of `digits` in 77 % of the pairs,
and of test images in 58 %; of that of `faces` in 81 and 56 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from checkpoints.outputs import Outputs
from data import Task
from evaluation.checks.finding import Finding, percent
from evaluation.metrics.metric import Floats
from evaluation.metrics.official import logit_scaled_confidence

HARDLY = 0.05
"""A chance that is larger than another by less is hardly larger: on 60 examples that is within luck."""
FEWEST_TO_BE_SURE = 20
"""With fewer forget examples, chances of a few models say little."""
BETTER = 0.02
"""Accuracy by which retrained models must be better on the forget set than on the test set to be called good at it."""


@dataclass(frozen=True, eq=False)
class BankOutputs:
    """Outputs of some models of a task."""

    task: Task
    originals: Outputs
    retrained: Outputs


def originals_know_the_forget_set_better(bank: BankOutputs) -> Finding | None:
    """Retrained models are as sure of the forget set as originals: a forget set that changes nothing.

    Originals have the larger confidence by a chance that exceeds that on test images, which neither kind saw, by less
    than `HARDLY`. Then doing nothing is a perfect method. Seen in Unlearn-WorstCase, issue 5 (a "worst" set without
    effect).
    """
    chances = {split: _chance(_confidences(bank, split)) for split in ("forget", "test")}
    if chances["forget"] - chances["test"] >= HARDLY:
        return None
    forget, test = percent(chances["forget"]), percent(chances["test"])
    return Finding(
        "error" if len(bank.task.forget_indices) >= FEWEST_TO_BE_SURE else "warning",
        "Retrained models are as sure of the forget set as the originals, so that there is nothing to forget (an "
        f"original is surer in {forget} of the pairs, of test images in {test}): forget other images, or train longer "
        "on fewer (--recipe epochs=..., --train-size).",
    )


def originals_have_memorised(bank: BankOutputs) -> Finding | None:
    """Originals are hardly surer of the forget set than of test images of the same classes.

    What was not memorised can't be forgotten, and the score then measures noise. Not asked where labels are wrong on
    purpose (confuse:): nobody is sure of these. README, "Is `digits` a good instrument?"; issue 19.
    """
    chance = _chance_above_test(bank.task, bank.originals)
    if chance is None or any(request.labels is not None for request in bank.task.arrived):
        return None
    if chance >= 0.5 + HARDLY:
        return None
    return Finding(
        "warning",
        f"The originals have hardly memorised what is to be forgotten, and are surer of it than of test images in "
        f"{percent(chance)} of the pairs, where 50 % is chance: train longer (--recipe epochs=...), or on fewer images "
        "(--train-size).",
    )


def retrained_models_have_not_seen_the_forget_set(bank: BankOutputs) -> Finding | None:
    """Retrained models are as good on the forget set as on retained images, and better than on test images.

    They should be about as good as on other unseen images; else they may have seen it, or copies of it. Seen in
    franciscoliu/MANU, issue 1.
    """
    task, models = bank.task, bank.retrained
    forget, test = (float(models.accuracy(split, task.labels(split)).mean()) for split in ("forget", "test"))
    retain = float(models.retain_accuracy.mean())
    if forget < retain or forget < test + BETTER + _error_of(test, len(task.forget_indices)):
        return None
    return Finding(
        "warning",
        f"Retrained models are oddly good on the forget set: right in {percent(forget, 1)}, on retained images in "
        f"{percent(retain, 1)}, on test images in {percent(test, 1)}: look for near copies of forgotten images in the "
        "retain set, or forget images that are less easy.",
    )


def models_differ_between_seeds(bank: BankOutputs) -> Finding | None:
    """Two originals, or two retrained models, with the same outputs.

    Seeds that don't reach the training make one model of N, and any difference an infinite one. Seen in
    lm-evaluation-harness, issue 2089 (the same score for every seed).
    """
    for kind, outputs in (("originals", bank.originals), ("retrained models", bank.retrained)):
        if any(
            np.array_equal(outputs.test[one], outputs.test[two]) for one, two in combinations(range(len(outputs)), 2)
        ):
            return Finding(
                "error",
                f"Some {kind} are equal although their seeds differ: see that the seed decides the initial weights "
                "and the order of batches, and that the learning rate is not 0.",
            )
    return None


def _confidences(bank: BankOutputs, split: str) -> tuple[Floats, Floats]:
    """Of originals and retrained models on a split, `(models, examples)` each."""
    labels = bank.task.labels(split)
    one, other = (getattr(models, split) for models in (bank.originals, bank.retrained))
    return logit_scaled_confidence(one, labels), logit_scaled_confidence(other, labels)


def _chance(pair: tuple[Floats, Floats]) -> float:
    """The share of pairs of models in which that of the first kind has the larger confidence in the same example."""
    first, second = pair[0][:, None], pair[1][None]  # (first, 1, examples), (1, second, examples)
    return float((first > second).mean() + (first == second).mean() / 2)


def _chance_above_test(task: Task, models: Outputs) -> float | None:
    """The share of pairs of a forgotten and a test image of the forgotten classes in which the first has the larger
    confidence of one model, averaged over the models. None if there is no such test image."""
    alike = np.isin(task.labels("test"), task.labels("forget"))
    if not alike.any():
        return None
    forget = logit_scaled_confidence(models.forget, task.labels("forget"))  # (models, forget)
    test = logit_scaled_confidence(models.test[:, alike], task.labels("test")[alike])  # (models, test)
    below = [np.searchsorted(np.sort(unseen), own).mean() for own, unseen in zip(forget, test, strict=True)]
    return float(np.mean(below)) / test.shape[1]


def _error_of(share: float, examples: int) -> float:
    """Twice the standard error of a share of some examples."""
    return 2 * float(np.sqrt(max(share * (1 - share), 0.0) / examples))


BANK_CHECKS = (
    originals_know_the_forget_set_better,
    originals_have_memorised,
    retrained_models_have_not_seen_the_forget_set,
    models_differ_between_seeds,
)
"""Of `BankOutputs`."""
