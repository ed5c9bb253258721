"""`python main.py show`: a picture of a task."""

from __future__ import annotations

from dataclasses import replace

from commands.options import OutOptions, TaskOptions


def command(*, task: TaskOptions = TaskOptions(), output: OutOptions = OutOptions()) -> None:
    """Draw a contact sheet of a task: its classes, its subjects, and the images to be forgotten."""
    from data import TaskSpec, load
    from evaluation.report import results_folder
    from evaluation.views.contact_sheet import draw

    spec = task.changed(TaskSpec())
    problem = load(replace(spec, features=None))  # what is drawn are the images themselves
    path = output.out or results_folder() / f"{problem.name}-{problem.fingerprint}" / "contact-sheet.png"
    draw(problem, path)
    print(f"{path}: {len(problem.train)} training images, {len(problem.request_indices)} to forget")
    if spec.features is not None:
        print("The images themselves are drawn; python main.py embed shows how a network sees their features.")
