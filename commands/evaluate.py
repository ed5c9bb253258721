"""`python main.py evaluate --weights model.pth`: look at a model of one's own."""

from __future__ import annotations

from commands.options import JsonOptions, RunOptions, TaskOptions, WeightsOption
from data.errors import UserError


def command(
    *,
    model: WeightsOption = WeightsOption(),
    task: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    output: JsonOptions = JsonOptions(),
) -> None:
    """Print the accuracies of a model of yours, and whether its forget set looks like training data."""
    import json
    from dataclasses import asdict

    from data import TaskSpec
    from evaluation.handover.look import evaluate_weights
    from evaluation.views.handover import show_looks

    if model.weights is None:
        raise UserError("Name the file of the weights, too: --weights model.pth.")
    look = evaluate_weights(model.weights, task.changed(TaskSpec()), run.places()[0], run.console())
    if output.json:
        print(json.dumps(asdict(look), indent=1))
        return
    show_looks({model.weights.name: look})
