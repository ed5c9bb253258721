"""`python main.py -m my_method`: grade methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands.notebook import make_notebooks
from commands.options import (
    ConfigOptions,
    PhaseOptions,
    ReportOptions,
    TaskOptions,
    UntilOptions,
    ValuesOptions,
    grading_specs,
)
from commands.output import print_json, usable
from data.errors import UserError

if TYPE_CHECKING:
    from checkpoints.workers import Workers
    from evaluation.console import Console
    from evaluation.spec import GradingSpec
    from evaluation.views.terminal import Result


QUICK_RUNS = 4
WITHOUT_OPTIONS = (ValuesOptions(), TaskOptions(), UntilOptions(), ConfigOptions(), ReportOptions(), PhaseOptions())
"""What the command gets if nothing is asked of it."""


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: UntilOptions = UntilOptions(),
    run: ConfigOptions = ConfigOptions(),
    output: ReportOptions = ReportOptions(),
    phase: PhaseOptions = PhaseOptions(),
) -> int | None:
    """Grade unlearning methods as the NeurIPS 2023 machine-unlearning competition did, on your own machine."""
    config = None if run.config is None else read_config(run.config)
    if values.method is None and config is not None:
        values = replace(values, method=config.method)
    if values.method is None:
        if (values, task, grading, run, output, phase) == WITHOUT_OPTIONS:
            show_help()
            return None
        raise UserError("Name a method, too: -m my_method (python main.py list shows them).")
    if phase.phase not in ("dev", "test"):
        raise UserError(f"-p is dev or test, not {phase.phase!r}.")
    if run.debug or run.quick:
        debug(values, task, grading, run, output, phase, config)
        return None
    if phase.phase == "test":
        make_notebooks(values, task, phase, config)
        return None
    return grade(values, task, grading, run, output, config)


def read_config(path: Path) -> GradingSpec:
    """The grading of a `config.yaml`. Raises `UserError` if it is none, or that of a zip."""
    from evaluation.spec import GradingSpec

    spec = GradingSpec.read(path)
    if spec.submission is not None:
        raise UserError(f"{path} is that of a graded zip: {spec.command(path)} grades it again.")
    # A trial of a search, or a later request, is repeated as a grading of its own.
    role = "grading" if spec.task.role == "tuning" else spec.task.role
    return replace(spec, task=replace(spec.task, role=role, step=0))


def show_help() -> None:
    """Print what `python main.py --help` prints."""
    from commands import make_app

    make_app().help_print([])


def grade(
    values: ValuesOptions,
    task: TaskOptions,
    grading: UntilOptions,
    run: ConfigOptions,
    output: ReportOptions,
    config: GradingSpec | None,
) -> int:
    """Grade the methods and show each report as it is there; the exit code is 2 if a method failed."""
    from checkpoints.server import start_server

    start_server()
    from evaluation.views.terminal import show_result, show_summary

    run.enter_sandbox()
    asked = list(dict.fromkeys(values.names()))
    names, failures = usable(asked)
    if not names:
        return 2
    results: dict[str, Result] = dict(failures)
    places = run.places()
    specs = grading_specs(names, values, task, grading, config)
    with run.pool(places) as pool:
        for name, result in zip(names, graded(specs, grading.until, pool, run.console()), strict=True):
            results[name] = result
            if isinstance(result, UserError):
                print(f"error: {result}", file=sys.stderr)
            elif not output.json:
                show_result(result, output.all)
    reports = [result for result in results.values() if not isinstance(result, UserError)]
    if output.json and (reports or len(asked) > 1):  # of one method that failed there is nothing to print
        print_json(reports, one=len(asked) == 1)
    elif len(asked) > 1:
        show_summary(results)
    return 2 if len(reports) < len(asked) else 0


def graded(specs: Sequence[GradingSpec], until: str | None, workers: Workers, console: Console) -> Iterator[Result]:
    """What the grading of each method comes to: of one request, several in turn, or with as many originals as needed.

    Raises:
        UserError: `until` is no width, or there are several requests.
    """
    from evaluation.comparison.narrowing import grade_until, share_wanted
    from evaluation.grading import grade_methods
    from evaluation.sequence import grade_sequences

    in_turn = len(specs[0].task.forget) > 1 and not specs[0].task.at_once
    if until is None:
        return (grade_sequences if in_turn else grade_methods)(specs, workers, console)
    if in_turn:
        raise UserError("--until grades one request: add --at-once to make one of several.")
    return grade_until(specs, share_wanted(until), workers, console)


def debug(
    values: ValuesOptions,
    task: TaskOptions,
    grading: UntilOptions,
    run: ConfigOptions,
    output: ReportOptions,
    phase: PhaseOptions,
    config: GradingSpec | None,
) -> None:
    """Run a method once or, with --quick, four times in this process, and show what came of it.

    Raises:
        UserError: several methods, or an option that means nothing here; or the method failed.
    """
    names, option = values.names(), "--quick" if run.quick else "--debug"
    if len(names) > 1:
        raise UserError(f"{option} runs one method: -m {names[0]}, not -m {values.method}.")
    if run.debug and run.quick:
        raise UserError("Choose one of --debug and --quick: one run, or four.")
    for given, other, why in (
        (run.sandbox, "--sandbox", "the method runs in this process, which no sandbox is around"),
        (output.json, "--json", "there is no report"),
        (grading.until is not None, "--until", "nothing is scored"),
        (phase.phase == "test", "-p test", "the method runs here, not in a notebook"),
    ):
        if given:
            raise UserError(f"{option} goes without {other}: {why}.")
    from checkpoints.server import start_server

    start_server()
    from evaluation.views import debug as view

    any_number = replace(grading, models=None, originals=None)  # of which one run is taken: --models 1 is no mistake
    (spec,) = grading_specs(names, values, task, any_number, config)
    with run.pool(run.places()) as pool:
        grading_of_it, bank = view.ready_to_debug(spec, pool, run.console())
    view.debug(
        grading_of_it, bank, QUICK_RUNS if run.quick else 1
    )  # the workers have ended: standard input and output are the method's
