"""A room: the process that runs of methods are forked from, and that watches them. It is trusted, and knows little.

It has what a method may see (see `workplace`) and nothing else: no test set, no bank, no results. No code of a method
runs in it: each run has a process of its own. That is forked when PyTorch is loaded, the data there and the network
built, so it starts within milliseconds, and nothing that it does to itself lasts.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import multiprocessing
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from checkpoints.networks import build_network
from checkpoints.workers import be_deterministic
from data import Task
from data.loaders import run_datasets
from evaluation.isolation.account import Account
from evaluation.isolation.call import Datasets, original_network, prepare_once, unlearn_once, warm_up
from evaluation.isolation.hints import complaint_of
from evaluation.isolation.inline import call_here
from evaluation.isolation.libraries import import_libraries
from evaluation.isolation.limits import Limits
from evaluation.isolation.notes import notes_as_json
from evaluation.isolation.structure import check_structure
from evaluation.isolation.traces import Traces
from evaluation.isolation.watch import (
    Verdict,
    Watch,
    adopt_orphans,
    be_closed_to_others,
    be_open_to_others,
    die_with_parent,
    follow,
)
from evaluation.isolation.wire import LENGTH, Message, WireError
from evaluation.isolation.workplace import from_message
from methods import registry


@dataclass
class Place:
    """What the room has been given so far."""

    task: Task
    datasets: Datasets
    fresh: nn.Module
    """A network that no method sees."""
    net: nn.Module | None = None
    """The original."""
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method has prepared for it."""


@dataclass(frozen=True)
class Call:
    """What is to be called, and how."""

    do: str
    """"run" or "prepare"."""
    method: str
    hyper_parameters: Mapping[str, Any]
    seed: int
    budget: float | None
    limits: Limits
    memory: Mapping[str, Tensor]
    """What the method has left for itself after the request before."""
    files: Sequence[str]
    """Where the method's code is."""
    path: str = ""
    """Of a method whose file is none of the kit's: where it is."""

    def to_message(self) -> Message:
        """What `of` reads."""
        facts = {name: getattr(self, name) for name in ("do", "method", "seed", "budget", "files", "path")}
        return Message(
            {**facts, "hyper_parameters": dict(self.hyper_parameters), "limits": asdict(self.limits)}, self.memory
        )

    @staticmethod
    def of(message: Message) -> Call:
        """What a message asks for."""
        facts = dict(message.facts)
        return Call(limits=Limits(**facts.pop("limits")), memory=message.tensors, **facts)


def serve(
    connection: socket.socket, device: str, forks: bool, account: Account | None = None, in_sandbox: bool = False
) -> None:
    """Do what the trusted process at the other end asks for, until it hangs up. `forks`: see `can_fork`.

    It sends a "task" first, then an "original" (its weights, and what is prepared for it), then calls, each followed by
    the descriptor of the file that the run prints to. The answer to a call is a message of facts about it, then the
    length of what the run left, and that.
    """
    if sys.platform == "linux":
        adopt_orphans()
        be_closed_to_others()
    be_deterministic(device)
    if sys.platform == "linux":  # as in a notebook, where a method's DataLoader starts its workers at once
        multiprocessing.set_start_method("fork", force=True)
    requests = connection.makefile("rb", buffering=0)
    place: Place | None = None
    traces = Traces(in_sandbox)
    while True:
        try:
            message = Message.read(requests)
        except (WireError, ConnectionError):  # it has hung up
            return
        do = message.facts["do"]
        if do == "task":
            task = from_message(message, device)
            place = Place(task, run_datasets(task), build_network(task))
            warm_up(task, place.datasets)
            gc.collect()
            gc.freeze()  # no run looks at these again, which would copy their memory
            continue
        assert place is not None, "a task comes first"
        if do == "original":
            place.net = original_network(place.task, parts_of(message, "weights"))
            place.prepared = parts_of(message, "prepared")
            continue
        _, (log, *_), _, _ = socket.recv_fds(connection, 1, 1)
        with os.fdopen(log, "wb", buffering=0):
            call = Call.of(message)
            for file in call.files:
                import_libraries(Path(file))
            if forks:
                try:
                    verdict = _fork_and_follow(connection, place, call, log, account)
                except (OSError, MemoryError):  # the run has taken what this process needs: another one takes over
                    return
            else:
                net = copy.deepcopy(place.net)
                verdict = call_here(partial(_do, place, call), call.limits, log)
                place.net = net
            verdict = verdict._replace(clean=traces.removed() and verdict.clean)
            _tell(connection, verdict)
            if not verdict.clean:  # another process takes over
                return


def can_fork(device: str) -> bool:
    """Whether each run can have a process forked for it: not once a GPU is in use, and safely on Linux alone."""
    return sys.platform == "linux" and device == "cpu"


def _fork_and_follow(connection: socket.socket, place: Place, call: Call, log: int, account: Account | None) -> Verdict:
    reading, writing = os.pipe()
    booked = 0.0 if account is None else account.seconds()
    process = os.fork()
    if process == 0:
        _be_a_run(place, call, log, writing)
    os.close(writing)
    watch = Watch(process, call.limits, call.budget, log, account, booked)
    try:
        return follow(watch, reading, connection, call.limits.answer_bytes)
    finally:
        os.close(reading)


def _tell(connection: socket.socket, verdict: Verdict) -> None:
    facts = {name: value for name, value in verdict._asdict().items() if name != "answer"}
    answer = verdict.answer or b""
    for piece in Message(facts).pieces():
        connection.sendall(piece)
    connection.sendall(len(answer).to_bytes(LENGTH, "big"))
    connection.sendall(answer)


def parts_of(message: Message, part: str) -> dict[str, Tensor]:
    """The tensors of a message whose names begin with `part/`, by the rest of their names."""
    return {
        name.removeprefix(f"{part}/"): value for name, value in message.tensors.items() if name.startswith(f"{part}/")
    }


# ----------------------------------------------------------------------------------------------------------------------
# In the process of a run
# ----------------------------------------------------------------------------------------------------------------------


def _be_a_run(place: Place, call: Call, log: int, pipe: int) -> NoReturn:
    """Call the method, write what it leaves to `pipe`, and end."""
    code = 1
    try:
        die_with_parent()
        be_open_to_others()
        pipe = _keep_to(call.limits, log, pipe)
        os.write(pipe, time.process_time_ns().to_bytes(LENGTH, "big"))
        try:
            answer = _do(place, call)
        except BaseException as error:  # whatever a method raises, SystemExit too, is its own failure
            traceback.print_exc()
            answer = Message({"complaint": complaint_of(error)})
        pieces = answer.pieces()
        with contextlib.suppress(OSError, ValueError):  # a method may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(pipe, sum(piece.nbytes for piece in pieces).to_bytes(LENGTH, "big"))
        for piece in pieces:
            while piece:
                piece = piece[os.write(pipe, piece) :]
        code = 0
    finally:
        os._exit(code)


def _do(place: Place, call: Call) -> Message:
    """Call `run` or `prepare`: the message with what it leaves."""
    assert place.net is not None, "an original comes first"
    method = registry.Place(call.method, "", call.path) if call.path else call.method
    if call.do == "prepare":
        left = prepare_once(method, call.hyper_parameters, place.task, place.net, call.seed)
        return Message({}, {f"prepared/{name}": value for name, value in left.items()})
    parts = (call.memory, place.prepared, place.datasets)
    done = unlearn_once(method, call.hyper_parameters, place.task, place.net, call.seed, *parts)
    check_structure(place.fresh, done.net, call.method)
    tensors = {f"weights/{name}": value for name, value in done.net.state_dict().items()}
    tensors |= {f"memory/{name}": value for name, value in done.memory.items()}
    facts = {
        "notes": notes_as_json(done.notes),
        "training": getattr(done.net, "training", None) is True,
        "read_forget_set": done.read_forget_set,
    }
    return Message(facts, tensors)


def _keep_to(limits: Limits, log: int, pipe: int) -> int:
    """Give up what is not the run's: descriptors, standard input, files larger than allowed. The pipe's new number."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    if pipe != 3:
        os.dup2(pipe, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    for kind, most in ((resource.RLIMIT_FSIZE, limits.file_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most, most) if hard == resource.RLIM_INFINITY else (min(most, hard),) * 2)
    resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]  # that of other processes is none of its business
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # the command was started without it
            setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115
        getattr(sys, name).reconfigure(line_buffering=True)  # the process may be killed
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # that of the worker it was forked from is closed
    return 3


def main() -> None:
    """A room in a new process, whose arguments are descriptors (the last two -1 without an account), device, flags."""
    connection, entrance, usage, device, *flags = sys.argv[1:]
    account = Account.opened(int(entrance), int(usage)) if int(usage) >= 0 else None
    serve(socket.socket(fileno=int(connection)), device, "forks" in flags, account, "in_sandbox" in flags)
