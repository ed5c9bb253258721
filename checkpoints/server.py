"""What processes are forked from on Linux: a process that has imported PyTorch, so that each of them starts at once.

`multiprocessing` has such a server, and runs it here. It is started as a new program, which imports PyTorch for
seconds; a command that has begun nothing yet forks it from itself instead (`start_server`), and pays them once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from data.errors import UserError

QUICK_TO_FORK = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""An environment variable with which glibc asks for large pages. A process that has loaded PyTorch has a third of a
gigabyte of its own; to fork it takes the time to copy the table of its pages, and that is half as long then."""

SECONDS_TO_START = 120.0
"""After which the server is taken for dead: it imports PyTorch first."""

LONGEST_FOLDER = 70
"""Bytes. The name of a socket may have 107, and multiprocessing puts some 30 behind the folder."""


def start_server() -> None:
    """Start the server now, before this process has read or begun anything.

    If nothing speaks against it, this process imports PyTorch and the server is forked from it.
    """
    if can_become_server():
        import torch  # noqa: F401

        with _forked():
            context()
    else:
        context()


def can_become_server() -> bool:
    """Whether this process can be forked: it has no threads, whose locks nobody would free, and has used no GPU."""
    torch = sys.modules.get("torch")
    threads = len(sys._current_frames())  # also those that `threading` does not know
    begun = threads > 1 or (torch is not None and torch.cuda.is_initialized())
    return sys.platform == "linux" and not begun


def context() -> ForkServerContext | SpawnContext:
    """What makes processes: they are forked from the server, which is started if there is none; elsewhere, programs.

    Raises:
        UserError: the server can't be started.
    """
    if sys.platform != "linux":
        return SpawnContext()
    made = ForkServerContext()
    made.set_forkserver_preload(["checkpoints.preload"])
    _keep_sockets_short()
    with _interrupts_ignored(), _environment(QUICK_TO_FORK):
        try:
            forkserver.ensure_running()
        except OSError as error:
            raise UserError(f"The worker processes can't be started ({error.strerror or error}).") from error
    return made


def server_is_there() -> bool:
    """Whether processes can be forked from the server: it has been started, and imports PyTorch or is ready."""
    return sys.platform == "linux" and getattr(forkserver._forkserver, "_forkserver_pid", None) is not None


def fork_from_server(job: Callable[..., None], *args: object) -> BaseProcess:
    """A process that does `job(*args)`, a module-level function, and has imported PyTorch before.

    Raises:
        OSError, EOFError: the server has been killed, or there are no more files or processes.
    """
    process: BaseProcess = context().Process(target=job, args=args)
    with server_killed_after(SECONDS_TO_START), without_a_missing_main():
        process.start()
    return process


@contextlib.contextmanager
def without_a_missing_main() -> Iterator[None]:
    """`multiprocessing` imports the main program anew in each process; one that was read from a pipe has no file."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or os.path.exists(file):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


@contextlib.contextmanager
def server_killed_after(seconds: float) -> Iterator[None]:
    """A server that does not answer is killed, and then whoever waits for its answer gets an `EOFError`."""
    timer = threading.Timer(seconds, kill_server)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kill_server() -> None:
    """End the server; there is a new one as soon as it is needed."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


# ----------------------------------------------------------------------------------------------------------------------
# How it is started
# ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _forked() -> Iterator[None]:
    """Inside, `multiprocessing` gets its server by a fork of this process, in place of a new program."""
    resource_tracker.ensure_running()  # it remains a program of its own
    usual = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]  # fewer types do
    try:
        yield
    finally:
        util.spawnv_passfds = usual


def _fork(path: str, arguments: Sequence[str], descriptors: Iterable[int]) -> int:
    """In place of `util.spawnv_passfds`, for a program `python -c TEXT`: the number of a process that does the text."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()  # what is not written yet would be written by both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons count NumPy's threads, which stand a fork
        process = os.fork()
    if process:
        return process
    try:
        _forget_this_process(descriptors)
        exec(arguments[-1], {"__name__": "__main__"})
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _forget_this_process(descriptors: Iterable[int]) -> None:
    """Keep nothing that a new program would not have: handlers of signals, other streams, open files, a held lock."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    kept = sorted({0, 1, 2, *descriptors})
    for below, above in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(below + 1, above)
    forkserver._forkserver.__init__()  # type: ignore[misc]  # its lock is held while the server is started


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """A process that is started inside has these environment variables, where there is no other value of them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _keep_sockets_short() -> None:
    """Have `multiprocessing` make its sockets in /tmp where their names would get too long in the usual folder."""
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER:
        return
    usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        util.get_temp_dir()  # it is made now, and asked for ever after
    except OSError as error:
        raise UserError(
            f"The folder of temporary files, {usual}, has too long a name for sockets, and /tmp can't be written "
            f"({error.strerror}): set TMPDIR to a folder with a shorter name."
        ) from error
    finally:
        tempfile.tempdir = usual


@contextlib.contextmanager
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
