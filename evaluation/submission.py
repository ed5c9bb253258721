"""Grading a zip of checkpoints that were made elsewhere: on Kaggle, or by somebody else, who is not trusted.

The zip holds `unlearned_checkpoint_0.pth` to `unlearned_checkpoint_<N-1>.pth`, as the competition wanted them: each
the `state_dict` of one unlearned network, all of them from the same original. Nothing in it is unpacked to disk,
nothing is unpickled but tensors, and nothing is read before its size is known to be that of the task's network.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from checkpoints.bank import ensure
from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.outputs import record_outputs
from checkpoints.pool import Tell
from checkpoints.workers import Workers, load_task
from data import Task, TaskSpec, UserError
from data.files import locked, sha256_of, write_atomically
from data.texts import printable
from data.weights import WeightsError, as_state, check_names, load_tensors
from evaluation.console import Console
from evaluation.grading import announce, assemble_report, load_with_one_request
from evaluation.report import Cost, MethodRecord, Report, results_folder
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import RunFailedError, RunKey, do_runs, gather_runs
from evaluation.runs.one import Failure
from evaluation.runs.settings import run_path
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec

LITTER = re.compile(
    r"(.*/)?(__MACOSX(/.*)?|@eaDir/.*|\.(ipynb_checkpoints|Trashes|Spotlight-V100|fseventsd)/.*|\.[^/\\]*"
    r"|(eh)?thumbs\.db|desktop\.ini|Icon\r)",
    re.DOTALL | re.IGNORECASE,
)
"""What systems put into a zip by themselves: it is passed over, and never read."""

CHECKPOINT = re.compile(r"(?:(?!\.+/)[^/\\:]+/)*unlearned_checkpoint_(0|[1-9][0-9]{0,5})\.pth")
"""The name of checkpoint i, as in the competition, whose notebook left them below `kaggle/tmp/` in the zip."""

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
"""What the numbers in a checkpoint may be: kinds that can be looked at, and converted to the network's own."""

MARGIN = 1 << 20
"""Bytes that a checkpoint may have beyond twice those of the network's weights: names, structure, float64."""


@dataclass(frozen=True)
class SubmittedZip:
    """A zip that has been looked over: every checkpoint is there, and none is larger than it can rightly be."""

    path: Path
    members: tuple[str, ...]
    """The names of the checkpoints, by their number."""
    sha256: str


def look_over(path: Path, models: int, task: Task) -> SubmittedZip:
    """Check all that can be known of a zip without reading a checkpoint.

    Raises:
        UserError: it is no zip, has something else in it, has a checkpoint twice or not at all, or one too large.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device could be read for ever
        raise UserError(f"{path} is not a regular file: give the submission.zip that the notebook wrote.")
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is not a zip file ({error}): give the submission.zip that the notebook wrote."
        ) from error
    with archive:
        found: dict[int, str] = {}
        most = largest_checkpoint(build_network(task))
        for member in archive.infolist():
            if _is_litter(member):
                continue
            match = CHECKPOINT.fullmatch(_as_linux_has_it(member.filename))
            if match is None:
                name = printable(member.filename, 60)
                raise UserError(f"{path} holds '{name}': only unlearned_checkpoint_0.pth, ..._1.pth, ... may be in it.")
            complaint = _complaint_about(member, int(match[1]) in found, most)
            if complaint is not None:
                raise UserError(f"{path}: {member.filename} {complaint}.")
            found[int(match[1])] = member.filename
    if found.keys() != set(range(models)):
        missing = sorted(set(range(models)) - found.keys())
        first = f", unlearned_checkpoint_{missing[0]}.pth is missing" if missing else ""
        raise UserError(
            f"{path} holds {len(found)} checkpoints, and the grading wants numbers 0 to {models - 1}{first}: "
            "--models says how many there are."
        )
    return SubmittedZip(path.resolve(), tuple(found[number] for number in range(models)), sha256_of(path))


def _is_litter(member: zipfile.ZipInfo) -> bool:
    """Whether it is a folder without content, or what a file manager leaves behind."""
    name = _as_linux_has_it(member.filename)
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):  # nobody's file manager writes such names
        return False
    is_folder = name.endswith("/") or name == ""
    return (is_folder and member.file_size == 0) or LITTER.fullmatch(name) is not None


def _as_linux_has_it(name: str) -> str:
    r"""The name of a member, whoever wrote it: older programs of Windows have backslashes in it, bsdtar a `./` before.

    >>> _as_linux_has_it("kaggle\\tmp\\x.pth"), _as_linux_has_it("./kaggle/x.pth"), _as_linux_has_it("../x.pth")
    ('kaggle/tmp/x.pth', 'kaggle/x.pth', '../x.pth')
    """
    return name.replace("\\", "/").removeprefix("./")


def largest_checkpoint(network: nn.Module) -> int:
    """The most bytes that a file with the weights of `network` can rightly have."""
    return 2 * sum(value.nbytes for value in network.state_dict().values()) + MARGIN


def _complaint_about(member: zipfile.ZipInfo, is_known: bool, most: int) -> str | None:
    if is_known:
        return "is in it twice"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > most:
        return f"has {member.file_size} bytes unpacked, and a checkpoint of this network can't have more than {most}"
    return None


# ----------------------------------------------------------------------------------------------------------------------
# One checkpoint
# ----------------------------------------------------------------------------------------------------------------------


class BadCheckpointError(Exception):
    """A checkpoint that can't be graded; the message says what is wrong with it."""


def read_checkpoint(data: bytes, expected: State) -> State:
    """The weights in a checkpoint file, in the types of `expected`, which are those of the task's network.

    Raises:
        BadCheckpointError: it is not a plain state_dict of that network, or not all of its numbers are finite.
    """
    try:
        state = as_state(load_tensors(data))
        check_names(state, expected)
    except WeightsError as error:
        raise BadCheckpointError(str(error)) from error
    return {name: _checked(name, state[name], value) for name, value in expected.items()}


def _checked(name: str, value: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    plain = value.layout == torch.strided and value.dtype in DTYPES
    if not plain or value.device.type != "cpu":  # "meta": a shape without numbers
        raise BadCheckpointError(f"has an unusual kind of tensor in {name}; plain numbers are wanted")
    if value.shape != expected.shape:
        raise BadCheckpointError(f"has the shape {tuple(value.shape)} in {name} instead of {tuple(expected.shape)}")
    converted = value.to(expected.dtype)
    if not (torch.isfinite(value).all() and torch.isfinite(converted).all()):  # a NaN can become an integer
        raise BadCheckpointError(f"has NaN or infinite values in {name}")
    return converted


@dataclass(frozen=True)
class CheckpointJob:
    """What the worker needs in order to evaluate checkpoints. Picklable."""

    task: TaskSpec
    device: str
    submission: SubmittedZip
    folder: Path

    @property
    def keys(self) -> list[RunKey]:
        """The checkpoints, as runs from one original."""
        return [(0, run) for run in range(len(self.submission.members))]

    def finished(self, tell: Tell = lambda text: None) -> dict[RunKey, Unlearned]:
        """What is on disk of their outputs: all of them together, or those from before an interruption."""
        together = Unlearned.load(self.folder / "outputs.npz", tell)
        if together is not None and len(together) == len(self.keys):
            return {key: together[number : number + 1] for number, key in enumerate(self.keys)}
        runs = {key: Unlearned.load(run_path(self.folder, *key, ".npz"), tell) for key in self.keys}
        return {key: run for key, run in runs.items() if run is not None}

    def check(self, run: int) -> Failure | None:
        """Read one checkpoint and drop it again; None, or what is wrong with it."""
        try:
            self._read(run)
        except BadCheckpointError as error:
            return Failure(str(error), retry=False)
        return None

    def __call__(self, run: int) -> Failure | None:
        """Evaluate one checkpoint and save its outputs; None, or what is wrong with it."""
        task = load_task(self.task, self.device)
        try:
            network = self._read(run)
        except BadCheckpointError as error:
            return Failure(str(error), retry=False)
        outputs = record_outputs(network.to(task.train.images.device), task)
        left = Unlearned(outputs, np.array([np.nan]), np.array([0]), np.array([np.nan]))
        left.save(run_path(self.folder, 0, run, ".npz"))
        return None

    def _read(self, run: int) -> nn.Module:
        network, expected = _network(load_task(self.task, self.device))
        data = _read_member(self.submission.path, self.submission.members[run])
        network.load_state_dict(read_checkpoint(data, expected))
        return network


@lru_cache(maxsize=1)
def _network(task: Task) -> tuple[nn.Module, State]:
    """A network to load checkpoints into, and what its weights look like; built once per process."""
    network = build_network(task)
    return network, {name: value.clone() for name, value in network.state_dict().items()}


def _read_member(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)  # no more than the size that was looked over, and its checksum is compared
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise BadCheckpointError(f"is damaged in the zip ({error})") from error
    except Exception as error:  # zlib, bz2 and lzma each have an error of their own
        raise BadCheckpointError(f"is damaged in the zip ({type(error).__name__}: {error})") from error


# ----------------------------------------------------------------------------------------------------------------------
# All checkpoints
# ----------------------------------------------------------------------------------------------------------------------


def submission_folder(submission: SubmittedZip, name: str, task: Task) -> Path:
    """`results/<task>-<fingerprint>/<name>-<hash of the zip>/`."""
    return results_folder() / f"{task.name}-{task.fingerprint}" / f"{name}-{submission.sha256[:8]}"


def check_all(job: CheckpointJob, workers: Workers, on_progress: Callable[[int, int], None]) -> None:
    """Read every checkpoint that has not been evaluated yet, so that a wrong one is known before hours of training.

    Raises:
        UserError: a checkpoint can't be graded.
    """
    _do_all(job, CheckpointJob.check, job.finished(), workers, on_progress)


def evaluate(
    job: CheckpointJob, spec: GradingSpec, workers: Workers, tell: Tell, on_progress: Callable[[int, int], None]
) -> Unlearned:
    """The outputs of all checkpoints; what was evaluated before an interruption is not evaluated again.

    Raises:
        UserError: a checkpoint can't be graded.
    """
    folder = job.folder
    with locked(folder / "lock", lambda: tell("another process grades this submission: waiting for it")):
        write_atomically(folder / "config.yaml", lambda beside: beside.write_text(spec.to_yaml()))
        known = job.finished(tell)
        _do_all(job, CheckpointJob.__call__, known, workers, on_progress)
        return gather_runs(folder, job.keys, known)


def _do_all(
    job: CheckpointJob,
    work: Callable[[CheckpointJob, int], Failure | None],
    known: dict[RunKey, Unlearned],
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> None:
    """Have the workers do `work` with every checkpoint that is not `known`; the first complaint is a `UserError`."""
    missing = [key for key in job.keys if key not in known]

    def submit(key: RunKey, pool: Workers) -> Future[Failure | None]:
        return pool.submit(work, replace(job, device=pool.device), key[1])

    try:
        do_runs(missing, submit, workers, len(job.keys), on_progress)
    except RunFailedError as failure:
        submission = job.submission
        name = submission.members[failure.key[1]]
        raise UserError(f"{submission.path.name}: {name} {failure.complaint}.") from failure


# ----------------------------------------------------------------------------------------------------------------------
# The grading
# ----------------------------------------------------------------------------------------------------------------------


def grade_submission(path: Path, spec: GradingSpec, workers: Workers, console: Console) -> Report:
    """Grade a zip of checkpoints, `spec.models` in number, that were made elsewhere; `spec.method` is their name.

    Its floor is the bank's original 0, trained on the same data as the one that the checkpoints came from, which is
    not in the zip.

    Raises:
        UserError: the task is wrong, or something is wrong with the zip or a checkpoint in it, which is found
            before anything is trained.
    """
    began = time.monotonic()
    task = load_with_one_request(spec.task)
    submission = look_over(path, spec.models, task)
    announce(spec, task, workers, console)
    folder = submission_folder(submission, spec.method, task)
    job = CheckpointJob(spec.task, workers.device, submission, folder)
    with console.progress("reading", "checkpoints") as on_progress:
        check_all(job, workers, on_progress)
    foresee = foreseer([], workers, console)
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, spec.originals_needed, spec.models, workers, console.tell, on_progress, foresee)
    with console.progress(spec.method, "checkpoints") as on_progress:
        unlearned = evaluate(job, spec, workers, console.tell, on_progress)
    method = MethodRecord(
        name=spec.method,
        settings={},
        changed={},
        tuned_trials=None,
        exempt_from_budget=False,
        submission=submission.sha256,
    )
    cost = Cost(
        retrain_seconds=bank.retrain_seconds,
        budget_seconds=None,
        budget_fraction_used=None,
        runs_seconds_mean=None,
        peak_memory_bytes=None,
    )
    report = assemble_report(spec, task, bank, unlearned.outputs, method, cost, None, workers, began)
    report.save(folder)
    return report
