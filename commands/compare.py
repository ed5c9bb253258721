"""`python main.py compare -m my_method,finetune`: a verdict, with as many originals as it takes."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from commands.options import (
    GRADING,
    NUMBER,
    JsonOptions,
    RunOptions,
    SearchOptions,
    TaskOptions,
    ValuesOptions,
    grading_specs,
)


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: SearchOptions = SearchOptions(),
    minutes: Annotated[float, GRADING, NUMBER] = 10.0,
    error: Annotated[float, GRADING, NUMBER] = 0.05,
    run: RunOptions = RunOptions(),
    output: JsonOptions = JsonOptions(),
) -> int:
    """Say which of several methods is better: originals are added, 4 to 32, until each pair is decided.

    Args:
        minutes: After the first 4, add no originals that would take longer.
        error: The chance of a wrong verdict, on any pair at any look.
    """
    from checkpoints.server import start_server

    start_server()
    from evaluation.comparison.conduct import check_comparison, compare
    from evaluation.views.verdicts import show_comparison

    run.enter_sandbox()
    names = list(dict.fromkeys(values.names()))
    places = run.places()
    specs = grading_specs(names, values, task, grading)
    check_comparison(specs, minutes, error)
    with run.pool(places) as pool:
        comparison = compare(specs, minutes, pool, run.console(), error)
    if output.json:
        print(json.dumps(comparison.to_dict(), indent=1))
    else:
        show_comparison(comparison)
    for failure in comparison.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if comparison.failures else 0
