"""Checks of a method: what it left in two runs from one original, and in one with ten times its learning rate."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data import Task
from evaluation.catalogue.facts import MethodFacts
from evaluation.checks.finding import Finding, percent
from evaluation.checks.task import forgets_whole_classes
from evaluation.checks.trying import Faster, Tried
from evaluation.runs.one import Failure

NEXT_TO_NOTHING = 1e-5
"""How far parameters move at least if something is unlearned, relative to their length: some hundred times the rounding
of float32, 6e-8. On `digits`, `my_method` moves them by 4e-5 and scores next to nothing, retraining by 1."""
CLOSE_TO_THE_BUDGET = 0.8
"""Share of the budget from which on a busy machine may make a run exceed it."""
NO_RUN = Finding("skipped", "no run came to its end")
LOADERS = {"retain_loader", "forget_loader", "val_loader"}


@dataclass(frozen=True, eq=False)
class MethodRuns:
    """What is known of a method after a few runs."""

    method: MethodFacts
    task: Task
    results: Sequence[Tried | Failure]
    """Of runs from one original with different seeds."""
    faster: Faster | None = None
    """With larger learning rates; None: it has none."""
    allowed: float | None = None
    """The budget in seconds; None: it is exempt."""
    not_exportable: str = ""
    """Why there can be no notebook of it, as a sentence; empty if there can, or nobody has tried."""

    @property
    def finished(self) -> list[Tried]:
        """The runs that came to their end."""
        return [result for result in self.results if isinstance(result, Tried)]


def runs_come_to_their_end(runs: MethodRuns) -> Finding | None:
    """A run that raises, hangs or breaks the contract: a grading would fail, and have no score.

    An entry that fails must not be ranked. Seen in codalab/codabench, issue 2018 (a failed entry ranked first).
    """
    failures = [result for result in runs.results if isinstance(result, Failure)]
    if not failures:
        return None
    said = f"A run fails: {failures[0].complaint.rstrip('.')}"
    if failures[0].retry and runs.allowed is not None:  # for its time, of which it has more here
        said += f" (a grading allows {runs.allowed:.2g} s)"
    return Finding("error", f"{said}; python main.py -m {runs.method.name} --debug shows where it happens.")


def weights_change(runs: MethodRuns) -> Finding | None:
    """A run that leaves the original as it was, unless the method says that it is to.

    Often it works on a copy, or returns what nobody takes. Issue 19.
    """
    if not runs.finished:
        return NO_RUN
    if runs.method.leaves_original:
        return Finding("skipped", "the method says that it leaves the original as it is")
    if all(run.drift != 0 for run in runs.finished):
        return None
    return Finding("error", f"Weights don't move: {runs.method.why_unchanged}.")


def weights_change_by_more_than_next_to_nothing(runs: MethodRuns) -> Finding | None:
    """Steps were made, and came to nothing: terms of the loss cancel, or the learning rate is tiny.

    Next to nothing is a change of all parameters together by less than `NEXT_TO_NOTHING` of their length, in every run;
    statistics of batch normalisation don't count, as they change without a step. What weight decay adds does count, so
    that a large one hides it. Seen in zjunlp/unlearn, issue 8 (a loss that cancels).
    """
    finished = runs.finished
    farthest = max((run.moved for run in finished), default=0.0)
    if all(run.drift == 0 for run in finished) or farthest >= NEXT_TO_NOTHING:
        return None
    return Finding(
        "warning",
        f"Weights move by next to nothing ({farthest:.1g} of their length): look whether terms of the loss cancel, "
        "whether gradients reach the weights, and whether the learning rate is large enough.",
    )


def runs_of_different_seeds_differ(runs: MethodRuns) -> Finding | None:
    """Two seeds, one result: N equal models, which any attacker tells from retrained ones, so that F is 0.

    Not asked of methods that say so of themselves. Seen in lm-evaluation-harness, issue 2089.
    """
    method, finished = runs.method, runs.finished
    if len(finished) < 2:
        return NO_RUN
    if method.deterministic or method.leaves_original:
        return Finding("skipped", "the method says that its runs are equal")
    if 0 in (run.drift for run in finished):
        return Finding("skipped", "weights don't move")
    first, second = (run.outputs for run in finished[:2])
    if not (np.array_equal(first.forget, second.forget) and np.array_equal(first.test, second.test)):
        return None
    return Finding(
        "error",
        "Runs of different seeds are equal, so that F is 0: don't set a seed, and take the order of the loaders' "
        "batches; if nothing is to be random, say deterministic = True in the class.",
    )


def larger_learning_rates_give_numbers(runs: MethodRuns) -> Finding | None:
    """NaN at ten times the learning rate: `tune` will meet it, and so may another task. Issue 19."""
    faster = runs.faster
    if not runs.finished:
        return NO_RUN
    if faster is None:
        return Finding("skipped", "there is no learning rate that can be changed here")
    if not isinstance(faster.result, Failure):
        return None
    if faster.result.retry:
        return Finding("skipped", "a run with it took too long")
    values = ", ".join(f"{name}={value:g}" for name, value in faster.values.items())
    complaint = faster.result.complaint.rstrip(".")
    return Finding(
        "note",
        f"With {values}, ten times as much, a run fails ({complaint}): let search_space end below that, or clip "
        "gradients.",
    )


def network_is_left_in_eval_mode(runs: MethodRuns) -> Finding | None:
    """Train mode left on. A grading takes only weights, so nothing happens here.

    But whoever evaluates the network in a notebook gets batch statistics and dropout. Issue 19.
    """
    if not runs.finished:
        return NO_RUN
    if not any(run.training for run in runs.finished):
        return None
    return Finding(
        "note",
        "The network is left in train mode, which changes no score here, where only weights are taken, but whatever is "
        "computed in a notebook afterwards: end run with net.eval().",
    )


def weights_have_full_precision(runs: MethodRuns) -> Finding | None:
    """Weights that went through float16 or bfloat16 and back.

    Rounding moves them all, and runs become equal or separated by it. Seen in open-unlearning, issue 19.
    """
    if not runs.finished:
        return NO_RUN
    if not any(run.half for run in runs.finished):
        return None
    return Finding(
        "warning",
        "All weights that the method changes are numbers of half precision: keep net in float32, and use autocast for "
        "computing only.",
    )


def time_is_within_the_budget(runs: MethodRuns) -> Finding | None:
    """A run that a grading would kill, or might on a busy machine. Issue 19.

    The quickest run counts: the others may have waited, and a grading tries again what it had to kill.
    """
    if not runs.finished:
        return NO_RUN
    if runs.allowed is None:
        return Finding("skipped", "the method is a reference, which may take as long as it likes")
    seconds = min(run.seconds for run in runs.finished)
    share = seconds / runs.allowed
    if share <= CLOSE_TO_THE_BUDGET:
        return None
    advice = "make it quicker (fewer epochs, larger batches), or allow more with --budget"
    said = f"A run takes {seconds:.2g} s, {percent(share)} of the budget of {runs.allowed:.2g} s"
    if share > 1:
        return Finding("error", f"{said}, and a grading would kill it: {advice}.")
    return Finding("warning", f"{said}, and a busy machine may make it exceed that: {advice}.")


def method_fits_the_request(runs: MethodRuns) -> Finding | None:
    """A method that is meant for whole classes, on a request that retains images of each.

    A retrained model still knows the class then, and such a method removes it. Seen in Boundary-Unlearning-Code, issue
    1 (a class method on a random set).
    """
    if not runs.method.whole_classes or forgets_whole_classes(runs.task):
        return None
    return Finding(
        "warning",
        f"{runs.method.name} is meant for the removal of whole classes, and retrained models know the classes of this "
        "forget set: --forget class:NAME is what it is for.",
    )


def notebook_can_be_made(runs: MethodRuns) -> Finding | None:
    """Code that can't travel to Kaggle: a score here would then be of something that can't be handed in. Issue 19."""
    if not runs.not_exportable:
        return None
    return Finding("warning", f"No notebook can be made of it: {runs.not_exportable.rstrip('.')}.")


def loaders_are_used_to_their_end(runs: MethodRuns) -> Finding | None:
    """`zip` of loaders of unequal length ends with the shorter one: most retained images are never seen.

    Seen in UnlearnCanvas, issue 5.
    """
    if not _zips_loaders(runs.method.source):
        return None
    return Finding(
        "note",
        "A pass over zip() of loaders ends with the shorter one, and leaves out most of the longer: repeat the shorter "
        "(itertools.cycle) if that is not meant.",
    )


def _zips_loaders(source: str) -> bool:
    """Whether a file has a call of `zip` with two of the loaders as they are."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return False
    zips = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip"]
    return any(len({ast.unparse(argument) for argument in call.args} & LOADERS) > 1 for call in zips)


METHOD_CHECKS = (
    runs_come_to_their_end,
    weights_change,
    weights_change_by_more_than_next_to_nothing,
    runs_of_different_seeds_differ,
    larger_learning_rates_give_numbers,
    network_is_left_in_eval_mode,
    weights_have_full_precision,
    time_is_within_the_budget,
    method_fits_the_request,
    notebook_can_be_made,
    loaders_are_used_to_their_end,
)
"""Of `MethodRuns`."""
