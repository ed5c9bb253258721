"""`python main.py membership -m my_method`: attack the forget set."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from commands.options import GRADING, WHOLE, AttackOptions, RunOptions, TaskOptions, ValuesOptions, changed


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: AttackOptions = AttackOptions(),
    runs: Annotated[int, GRADING, WHOLE] = 4,
    compat: Annotated[bool, GRADING] = False,
    run: RunOptions = RunOptions(),
) -> None:
    """Attack original, retrained and unlearned networks: does their forget set look like training data?

    Args:
        runs: Runs from each original.
        compat: Compute the modified entropy as the published code does.
    """
    from checkpoints.workers import start_server

    start_server()
    from rich.console import Console as Screen

    from evaluation.audits.membership import measure
    from evaluation.spec import GradingSpec

    name = values.name()
    place = run.place()
    spec = changed(GradingSpec(name), task, grading, values)
    spec = replace(spec, tuned=values.tuned(spec.task, name))
    with run.pool(place) as pool:
        found, path = measure(spec, pool, run.console(), runs, compat)
    Screen(highlight=False).print(found.as_table())
    print(path)
