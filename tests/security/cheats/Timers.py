"""Methods that work longer than they may: in places, or at moments, where a clock might not look."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod


def burn(seconds: float = 1.2) -> None:
    """Use so much processor time of this thread: as training in secret would."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(bytes(1 << 16)).digest()


class Timers(MyMethod):
    """Work longer than allowed; the budget that the tests give is a part of what is used here."""

    which: str = "honest"
    """Which trick."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        self.net = net
        super().run(net, retain_loader, forget_loader, val_loader)
        getattr(self, self.which)()

    def honest(self) -> None:
        """Nothing beside the baseline."""

    def in_the_open(self) -> None:
        """Any clock sees this; the control."""
        burn()

    def in_a_child(self) -> None:
        """A clock of the process alone misses it."""
        os.waitpid(_forked(burn), 0)

    def in_an_orphan(self) -> None:
        """Its parent is gone: a clock of the process and of the children it has waited for misses it."""
        reading, writing = os.pipe()

        def leave_one() -> None:
            os.setsid()
            _forked(lambda: (burn(), os.write(writing, b".")))

        os.waitpid(_forked(leave_one), 0)
        os.read(reading, 1)

    def in_a_program(self) -> None:
        """As a child does, with another program."""
        code = "import time\nwhile time.process_time() < 1.2: pass"
        subprocess.run([sys.executable, "-S", "-c", code], check=False)

    def in_a_thread(self) -> None:
        """A clock of the main thread misses it."""
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()

    def in_children_that_nobody_hears_of(self) -> None:
        """With SIGCHLD ignored, the time of a child that ends is in no account of its parent."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child = _forked(burn)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)

    def in_many_short_children(self) -> None:
        """As before, and none lives long enough for one who looks now and then."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(160):
            child = _forked(lambda: burn(0.012))
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def with_signals_ignored(self) -> None:
        """One who asks it to stop, by a signal that can be ignored, waits in vain."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU, signal.SIGHUP, signal.SIGPROF):
            signal.signal(number, signal.SIG_IGN)
        burn()

    def with_clocks_of_its_own(self) -> None:
        """A clock that is a Python function, read where the method runs, says what the method likes."""
        for name in ("process_time", "process_time_ns", "perf_counter", "perf_counter_ns", "monotonic", "time"):
            setattr(time, name, lambda: 0)
        end = time.thread_time() + 1.2
        while time.thread_time() < end:
            pass

    def in_state_dict(self) -> None:
        """When `run` has returned, its weights are asked for: a clock that stopped at the return misses this."""
        ask: Callable[..., Any] = self.net.state_dict
        self.net.state_dict = lambda *args, **named: (burn(), ask(*args, **named))[1]

    def in_named_modules(self) -> None:
        """The same, while its structure is checked."""
        ask: Callable[..., Any] = self.net.named_modules
        self.net.named_modules = lambda *args, **named: (burn(), ask(*args, **named))[1]

    def in_notes(self) -> None:
        """The same, when its notes are asked for."""
        type(self).notes = property(lambda self: burn())

    def at_exit(self) -> None:
        """The same, when the process ends; what it could still change there is the question."""
        os._exit = lambda code: (burn(), os.kill(os.getpid(), signal.SIGKILL))[1]

    def in_one_that_stays(self) -> None:
        """A child that goes on when the run is over has all the time in the world, and can help the next run."""
        _forked(lambda: (signal.signal(signal.SIGHUP, signal.SIG_IGN), os.setsid(), burn(30)))

    def asleep(self) -> None:
        """Who counts processor time alone waits for ever."""
        time.sleep(3600)

    def stopped(self) -> None:
        """The same, and it doesn't even wake up."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def spinning(self) -> None:
        """For ever, without letting go of Python's lock."""
        ctypes.PyDLL(None).usleep(1)
        sum(iter(int, 1))


def _forked(do: Callable[[], object]) -> int:
    """A child process that does something and ends."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return child
