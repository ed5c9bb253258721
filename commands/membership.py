"""`python main.py membership -m my_method`: another name of `python main.py audit membership`."""

from __future__ import annotations

from typing import Annotated

from commands.audit import show_audit
from commands.options import AUDIT, WHOLE, AttackOptions, AuditOutput, RunOptions, TaskOptions, ValuesOptions


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: AttackOptions = AttackOptions(),
    runs: Annotated[int, AUDIT, WHOLE] = 4,
    compat: Annotated[bool, AUDIT] = False,
    run: RunOptions = RunOptions(),
    output: AuditOutput = AuditOutput(),
) -> None:
    """Attack original, retrained and unlearned networks: does their forget set look like training data?

    Args:
        runs: Runs from each original.
        compat: Compute the modified entropy as the published code does.
    """
    show_audit("membership", {"runs": runs, "compat": compat}, values, task, grading, run, output)
