"""`python main.py tune -m my_method`: search for hyper-parameters."""

from __future__ import annotations

from dataclasses import replace

from commands.options import MethodOptions, RunOptions, SearchOptions, TaskOptions, Trials, changed
from commands.output import usable

USUAL_TRIALS = 30


def command(
    *,
    method: MethodOptions = MethodOptions(),
    task: TaskOptions = TaskOptions(),
    grading: SearchOptions = SearchOptions(),
    search: Trials = Trials(),
    run: RunOptions = RunOptions(),
) -> int:
    """Search for the best hyper-parameters of methods.

    It uses models and seeds that no grading uses; hopeless trials are stopped after a few runs.
    """
    from checkpoints.server import start_server

    start_server()
    from evaluation import tuning
    from evaluation.spec import GradingSpec
    from evaluation.views.terminal import show_outcomes

    run.enter_sandbox()
    asked = method.names()
    names, failures = usable(asked)
    if method.method == "all":
        names = [name for name in names if tuning.can_be_tuned(name)]
    places = run.places()
    trials = USUAL_TRIALS if search.trials is None else search.trials
    spec = changed(GradingSpec("", originals=1, models=32), task, grading, method)
    console = run.console()
    with run.pool(places) as pool:
        outcomes = [tuning.tune(replace(spec, method=name), trials, pool, console) for name in names]
    show_outcomes(outcomes)
    return 2 if failures else 0
