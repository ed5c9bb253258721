"""`python main.py unlearn -m my_method --weights model.pth`: unlearn a model, and take it home."""

from __future__ import annotations

from dataclasses import replace

from commands.options import JsonOptions, OutOptions, RunOptions, Seed, TaskOptions, ValuesOptions, WeightsOption


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    model: WeightsOption = WeightsOption(),
    task: TaskOptions = TaskOptions(),
    grading: Seed = Seed(),
    run: RunOptions = RunOptions(),
    where: OutOptions = OutOptions(),
    output: JsonOptions = JsonOptions(),
) -> None:
    """Unlearn one model of yours, and write its new weights with a record of what was done.

    Without --weights, it is original 0 of the bank. Several --forget are fulfilled in order.
    There is no time limit.
    """
    from checkpoints.server import start_server

    start_server()
    from data import TaskSpec
    from data.files import shown
    from evaluation.handover.conduct import Order, hand_over, record_path
    from evaluation.spec import GradingSpec
    from evaluation.views.handover import show_handover

    run.enter_sandbox()
    name = values.name()
    spec = GradingSpec(name, task.changed(TaskSpec()), settings=values.settings())
    spec = replace(spec, tuned=values.tuned(spec.task, name))
    with run.pool(run.places()) as pool:
        record, path = hand_over(Order(spec, model.weights, grading.seed, where.out), pool, run.console())
    if output.json:
        print(record.to_json(), end="")
        return
    show_handover(record)
    print(f"{shown(path)}, {shown(record_path(path))}")
