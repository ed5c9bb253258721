"""What several commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from commands.options import ReportOptions
    from evaluation.report import Report
    from evaluation.sequence import SequenceReport


def print_json(reports: Sequence[Report | SequenceReport], one: bool) -> None:
    """Print reports as JSON: an object if `one` was asked for, else a list."""
    objects = [report.to_dict() for report in reports]
    print(json.dumps(objects[0] if one else objects, indent=1))


def show_or_print(report: Report, output: ReportOptions) -> None:
    """Show a report as a table, or print it as JSON."""
    from evaluation.views.terminal import show_report

    if output.json:
        print_json([report], one=True)
    else:
        show_report(report, output.all)


def usable(methods: Sequence[str]) -> tuple[list[str], dict[str, UserError]]:
    """Those of the methods whose files can be used, and why others can't, which is told on standard error."""
    from evaluation.catalogue.lookup import look_up

    found = look_up(methods)
    broken = {name: error for name, error in found.items() if isinstance(error, UserError)}
    for error in broken.values():
        print(f"error: {error}", file=sys.stderr)
    return [name for name in methods if name not in broken], broken
