"""From a question ("how good is this method?") to a report on disk: bank, runs, score, in that order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.bank import Bank, ensure
from checkpoints.devices import describe_device, versions
from checkpoints.networks import build_network
from checkpoints.outputs import Outputs
from checkpoints.pool import Pool
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError, load
from evaluation.certification.certificates import collect
from evaluation.console import Console
from evaluation.metrics.by_class import accuracies_by_class
from evaluation.metrics.score import Scores, score_outputs
from evaluation.metrics.top5 import top5_accuracies
from evaluation.report import Report, read_report
from evaluation.runs.many import GradingFailedError, budget_seconds, unlearn
from evaluation.runs.one import Unlearned
from evaluation.runs.prepared import prepared_seconds
from evaluation.spec import GradingSpec, grading_folder, method_settings
from evaluation.submission import CheckpointJob, check_all, evaluate, look_over, submission_folder
from methods import all_method_handlers

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
    for one in specs:
        method_settings(one, task)
    build_network(task)  # if there is no such network, now is the time to say so
    announce(spec, task, workers, console)
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, spec.originals_needed, spec.models, workers, console.tell, on_progress)
    for one in specs:
        try:
            yield _grade_one(one, task, bank, workers, console, began)
        except GradingFailedError as error:
            yield error
        began = time.monotonic()


def load_with_one_request(spec: TaskSpec) -> Task:
    """The task, if there is nothing to be done one after another.

    Raises:
        UserError: it has several requests.
    """
    task = load(spec)
    if len(task.requests) > 1:
        raise UserError("Several --forget requests arrive one after another; add --at-once to make one of them here.")
    return task


def announce(spec: GradingSpec, task: Task, workers: Workers, console: Console) -> None:
    """Say what is graded, and what to beware of."""
    console.tell(_headline(spec, task, workers))
    forgotten = len(task.forget_indices)
    if forgotten < FEW_TO_FORGET:
        images = "image is" if forgotten == 1 else "images are"
        console.tell(
            f"Only {forgotten} {images} to be forgotten: F is a mean over so few, and tells little. "
            "(random:0.2 is a share of the training images, random:2 a number.)"
        )
    warn_of_metric(spec.metric, console)


def warn_of_metric(metric: str, console: Console) -> None:
    """Say what the numbers of another metric than the competition's can't be compared with."""
    if metric == "notebook":
        console.tell(
            "metric notebook: that of the public CIFAR-10 notebook. It looks at the model's own prediction, not at "
            "the true class, with weaker attacks and delta 0.01. Its ceiling is 0.5 to 0.9: compare with nothing else."
        )


def _headline(spec: GradingSpec, task: Task, workers: Workers) -> str:
    """What is graded, in a line."""
    forgotten = f"forget {', then '.join(request.text for request in task.requests)}"
    originals = f"{spec.originals} originals" if spec.protocol == "per-original" else f"{spec.models} originals"
    return (
        f"{task.name} · {forgotten} ({len(task.forget_indices)} of {len(task.train)}) · {originals}, "
        f"{spec.models} retrained · {workers.device}, {workers.count} workers"
    )


def _grade_one(spec: GradingSpec, task: Task, bank: Bank, workers: Workers, console: Console, began: float) -> Report:
    with console.progress(spec.method, "runs") as on_progress:
        unlearned = unlearn(spec, task, bank, workers, console.tell, on_progress)
    console.tell(f"{spec.method}: scoring {len(unlearned)} runs")
    report = make_report(spec, task, bank, unlearned, workers, began)
    folder = grading_folder(spec, task, workers.device)
    report.save(folder)
    certificate = collect(folder, spec.method)
    if certificate is not None:
        console.tell(f"{spec.method}: python main.py certify {certificate} recomputes what it certifies")
    return report


def grade_submission(path: Path, spec: GradingSpec, workers: Workers, console: Console) -> Report:
    """Grade a zip of checkpoints, `spec.models` in number, that were made elsewhere; `spec.method` is their name.

    Its floor is the bank's original 0, trained on the same data as the one that the checkpoints came from, which is
    not in the zip.

    Raises:
        UserError: the task is wrong, or something is wrong with the zip or a checkpoint in it, which is found
            before anything is trained.
    """
    began = time.monotonic()
    task = load_with_one_request(spec.task)
    submission = look_over(path, spec.models, task)
    announce(spec, task, workers, console)
    folder = submission_folder(submission, spec.method, task)
    job = CheckpointJob(spec.task, workers.device, submission, folder)
    with console.progress("reading", "checkpoints") as on_progress:
        check_all(job, workers, on_progress)
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, spec.originals_needed, spec.models, workers, console.tell, on_progress)
    with console.progress(spec.method, "checkpoints") as on_progress:
        unlearned = evaluate(job, spec, workers, console.tell, on_progress)
    report = Report(
        method=spec.method,
        submission=submission.sha256,
        settings={},
        changed={},
        tuned_trials=None,
        exempt_from_budget=False,
        budget_seconds=None,
        budget_fraction_used=None,
        runs_seconds_mean=None,
        peak_memory_bytes=None,
        drift=None,
        **_about_the_grading(spec, task, bank, unlearned.outputs, workers, began),
    )
    report.save(folder)
    return report


def make_report(
    spec: GradingSpec, task: Task, bank: Bank, unlearned: Unlearned, workers: Workers, began: float
) -> Report:
    """Score what the runs left and put together all that is known of the grading, which began at `began`."""
    return Report(
        **_about_the_method(spec, task, bank, unlearned, workers.device),
        **_about_the_grading(spec, task, bank, unlearned.outputs, workers, began),
    )


def _about_the_method(spec: GradingSpec, task: Task, bank: Bank, unlearned: Unlearned, device: str) -> dict[str, Any]:
    """The fields of a report that tell what ran, and how long it took."""
    settings = method_settings(spec, task)
    return {
        "method": spec.method,
        "submission": None,
        "settings": settings,
        "changed": {name: settings[name] for name, _ in spec.settings},
        "tuned_trials": spec.tuned.trials if spec.tuned else None,
        "exempt_from_budget": all_method_handlers()[spec.method].exempt_from_budget,
        "budget_seconds": budget_seconds(spec, bank),
        "budget_fraction_used": float(unlearned.seconds.mean() / bank.retrain_seconds),
        "runs_seconds_mean": float(unlearned.seconds.mean()),
        "peak_memory_bytes": int(unlearned.peak_memory.max()),
        "drift": float(unlearned.drift.mean()),
        "prepare_seconds": prepared_seconds(spec.method, settings, task, device),
    }


def _about_the_grading(
    spec: GradingSpec, task: Task, bank: Bank, outputs: Outputs, workers: Workers, began: float
) -> dict[str, Any]:
    """The fields of a report that follow from the outputs of the unlearned models and what they are compared with."""
    return {
        "task": task.name,
        "forget": [request.text for request in task.arrived],
        "requests": len(task.requests),
        "forget_examples": len(task.forget_indices),
        "train_examples": len(task.train),
        "network": task.network,
        "recipe": asdict(task.recipe),
        "task_fingerprint": task.fingerprint,
        "bank_fingerprint": bank.fingerprint(spec.originals_needed, spec.models),
        "models": spec.models,
        "originals": spec.originals_needed,
        "protocol": spec.protocol,
        "metric": spec.metric,
        "seed": spec.seed,
        **_scores(_score(spec, task, bank.originals, bank.retrained, outputs), spec.metric),
        **_accuracies(outputs, task, ""),
        **_accuracies(bank.retrained.outputs(spec.models), task, "_retrained"),
        "accuracy_by_class": accuracies_by_class(outputs, task),
        "accuracy_by_class_retrained": accuracies_by_class(bank.retrained.outputs(spec.models), task),
        "top5_accuracy": top5_accuracies(outputs, task),
        "top5_accuracy_retrained": top5_accuracies(bank.retrained.outputs(spec.models), task),
        "forget_indices": task.forget_indices.tolist(),
        "retrain_seconds": bank.retrain_seconds,
        "seconds": time.monotonic() - began,
        "device": describe_device(workers.device),
        "workers": workers.count,
        "versions": versions(),
        "git_commit": _git_commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _score(spec: GradingSpec, task: Task, originals: Pool, retrained: Pool, unlearned: Outputs) -> Scores:
    count, models = spec.shape
    outputs = [unlearned[k * models : (k + 1) * models] for k in range(count)]
    idle = originals.outputs(spec.originals_needed)
    # What doing nothing leaves: the originals themselves, N copies of each unless each is run once.
    floor = [idle] if spec.protocol == "full" else [Outputs.join([idle[k : k + 1]] * models) for k in range(count)]
    return score_outputs(outputs, floor, retrained.outputs(models), task, spec.metric)


def _scores(scores: Scores, metric: str) -> dict[str, Any]:
    grades = scores.grades
    share = grades.score.value / scores.ceiling.score if scores.ceiling.score else 0.0
    return {
        "score": grades.score.value,
        "score_interval": (grades.score.low, grades.score.high),
        "forgetting_quality": grades.forgetting_quality.value,
        "forgetting_quality_interval": (grades.forgetting_quality.low, grades.forgetting_quality.high),
        "retain_ratio": scores.retain_ratio,
        "test_ratio": scores.test_ratio,
        "share_of_ceiling": share if metric == "official" else None,
        "floor": scores.floor,
        "ceiling": scores.ceiling,
        "score_by_original": list(grades.score_by_original),
        "forgetting_quality_by_original": list(grades.forgetting_quality_by_original),
        "epsilons": scores.epsilons,
        "forgetting_quality_by_request": scores.by_request,
    }


def _accuracies(outputs: Outputs, task: Task, ending: str) -> dict[str, Any]:
    """Mean accuracies over models, named as in the report."""
    splits = ("test", "validation", "forget")
    found = {f"{split}_accuracy{ending}": outputs.accuracy(split, task.labels(split)) for split in splits}
    found[f"retain_accuracy{ending}"] = outputs.retain_accuracy
    means: dict[str, Any] = {name: float(values.mean()) for name, values in found.items()}
    right = (outputs.forget.argmax(axis=2) == task.labels("forget")).mean(axis=0)  # (forget,) over models
    own = [np.isin(task.forget_indices, request.indices) for request in task.arrived]
    return {**means, f"forget_accuracy_by_request{ending}": [float(right[examples].mean()) for examples in own]}


def _git_commit() -> str | None:
    """The commit of the kit, with "+" if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def score_again(folder: Path, metric: str | None) -> Report:
    """Score the stored outputs of a grading, maybe by another metric, and store the report beside them.

    Raises:
        UserError: the folder does not hold a finished grading, or its bank is gone.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(f"{folder} is not the folder of a grading: it has no config.yaml.")
    spec = GradingSpec.read(config)
    spec = replace(spec, metric=metric or spec.metric)
    unlearned = Unlearned.load(folder / "outputs.npz")
    before = next((report for report in map(read_report, sorted(folder.glob("report*.json"))) if report), None)
    if unlearned is None or before is None:
        raise UserError(f"{folder} is not finished: {spec.command(config)} goes on with it.")
    task = load(spec.task)
    originals, retrained = Pool(task, "original"), Pool(task, "retrained")
    if not (originals.is_complete(spec.originals_needed) and retrained.is_complete(spec.models)):
        raise UserError(f"The models it was compared with are gone: {spec.command(config)} makes them again.")
    scores = _score(spec, task, originals, retrained, unlearned.outputs)
    report = replace(before, metric=spec.metric, **_scores(scores, spec.metric))
    report.save(folder)
    return report
