"""From a method to a Kaggle submission that has been executed: `python notebook_utils.py -m my_method --owner NAME`.

`python main.py -m my_method -p test` does the same. In three steps, which can be called from Python too:

    submission = export("my_method", {"epochs": "2"}, owner="NAME")     # notebooks/submissions/my_method.ipynb
    report = execute(submission, checkpoints=2)                         # in a fresh kernel, and checked
    print(submission.push_command)

`what_travels` decides which code of the method's file goes into the notebook; it is made to be changed.

To export a method, its file is imported in this process, unlike in all other commands: that is for methods of your own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError, unknown_name
from data.files import shown

if TYPE_CHECKING:
    from checkpoints.workers import Workers
    from notebooks.program import Program, Travellers


# ----------------------------------------------------------------------------------------------------------------------
# Export
# ----------------------------------------------------------------------------------------------------------------------


def what_travels(program: Program, whole_module: bool = False) -> Travellers:
    """Decide which code of a method goes into the notebook. To send more, or less, change this function.

    Args:
        program: the method's class, the method classes that it inherits from, and their files, cut into statements.
        whole_module: send all of the files, instead of `run()` and what it needs, directly or not.

    Whatever is decided here, `notebooks/refusals.py` then refuses what would fail on Kaggle, with file and line. To
    send a helper that nothing mentions by name, for example, add its name to the roots:
    `needed_by(program, roots=("run", "my_helper"))`.
    """
    from notebooks.extraction import everything, needed_by

    return everything(program) if whole_module else needed_by(program, roots=("run",))


STAYS = "may change something that the method depends on, but can't travel, so that a notebook does without it."


@dataclass(frozen=True)
class Submission:
    """A written notebook, and what it is of."""

    method: str
    settings: dict[str, Any]
    """The hyper-parameters in force."""
    notebook: Path
    metadata: Path
    """`kernel-metadata.json`, in a folder of its own."""
    owner: str | None
    remarks: tuple[str, ...] = ()
    """What stays behind and may matter, a sentence each."""

    @property
    def push_command(self) -> str:
        """The command of Kaggle's own client (`pip install kaggle`) that pushes the notebook, and starts it there."""
        return f"kaggle kernels push -p {shlex.quote(shown(self.metadata.parent))}"


def export(
    method: str,
    settings: Mapping[str, Any] | None = None,
    owner: str | None = None,
    whole_module: bool = False,
    folder: Path | None = None,
) -> Submission:
    """Write the notebook of a registered method, and `kernel-metadata.json`.

    Args:
        method: its registered name.
        settings: hyper-parameters that are to have another value than the default; values may be texts.
        owner: the name of the Kaggle account; without it the metadata have a placeholder, which Kaggle refuses.
        whole_module: see `what_travels`.
        folder: where to write; None means `notebooks/submissions/`.

    Raises:
        UserError: an unknown method or hyper-parameter, or code that can't travel; the latter names file and line.
    """
    from methods import all_method_handlers
    from notebooks import assembly
    from notebooks.program import Program
    from notebooks.refusals import check
    from notebooks.text import text_for_notebook

    handlers = all_method_handlers()
    if method not in handlers:
        raise unknown_name("method", method, handlers, shown_by="python main.py list")
    in_force = kaggle_settings(method, settings or {})  # a file that can't be imported is a sentence here
    with _same_environment():
        handler = handlers[method]
    defaults = {name: parameter.default for name, parameter in handler.hyper_parameters().items()}
    program = Program(handler, {name: value for name, value in in_force.items() if value != defaults[name]})
    travellers = what_travels(program, whole_module)
    check(program, travellers, assembly.names_of_template())
    notebook = assembly.fill_template(method, text_for_notebook(program, travellers), in_force)
    paths = assembly.write_submission(method, notebook, owner, folder or assembly.submissions_folder())
    left = [f"{file.path.name}, line {piece.start}: {STAYS}" for file, piece in travellers.left_behind]
    return Submission(method, in_force, *paths, owner, tuple(left))


@contextmanager
def _same_environment() -> Iterator[None]:
    """Undo what is done to the environment inside: the grader and the kernel start with what they import themselves."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def kaggle_settings(method: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a method as a grading of the task `kaggle` would have them.

    Raises:
        UserError: an unknown hyper-parameter, or a value of another type.
    """
    from data import all_tasks
    from evaluation.runs import resolve

    return resolve.settings_in_force(method, overrides, all_tasks()["kaggle"].recipe)


# ----------------------------------------------------------------------------------------------------------------------
# Execute and check
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExecutionReport:
    """What the execution of a submission showed."""

    checkpoints: int
    seconds_per_checkpoint: float
    remarks: list[str]
    """Lines for the user: what is odd, and the time that Kaggle would need."""


def execute(
    submission: Submission,
    checkpoints: int = 2,
    expect_change: bool | None = None,
    input_folder: Path | None = None,
) -> ExecutionReport:
    """Execute a submission in a fresh kernel against a simulated input folder, and check what it leaves.

    The number of checkpoints; that each loads into a fresh network, is finite, and is not the original; that they
    differ from each other (if not, a remark); that they equal those of the local grader for the same seeds, bit for
    bit; and the time that 512 of them would take.

    Args:
        expect_change: whether a checkpoint that is the original is an error; None asks the method, which is to leave
            the original as it is if its class says so (`leaves_original`).
        input_folder: a folder in the competition's layout, with `test.csv`; None means the simulated one.

    Raises:
        UserError: a check failed. `notebooks.execution.CellFailedError`, which is one, has the failed cell.
    """
    import torch

    from checkpoints.queue import answers_of
    from data import TaskSpec, load
    from evaluation.catalogue.lookup import facts_of
    from evaluation.isolation.handle import room_workers
    from notebooks import checks
    from notebooks.execution import execute_notebook
    from notebooks.simulated import simulated_input

    folder = input_folder or simulated_input()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task_spec = TaskSpec("kaggle", data_dir=str(folder))
    original = folder / "original_model.pth"
    scratch = Path(tempfile.mkdtemp(prefix="submission-"))
    try:
        with room_workers(1, device) as grader:

            def submit(pool: Workers) -> Future[Any]:
                arguments = submission.method, submission.settings, task_spec, original, checkpoints, device
                return pool.submit(checks.local_runs, *arguments)

            local = submit(grader)
            execution = execute_notebook(submission.notebook, folder, scratch, checkpoints)
            states = checks.read_states(execution.submission, checkpoints)
            runs = _result_of_grader(local, lambda: answers_of(grader, submit)[0])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    task = load(task_spec, progress=False)
    facts = facts_of(submission.method)
    if expect_change is None:
        expect_change = not facts.leaves_original
    original_state = torch.load(original, map_location="cpu", weights_only=True)
    remarks = checks.check_states(states, task, original_state, expect_change)
    checks.check_equal(states, [run.weights for run in runs])
    remarks += checks.remarks_on_certificate(runs[0])
    seconds = execution.seconds_per_checkpoint
    remarks.append(checks.check_time(seconds, len(task.train), device, facts.exempt_from_budget))
    return ExecutionReport(checkpoints, execution.seconds_per_checkpoint, remarks)


def _result_of_grader(local: Future[Any], again: Callable[[], Any]) -> Any:
    """What the grader's run gave; if its worker was lost, what it gives when it is done `again`."""
    from checkpoints.processes import WorkerLostError
    from evaluation.isolation.handle import CallFailedError

    try:
        try:
            return local.result()
        except WorkerLostError:
            return again()
    except UserError:
        raise
    except CallFailedError as error:
        raise UserError(f"The method fails in the grader, though not in the notebook: {error.complaint}") from error
    except Exception as error:
        raise UserError(
            f"The method fails in the grader, though not in the notebook: {type(error).__name__}: {error}"
        ) from error


def submit(
    method: str,
    settings: Mapping[str, Any] | None = None,
    owner: str | None = None,
    whole_module: bool = False,
    checkpoints: int = 2,
    run: bool = True,
    allow_unchanged: bool = False,
) -> None:
    """Export a method, execute and check its notebook unless `run` is False, and print how to push it.

    A method that leaves the original as it is raises `UserError`, unless `allow_unchanged`: it may be that it only
    finds nothing to change on the few simulated images.
    Without an `owner`, the account that Kaggle's client takes from the variable KAGGLE_USERNAME is meant, if any.
    """
    from evaluation.console import Console
    from notebooks.execution import CellFailedError

    if checkpoints < 1:
        raise UserError(f"--checkpoints must be at least 1, not {checkpoints}.")
    submission = export(method, settings, owner or os.environ.get("KAGGLE_USERNAME"), whole_module)
    print(f"{method}: wrote {submission.notebook} and {submission.metadata}")
    for remark in submission.remarks:
        print(remark)
    if run:
        try:
            with Console().waiting(f"{method}: executing the notebook for {checkpoints} checkpoints in a fresh kernel"):
                report = execute(submission, checkpoints, expect_change=False if allow_unchanged else None)
        except CellFailedError as failure:
            print(failure.shown, file=sys.stderr)
            raise
        print(
            f"executed in a fresh kernel, without internet: {checkpoints} checkpoints, "
            f"{report.seconds_per_checkpoint:.1f} s each, equal to the local grader's bit for bit"
        )
        for remark in report.remarks:
            print(remark)
    if submission.owner is None:
        print("The notebook needs an owner to be pushed: say --owner YOUR_KAGGLE_NAME. Then:")
    print(submission.push_command)


if __name__ == "__main__":
    from commands import start

    sys.exit(start(["notebook", *sys.argv[1:]]))
