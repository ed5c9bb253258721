"""Watching a run from outside: what it and all of its child processes take, and ending them when that is too much.

Only for Linux, whose /proc says which processes there are. The process that watches is the one that orphans go to
(`adopt_orphans`), so a run can't leave its family by forking twice or by `setsid`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evaluation.isolation.account import Account
from evaluation.isolation.limits import Limits
from evaluation.texts import in_seconds

MORE = "--budget or --budget-seconds allow more"
"""What to do about a budget that is too small."""
SECONDS_BETWEEN_LOOKS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Of `prctl`, see <linux/prctl.h>.
_DIE_WITH_PARENT, _DUMPABLE, _ADOPT_ORPHANS = 1, 4, 36


class Verdict(NamedTuple):
    """How a run ended, as seen from outside."""

    answer: bytes | None
    """What it left; None if it left nothing."""
    seconds: float
    """Processor seconds of it and all of its child processes."""
    peak_memory: int
    """Bytes: its largest resident set."""
    complaint: str
    """Why there is no answer; empty if there is one."""
    retry: bool
    """Whether the reason is time, so that another attempt may go well."""
    clean: bool = True
    """Whether the room is as it was before; if it isn't, another one takes over."""


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    _prctl(_ADOPT_ORPHANS, 1)


def die_with_parent() -> None:
    """This process is killed when the one that forked it ends."""
    _prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def be_closed_to_others() -> None:
    """Other processes of this user, but for root's, can't look into the memory of this one, or trace it."""
    _prctl(_DUMPABLE, 0)


def be_open_to_others() -> None:
    """They can again, as usual: the process that watches this one, for instance."""
    _prctl(_DUMPABLE, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


@dataclass
class Watch:
    """A look at a run, again and again. `process` is its first process, a child of this one."""

    process: int
    limits: Limits
    budget: float | None
    """Processor seconds; None: as many as it likes."""
    log: int
    """Descriptor of the file that it prints to."""
    account: Account | None = None
    """Linux's account of processor time, where there is one ..."""
    booked: float = 0.0
    """... and what was in it before `process` was forked."""
    began: float = 0.0
    """What `process` had used of its processor time before the method was called."""
    status: int | None = None
    """How `process` ended, as `waitpid` has it; None while it is there."""
    largest: int = 0
    """Resident set of `process` in bytes, when it has ended."""
    _seen: dict[int, float] = field(default_factory=dict)
    _reaped: float = 0.0
    _before: int = 0
    _next_count: float = 0.0

    def __post_init__(self) -> None:
        self._before = _resident(os.getpid())
        self._wall = self.limits.wall_seconds(self.budget, "cpu")
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Processor seconds so far, of `process` since `began` and of all its descendants since ever."""
        return self._seconds(self._family())

    def complaint(self) -> tuple[str, bool] | None:
        """What the run takes too much of, in words, and whether that is time; None if there is nothing to say."""
        limits, family = self.limits, self._family()
        if self.budget is not None:
            exceeded = f"it exceeded the budget of {in_seconds(self.budget)}"
            if (used := self._seconds(family)) > self.budget:
                return f"{exceeded} and was killed after {used:.3g}; {MORE}", True
            if self._wall is not None and time.monotonic() > self._started + self._wall:
                waited = f"{exceeded}, most of which it only waited"
                return f"{waited}, and was killed after {in_seconds(self._wall)}; {MORE}", True
        if os.fstat(self.log).st_size > limits.log_bytes:
            return f"it printed more than {limits.log_bytes / 2**20:.3g} MB and was killed", False
        if len(family) > limits.processes + 1:
            return f"it had {len(family) - 1} child processes ({limits.processes} are allowed) and was killed", False
        threads = sum(map(_threads, family))
        if threads > limits.threads:
            return f"it had {threads} threads ({limits.threads} are allowed) and was killed", False
        held = self._held(family, limits.memory_bytes)
        if held > limits.memory_bytes:
            allowed = f"{limits.memory_bytes / 2**30:.3g} are allowed"
            return f"it held {held / 2**30:.3g} GB of memory ({allowed}) and was killed", False
        return None

    def _held(self, family: list[int], limit: int) -> int:
        """Bytes of memory of all together; at most `limit` is certain in a moment, more takes a while to know.

        Where a process does not let others look, what it has beyond the room counts.
        """
        began = time.monotonic()
        most = sum(map(_resident, family))  # with what they share counted for each of them
        if most <= limit or began < self._next_count:
            return min(most, limit)
        parts = [(process, _proportional(process)) for process in family]
        held = sum(max(_resident(one) - self._before, 0) if part is None else part for one, part in parts)
        now = time.monotonic()
        self._next_count = now + 10 * (now - began)
        return held

    def _family(self) -> list[int]:
        """`process`, all its descendants, and those that have lost their parents."""
        self.reap()
        return [self.process, *(other for other in descendants(os.getpid()) if other != self.process)]

    def _seconds(self, family: list[int]) -> float:
        total = self._reaped
        for process in family:
            own, of_children = _processor_seconds(process)
            self._seen[process] = max(own, self._seen.get(process, 0.0))
            total += own + of_children
        # Those whose parent refuses to hear of their end are in no account but Linux's own: without one, they count as
        # they were last seen.
        booked = 0.0 if self.account is None else self.account.seconds() - self.booked
        return max(total, sum(self._seen.values()), booked) - self.began

    def reap(self) -> bool:
        """Take note of those that have ended; whether there are others."""
        try:
            while True:
                process, status, usage = os.wait4(-1, os.WNOHANG)
                if process == 0:
                    return True
                self._reaped += usage.ru_utime + usage.ru_stime
                self._seen.pop(process, None)
                if process == self.process:
                    self.status, self.largest = status, usage.ru_maxrss * 1024
        except ChildProcessError:
            return False

    def end(self) -> None:
        """Kill the run and all that it has started, and wait until nothing of it is left."""
        while self.reap():  # the list in /proc may lack one while others end, but not the answer to this question
            kill(descendants(os.getpid()))
            time.sleep(0.0005)


def follow(watch: Watch, pipe: int, master: socket.socket, most: int) -> Verdict:
    """Read what a run writes to `pipe`, and watch it until it has answered, ended, or taken too much.

    It first writes, as 8 bytes each, the nanoseconds of processor time that it had used when the method was called, and
    the length of its answer; then the answer, of at most `most` bytes. Whatever it does after that counts for nothing.
    If `master` hangs up, nobody wants the answer, and this process ends.
    """
    os.set_blocking(pipe, False)
    got = bytearray()
    wanted: int | None = None
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(master, select.POLLRDHUP)
    complaint: tuple[str, bool] | None = None
    next_look = 0.0
    while complaint is None:
        ready = dict(poll.poll(SECONDS_BETWEEN_LOOKS * 1000))
        if master.fileno() in ready:
            watch.end()
            os._exit(0)
        ended = _drain(pipe, got) if pipe in ready else False
        if len(got) >= 16 and wanted is None:
            watch.began = int.from_bytes(got[:8], "big") / 1e9
            wanted = int.from_bytes(got[8:16], "big")
        if wanted is not None and wanted > most:
            complaint = f"it left {wanted} bytes, and {most} are allowed", False
        elif wanted is not None and len(got) >= 16 + wanted:
            break
        elif ended or watch.status is not None:
            # Linux kills whoever takes the last memory, earlyoom asks it to end, and anybody may do either: another
            # attempt may go well.
            complaint = _how_it_ended(watch), watch.status in (signal.SIGKILL, signal.SIGTERM)
        elif time.monotonic() > next_look:
            complaint = watch.complaint()
            next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
    seconds = watch.seconds()
    watch.end()
    if complaint is None and os.fstat(watch.log).st_size > watch.limits.log_bytes:
        complaint = f"it printed more than {watch.limits.log_bytes / 2**20:.3g} MB", False
    if complaint is None and watch.budget is not None and seconds > watch.budget:
        complaint = f"it exceeded the budget of {in_seconds(watch.budget)}: it took {seconds:.3g}; {MORE}", True
    answer = bytes(memoryview(got)[16 : 16 + wanted]) if complaint is None and wanted is not None else None
    text, retry = complaint or ("", False)
    return Verdict(answer, seconds, watch.largest, text, retry)


def _drain(pipe: int, got: bytearray) -> bool:
    """Append some of what there is to read, which may never end; whether there is, and will be, nothing more."""
    for _ in range(16):
        try:
            piece = os.read(pipe, 1 << 20)
        except BlockingIOError:
            return False
        if not piece:
            return True
        got += piece
    return False


def _how_it_ended(watch: Watch) -> str:
    """In words, of a process that has closed its pipe, or has ended, without an answer."""
    patience = time.monotonic() + 1
    while watch.status is None and time.monotonic() < patience:
        watch.reap()
        time.sleep(0.001)
    if watch.status is None:
        return "its process went on as another program (os.exec...) and was killed"
    code = os.waitstatus_to_exitcode(watch.status)
    if code == 0:
        return "its process ended (os._exit(0)?) before run() returned"
    return f"its process died with exit code {code} (-9 and -15 often mean: out of memory)"


# ----------------------------------------------------------------------------------------------------------------------
# What Linux tells of processes
# ----------------------------------------------------------------------------------------------------------------------


def descendants(process: int) -> list[int]:
    """All processes that descend from this one, its children first."""
    found = list(_children(process))
    for child in found:  # which grows meanwhile
        found.extend(_children(child))
    return found


def _children(process: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:  # it has ended
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            yield from map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())


def _processor_seconds(process: int) -> tuple[float, float]:
    """Of a process itself, all its threads included, and of those of its children that it has waited for."""
    try:
        own = time.clock_gettime(~process << 3 | 2)  # the clock of another process, see clock_getcpuclockid(3)
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0, 0.0
    return own, (int(after_name[13]) + int(after_name[14])) / TICKS  # cutime and cstime, see proc(5)


def _threads(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[17])
    except (OSError, IndexError):
        return 0


def _proportional(process: int) -> int | None:
    """Bytes of memory that a process holds, its part of what it shares with others; it takes milliseconds to know.

    None if it has ended, or does not let others look.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return None


def _resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def end_descendants() -> None:
    """Kill all children of this process, and theirs, until there are none."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            kill(descendants(os.getpid()))
            time.sleep(0.0005)
            continue
        return


def kill(processes: list[int]) -> None:
    """Kill them all, stopped first, so that none forks while others are killed."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            _send(process, number)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)
