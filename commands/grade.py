"""`python main.py grade submission.zip`: grade checkpoints that were made elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from commands.options import GRADING, ReportOptions, RunOptions, TaskOptions, ZipOptions, changed, usual_grading
from commands.output import show_or_print


def command(
    submission: Annotated[Path, Parameter(help="A submission.zip: the checkpoints of one method.")],
    /,
    *,
    name: Annotated[str | None, GRADING] = None,
    task: TaskOptions = TaskOptions(),
    grading: ZipOptions = ZipOptions(),
    run: RunOptions = RunOptions(),
    output: ReportOptions = ReportOptions(),
) -> None:
    """Grade a zip of checkpoints that were made elsewhere, all from one original.

    It is ranked among gradings with one original: the default of -m for task kaggle,
    --originals 1 for others. The row "do nothing" is the bank's original 0, not the original of the checkpoints.

    Args:
        name: Name on the leaderboard. [default: that of the file]
    """
    from checkpoints.server import start_server

    start_server()
    from data import TaskSpec
    from evaluation.submission import grade_submission

    spec = usual_grading(task.changed(TaskSpec("kaggle")))
    label = "".join(letter if letter.isalnum() else "_" for letter in name or submission.stem)
    spec = replace(spec, method=label, originals=1, submission=str(submission.resolve()))
    spec = changed(spec, task, grading)
    places = run.places()
    with run.pool(places) as pool:
        report = grade_submission(submission, spec, pool, run.console())
    show_or_print(report, output)
