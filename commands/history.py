"""`python main.py history DIRECTORY`: what runs have recorded."""

from __future__ import annotations

from commands.options import OutOptions, ResultFolder


def command(directory: ResultFolder, /, *, output: OutOptions = OutOptions()) -> None:
    """Draw what the runs have recorded: losses, multipliers, whatever the method keeps track of."""
    from rich.console import Console

    from evaluation.views.history import as_table, draw

    path = output.out or directory / "history.png"
    draw(directory, path)
    Console(highlight=False, markup=False, emoji=False).print(as_table(directory))
    print(f"drawn in {path}")
