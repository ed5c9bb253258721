"""`python main.py leaderboard`: what has been graded."""

from __future__ import annotations

import sys
from typing import Annotated

from commands.options import OUTPUT, TableOptions, TaskName
from data.errors import UserError, unknown_name


def command(
    *,
    only: TaskName = TaskName(),
    output: TableOptions = TableOptions(),
    wide: Annotated[bool, OUTPUT] = False,
    by: Annotated[str, OUTPUT] = "score",
) -> None:
    """Rank the graded methods of all tasks, or of the one named; one table for each set of comparable conditions.

    Args:
        wide: Show seed, budget, code, F as of 512 models, accuracies, seconds and date, too.
        by: Rank by score, overlap or as-of-512.
    """
    from data import all_tasks
    from evaluation.report import read_reports, results_folder
    from evaluation.views import columns, leaderboard
    from evaluation.views.terminal import print_table

    if output.csv and output.markdown:
        raise UserError("Choose one of --csv and --markdown: they are two forms of the same tables.")
    if by not in leaderboard.NUMBERS:
        raise UserError(f"--by is one of {', '.join(leaderboard.NUMBERS)}, not {by!r}.")
    task = only.task
    if task is not None and task not in all_tasks():
        raise unknown_name("task", task, all_tasks())
    stored, unreadable = read_reports(results_folder())
    for path in unreadable:
        print(f"left out: {path} is not a report that this version of the kit can read", file=sys.stderr)
    reports = [report for report in stored if task in (None, report.grading.task) and report.grading.role == "grading"]
    if not reports:
        flag = "" if task is None else f" --task {task}"
        of_suites = " (python main.py suite NAME shows gradings of suites.)" if stored else ""
        raise UserError(f"Nothing has been graded yet: python main.py -m my_method{flag} does it.{of_suites}")
    codes = leaderboard.current_codes(report.method.name for report in reports if report.method.code is not None)
    tables = leaderboard.tables(reports, codes, by)
    if output.csv:
        print(columns.as_csv(tables), end="")
    elif output.markdown:
        print("\n\n".join(columns.as_markdown(rows, wide, by) for rows in tables))
    else:
        for rows in tables:
            print_table(rows, wide, by)
