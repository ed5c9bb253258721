"""`python main.py score DIRECTORY`: score stored outputs again."""

from __future__ import annotations

from commands.options import MetricOption, ReportOptions, ResultFolder
from commands.output import show_or_print


def command(
    directory: ResultFolder, /, *, grading: MetricOption = MetricOption(), output: ReportOptions = ReportOptions()
) -> None:
    """Score the stored outputs of a grading again, with its metric or another, without running anything."""
    from evaluation.console import Console
    from evaluation.grading import score_again, warn_of_metric

    report = score_again(directory, grading.metric)
    warn_of_metric(report.grading.metric, Console())
    show_or_print(report, output)
