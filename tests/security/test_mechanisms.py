"""The parts of the protection that can be looked at alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data import UserError
from evaluation.isolation import watch
from evaluation.isolation.account import PREFIX, Account, make_group
from evaluation.isolation.libraries import import_libraries
from evaluation.isolation.limits import Limits
from evaluation.isolation.sandbox import check_sandbox
from evaluation.isolation.traces import Traces

if TYPE_CHECKING:
    from tests.conftest import Kit

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")


def in_a_child(do: Callable[[], object]) -> int:
    """Do something in a process of its own, which pytest's is not: its exit code, 0 if `do` returned."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            do()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def burn(seconds: float) -> None:
    """Use so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.slow
@linux
def test_the_account_has_children_that_nobody_saw() -> None:
    """100 children of 3 ms each, whose parent ignores their end, are in it; looks now and then find few of them.

    Catches an account of the room itself, which works on meanwhile.
    """
    group = make_group()
    if group is None:
        pytest.skip("no control group can be made here")
    given = group

    def work() -> None:
        watch.adopt_orphans()
        account = Account.opened(os.dup(given.entrance), given.usage)
        assert account is not None
        here, _ = socket.socketpair()
        reading, writing = os.pipe()
        booked = account.seconds()
        process = os.fork()
        if process == 0:
            os.write(writing, time.process_time_ns().to_bytes(8, "big"))
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            for _ in range(100):
                child = os.fork()
                if child == 0:
                    burn(0.003)
                    os._exit(0)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, 0)
            os.write(writing, bytes(8))
            os._exit(0)
        burn(0.5)
        nothing = os.open(os.devnull, os.O_RDONLY)
        of_run = watch.Watch(process, Limits(), 60.0, nothing, account, booked)
        seconds = watch.follow(of_run, reading, here, 100).seconds
        assert seconds >= 0.3
        assert account.seconds() - booked == pytest.approx(seconds, abs=0.2)

    assert in_a_child(work) == 0
    given.close()


@linux
def test_groups_of_killed_processes_are_removed() -> None:
    """Of one that exists no more, the next that makes a group; of a living one, nobody else."""
    group = make_group()
    if group is None:
        pytest.skip("no control group can be made here")
    folder = group._folder
    assert in_a_child(lambda: make_group() or os._exit(3)) == 0
    left = [path for path in folder.parent.glob(f"{PREFIX}*") if not Path("/proc", _maker(path)).exists()]
    assert left
    other = make_group()
    assert other is not None
    assert not any(path.exists() for path in left)
    assert folder.exists()
    for one in (group, other):
        one.close()
    assert not folder.exists()


def _maker(path: Path) -> str:
    return path.name.removeprefix(PREFIX).partition("-")[0]


@linux
@pytest.mark.parametrize("forks", [1, 20])
def test_nothing_descends_from_a_process_that_ended_them(forks: int) -> None:
    """However deep, however many, and with short-lived ones between them: there is no child to wait for any more."""

    def family() -> None:
        for number in range(forks):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0 or number % 2:
                    time.sleep(600)
                os._exit(0)

    def work() -> None:
        watch.adopt_orphans()
        family()
        time.sleep(0.05)
        watch.end_descendants()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    assert in_a_child(work) == 0


CHANGES: dict[str, Callable[[], object]] = {
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1),
    "limit": lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_CORE, (0, 0)),
    "cores": lambda: os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:1])),
    "scheduler": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
}


@linux
@pytest.mark.parametrize("name", [*CHANGES, "nothing"])
def test_a_changed_room_is_noticed(name: str) -> None:
    """Whatever of it another process of the same user can change."""
    if name == "cores" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one core")

    def work() -> None:
        traces = Traces(in_sandbox=False)
        CHANGES.get(name, lambda: None)()
        assert traces.removed() == (name == "nothing")

    assert in_a_child(work) == 0


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("import colorsys", "colorsys"),
        ("from wsgiref import validate", "wsgiref.validate"),
        ("import wsgiref._nothing, sndhdr_, this.__main__", None),
        ("import torch.testing._internal.common_utils", None),
        ("from torch.testing._internal import common_utils", None),
        ("import unittest.__main__", None),
        ("import _pydecimal", None),
    ],
)
def test_what_is_imported_for_a_method(line: str, imported: str | None, tmp_path: Path) -> None:
    """Public modules; none that changes PyTorch for all later runs, or is a program that ends the process."""
    file = tmp_path / "Method.py"
    file.write_text(line)

    def work() -> None:
        before = set(sys.modules)
        import_libraries(file)
        new = {name for name in set(sys.modules) - before if any(part.startswith("_") for part in name.split("."))}
        assert not {"unittest.__main__", "_pydecimal", "torch.testing._internal.common_utils"} & new
        assert imported is None or imported in sys.modules

    assert in_a_child(work) == 0


VISIBLE = """
import subprocess, sys
sys.path.append({above!r})
from evaluation.isolation.sandbox import sandboxed
print(subprocess.run([*sandboxed("cpu", []), "sh", "-c", {command!r}], capture_output=True, text=True).stdout)
"""


@pytest.mark.slow
def test_folders_on_the_path_do_not_open_the_kit(make_kit: Callable[[], Kit], tmp_path: Path) -> None:
    """PYTHONPATH may name a folder that the kit, or its bank, is in: the sandbox shows the folder without them.

    Catches a sandbox that shows whatever Python looks for modules in.
    """
    try:
        check_sandbox()
    except UserError as error:
        pytest.skip(str(error))
    kit = make_kit()
    above = tmp_path / "above"
    above.mkdir()
    home = kit.folder.rename(above / "kit")
    for folder in (home / "checkpoints" / "bank", above / "elsewhere", home):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "secret.txt").write_text("secret")
    (above / "module.py").write_text("")
    program = VISIBLE.format(
        above=str(above), command=f"cd {above}; find . -name '*.txt' -o -name module.py; touch x kit/x"
    )
    environment = {**os.environ, "UNLEARNING_BANK": str(above / "elsewhere")}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=home, env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["./module.py"]
    assert not (above / "x").exists()
