"""Figures of a paper from one file each: `python main.py sweep benchmarks/sweeps/mnist-budget.yaml`.

`plan.py` reads the file and says which runs there are, `running.py` has them done on one or several devices,
`outcome.py` chooses the best settings by validation accuracy and tabulates, `figure.py` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_atomically
from evaluation.console import Console
from evaluation.report import results_folder
from evaluation.sweeps.figure import draw
from evaluation.sweeps.outcome import SweepResult, as_csv, as_json, as_markdown, summarise
from evaluation.sweeps.plan import read_sweep
from evaluation.sweeps.running import run_sweep


def sweep(
    file: Path,
    devices: Sequence[str],
    jobs: int | None,
    console: Console,
    out: Path | None = None,
    task: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> tuple[SweepResult, Path]:
    """Do a sweep, and write `table.csv`, `table.json`, `table.md` and `figure.png`; the outcome, and where they are.

    `task` (keys of the file's task) and `seeds` replace what the file says. What is in the folder already is not done
    again.

    Raises:
        UserError: something in the file makes no sense. A run that fails is told in the outcome.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}.")
    plan = read_sweep(file, task, seeds)
    folder = out or results_folder() / "sweeps" / file.stem
    results = run_sweep(plan, folder, devices, jobs, console)
    outcome = summarise(plan, results)
    _write(folder / "table.csv", as_csv(outcome))
    _write(folder / "table.json", as_json(outcome))
    _write(folder / "table.md", as_markdown(outcome))
    draw(outcome, folder / "figure.png")
    return outcome, folder


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))
