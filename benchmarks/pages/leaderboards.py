"""The leaderboard of a task, as a page: `python -m benchmarks.pages.leaderboards --out docs/leaderboard-digits.md`.

Grades every registered method, with tuned values where `methods/tuned/` has them (see `python main.py tune`), and in
the first table with published values, too. Writes the tables as Markdown. If interrupted, the same command continues.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from checkpoints.devices import choose_device
from checkpoints.server import start_server
from checkpoints.workers import Workers, default_workers
from data import TaskSpec, UserError
from evaluation.catalogue.lookup import facts_of
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.report import Report
from evaluation.spec import GradingSpec, choose_methods
from evaluation.tuned import find_tuned
from evaluation.views.columns import as_markdown
from evaluation.views.leaderboard import rank


def main() -> None:
    """Grade, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--methods", default="all", help="a,b; default: all that are registered")
    parser.add_argument("--models", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--originals", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    start_server()
    device = choose_device(options.device)
    parts: list[str] = []
    with Workers(default_workers(device), device) as workers:
        for models in options.models:
            spec = GradingSpec("", TaskSpec(options.task), (), options.originals, models)
            specs = entries(options.methods, spec, published_too=not parts)
            results = list(grade_methods(specs, workers, Console()))
            reports = [result for result in results if isinstance(result, Report)]
            parts += [as_markdown(rank(reports)), duration(reports)]
            # The path of the log on this machine does not belong on the page.
            failures = [f"- {str(result).split(' Its log:')[0]}" for result in results if isinstance(result, UserError)]
            if failures:
                parts.append("\n".join(["Not graded:", "", *failures]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n\n".join([f"# Leaderboard: {options.task}", made_by(options), *parts]) + "\n")
    print(f"written to {options.out}")


def entries(methods: str, spec: GradingSpec, published_too: bool) -> list[GradingSpec]:
    """Each method with its tuned values; with its published values if it has no others, or if `published_too`."""
    found = []
    for name in choose_methods(methods):
        tuned = find_tuned(spec.task, name)
        published = facts_of(name).values_in_force({})
        is_other = tuned is not None and any(published[key] != value for key, value in tuned.settings)
        if tuned is None or (is_other and published_too):
            found.append(replace(spec, method=name))
        if tuned is not None:
            found.append(replace(spec, method=name, tuned=tuned))
    return found


def duration(reports: list[Report]) -> str:
    """How long the runs took, with all workers busy."""

    def minutes(some: list[Report]) -> float:
        seconds = [
            (one.cost.runs_seconds_mean or 0.0) * one.grading.models * one.grading.originals / one.provenance.workers
            for one in some
        ]
        return sum(seconds) / 60

    exempt = [report for report in reports if report.cost.budget_seconds is None]
    return f"The runs took {minutes(reports):.1f} minutes, of which exempt methods took {minutes(exempt):.1f}."


def made_by(options: argparse.Namespace) -> str:
    """How to make the page again, and how to read it."""
    models = " ".join(map(str, options.models))
    given = f"--task {options.task} --models {models} --originals {options.originals} --out {options.out}"
    command = f"python -m benchmarks.pages.leaderboards {given}"
    return (
        f"Made by `{command}`. Scores have 95 % confidence intervals; "
        "the lines below a table say what ranks and groups mean. "
        '"Budget used" is the time of a run as a fraction of the time of retraining (allowed: 0.2). '
        "The first table lists tuned methods also with their default values, "
        "which are the published ones."
    )


if __name__ == "__main__":
    main()
