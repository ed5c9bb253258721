"""Runs of a method in this process, to look into them: `breakpoint()` and `print` work, and nothing limits them.

Each does what that run from original 0 of a grading does: the same weights, data and seeds, and what a method does not
see there it does not see here. But it is called where the grader is, and nothing of it is stored.
"""

from __future__ import annotations

import traceback
from bdb import BdbQuit
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch import Tensor

from checkpoints.devices import compute_seconds
from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.pool import Pool
from checkpoints.workers import be_deterministic
from data import Task, UserError
from data.files import read_tensors
from data.loaders import run_datasets
from data.seeds import derive_seed
from evaluation.isolation.call import Unlearning, original_network, prepare_once, unlearn_once, warm_up
from evaluation.isolation.hints import complaint_of
from evaluation.isolation.notes import notes_as_json
from evaluation.isolation.structure import MethodError, check_structure, take_over
from evaluation.isolation.workplace import from_message, to_message
from evaluation.runs.one import finite_outputs
from evaluation.runs.prepared import prepared_path, prepares
from evaluation.runs.resolve import Grading
from evaluation.runs.settings import files_of, run_seed
from evaluation.runs.unlearned import drift_from
from methods.registry import Place

ORIGINAL = 0
"""Which original runs start from."""


@dataclass(frozen=True, eq=False)
class DebugRun:
    """What a run in this process came to."""

    weights: State
    """What it left, on the CPU."""
    seconds: float
    """Of `compute_seconds`: on a CPU, waiting at a prompt does not count."""
    prepare_seconds: float | None
    """The same of `prepare`, if it was called, too."""
    drift: float
    """How far the weights are from the original's, see `drift_from`; NaN if `after` is None for what they are."""
    before: Outputs
    """Of the original."""
    after: Outputs | None
    """Of what it left; None if these are no weights of the network, or not finite."""
    complaint: str
    """What a grading would say against it; empty if nothing."""


def run_here(grading: Grading, run: int = 0) -> DebugRun:
    """Call the method's `run`, in this process, on original 0, which is in the bank, with the seed of that run.

    What goes wrong in the method is shown as Python shows it, on standard error.

    Raises:
        UserError: the method raised, or the debugger has ended its run.
    """
    be_deterministic(grading.device)
    task, weights = grading.task, Pool(grading.task, "original").state(ORIGINAL)
    before = record_outputs(original_network(task, weights), task)
    known = from_message(to_message(task), grading.device)
    try:
        prepared, prepare_seconds = _prepared(grading, known, weights)
        done = _unlearn(grading, known, weights, prepared, run)
    except BdbQuit as error:
        raise UserError(
            f"{grading.spec.method}: the debugger has ended the run, so there is nothing to tell."
        ) from error
    except KeyboardInterrupt as error:  # it may hang: where it was is what there is to know
        _show(error, grading)
        raise
    except BaseException as error:  # whatever a method raises, SystemExit too, is its own failure
        _show(error, grading)
        raise UserError(f"{grading.spec.method} failed: {complaint_of(error).rstrip('.')}.") from error
    return _looked_at(grading, done, prepare_seconds, weights, before)


def _prepared(grading: Grading, known: Task, weights: State) -> tuple[dict[str, Tensor], float | None]:
    """What the method has prepared for the original: kept by a grading, or made here in so many seconds."""
    method = grading.spec.method
    if not prepares(method):
        return {}, None
    kept = read_tensors(prepared_path(method, grading.settings, grading.task, ORIGINAL, grading.device))
    if kept is not None:
        return dict(kept["tensors"]), None
    seed = derive_seed("prepare", Pool(grading.task, "original").seed(ORIGINAL))
    began = compute_seconds(grading.device)
    tensors = prepare_once(_place(grading), grading.settings, known, original_network(known, weights), seed)
    return tensors, compute_seconds(grading.device) - began


def _unlearn(grading: Grading, known: Task, weights: State, prepared: dict[str, Tensor], run: int) -> Unlearning:
    net, datasets = original_network(known, weights), run_datasets(known)
    warm_up(known, datasets)
    seed = run_seed(grading.run_settings, ORIGINAL, run)
    return unlearn_once(_place(grading), grading.settings, known, net, seed, prepared=prepared, datasets=datasets)


def _place(grading: Grading) -> str | Place:
    """What finds the method's class: its name, or where it is if it is none of the kit's."""
    place = grading.method.place
    return place if place.path else grading.spec.method


def _looked_at(
    grading: Grading, done: Unlearning, prepare_seconds: float | None, weights: State, before: Outputs
) -> DebugRun:
    """What the run left, seen as a grading sees it."""
    task, method = grading.task, grading.spec.method
    left = {name: value.detach().cpu() for name, value in done.net.state_dict().items()}
    network = build_network(task).to(grading.device)
    after, complaint, drift = None, "", float("nan")
    try:
        check_structure(build_network(task), done.net, method)
        take_over(network, left, method)
        drift = drift_from(weights, left)
        after = finite_outputs(network, task, method)
        notes_as_json(done.notes)
    except (MethodError, TypeError, ValueError) as error:
        complaint = str(error) if isinstance(error, MethodError) else f"{type(error).__name__} in notes: {error}"
    return DebugRun(left, done.seconds, prepare_seconds, drift, before, after, complaint)


def _show(error: BaseException, grading: Grading) -> None:
    """Print what Python prints of an error, from the method's code on."""
    traceback.print_exception(type(error), error, _of_the_method(error, files_of(grading.run_settings)))


def _of_the_method(error: BaseException, files: tuple[Path, ...]) -> TracebackType | None:
    """The traceback from the first frame in one of the method's files on; all of it if none is."""
    step = error.__traceback__
    while step is not None and Path(step.tb_frame.f_code.co_filename) not in files:
        step = step.tb_next
    return step or error.__traceback__
