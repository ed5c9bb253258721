"""The trusted end of a room: start it, tell it what to call, and take what a run leaves as bytes of a stranger.

On Linux each worker has a room from its first moment on (`open_beside`), forked when the worker knows nothing yet; when
that has ended, the worker ends after its job, too. Any other process starts a room when it needs one.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from checkpoints.grouped import State
from checkpoints.messages import leave_after_this_job
from checkpoints.server import QUICK_TO_FORK
from checkpoints.workers import Workers
from data import Task
from evaluation.isolation import sandbox, watch
from evaluation.isolation.account import Account, Group, make_group
from evaluation.isolation.limits import Limits
from evaluation.isolation.room import Call, can_fork, serve
from evaluation.isolation.wire import LENGTH, Message, WireError, read_exactly
from evaluation.isolation.workplace import to_message
from evaluation.texts import in_seconds

LONGEST = 500
"""Letters of a complaint that are shown."""
ROOT = Path(__file__).parents[2]
PROGRAM = "import checkpoints.preload; from evaluation.isolation.room import main; main()"
"""A room in a new process. What is imported first makes the other import quicker, too."""


class CallFailedError(Exception):
    """A call of a method came to nothing. `retry`: for a reason that may not be there another time."""

    def __init__(self, complaint: str, retry: bool = False) -> None:
        super().__init__(complaint)
        self.complaint, self.retry = complaint, retry


class Left(NamedTuple):
    """What a call left; only its types have been checked."""

    tensors: dict[str, Tensor]
    """By name: `weights/...` and `memory/...` of a run, `prepared/...`."""
    notes: str | None
    """JSON."""
    seconds: float
    peak_memory: int
    training: bool = False
    """Whether it left the network in train mode."""
    read_forget_set: bool | None = None
    """Whether it read an example of the forget set; None if nobody watched."""


class Room:
    """A room, and what it has been told."""

    def __init__(
        self,
        connection: socket.socket,
        process: int,
        device: str,
        forks: bool,
        files: tuple[Path, ...] = (),
        group: Group | None = None,
        beside: bool = False,
    ) -> None:
        self._connection, self._process, self._forks, self._group = connection, process, forks, group
        self.device, self.files, self._beside = device, files, beside
        self.knows_request = False
        """Whether it has been told what is to be forgotten."""
        self._answers = connection.makefile("rb", buffering=0)
        self._task: Hashable = None
        self._original: Hashable = None
        self.alive = True

    def enter(
        self,
        task: Task,
        original: Hashable,
        weights: State,
        prepared: Mapping[str, Tensor],
        with_request: bool = True,
    ) -> None:
        """Give it a task and an original to work on, unless it has them. `original` None is always another one.

        Raises:
            CallFailedError: it has ended.
        """
        try:
            self._enter(task, original, weights, prepared, with_request)
        except OSError as error:
            self.close()
            raise CallFailedError("the process that watches it was killed (out of memory?)", retry=True) from error

    def _enter(
        self, task: Task, original: Hashable, weights: State, prepared: Mapping[str, Tensor], with_request: bool
    ) -> None:
        key = (task.fingerprint, task.spec.step, with_request)
        self.knows_request = self.knows_request or with_request
        if self._task != key:
            message = to_message(task, with_request)
            self._send(Message({**message.facts, "do": "task"}, message.tensors))
            self._task, self._original = key, None
        if original is None or self._original != original:
            tensors = {f"weights/{name}": value for name, value in weights.items()}
            tensors |= {f"prepared/{name}": value for name, value in prepared.items()}
            self._send(Message({"do": "original"}, tensors))
            self._original = original

    def call(self, call: Call, log: int) -> Left:
        """Have a method called; what it prints goes to the descriptor `log`.

        Raises:
            CallFailedError: it failed, took too much, or left what can't be read.
        """
        wall = call.limits.wall_seconds(call.budget, self.device)
        try:
            self._connection.settimeout(None if wall is None else wall + (call.limits.margin if self._forks else 0))
            self._send(call.to_message())
            began = time.perf_counter()
            socket.send_fds(self._connection, [b"L"], [log])
            about = dict(Message.read(self._answers).facts)
            if not self._forks:
                about["seconds"] = time.perf_counter() - began
            answer = read_exactly(self._answers, int.from_bytes(read_exactly(self._answers, LENGTH), "big"))
        except TimeoutError as error:
            self.close()
            assert call.budget is not None, "without a budget nobody waits for a certain time"
            said = f"it exceeded the budget of {in_seconds(call.budget)} and was killed after {wall:.3g}; {watch.MORE}"
            raise CallFailedError(said, retry=True) from error
        except (OSError, WireError) as error:
            self.close()
            raise CallFailedError("the process that watches it was killed (out of memory?)", retry=True) from error
        if call.budget is not None and not about["complaint"] and about["seconds"] > call.budget and not self._forks:
            raise CallFailedError(f"it exceeded the budget of {in_seconds(call.budget)}; {watch.MORE}", retry=True)
        if not about["clean"]:
            self.close()
        if about["complaint"]:
            raise CallFailedError(about["complaint"], about["retry"])
        return _read(answer, about, call.limits)

    def _send(self, message: Message) -> None:
        for piece in message.pieces():
            self._connection.sendall(piece)

    def close(self) -> None:
        """End it, and whatever is in it."""
        if not self.alive:
            return
        self.alive = False
        self._answers.close()
        self._connection.close()
        watch.kill([*watch.descendants(self._process), self._process])
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)
        if _alone:
            watch.end_descendants()
        if self._group is not None:
            self._group.close()
        if self._beside and self._forks:  # a new worker with its room is there sooner than a room in a new program
            leave_after_this_job()


def _read(answer: bytearray, about: Mapping[str, Any], limits: Limits) -> Left:
    """What a run has written, which may be anything."""
    try:
        message = Message.read(io.BytesIO(answer), most=len(answer))
        complaint, notes = message.facts.get("complaint"), message.facts.get("notes")
        if notes is not None:
            notes = json.dumps(json.loads(notes))  # so that it can be written in any encoding
        if not all(name.isprintable() and len(name) <= LONGEST for name in message.tensors):
            raise WireError("names that can't be shown")
    except (WireError, ValueError, TypeError, RecursionError) as error:
        raise CallFailedError(f"it left what can't be read ({error})") from error
    if complaint is not None:
        raise CallFailedError(_in_one_line(str(complaint)))
    if notes is not None and len(notes) > limits.notes_bytes:
        raise CallFailedError(f"it left {len(notes)} bytes of notes, and {limits.notes_bytes} are allowed")
    training = message.facts.get("training") is True
    read = message.facts.get("read_forget_set")
    read = read if isinstance(read, bool) else None
    return Left(dict(message.tensors), notes, about["seconds"], about["peak_memory"], training, read)


def _in_one_line(complaint: str) -> str:
    """The beginning of it, without what would move the cursor of a terminal or can't be encoded."""
    text = "".join(letter if letter.isprintable() else " " for letter in complaint[: 2 * LONGEST])
    return f"{text[:LONGEST]} ..." if len(complaint) > LONGEST else text


# ----------------------------------------------------------------------------------------------------------------------
# The room of this process
# ----------------------------------------------------------------------------------------------------------------------

_room: Room | None = None
_alone = False
"""Whether the room is this process's only child, and what is left of it becomes this process's, too."""


def room(device: str, files: Sequence[Path], unknowing: bool = False) -> Room:
    """The room of this process, which is started if there is none, or none that is alive.

    In a sandbox, a room can read the `files` and no others but the system's and the kit's. An `unknowing` one has not
    been told of a request.
    """
    global _room
    readable = tuple(files) if sandbox.in_use() else ()
    fits = _room is not None and _room.alive and (_room.device, _room.files) == (device, readable)
    if _room is None or not fits or (unknowing and _room.knows_request):
        close_room()
        _room = start(device, can_fork(device), readable)
    return _room


def close_room() -> None:
    """End the room of this process, if it has one."""
    global _room
    if _room is not None:
        _room.close()
        _room = None


def room_workers(count: int, device: str = "cpu") -> Workers:
    """Workers, each with a room beside it, or one in a sandbox for each method if those are in use.

    Raises:
        UserError: `count` is less than 1.
    """
    return Workers(count, device, beside=_open_in_sandboxes if sandbox.in_use() else open_beside)


def _open_in_sandboxes(device: str) -> None:
    sandbox.use_sandbox()
    _be_alone()


def _be_alone() -> None:
    """Whatever a room of this process, a worker, leaves when it is killed, this process can find and kill."""
    global _alone
    if sys.platform == "linux":
        watch.adopt_orphans()
        _alone = True


def open_beside(device: str) -> None:
    """Fork the room of a worker, which has just begun: it has loaded PyTorch, and neither data nor models."""
    global _room
    _be_alone()
    ours, theirs = socket.socketpair()
    group = make_group() if can_fork(device) else None
    process = os.fork()
    if process == 0:
        try:
            watch.die_with_parent()
            account = None if group is None else Account.opened(group.entrance, os.dup(group.usage))
            _keep_descriptors(theirs, account)
            serve(socket.socket(fileno=3), device, can_fork(device), account)
        finally:
            os._exit(0)
    theirs.close()
    _room = Room(ours, process, device, can_fork(device), group=group, beside=True)


def _keep_descriptors(connection: socket.socket, account: Account | None) -> None:
    """Close all but standard ones, the connection, which becomes number 3, and the account's, which becomes 4."""
    os.dup2(connection.fileno(), 3)
    if account is not None:
        account.move_to(4)
    os.closerange(4 if account is None else 5, os.sysconf("SC_OPEN_MAX"))


atexit.register(close_room)


def start(device: str, forks: bool, files: tuple[Path, ...] = ()) -> Room:
    """A room in a new process. `forks`: whether it has a process for each run, see `can_fork`."""
    ours, theirs = socket.socketpair()
    group = make_group() if forks else None
    descriptors = [theirs.fileno()] if group is None else [theirs.fileno(), group.entrance, group.usage]
    numbers = [*map(str, descriptors), "-1", "-1"][:3]
    flags = ["forks"] * forks + ["in_sandbox"] * sandbox.in_use()
    program = [sys.executable, "-c", PROGRAM, *numbers, device, *flags]
    if sandbox.in_use():
        program = [*sandbox.sandboxed(device, files, all_methods=False), *program]
    environment = {**QUICK_TO_FORK, **os.environ}
    nothing = subprocess.DEVNULL
    started = subprocess.Popen(program, cwd=ROOT, env=environment, pass_fds=descriptors, stdin=nothing, stdout=nothing)
    theirs.close()
    return Room(ours, started.pid, device, forks, files, group)
