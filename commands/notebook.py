"""`python main.py notebook -m my_method`: make a submission notebook; `python notebook_utils.py` is the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from commands.options import ExecutionOptions, MethodOptions, NotebookOptions, TaskOptions, ValuesOptions
from data.own_network import is_own

if TYPE_CHECKING:
    from evaluation.spec import GradingSpec


def command(*, method: MethodOptions = MethodOptions(), notebook: ExecutionOptions = ExecutionOptions()) -> None:
    """Make the Kaggle notebook of a method, and execute it before you hand it in.

    The hyper-parameters are the defaults and those of --set;
    python main.py -m METHOD --task TASK -p test uses the values tuned on the task.
    """
    import notebook_utils

    notebook_utils.submit(
        method.name(),
        dict(method.settings()),
        notebook.owner,
        notebook.whole_module,
        notebook.checkpoints,
        run=not notebook.no_run,
        allow_unchanged=notebook.allow_unchanged,
    )


def make_notebooks(
    values: ValuesOptions, task: TaskOptions, notebook: NotebookOptions, config: GradingSpec | None
) -> None:
    """Export methods as submission notebooks, each executed before it is handed over.

    Values that were tuned on some task are sent to Kaggle only if that task was named, here or by `config`.
    """
    import notebook_utils
    from evaluation.spec import GradingSpec

    spec = config or GradingSpec("")
    named = config is not None or task.task is not None
    problem = task.changed(spec.task) if named else None
    network = task.network or spec.task.network
    if network is not None and is_own(network):
        name = Path(network.partition("@")[0]).name
        print(f"The notebook unlearns the network of the competition: {name} can't be taken along.", file=sys.stderr)
    for name in values.names():
        tuned = values.tuned(problem, name, config) if problem else None
        settings = {**dict(tuned.settings if tuned else ()), **dict(values.settings(otherwise=spec.settings))}
        notebook_utils.submit(name, settings, notebook.owner, notebook.whole_module)
