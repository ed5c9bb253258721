"""Grading one submission on one request. Whatever was handed in, it comes to a verdict, and harms no other."""

from __future__ import annotations

import math
import re
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoints.workers import Workers
from data import UserError, load
from data.files import generated_folder, sha256_of, write_atomically
from data.texts import printable
from evaluation.catalogue.lookup import facts_of
from evaluation.catalogue.strangers import admit
from evaluation.competition.folder import Folder
from evaluation.competition.intake import Submission
from evaluation.competition.notebook import NotebookError, method_in
from evaluation.competition.parts import Part
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.metrics import DEFAULT_METRIC
from evaluation.report import Report
from evaluation.runs.many import GradingFailedError, GradingLostError, RunFailedError
from evaluation.runs.resolve import resolve
from evaluation.spec import GradingSpec
from evaluation.submission import grade_submission, look_over, submission_folder

LONGEST_VERDICT = 600
METHOD_FILE = re.compile(r"(accepted/methods/)?submission_[0-9a-f]{24}(\.py)?(?![-0-9a-f])")
"""What a submission is called by the kit, but for the name of its results."""


@dataclass(frozen=True)
class Verdict:
    """What grading a submission came to."""

    kind: str
    """"graded"; "failed" or "refused": by its own fault; "postponed": not, so that it is graded another time."""
    why: str = ""
    """A sentence."""
    seconds: float = 0.0
    """On the clock."""
    report: Path | None = None
    """The report's file."""
    score: float | None = None


class _RefusedError(Exception):
    """The submission can't be graded, by its own fault."""


def judge(submission: Submission, part: Part, folder: Folder, workers: Workers) -> Verdict:
    """Grade a submission, whose bank is there.

    Raises:
        UserError, OSError: something is wrong that concerns all of them, like a full disk.
    """
    began = time.monotonic()
    try:
        report, path = _grade(submission, part, folder, workers)
        if not math.isfinite(report.scores.score.value):
            raise _RefusedError("its outputs are NaN or infinite")
        verdict = Verdict("graded", report=path, score=report.scores.score.value)
    except GradingLostError as error:
        verdict = Verdict("postponed", str(error))
    except GradingFailedError as error:
        verdict = Verdict("failed", str(error))
    except (_RefusedError, NotebookError) as error:
        verdict = Verdict("refused", str(error))
    except (UserError, OSError):
        raise
    except Exception as error:  # our bug; the others are not to suffer from it
        log = folder.results(part.hidden) / "errors" / f"{submission.sha256}.log"
        text = traceback.format_exc()
        write_atomically(log, lambda beside: beside.write_text(text, errors="replace"))
        verdict = Verdict("postponed", f"the kit has an error, {type(error).__name__}: see {log}")
    why = _sentence(verdict.why, submission, folder)
    return replace(verdict, why=why, seconds=time.monotonic() - began)


def _grade(submission: Submission, part: Part, folder: Folder, workers: Workers) -> tuple[Report, Path]:
    kept = submission.copy_in(folder)
    if not kept.is_file() or sha256_of(kept) != submission.sha256:
        raise UserError(f"{kept} is gone, or was changed: put the file with this SHA-256 there again.")
    if submission.kind == "zip":
        return _grade_zip(submission, kept, part, workers)
    name = admit(kept.read_bytes() if submission.kind == "method" else method_in(kept))
    spec = replace(part.spec, method=name)
    task = load(spec.task, progress=False)
    try:
        facts_of(name)
        grading = resolve(spec, task, workers.device)
    except UserError as error:
        raise _RefusedError(str(error)) from error
    (report,) = grade_methods([spec], workers, Console(quiet=True))
    if isinstance(report, GradingFailedError):
        raise report
    return report, _report_in(grading.folder, spec)


def _grade_zip(submission: Submission, kept: Path, part: Part, workers: Workers) -> tuple[Report, Path]:
    if part.spec.originals != 1:
        raise _RefusedError("checkpoints come from one original, and this contest has more: hand in a method")
    spec = replace(part.spec, method=f"zip_{submission.sha256[:24]}", submission=str(kept.resolve()))
    task = load(spec.task, progress=False)
    try:
        zipped = look_over(kept, spec.models, task)
    except UserError as error:
        raise _RefusedError(str(error)) from error
    try:
        report = grade_submission(kept, spec, workers, Console(quiet=True))
    except UserError as error:
        if isinstance(error.__cause__, RunFailedError) and not error.__cause__.lost:
            raise _RefusedError(str(error)) from error
        raise
    return report, _report_in(submission_folder(zipped, spec.method, task), spec)


def _report_in(folder: Path, spec: GradingSpec) -> Path:
    return folder / ("report.json" if spec.metric == DEFAULT_METRIC else f"report-{spec.metric}.json")


def _sentence(text: str, submission: Submission, folder: Folder) -> str:
    """On one line, with the file as its team calls it, and without where the folder of the competition lies."""
    text = text.replace(str(submission.copy_in(folder)), submission.file)
    for root in (generated_folder("UNLEARNING_STRANGERS"), folder.root):
        for place in (root, root.resolve()):
            text = text.replace(f"{place}/", "")
    text = METHOD_FILE.sub(lambda _: submission.file, text)
    return printable(text, LONGEST_VERDICT)
