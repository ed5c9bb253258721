"""`python main.py audit membership -m my_method`: put another question to what a grading has stored."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from commands.options import AUDIT, AttackOptions, AuditOutput, RunOptions, TaskOptions, ValuesOptions, attacked


def command(
    audit: Annotated[str, Parameter(help="Name of an audit; python main.py list shows them, with their options.")],
    /,
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: AttackOptions = AttackOptions(),
    option: Annotated[tuple[str, ...], AUDIT] = (),
    run: RunOptions = RunOptions(),
    output: AuditOutput = AuditOutput(),
) -> None:
    """Put another question to what a grading has stored. Runs that are missing are done first, without a budget.

    Args:
        option: Option of the audit, like runs=8. Repeatable.
    """
    from evaluation.spec import pairs

    show_audit(audit, dict(pairs("--option", option)), values, task, grading, run, output)


def show_audit(
    name: str,
    options: dict[str, Any],
    values: ValuesOptions,
    task: TaskOptions,
    grading: AttackOptions,
    run: RunOptions,
    output: AuditOutput,
) -> None:
    """Put the audit `name` to the grading that the other options choose, and print its table, JSON or CSV."""
    from checkpoints.server import start_server

    start_server()
    from rich.console import Console as Screen

    from data.errors import unknown_name
    from evaluation.audits import AUDITS, examination
    from evaluation.audits.record import as_csv

    output.check()
    run.enter_sandbox()
    if name not in AUDITS:
        raise unknown_name("audit", name, AUDITS, shown_by="python main.py list")
    places = run.places()
    spec = attacked(values, task, grading)
    with run.pool(places) as pool:
        result, path = examination.audit_grading(AUDITS[name], spec, options, pool, run.console())
    if output.json:
        print(path.read_text(), end="")
        return
    if output.csv:
        print(as_csv(json.loads(path.read_text()), result.as_rows()), end="")
        return
    Screen(highlight=False, markup=False, emoji=False).print(result.as_table())
    print(path)
