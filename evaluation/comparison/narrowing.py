"""Adding originals until a score is known closely enough."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from checkpoints.workers import Workers
from data import UserError
from evaluation.comparison.sequential import LOOKS
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.report import Report
from evaluation.runs.many import GradingFailedError
from evaluation.spec import GradingSpec
from evaluation.texts import counted

STEPS = (*LOOKS, 2 * LOOKS[-1])
"""Numbers of originals that are tried, from the given one on."""


def share_wanted(text: str) -> float:
    """What "10%", as `--until` has it, is as a share of 1.

    Raises:
        UserError: it is something else.

    >>> share_wanted("10%"), share_wanted("7.5 %")
    (0.1, 0.075)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", text)
    if found is None or not 0 < float(found[1]) < 100:
        raise UserError(f"--until takes a width in per cent of the score, like --until 10%, not {text!r}.")
    return float(found[1]) / 100


def half_width(report: Report) -> float:
    """Half the width of the score's interval, as a share of the score; infinite where that is 0."""
    score = report.scores.score
    return (score.high - score.low) / 2 / score.value if score.value else float("inf")


def grade_until(
    specs: Sequence[GradingSpec], share: float, workers: Workers, console: Console
) -> Iterator[Report | GradingFailedError]:
    """Grade each method with more and more originals, until the interval is that narrow; see `grade_methods`.

    Runs are never done twice. With `STEPS[-1]` originals it is the last, and with so many from the beginning the first.

    Raises:
        UserError: as `grade_methods` does, or the originals are not graded one by one.
    """
    if specs[0].protocol == "full":
        raise UserError("--until adds originals, each of which is graded by itself: leave out --protocol full.")
    for spec in specs:
        yield _grade_one(spec, share, workers, console)


def _grade_one(spec: GradingSpec, share: float, workers: Workers, console: Console) -> Report | GradingFailedError:
    steps = [spec.originals, *(step for step in STEPS if step > spec.originals)]
    for originals in steps:
        (result,) = grade_methods([replace(spec, originals=originals)], workers, console)
        if isinstance(result, GradingFailedError):
            return result
        if result.scores.score.value == 0:
            console.tell(f"{spec.method}: the score is 0, and no interval is narrower than a share of that")
            break
        width = half_width(result)
        with_how_many = f"{spec.method}: with {counted(originals, 'original')} the interval is"
        if width <= share:
            break
        more = "" if originals == steps[-1] else ": more are added"
        console.tell(f"{with_how_many} +-{100 * width:.0f} % of the score, not +-{100 * share:g} %{more}")
    return result
