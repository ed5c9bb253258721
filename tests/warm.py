"""A Python that has imported PyTorch, from which tests fork commands: as a new program, each would import it again.

What is forked is a process of its own: with its own folder, environment, streams and signals. It imports the copy of
the kit in its folder, as the server has imported nothing of any. The server is `python tests/warm.py SOCKET`.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import multiprocessing.process
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = ("numpy", "scipy.stats", "torch._dynamo", "cyclopts", "rich.table", "tqdm", "yaml", "PIL.Image")
LONGEST = 1 << 20
"""Bytes of a request."""

# ----------------------------------------------------------------------------------------------------------------------
# In a test
# ----------------------------------------------------------------------------------------------------------------------


class Forked:
    """A process that the server has forked: what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, stdout: int, stderr: int, status: io.TextIOBase) -> None:
        self.pid = pid
        self.stdout, self.stderr = os.fdopen(stdout), os.fdopen(stderr)
        self.returncode: int | None = None
        self._status = status
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        self.returncode = int(self._status.readline() or -1)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `TimeoutExpired`."""
        self._waiting.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a command", timeout or 0.0)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed, when it has ended. Raises `TimeoutExpired`."""
        limit = None if timeout is None else time.monotonic() + timeout
        texts = {}

        def read(name: str) -> None:
            texts[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if limit is None else limit - time.monotonic())
            if reader.is_alive():
                raise subprocess.TimeoutExpired("a command", timeout or 0.0)
        self.wait(None if limit is None else limit - time.monotonic())
        return texts["stdout"], texts["stderr"]


class WarmPython:
    """The server, which is started by the first command."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def start(self, program: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Forked:
        """Run `python -c program arguments` in a folder, in a session of its own."""
        request = json.dumps([program, list(arguments), str(folder), dict(environment)])
        pipes = [os.pipe() for _ in ("stdout", "stderr", "status")]
        theirs = [os.open(os.devnull, os.O_RDONLY), *(writing for _, writing in pipes)]
        socket.send_fds(self._server(), [request.encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        stdout, stderr, status = (reading for reading, _ in pipes)
        told = os.fdopen(status)
        return Forked(int(told.readline()), stdout, stderr, told)

    def _server(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            usual = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            program = [sys.executable, __file__, str(theirs.fileno())]
            subprocess.Popen(program, env={**os.environ, **usual}, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
        return self._socket


# ----------------------------------------------------------------------------------------------------------------------
# In the server
# ----------------------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Fork a process for each request, and tell its number and its exit code, until the other end is closed."""
    status: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in status:
                    selector.unregister(key.fd)
                    _tell_end(key.fd, *status.pop(key.fd))
                    continue
                request, descriptors, _, _ = socket.recv_fds(connection, LONGEST, 4)
                if not request:
                    return
                pid = os.fork()
                if pid == 0:
                    _become_command(json.loads(request), descriptors)
                os.write(descriptors[3], b"%d\n" % pid)
                for descriptor in descriptors[:3]:
                    os.close(descriptor)
                watched = os.pidfd_open(pid)
                status[watched] = pid, descriptors[3]
                selector.register(watched, selectors.EVENT_READ)


def _tell_end(watched: int, pid: int, descriptor: int) -> None:
    _, how = os.waitpid(pid, 0)
    os.write(descriptor, b"%d\n" % os.waitstatus_to_exitcode(how))
    os.close(descriptor)
    os.close(watched)


def _become_command(request: Sequence[Any], descriptors: Sequence[int]) -> NoReturn:
    program, arguments, folder, environment = request
    os.setsid()
    for place, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, place)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    sys.argv, sys.path[0] = ["-c", *arguments], folder
    os._exit(_run(program))


def _run(program: str) -> int:
    """As Python does it, but for what it does for nobody else: to destroy everything one by one."""
    code: object = 0
    try:
        exec(program, {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


def main() -> None:
    """See the module."""
    gc.disable()
    for library in LIBRARIES:
        __import__(library)
    gc.collect()
    gc.freeze()
    gc.enable()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
