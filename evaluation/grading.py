"""From a question ("how good is this method?") to a report on disk: bank, runs, score, in that order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

from checkpoints.bank import Bank, ensure
from checkpoints.devices import describe_device, versions
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError, load
from data.files import shown
from evaluation.catalogue.facts import MethodFacts
from evaluation.certification.finishing import collect
from evaluation.checks.finding import make_checks, warnings_in
from evaluation.checks.scores import SCORE_CHECKS, ScoredOutputs
from evaluation.checks.task import TASK_CHECKS
from evaluation.console import Console
from evaluation.metrics import METRICS
from evaluation.metrics.accuracies import accuracies
from evaluation.metrics.metric import Floats
from evaluation.metrics.plausibility import examine
from evaluation.metrics.score import Scores, score_outputs
from evaluation.report import FORMAT, Cost, GradingRecord, MethodRecord, Provenance, Report
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import GradingFailedError, budget_seconds, unlearn
from evaluation.runs.prepared import prepared_seconds
from evaluation.runs.resolve import Grading, resolve
from evaluation.runs.stored import read_stored
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec
from evaluation.texts import counted

FEW_TO_FORGET = 20
"""With fewer forget examples, the mean of their points (0, 1/2, 1/4, ...) is hardly a measurement."""


def grade_methods(
    specs: Sequence[GradingSpec], workers: Workers, console: Console
) -> Iterator[Report | GradingFailedError]:
    """Grade methods on one task, one after another; a method that fails gives its error and stops no other.

    Raises:
        UserError: the task or the settings of a method are wrong; nothing has been run then.
    """
    began = time.monotonic()
    spec = specs[0]
    task = load_with_one_request(spec.task)
    gradings = [resolve(one, task, workers.device) for one in specs]
    build_network(task)  # if there is no such network, now is the time to say so
    announce(spec, task, workers, console)
    tell_remarks(gradings, console)
    foresee = foreseer(gradings, workers, console)
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, spec.originals_needed, spec.models, workers, console.tell, on_progress, foresee)
    for grading in gradings:
        try:
            yield _grade_one(grading, bank, workers, console, began)
        except GradingFailedError as error:
            yield error
        began = time.monotonic()


def load_with_one_request(spec: TaskSpec, device: str = "cpu") -> Task:
    """The task, if there is nothing to be done one after another.

    Raises:
        UserError: it has several requests.
    """
    task = load(spec, device)
    if len(task.requests) > 1:
        raise UserError("Several --forget requests arrive one after another; add --at-once to make one of them here.")
    return task


def announce(spec: GradingSpec, task: Task, workers: Workers, console: Console) -> None:
    """Say what is graded, and what to beware of."""
    console.tell(_headline(spec, task, workers))
    for remark in (*task.remarks, *warnings_in(make_checks("task", TASK_CHECKS, task))):
        console.tell(remark)
    forgotten = len(task.forget_indices)
    if forgotten < FEW_TO_FORGET:
        images = "image is" if forgotten == 1 else "images are"
        console.tell(
            f"Only {forgotten} {images} to be forgotten: F, a mean over this few, says little. "
            "(random:0.2 is a share of the training images, random:2 a number.)"
        )
    warn_of_metric(spec.metric, console)


def tell_remarks(gradings: Iterable[Grading], console: Console) -> None:
    """Say what is to be known of the methods themselves."""
    for remark in dict.fromkeys(remark for grading in gradings for remark in grading.method.remarks):
        console.tell(remark)


def warn_of_metric(metric: str, console: Console) -> None:
    """Say what the numbers of a metric can't be compared with, if there is something to say."""
    beware = METRICS[metric].beware
    if beware is not None:
        console.tell(beware)


def _headline(spec: GradingSpec, task: Task, workers: Workers) -> str:
    """What is graded, in a line."""
    forgotten = f"forget {', then '.join(request.text for request in task.requests)}"
    return " · ".join(
        (
            task.name,
            f"{task.network}, {counted(task.recipe.epochs, 'epoch')}",
            f"{forgotten} ({len(task.forget_indices)} of {len(task.train)})",
            f"{counted(spec.originals_needed, 'original')}, {spec.models} retrained",
            f"{workers.devices}, {counted(workers.count, 'worker')}",
        )
    )


def _grade_one(grading: Grading, bank: Bank, workers: Workers, console: Console, began: float) -> Report:
    name = grading.spec.method
    with console.progress(name, "runs") as on_progress:
        unlearned = unlearn(grading, bank, workers, console.tell, on_progress)
    console.tell(f"{name}: scoring {len(unlearned)} runs")
    report = make_report(grading, bank, unlearned, workers, began)
    report.save(grading.folder)
    console.tell(f"{name}: saved in {shown(grading.folder)}")
    certificate = collect(grading)
    if certificate is not None:
        console.tell(f"{name}: python main.py certify {shown(certificate)} recomputes what it certifies")
    return report


# ----------------------------------------------------------------------------------------------------------------------
# The report
# ----------------------------------------------------------------------------------------------------------------------


def make_report(grading: Grading, bank: Bank, unlearned: Unlearned, workers: Workers, began: float) -> Report:
    """Score what the runs left and put together all that is known of the grading, which began at `began`."""
    spec = grading.spec
    seconds = float(unlearned.seconds.mean())
    method = MethodRecord(
        name=spec.method,
        settings=grading.settings,
        changed={name: grading.settings[name] for name, _ in spec.settings},
        tuned_trials=spec.tuned.trials if spec.tuned else None,
        exempt_from_budget=grading.method.exempt_from_budget,
        submission=None,
        code=grading.method.code_hash,
    )
    cost = Cost(
        retrain_seconds=bank.retrain_seconds,
        budget_seconds=budget_seconds(grading, bank.retrain_seconds),
        budget_fraction_used=seconds / bank.retrain_seconds,
        runs_seconds_mean=seconds,
        peak_memory_bytes=int(unlearned.peak_memory.max()),
        prepare_seconds=_prepare_seconds(grading, workers.device),
    )
    drift = float(unlearned.drift.mean())
    report = assemble_report(spec, grading.task, bank, unlearned.outputs, method, cost, drift, workers, began)
    remarks = remarks_on(grading.method, unlearned.drift) or _remarks_on_scores(grading, bank, unlearned)
    return replace(report, remarks=tuple(remarks))


def remarks_on(method: MethodFacts, drift: Floats) -> list[str]:
    """What is odd about runs, as sentences: that they left the original as it was, if that is not meant to be.

    `drift` is how far the weights of each are from the original's, `(runs,)`.
    """
    unchanged = int((drift == 0).sum())
    if not unchanged or method.leaves_original:
        return []
    if unchanged < len(drift):
        return [f"{method.name} left the original unchanged in {unchanged} of {len(drift)} runs."]
    return [f"{method.name} left the original unchanged: {method.why_unchanged}."]


def _remarks_on_scores(grading: Grading, bank: Bank, unlearned: Unlearned) -> list[str]:
    """What ails the confidences that are scored, as sentences."""
    spec, method = grading.spec, grading.method
    retrained = bank.retrained.outputs(spec.models)
    equal_is_meant = method.leaves_original or method.deterministic
    scored = ScoredOutputs(grading.task, retrained, _by_original(spec, unlearned.outputs), equal_is_meant)
    return warnings_in(make_checks("scores", SCORE_CHECKS, scored))


def _prepare_seconds(grading: Grading, device: str) -> float | None:
    """Seconds that preparing took for an original; None if the method prepares nothing."""
    if not grading.method.has_prepare:
        return None
    return prepared_seconds(grading.spec.method, grading.settings, grading.task, device)


def assemble_report(
    spec: GradingSpec,
    task: Task,
    bank: Bank,
    outputs: Outputs,
    method: MethodRecord,
    cost: Cost,
    drift: float | None,
    workers: Workers,
    began: float,
) -> Report:
    """The report of models with these `outputs`, wherever they were made, compared with those of the bank."""
    originals, retrained = bank.originals.outputs(spec.originals_needed), bank.retrained.outputs(spec.models)
    scores = _score(spec, task, originals, retrained, outputs)
    return Report(
        format=FORMAT,
        method=method,
        grading=_grading_record(spec, task, bank.fingerprint(originals, retrained)),
        scores=scores,
        unlearned=accuracies(outputs, task),
        retrained=accuracies(retrained, task),
        drift=drift,
        cost=cost,
        provenance=Provenance(
            seconds=time.monotonic() - began,
            device=describe_device(workers.device),
            workers=workers.count,
            versions=versions(),
            git_commit=_git_commit(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        plausibility=examine(_by_original(spec, outputs), retrained, scores),
    )


def _grading_record(spec: GradingSpec, task: Task, bank_fingerprint: str) -> GradingRecord:
    return GradingRecord(
        task=task.name,
        forget=[request.text for request in task.arrived],
        requests=len(task.requests),
        forget_examples=len(task.forget_indices),
        forget_indices=task.forget_indices.tolist(),
        train_examples=len(task.train),
        network=task.network,
        recipe=asdict(task.recipe),
        models=spec.models,
        originals=spec.originals_needed,
        protocol=spec.protocol,
        metric=spec.metric,
        seed=spec.seed,
        task_fingerprint=task.fingerprint,
        bank_fingerprint=bank_fingerprint,
        role=spec.task.role,
    )


def _by_original(spec: GradingSpec, outputs: Outputs) -> list[Outputs]:
    """The runs that are scored by themselves: those of each original; by the protocol "full", all."""
    count, models = spec.shape
    return [outputs[k * models : (k + 1) * models] for k in range(count)]


def _score(spec: GradingSpec, task: Task, originals: Outputs, retrained: Outputs, unlearned: Outputs) -> Scores:
    count, models = spec.shape
    # What doing nothing leaves: the originals themselves, N copies of each unless each is run once.
    floor = [originals]
    if spec.protocol == "per-original":
        floor = [Outputs.join([originals[k : k + 1]] * models) for k in range(count)]
    return score_outputs(_by_original(spec, unlearned), floor, retrained, task, METRICS[spec.metric])


def _git_commit() -> str | None:
    """The commit of the kit, with "+" if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


# ----------------------------------------------------------------------------------------------------------------------
# Scoring again
# ----------------------------------------------------------------------------------------------------------------------


def score_again(folder: Path, metric: str | None) -> Report:
    """Score the stored outputs of a grading, maybe by another metric, and store the report beside them.

    The folder may be somebody else's; the bank is the one that is here.

    Raises:
        UserError: the folder does not hold a finished grading, its outputs are not what was written, or its bank is
            gone.
    """
    stored = read_stored(folder)
    spec, task, before = replace(stored.spec, metric=metric or stored.spec.metric), stored.task, stored.report
    outputs, retrained = stored.unlearned.outputs, stored.retrained
    bank = Bank(*stored.pools, before.cost.retrain_seconds)
    scores = _score(spec, task, stored.originals, retrained, outputs)
    report = replace(
        before,
        grading=_grading_record(spec, task, bank.fingerprint(stored.originals, retrained)),
        scores=scores,
        unlearned=accuracies(outputs, task),
        retrained=accuracies(retrained, task),
        plausibility=examine(stored.by_original, retrained, scores),
    )
    report.save(folder)
    return report
