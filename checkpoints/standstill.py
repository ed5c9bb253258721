"""What other processes do, as the operating system tells: their offspring, and whether they stand still.

A job may take hours, and how long it takes is known only roughly. But whatever it does, it uses some processor time; a
process that uses none for minutes is stopped, or waits for what will not come.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

STANDSTILL_SECONDS = 300.0
"""After which a process has stood still if neither it nor those that it has started used any processor time."""
STOPPED_SECONDS = 60.0
"""The same for a process that is stopped (by SIGSTOP, for example), which does not go on by itself."""


class Seen(NamedTuple):
    """A process at some moment."""

    parent: int
    stopped: bool
    used: str
    """Its processor time, in whatever form the system tells it."""


def all_processes() -> dict[int, Seen]:
    """Those that run now, by their number; none if the system does not tell."""
    return _from_proc() if sys.platform == "linux" else _from_ps()


def _from_proc() -> dict[int, Seen]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # 123 (its name, with any characters) S 1 ...; user and system time are the 14th and 15th column.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        found[int(folder.name)] = Seen(int(fields[1]), fields[0] == "T", f"{fields[11]} {fields[12]}")
    return found


def _from_ps() -> dict[int, Seen]:
    try:
        command = ["ps", "-axo", "pid=,ppid=,state=,time="]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split() for line in lines]
    return {int(row[0]): Seen(int(row[1]), row[2].startswith("T"), row[3]) for row in rows if len(row) == 4}


def descendants(pid: int, processes: Mapping[int, Seen] | None = None) -> list[int]:
    """The processes that a process has started, those that these have started, and so on."""
    processes = all_processes() if processes is None else processes
    children: dict[int, list[int]] = {}
    for number, seen in processes.items():
        children.setdefault(seen.parent, []).append(number)
    found: list[int] = []
    todo = [pid]
    while todo:
        mine = children.get(todo.pop(), [])
        found += mine
        todo += mine
    return found


class Standstill:
    """Whether a process and its offspring do something, looked at every few seconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.reset()

    def reset(self) -> None:
        """It has just been given something to do."""
        self.still = 0.0
        """Seconds since it was seen to do something."""
        self._before: dict[int, str] = {}

    def stands_still(self, processes: Mapping[int, Seen], seconds: float) -> bool:
        """Whether it has done nothing for too long; the last look was `seconds` ago, and `all_processes` is new."""
        mine = processes.get(self._pid)
        if mine is None:
            return False
        used = {number: processes[number].used for number in (self._pid, *descendants(self._pid, processes))}
        self.still = self.still + seconds if mine.stopped or used == self._before else 0.0
        self._before = used
        return self.still >= (STOPPED_SECONDS if mine.stopped else STANDSTILL_SECONDS)
