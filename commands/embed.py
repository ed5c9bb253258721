"""`python main.py embed -m my_method`: a picture of what networks make of the images."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from commands.options import GRADING, WHOLE, OutOptions, RunOptions, Seed, TaskOptions, ValuesOptions, changed


def command(
    *,
    values: ValuesOptions = ValuesOptions(),
    task: TaskOptions = TaskOptions(),
    grading: Seed = Seed(),
    original: Annotated[int, GRADING, WHOLE] = 0,
    retrained: Annotated[int, GRADING, WHOLE] = 0,
    run: Annotated[int, GRADING, WHOLE] = 0,
    where: RunOptions = RunOptions(),
    output: OutOptions = OutOptions(),
) -> None:
    """Draw how an original, a retrained and an unlearned network see the images, side by side (t-SNE).

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
    name = values.name()
    places = where.places()
    spec = changed(GradingSpec(name), task, grading, values)
    spec = replace(spec, tuned=values.tuned(spec.task, name))
    with where.pool(places) as pool:
        path = embed(spec, pool, where.console(), original, retrained, run, output.out)
    print(path)
