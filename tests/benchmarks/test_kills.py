"""Kills at random moments: nothing is lost or stored wrong, and the check would notice."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from benchmarks.checks import kills
from benchmarks.checks.kills import Outcome, disturb_all, finish, kill_at, wait_for_the_end_of
from checkpoints.standstill import descendants

FAMILY = ["sh", "-c", "sh -c 'sleep 1000 & wait; sleep 1000' & wait; sleep 1000"]
"""A process with a child that has a child; each goes on if the one below it is killed."""


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    """A small version of `python -m benchmarks.checks.kills`."""
    outcomes = disturb_all(("tune",), kills=3, seed=0, folder=tmp_path, on_progress=lambda done, total: None)
    victims = [(outcome.scene, outcome.victim.split()[0]) for outcome in outcomes]
    assert victims == [("tune", "main"), ("tune", "worker"), ("tune", "any")]
    assert [outcome.complaints for outcome in outcomes] == [()] * 3, outcomes


@pytest.mark.parametrize(("victim", "dies"), [("main", "main"), ("worker", "grandchild"), ("any", "")])
def test_the_victim_is_killed(victim: str, dies: str) -> None:
    """One process, and no other. Catches a check that kills nobody."""
    process = subprocess.Popen(FAMILY)
    while len(children := descendants(process.pid)) < 2:
        pass
    names = dict(zip(("child", "grandchild"), children, strict=True))
    known = kill_at(process, victim, 0.1, random.Random(0))
    assert known == {process.pid, *children}
    if victim == "main":
        assert process.wait(10) == -9
    dead = [name for name, pid in names.items() if not wait_for_the_end_of({pid}, 0.5)]
    assert dead == ([dies] if victim == "worker" else dead)
    assert len(dead) == (victim != "main")
    assert (process.poll() is not None) == (victim == "main")
    for pid in (process.pid, *children):
        subprocess.run(["kill", "-9", str(pid)], capture_output=True, check=False)
    process.wait(10)


def test_nobody_can_be_killed_who_is_not_there() -> None:
    """The command has ended, or has no workers yet: the row says so."""
    assert kill_at(subprocess.Popen(["true"]), "main", 10, random.Random(0)) == set()
    alone = subprocess.Popen(["sleep", "1000"])
    assert kill_at(alone, "worker", 0.1, random.Random(0)) == set()
    alone.kill()
    alone.wait()


def test_a_command_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ended, with all that it has started."""
    monkeypatch.setattr(kills, "SECONDS", 0.3)
    process = subprocess.Popen(FAMILY)
    while len(children := descendants(process.pid)) < 2:
        pass
    assert finish(process, set()) is None
    assert not wait_for_the_end_of(set(children))


def test_a_row_says_what_is_wrong() -> None:
    """Each complaint, and how the command ended each time."""
    row = Outcome("tune", "main", 1.23, (-9, None, 0), ("tune: trials differs in 3", "a process is left")).as_row()
    assert row == ("tune", "main", "1.2 s", "-9, hangs, 0", "tune: trials differs in 3; a process is left")
    assert Outcome("tune", "any", 1.0, (0,), ()).as_row()[-1] == "equal"
