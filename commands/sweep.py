"""`python main.py sweep FILE`: a figure over a grid of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from commands.options import RUN, WHOLE, DataOptions, OutOptions, SandboxOptions
from data.errors import UserError


def command(
    file: Annotated[Path, Parameter(help="A YAML file like those in benchmarks/sweeps/.")],
    /,
    *,
    seeds: Annotated[int | None, RUN, WHOLE] = None,
    jobs: Annotated[int | None, RUN, WHOLE] = None,
    devices: Annotated[str, RUN] = "auto",
    task: DataOptions = DataOptions(),
    run: SandboxOptions = SandboxOptions(),
    output: OutOptions = OutOptions(),
) -> None:
    """Make a figure and its table: methods over a grid of settings.

    The best settings are chosen on the validation set. Options of the task replace those in the file.

    Args:
        seeds: Number of seeds. [default: the file's]
        jobs: Processes on each device. [default: as for --workers]
        devices: cpu, cuda, or several that share the work: cuda:0,cuda:1.
    """
    from checkpoints.server import start_server

    start_server()
    from checkpoints.devices import choose_devices
    from evaluation.sweeps import sweep
    from evaluation.sweeps.outcome import as_markdown

    run.enter_sandbox()
    places = choose_devices(devices)
    outcome, folder = sweep(file, places, jobs, run.console(), output.out, task.changes(), seeds)
    print(as_markdown(outcome), end="")
    print(f"\nsaved {folder}: table.csv, table.json, table.md, figure.png")
    if outcome.failures:
        raise UserError(f"{len(outcome.failures)} failed, see above; the same command tries failed runs again.")
