"""`python main.py suite digits -m my_method`: one number over many forget sets, on none of which it was tuned."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from commands.options import DataDir, MethodNames, RunOptions, SuiteOutput, Trials
from commands.output import usable
from data.errors import UserError

if TYPE_CHECKING:
    from evaluation.suites.suite import Suite


def command(
    name: Annotated[str | None, Parameter(help="digits, faces, cifar10, or your YAML file: docs/suites.md.")] = None,
    /,
    *,
    method: MethodNames = MethodNames(),
    search: Trials = Trials(),
    data: DataDir = DataDir(),
    run: RunOptions = RunOptions(),
    output: SuiteOutput = SuiteOutput(),
) -> int:
    """Grade methods on many forget sets, which they were not tuned on. Without -m: show what has been graded.

    With --trials a method is tuned first, on other forget sets. It is then graded twice: with the values that were
    found, and as published. The same number of trials for all methods is fair.
    """
    from evaluation.suites.suite import read_suite

    output.check()
    if name is None:
        if method.method is not None:
            raise UserError("Which suite? python main.py suite digits -m my_method; without -m it lists them.")
        return list_suites()
    suite = read_suite(name)
    if data.data_dir is not None:
        suite = suite.in_folder(data.data_dir)
    if method.method is not None:
        return grade(suite, method, search.trials, run, output)
    if search.trials is not None:
        raise UserError("--trials needs a method to tune: -m my_method.")
    show(suite, output, name)
    return 0


def list_suites() -> int:
    """Print the suites of the kit."""
    from evaluation.suites.suite import names_of_suites, read_suite

    for name in names_of_suites():
        print(f"{name:<10}{read_suite(name).about}")
    return 0


def grade(suite: Suite, method: MethodNames, trials: int | None, run: RunOptions, output: SuiteOutput) -> int:
    """Grade methods, and show them among those that were graded before."""
    from checkpoints.server import start_server

    start_server()
    from evaluation.suites.conduct import grade_on_suite
    from evaluation.suites.result import SuiteResult

    run.enter_sandbox()
    names, broken = usable(list(dict.fromkeys(method.names())))
    if not names:
        return 2
    places = run.places()
    with run.pool(places) as pool:
        results = grade_on_suite(suite, names, trials, pool, run.console())
    lost = [result for result in results if not isinstance(result, SuiteResult)]
    for error in lost:
        print(f"error: {error}", file=sys.stderr)
    show(suite, output, suite.name, names)
    failed = any(result.failures for result in results if isinstance(result, SuiteResult))
    return 2 if broken or lost or failed else 0


def show(suite: Suite, output: SuiteOutput, name: str, names: list[str] | None = None) -> None:
    """Print what has been graded on the suite; as JSON, of the methods `names` alone, unless that is None.

    Raises:
        UserError: nothing has been.
    """
    from evaluation.suites.result import comparable, read_results
    from evaluation.views import suites
    from evaluation.views.leaderboard import current_codes

    stored, unreadable = read_results(suite)
    for path in unreadable:
        print(f"left out: {path} is not a result that this version of the kit can read", file=sys.stderr)
    results, others = comparable(stored)
    if not results:
        raise UserError(
            f"Nothing has been graded on {suite.name} yet: python main.py suite {name} -m my_method does it."
        )
    if output.json:
        print(json.dumps([one.to_dict() for one in results if names is None or one.method in names], indent=1))
        return
    rows = suites.rows_of(results, current_codes(result.method for result in results))
    if output.csv:
        print(suites.as_csv(rows), end="")
    elif output.markdown:
        print(suites.as_markdown(suite, rows, others))
    else:
        suites.print_suite(suite, rows, others)
