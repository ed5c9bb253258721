"""The checks of a method as the command line prints them."""

from __future__ import annotations

from rich.table import Table

from data.texts import printable
from evaluation.checks.conduct import CheckReport, summary
from evaluation.views.terminal import make_screen

WIDTH = 110
"""Letters in a line, where there is no terminal."""


def show_checks(report: CheckReport) -> None:
    """A line for each check, "ok" or what was found, and a summary."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=50)
    table.add_column(overflow="fold")
    for one in report.checks:
        found = one.finding
        said = "ok" if found is None else f"{found.severity.upper()}: {printable(found.sentence)}"
        if found is not None and found.severity == "skipped":
            said = f"skipped ({found.sentence})"
        table.add_row(one.about, one.name, said)
    screen = make_screen(WIDTH)
    screen.print(f"{printable(report.method)} on {report.task}, forget {', then '.join(map(printable, report.forget))}")
    screen.print(table)
    screen.print(f"{summary(report)} ({report.seconds:.0f} s)")
