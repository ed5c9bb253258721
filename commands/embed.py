"""`python main.py embed -m my_method`: a picture of what networks make of the images."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from commands.options import (
    GRADING,
    WHOLE,
    OutOptions,
    RunOptions,
    Seed,
    TaskOptions,
    ValuesOptions,
    WeightsOption,
    changed,
)


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    model: WeightsOption = WeightsOption(),
    task: TaskOptions = TaskOptions(),
    grading: Seed = Seed(),
    original: Annotated[int, GRADING, WHOLE] = 0,
    retrained: Annotated[int, GRADING, WHOLE] = 0,
    run: Annotated[int, GRADING, WHOLE] = 0,
    where: RunOptions = RunOptions(),
    output: OutOptions = OutOptions(),
) -> None:
    """Draw how an original, a retrained and an unlearned network (-m or --weights) see the images (t-SNE).

    Args:
        original: Which original.
        retrained: Which retrained model.
        run: Which run from that original.
    """
    from checkpoints.server import start_server

    start_server()
    from evaluation.spec import GradingSpec
    from evaluation.views.embedding import embed

    where.enter_sandbox()
    name = values.name() if values.method is not None or model.weights is None else ""
    places = where.places()
    spec = changed(GradingSpec(name), task, grading, values)
    spec = replace(spec, tuned=values.tuned(spec.task, name) if name else None)
    with where.pool(places) as pool:
        path = embed(spec, pool, where.console(), original, retrained, run, output.out, model.weights)
    print(path)
