"""Processor time by Linux's own account: a control group for each room, where this process may make one.

It has the time of every process that was forked from the room, however short it lived and whoever waited for it. Root
may make control groups on most machines, and so may a process that systemd started for its user; in a container they
are often read-only. Where there is none, `watch` adds up what it sees.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "unlearning-room-"
"""Of the names of the groups: the process that has made one, and its number, follow."""

_made = 0


class Group:
    """A control group (of version 2) for a room, made by the process that starts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entrance = os.open(folder / "cgroup.procs", os.O_WRONLY)
        """A process that writes 0 to this descriptor joins, and so do its children from then on."""
        self.usage = os.open(folder / "cpu.stat", os.O_RDONLY)
        """The descriptor of the account."""

    def close(self) -> None:
        """Remove it; its processes have ended."""
        os.close(self.entrance)
        os.close(self.usage)
        with suppress(OSError):
            self._folder.rmdir()


def make_group() -> Group | None:
    """A new group below that of this process; None where that is not possible."""
    global _made
    above = _own_folder()
    if above is None:
        return None
    _remove_old(above)
    _made += 1
    folder = above / f"{PREFIX}{os.getpid()}-{_made}"
    try:
        folder.mkdir()
        return Group(folder)
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        return None


def _own_folder() -> Path | None:
    """The folder of this process's control group, if it is mounted."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        inside = next(line[3:] for line in lines if line.startswith("0::"))
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            root, mounted = line.split()[3:5]
            if line.partition(" - ")[2].startswith("cgroup2 ") and Path(inside).is_relative_to(root):
                return Path(mounted) / Path(inside).relative_to(root)
    except (OSError, StopIteration, ValueError):
        pass
    return None


def _remove_old(above: Path) -> None:
    """Remove groups whose makers have been killed."""
    for folder in above.glob(f"{PREFIX}*"):
        maker = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", maker).exists():
            with suppress(OSError):  # somebody is in it
                folder.rmdir()


class Account:
    """The room's view of its group."""

    def __init__(self, usage: int) -> None:
        self._usage = usage

    @staticmethod
    def opened(entrance: int, usage: int) -> Account | None:
        """Join the group with these descriptors, see `Group`; None if that fails."""
        try:
            os.write(entrance, b"0")
            account = Account(usage)
            account.seconds()
            return account
        except (OSError, ValueError, IndexError):
            return None
        finally:
            os.close(entrance)

    def move_to(self, descriptor: int) -> None:
        """Read from another descriptor from now on, which is closed first if it is open."""
        os.dup2(self._usage, descriptor, inheritable=False)
        self._usage = descriptor

    def seconds(self) -> float:
        """Processor seconds of all that this process has ever forked; only differences mean something."""
        told = os.pread(self._usage, 4096, 0).split()
        return int(told[told.index(b"usage_usec") + 1]) / 1e6 - time.process_time()
