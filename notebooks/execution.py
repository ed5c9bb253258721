"""Execute a notebook as Kaggle does: from the first cell to the last, in a fresh kernel, without the internet."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    from nbclient import NotebookClient

CHECKPOINTS_CELL = "checkpoints"
"""The id of the cell that does the runs."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CellFailedError(UserError):
    """A cell raised an exception; `shown` is what Kaggle shows of it: its number, what it printed, the traceback.

    If the kernel died, it is what the cells had printed.
    """

    def __init__(self, message: str, shown: str) -> None:
        super().__init__(message)
        self.shown = shown


@dataclass(frozen=True)
class Execution:
    """What an executed notebook left."""

    submission: Path
    """`submission.zip`."""
    seconds_per_checkpoint: float
    output: str
    """What its cells printed."""


def execute_notebook(notebook: Path, input_folder: Path, scratch: Path, checkpoints: int) -> Execution:
    """Execute a notebook for so many checkpoints; it works in `scratch` and finds its data in `input_folder`.

    The kernel is a process of its own: this interpreter, in `scratch/working`, that neither knows the kit nor
    reaches the internet (see `offline_kernel.py`).

    Raises:
        CellFailedError: a cell raised, or the kernel died.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    content = nbformat.read(notebook, as_version=4)
    working = scratch / "working"
    working.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        content,
        timeout=None,
        startup_timeout=120,
        kernel_manager_class=_offline_kernels(),
        resources={"metadata": {"path": str(working)}},
        shutdown_kernel="immediate",
    )
    try:
        _execute(client, _environment(input_folder, scratch, checkpoints))
    except CellExecutionError as error:
        message = (
            f"The notebook fails: {error.ename}: {_first_line(error.evalue)} (see above; {notebook} has the cell.)"
        )
        raise CellFailedError(message, _failure(content)) from None
    except DeadKernelError:
        message = "The notebook's kernel died, most likely for want of memory; the method has to do with less."
        raise CellFailedError(message, "\n".join(_last_lines(_printed(content)))) from None
    submission = working / "submission.zip"
    if not submission.is_file():
        raise UserError(f"{notebook} was executed, but it wrote no submission.zip into the working folder.")
    return Execution(submission, _seconds_each(scratch / "tmp", content), _printed(content))


def _execute(client: NotebookClient, environment: dict[str, str]) -> None:
    """Execute, in a thread: in the main one, nbclient takes Ctrl-C for itself, and says that the kernel has died."""
    with ThreadPoolExecutor(1) as executor:
        execution = executor.submit(client.execute, env=environment)
        try:
            execution.result()
        except BaseException:
            if not execution.done():  # it was interrupted: the thread ends as soon as the kernel does
                _kill_kernel(client, execution)
            raise


def _kill_kernel(client: NotebookClient, execution: Future[Any]) -> None:
    """End the kernel, and with it the execution."""
    while not execution.done():
        process = getattr(getattr(client.km, "provisioner", None), "process", None)  # none if it has not started yet
        if process is not None:
            process.kill()
        wait([execution], timeout=0.1)


def _offline_kernels() -> type:
    """The class that starts our kernel, whatever kernels are installed on this machine."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OfflineKernels(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            script = str(Path(__file__).parent / "offline_kernel.py")
            # No history file, and no warning that messages between two processes of this machine are not encrypted.
            options = ["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"]
            return KernelSpec(argv=[sys.executable, script, "-f", "{connection_file}", *options])

    return OfflineKernels


OF_THE_MACHINE = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|TMPDIR|TEMP|TMP|LANG|LANGUAGE|LC_.*|XDG_.*|LD_LIBRARY_PATH|DYLD_.*|"
    "PYTHONHOME|PYTHONUSERBASE|PYTHONNOUSERSITE|PYTHONPYCACHEPREFIX|PYTHONDONTWRITEBYTECODE|PYTHONUTF8|VIRTUAL_ENV|"
    "CONDA_.*|CUDA_.*|NVIDIA_.*|CUBLAS_.*|CUDNN_.*|NCCL_.*|HIP_.*|ROCR_.*|HSA_.*|OMP_.*|GOMP_.*|KMP_.*|MKL_.*|"
    "OPENBLAS_.*|DNNL_.*|ONEDNN_.*|ATEN_.*|MALLOC_.*|GLIBC_TUNABLES"
)
"""Variables that say where this machine has things, and how its libraries compute; only these reach a kernel."""


def _environment(input_folder: Path, scratch: Path, checkpoints: int) -> dict[str, str]:
    """The kernel's environment: the machine's, and the notebook's folders.

    Nothing else of this process's: on Kaggle there is none of what a shell has exported, or what the import of a
    method has set here.
    """
    return {
        **{name: value for name, value in os.environ.items() if OF_THE_MACHINE.fullmatch(name)},
        "UNLEARNING_INPUT": str(input_folder.resolve()),
        "UNLEARNING_OUTPUT": str((scratch / "working").resolve()),
        "UNLEARNING_TMP": str((scratch / "tmp").resolve()),
        "UNLEARNING_CHECKPOINTS": str(checkpoints),
        "IPYTHONDIR": str((scratch / "ipython").resolve()),  # not the user's, with its start-up files
    }


def _failure(notebook: Any) -> str:
    """The failed cell's heading, number, output and traceback, in colour only for a terminal."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")), heading)
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                text = "\n".join([*_last_lines(_output_of(cell)), *output.traceback])
                text = text if sys.stderr.isatty() else _COLOUR.sub("", text)
                return f"In [{cell.execution_count}]  ({heading})\n{text}"
    return "The notebook fails, and no cell says why."


def _last_lines(text: str, most: int = 40) -> list[str]:
    """The end of what a cell printed, standard error included: often it says more than the exception."""
    lines = text.splitlines()
    return lines if len(lines) <= most else [f"... ({len(lines) - most} lines)", *lines[-most:]]


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "(no message)"


def _seconds_each(folder: Path, notebook: Any) -> float:
    """Seconds of a checkpoint: from one file to the next. If there is but one, those of its cell, with the loading."""
    times = sorted(path.stat().st_mtime for path in folder.glob("*.pth"))
    if len(times) > 1:
        return (times[-1] - times[0]) / (len(times) - 1)
    for cell in notebook.cells:
        if cell.get("id") == CHECKPOINTS_CELL:
            executed = cell.metadata["execution"]
            return (_time(executed["shell.execute_reply"]) - _time(executed["iopub.execute_input"])).total_seconds()
    return 0.0


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _printed(notebook: Any) -> str:
    return "".join(_output_of(cell) for cell in notebook.cells if cell.cell_type == "code")


def _output_of(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")
