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
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from checkpoints.messages import tell_progress
from checkpoints.processes import JobPool
from checkpoints.server import context
from data.errors import UserError
from data.files import choose_folders, chosen_folders

if TYPE_CHECKING:
    from data import Task, TaskSpec


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
        self._pool = JobPool(count, context(), _start, (device, chosen_folders(), beside))

    def submit(self, job: Callable[..., Any], *args: object) -> Future[Any]:
        """Queue `job(*args)`, a module-level function. A worker that dies gives `processes.WorkerLostError`."""
        return self._pool.submit(job, args)

    @property
    def progress(self) -> float:
        """The sum of all `add_progress` calls made in the workers so far, but for jobs whose worker was lost."""
        return self._pool.progress

    @property
    def pools(self) -> Sequence[Workers]:
        """Those that share its work, each on a device of its own: this one alone."""
        return [self]

    @property
    def devices(self) -> str:
        """Where they compute, as for `--device`."""
        return ",".join(pool.device for pool in self.pools)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.stop()


class SharedWorkers(Workers):
    """Pools on several devices of one kind that share the work: `work_off` gives each what it can do next."""

    def __init__(self, pools: Sequence[Workers]) -> None:
        self._pools = pools
        self.count = sum(pool.count for pool in pools)
        self.device = pools[0].device

    def submit(self, job: Callable[..., Any], *args: object) -> Future[Any]:
        """Queue a job that does not depend on the device, or is to be done on the first."""
        return self._pools[0].submit(job, *args)

    @property
    def progress(self) -> float:
        """That of all of them."""
        return sum(pool.progress for pool in self._pools)

    @property
    def pools(self) -> Sequence[Workers]:
        """One for each device."""
        return self._pools

    def __exit__(self, *exc_info: object) -> None:
        for pool in self._pools:
            pool.__exit__(*exc_info)


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
