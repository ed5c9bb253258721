"""What a run could leave outside of its own process for the next one, and taking it away.

A process may change limits and priority of another of the same user, the room's too, and a fork inherits them. In a
sandbox there are, besides, places that last as long as it: files in memory, and what Linux keeps without a file.
"""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

WRITABLE = ("/tmp", "/dev/shm", "/dev/mqueue")
"""The folders of a sandbox that can be written."""
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


class Traces:
    """Compares the room, and the sandbox that it may be alone in, with what they were when this was made."""

    def __init__(self, in_sandbox: bool) -> None:
        self._in_sandbox = in_sandbox
        self._given = {path for folder in WRITABLE for path in _inside(folder)} if in_sandbox else set()
        self._before = self._state()

    def removed(self) -> bool:
        """Remove files that were not there; whether all is as before then."""
        if self._in_sandbox:
            for folder in WRITABLE:
                self._tidy(folder)
        return self._state() == self._before

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "limits": [resource.getrlimit(kind) for kind in _LIMITS],
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
            "score": _text("/proc/self/oom_score_adj"),
        }
        if hasattr(os, "sched_getaffinity"):
            state |= {"cores": os.sched_getaffinity(0), "scheduler": os.sched_getscheduler(0)}
        if self._in_sandbox:
            state["files"] = {path for folder in WRITABLE for path in _inside(folder)} - self._given
            state["ipc"] = [len(_text(f"/proc/sysvipc/{kind}").splitlines()) for kind in ("msg", "sem", "shm")]
            state["keys"] = [line.split()[0] for line in _text("/proc/keys").splitlines()]
        return state

    def _tidy(self, folder: str) -> None:
        """Remove what is in a folder but for what was given, and what that lies in."""
        for path in _inside(folder):
            if path in self._given or not os.path.lexists(path):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                with suppress(RecursionError):
                    _open_up(path)
                    shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(path)


def _inside(folder: str) -> list[str]:
    """All that is in a folder and in those below it, but not in what is mounted there."""
    found: list[str] = []
    folders = [folder]
    for place in folders:  # which grows meanwhile
        with suppress(OSError):
            device = os.lstat(place).st_dev
            for entry in os.scandir(place):
                found.append(entry.path)
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                    folders.append(entry.path)
    return found


def _open_up(folder: str) -> None:
    """Make it possible to list a folder, and those in it."""
    with suppress(OSError):
        os.chmod(folder, 0o700)
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                _open_up(entry.path)


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""
