"""`python main.py check -m my_method`: find what spoils scores, before any is believed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from commands.options import (
    Budget,
    JsonOptions,
    RunOptions,
    TaskOptions,
    ValuesOptions,
    grading_specs,
)
from data.errors import UserError

if TYPE_CHECKING:
    from evaluation.spec import GradingSpec


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    budget: Budget = Budget(),
    run: RunOptions = RunOptions(),
    output: JsonOptions = JsonOptions(),
) -> int:
    """Find what spoils scores before any is believed: in the task, the models, the method, the numbers.

    The exit code is 1 if there is an error: the score would mean nothing.
    """
    from checkpoints.server import start_server

    start_server()
    from evaluation.checks.conduct import check
    from evaluation.grading import load_with_one_request, tell_remarks
    from evaluation.runs.resolve import resolve
    from evaluation.views.checks import show_checks

    run.enter_sandbox()
    places = run.places()
    (spec,) = grading_specs([values.name()], values, task, budget)
    console = run.console()
    with run.pool(places) as pool:
        grading = resolve(spec, load_with_one_request(spec.task, pool.device), pool.device)
        tell_remarks([grading], console)
        report = check(grading, pool, console, "" if run.sandbox else why_no_notebook(spec))
    if output.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        show_checks(report)
    return 0 if report.is_fine else 1


def why_no_notebook(spec: GradingSpec) -> str:
    """Why no notebook can be made of a method; empty if one can. It imports the method's file in this process."""
    import notebook_utils

    settings = {**dict(spec.tuned.settings if spec.tuned else ()), **dict(spec.settings)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            notebook_utils.export(spec.method, settings, folder=Path(folder))
        except UserError as error:
            return str(error)
    return ""
