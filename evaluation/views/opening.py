"""Opening a stored grading for figures of one's own: `from evaluation import open_grading`.

All that is read is verified, and it is looked whether the pieces belong together.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from checkpoints.bank import Bank
from data import Task, UserError
from data.errors import unknown_name
from evaluation.metrics import DEFAULT_METRIC, METRICS
from evaluation.metrics.accuracies import SPLITS, accuracies
from evaluation.report import Report, read_report
from evaluation.runs.stored import Stored, read_stored
from evaluation.views.opened import Images, OpenedGrading

COMPARED = ("retain", *SPLITS)
ROUNDING = 1e-9
"""How much another NumPy may compute a mean accuracy differently."""


def open_grading(path: str | os.PathLike[str]) -> OpenedGrading:
    """Read what a grading has stored. Nothing is run, and what has been changed since is refused.

    Args:
        path: the folder that a grading says it is saved in, or a report in it. Of several requests, each has a folder
            of its own. Of a folder, the report is the one by the metric of the grading.

    Raises:
        UserError: it is no finished grading; a file is gone, damaged, or does not fit the others; or the bank no
            longer has the models that the report compares with. The message says what to do.
    """
    path = Path(path).expanduser()
    folder = path.parent if path.is_file() else path
    _check_folder(folder)
    stored = read_stored(folder)
    report = _chosen_report(path, stored)
    _check_agreement(report, stored)
    return OpenedGrading(
        folder=folder,
        report=report,
        classes=stored.task.classes,
        images=_images(stored),
        unlearned=tuple(stored.by_original),
        retrained=stored.retrained,
        originals=stored.originals,
        epsilons=np.array([[np.inf if one is None else one for one in row] for row in report.scores.epsilons]),
        stored=stored,
    )


def _check_folder(folder: Path) -> None:
    """Raise a `UserError` that says which folder is meant, if it is not this one."""
    if not folder.exists():
        here = "" if folder.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"There is no {folder}{here}: name the folder that a grading says it is saved in.")
    if (folder / "config.yaml").is_file():
        return
    inside = sorted({config.parent for pattern in ("*", "*/*") for config in folder.glob(f"{pattern}/config.yaml")})
    if inside:
        raise UserError(f"{folder} is not the folder of one grading: name one that is in it, like {inside[0]}.")


def _chosen_report(path: Path, stored: Stored) -> Report:
    """The report that was named, or that of the grading's own metric. Raises `UserError` if it can't be read."""
    metric = stored.spec.metric
    name = "report.json" if metric == DEFAULT_METRIC else f"report-{metric}.json"
    named = path.is_file() and path.match("report*.json")
    file = path if named else stored.folder / name
    report = read_report(file)
    if report is None:
        raise UserError(f"{file} can't be read: python main.py score {stored.folder} writes a report again.")
    if report.grading.metric not in METRICS:
        raise unknown_name("metric", report.grading.metric, METRICS)
    return report


def _check_agreement(report: Report, stored: Stored) -> None:
    """Raise `UserError` if the report is not about these runs and models."""
    spec, task, about = stored.spec, stored.task, report.grading
    own = (report.method.name, about.models, about.originals, about.protocol, about.seed, about.task_fingerprint)
    if own != (spec.method, spec.models, spec.originals_needed, spec.protocol, spec.seed, task.fingerprint):
        again = spec.command(stored.folder / "config.yaml")
        raise UserError(
            f"{stored.folder} has a report of another grading than its config.yaml: {again} makes it again."
        )
    bank = Bank(*stored.pools, report.cost.retrain_seconds)
    if about.bank_fingerprint != bank.fingerprint(stored.originals, stored.retrained):
        raise UserError(
            f"The report in {stored.folder} compares with other models than the bank has: python main.py score "
            f"{stored.folder} compares with those that are here."
        )
    left = accuracies(stored.unlearned.outputs, task)
    found, told = ([getattr(one, split) for split in COMPARED] for one in (left, report.unlearned))
    if not np.allclose(found, told, rtol=0, atol=ROUNDING):
        raise UserError(
            f"The report in {stored.folder} is not about the outputs.npz beside it, whose accuracies are others: "
            f"python main.py score {stored.folder} writes one that is."
        )


def _images(stored: Stored) -> dict[str, Images]:
    task = stored.task
    found = {
        "forget": _of_training(task, task.forget_indices),
        "validation": Images(task.validation.image_ids, task.labels("validation"), None, task.validation.columns),
        "test": Images(task.test.image_ids, task.labels("test"), None, task.test.columns),
    }
    if all(one.retain is not None for one in (stored.unlearned.outputs, stored.retrained, stored.originals)):
        found["retain"] = _of_training(task, task.retain_sample)
    return found


def _of_training(task: Task, indices: np.ndarray) -> Images:
    metadata = {name: values[indices] for name, values in task.train.columns.items()}
    return Images(task.train.image_ids[indices], task.train.labels.cpu().numpy()[indices], indices, metadata)
