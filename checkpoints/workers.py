"""Processes that do the heavy work: training groups of models, and runs of unlearning methods.

Each lives through many jobs, so that the seconds it takes to import PyTorch are paid once; one that dies (killed for
exceeding the budget, out of memory) is replaced and only its own job fails: see `processes.py`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import TYPE_CHECKING, Any

from checkpoints.messages import tell_progress
from checkpoints.one_process import SECONDS_TO_START, server_killed_after
from checkpoints.processes import JobPool
from data.errors import UserError
from data.files import choose_folders, chosen_folders

if TYPE_CHECKING:
    from data import Task, TaskSpec

QUICK_TO_FORK = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""An environment variable with which glibc asks for large pages. A process that has loaded PyTorch has a third of a
gigabyte of its own; to fork it takes the time to copy the table of its pages, and that is half as long then."""

LONGEST_FOLDER = 70
"""Bytes. The name of a socket may have 107, and multiprocessing puts some 30 behind the folder."""


class Workers:
    """A pool of `count` processes that compute on `device`. A context manager; leaving it stops the processes.

    `beside` is called with the device in each process as the first thing that it does.

    Raises:
        UserError: `count` is less than 1, or too few files may be open at once.
    """

    def __init__(self, count: int, device: str = "cpu", beside: Callable[[str], None] | None = None) -> None:
        if count < 1:
            raise UserError(f"--workers must be at least 1, not {count}.")
        self.count = count
        self.device = device
        _allow_open_files(count)
        self._pool = JobPool(count, _context(), _start, (device, chosen_folders(), beside))

    def submit(self, job: Callable[..., Any], *args: object) -> Future[Any]:
        """Queue `job(*args)`, a module-level function. A worker that dies gives `processes.WorkerLostError`."""
        return self._pool.submit(job, args)

    @property
    def progress(self) -> float:
        """The sum of all `add_progress` calls made in the workers so far, but for jobs whose worker was lost."""
        return self._pool.progress

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.stop()


def add_progress(amount: float) -> None:
    """Called inside a job: report that `amount` (in the unit of the caller's choice) of its work is done."""
    tell_progress(amount)


@lru_cache(maxsize=1)
def load_task(spec: TaskSpec, device: str) -> Task:
    """The task on `device`, loaded once per process."""
    import data

    return data.load(spec, device)


def default_workers(device: str) -> int:
    """As many as there are cores this process may use; on a GPU, at most four share it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if device == "cpu" else min(cores, 4)


def seed_everything(seed: int) -> None:
    """Seed every global random generator that a method may draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same without notes for the case that there is a GPU later, each with a traceback, which takes 3 ms
        torch.default_generator.manual_seed(seed)


def be_deterministic(device: str) -> None:
    """Make PyTorch give the same bits whenever it is given the same work, however many workers there are."""
    import torch

    # The number of threads changes the order of sums; and one thread per worker uses all cores best. To set it costs
    # oneDNN all that it has made for shapes that it has seen, even if it is set already.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    if device != "cpu":  # one thread is enough there, and the import behind this takes two seconds in each worker
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def start_server() -> None:
    """Start what workers are forked from now, so that it imports PyTorch while this process still does, too."""
    _context()


def server_is_there() -> bool:
    """Whether processes can be forked from the server: it has been started, and imports PyTorch or is ready."""
    return sys.platform == "linux" and getattr(forkserver._forkserver, "_forkserver_pid", None) is not None


def fork_from_server(job: Callable[..., None], *args: object) -> BaseProcess:
    """A process that does `job(*args)`, a module-level function, and has imported PyTorch before.

    Raises:
        OSError, EOFError: the server has been killed, or there are no more files or processes.
    """
    process: BaseProcess = _context().Process(target=job, args=args)
    with server_killed_after(SECONDS_TO_START):
        process.start()
    return process


def _start(device: str, folders: Mapping[str, str | None], beside: Callable[[str], None] | None) -> None:
    if beside is not None:
        beside(device)
    choose_folders(folders)  # the server that workers are forked from has the environment of when it was started
    if sys.platform == "linux":  # as in a notebook, where a method's DataLoader starts its workers at once
        multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    gc.freeze()  # what was imported stays: no need to look for garbage in it
    be_deterministic(device)


def _die_with_parent() -> None:
    """A worker whose main process was killed would otherwise go on with its job, for nobody, to the end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _context() -> ForkServerContext | SpawnContext:
    """On Linux, workers are forked from a server that has imported PyTorch: a replacement starts at once."""
    if sys.platform != "linux":
        return SpawnContext()
    context = ForkServerContext()
    context.set_forkserver_preload(["checkpoints.preload"])
    _keep_sockets_short()
    with _interrupts_ignored(), _environment(QUICK_TO_FORK):
        try:
            forkserver.ensure_running()
        except OSError as error:
            raise UserError(f"The worker processes can't be started ({error.strerror or error}).") from error
    return context


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """A process that is started inside has these environment variables, where there is no other value of them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _allow_open_files(workers: int) -> None:
    """Have the system allow as many open files as workers need; each wants four for its sockets and pipes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + 10 + 4 * workers
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        raise UserError(
            f"Only {soft} files may be open at once, and {workers} workers need {needed}: `ulimit -n 1024` allows more."
        ) from error


def _keep_sockets_short() -> None:
    """Have `multiprocessing` make its sockets in /tmp where their names would get too long in the usual folder."""
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER:
        return
    usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        get_temp_dir()  # it is made now, and asked for ever after
    except OSError as error:
        raise UserError(
            f"The folder of temporary files, {usual}, has too long a name for sockets, and /tmp can't be written "
            f"({error.strerror}): set TMPDIR to a folder with a shorter name."
        ) from error
    finally:
        tempfile.tempdir = usual


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started inside ignores Ctrl-C, from its first moment on."""
    if threading.current_thread() is not threading.main_thread():  # only that one may touch signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
