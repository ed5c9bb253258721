"""A room gives the bits that a call in any other process gives, however it makes runs, and watches what they take."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoints.networks import build_network
from checkpoints.workers import be_deterministic
from data import Task, TaskSpec, load
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.isolation.handle import Room, start
from evaluation.isolation.limits import Limits
from evaluation.isolation.room import Call, can_fork
from methods import all_method_handlers

METHODS: dict[str, dict[str, Any]] = {
    "my_method": {},
    "scrub": {"epochs": 1},
    "salun": {"epochs": 1},
    "fanchuan": {"epochs": 1},
    "do_nothing": {},
}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="runs are watched through /proc, which Linux has")


@pytest.fixture(scope="module")
def task() -> Task:
    """Sixty digits, of which twelve are to be forgotten."""
    return load(TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 2),)))


@pytest.fixture(scope="module", params=[pytest.param(True, id="forks", marks=LINUX), pytest.param(False, id="stays")])
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """One that makes a process for each run, and one that does not."""
    room = start("cpu", request.param)
    yield room
    room.close()


def call_of(method: str, settings: dict[str, Any], seed: int, limits: Limits | None = None) -> Call:
    """A run without a budget."""
    file = inspect.getfile(all_method_handlers()[method])
    return Call("run", method, settings, seed, None, limits or Limits(), {}, [file])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_bits_are_those_of_a_call_in_any_process(method: str, room: Room, task: Task) -> None:
    """The same weights, twice, with another run in between. Catches what a run leaves behind, and lost seeds."""
    be_deterministic("cpu")
    handler = all_method_handlers()[method]
    known = handler.hyper_parameters()
    settings = handler.values_in_force({name: value for name, value in METHODS[method].items() if name in known})
    weights = build_network(task, 0).state_dict()
    here = unlearn_once(method, settings, task, original_network(task, weights), seed=5).net.state_dict()
    room.enter(task, 0, weights, {})
    with open(os.devnull, "wb") as nothing:
        lefts = [room.call(call_of(method, settings, seed), nothing.fileno()) for seed in (5, 6, 5)]
    first, _, again = (left.tensors for left in lefts)
    expected = {f"weights/{name}": value for name, value in here.items()}
    assert equal(first, expected)
    assert equal(again, expected)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@LINUX
def test_time_is_that_of_all_descendants(tmp_path: Path) -> None:
    """Of children that are waited for, of orphans, of sessions of their own. Catches time lost with a process."""
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    family = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {burn!r}])
subprocess.Popen([sys.executable, "-c", {burn!r}], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        exec({burn!r})
    os._exit(0)
os.wait()
os._exit(0)
"""
    watcher = f"""
import subprocess, sys, time
from evaluation.isolation.limits import Limits
from evaluation.isolation.watch import Watch, adopt_orphans, descendants
adopt_orphans()
process = subprocess.Popen([sys.executable, "-c", {family!r}])
watch = Watch(process.pid, Limits(), None, 1)
import os
while descendants(os.getpid()):
    watch.seconds()
    time.sleep(0.01)
print(watch.seconds())
"""
    answer = subprocess.run([sys.executable, "-c", watcher], capture_output=True, text=True, check=True)
    assert 1.1 < float(answer.stdout.split()[-1]) < 4  # three times 0.4, and four starts of Python


@LINUX
@pytest.mark.parametrize(("name", "again"), [("SIGKILL", True), ("SIGTERM", True), ("SIGSEGV", False)])
def test_who_is_killed_is_tried_again(name: str, again: bool) -> None:
    """Where memory is short, Linux kills, and earlyoom asks to end. Catches a grading that SIGTERM ends."""
    watcher = f"""
import os, signal, socket, tempfile
from evaluation.isolation.limits import Limits
from evaluation.isolation.watch import Watch, adopt_orphans, follow
adopt_orphans()
mine, its = os.pipe()
master, _ = socket.socketpair()
process = os.fork()
if process == 0:
    os.kill(os.getpid(), signal.{name})
os.close(its)
log = tempfile.TemporaryFile()
verdict = follow(Watch(process, Limits(), None, log.fileno()), mine, master, 100)
print(verdict.retry, verdict.complaint)
"""
    answer = subprocess.run([sys.executable, "-c", watcher], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"{again} its process died with exit code -{int(getattr(signal, name))} ")


@LINUX
def test_nothing_is_left_of_a_run() -> None:
    """However many there are, and whatever they ignore. Catches one round of signals, in which some fork on."""
    stubborn = (
        "import os, signal, time\nfor n in range(5): os.fork()\nos.setsid() if os.fork() == 0 else None\ntime.sleep(60)"
    )
    watcher = f"""
import os, subprocess, sys, time
from evaluation.isolation.limits import Limits
from evaluation.isolation.watch import Watch, adopt_orphans, descendants
adopt_orphans()
process = subprocess.Popen([sys.executable, "-c", {stubborn!r}])
watch = Watch(process.pid, Limits(processes=40), None, 1)
while (complaint := watch.complaint()) is None:
    time.sleep(0.01)
print(complaint[0])
watch.end()
print(descendants(os.getpid()))
"""
    answer = subprocess.run([sys.executable, "-c", watcher], capture_output=True, text=True, check=True)
    said, left = answer.stdout.splitlines()
    assert "child processes (40 are allowed)" in said
    assert left == "[]"


def test_where_processes_are_forked() -> None:
    """Never with a GPU in use."""
    assert can_fork("cpu") == (sys.platform == "linux")
    assert not can_fork("cuda")
    assert not can_fork("cuda:1")
    assert not can_fork("mps")
