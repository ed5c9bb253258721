"""Every cheat of the catalogue comes to what docs/security.md says, and no honest method notices it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable

import numpy as np
import pytest

from evaluation.runs.unlearned import Unlearned
from tests.security.cheats import Failures, Patches, Preparers, Readers, States, Timers, Writers
from tests.security.command import FILES, Graded
from tests.security.expected import ANYTHING, EXPECTED, HONEST, MODES, PLAIN, SANDBOX, SUCCEEDS

FAMILIES = {module.__name__.rpartition(".")[2]: module for module in (Failures, Patches, Preparers, Readers, States)}
FAMILIES |= {"Timers": Timers, "Writers": Writers}
CHEATS = [(family, cheat) for family, cheats in EXPECTED.items() for cheat in cheats]

pytestmark = pytest.mark.slow


def same(one: Unlearned | None, other: Unlearned | None) -> bool:
    """Whether both runs are there, and left the same outputs, bit for bit."""
    if one is None or other is None:
        return False
    arrays, others = one.outputs.arrays(), other.outputs.arrays()
    return all(np.array_equal(values, others[name]) for name, values in arrays.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("family", "cheat"), CHEATS)
def test_a_cheat_comes_to_nothing(family: str, cheat: str, mode: str, grade_cheats: Callable[[str], Graded]) -> None:
    """Its runs are those of the baseline, or fail in a sentence; where neither, docs/security.md says so."""
    graded = grade_cheats(mode)
    verdict = graded.verdicts[family, cheat]
    expected = EXPECTED[family][cheat][MODES.index(mode)]
    if expected == ANYTHING:
        return
    if expected in (HONEST, SUCCEEDS):
        assert not any(verdict.complaints)
        equal = [same(*pair) for pair in zip(verdict.outputs, graded.baseline, strict=False)]
        assert all(equal) == (expected == HONEST)
        return
    for complaint in verdict.complaints:
        assert complaint is not None
        assert re.search(expected, complaint), complaint
        assert complaint.isprintable()
        assert len(complaint) < 600
    assert not any(verdict.outputs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("family", "cheat"), CHEATS)
def test_an_honest_method_after_it_notices_nothing(
    family: str, cheat: str, mode: str, grade_cheats: Callable[[str], Graded]
) -> None:
    """It is graded next, in the same command, by the same worker, and leaves what it leaves alone."""
    graded = grade_cheats(mode)
    verdict = graded.verdicts[family, cheat]
    assert verdict.rivals_complaint is None
    assert same(verdict.rival, graded.baseline[0])


@pytest.mark.parametrize("mode", MODES)
def test_all_of_them_together_harm_no_other_method(mode: str, grade_cheats: Callable[[str], Graded]) -> None:
    """A method of another file, graded last, leaves what it left first; nothing of the kit's own was printed."""
    graded = grade_cheats(mode)
    assert same(graded.last, graded.baseline[0])
    assert "Traceback" not in graded.stderr


@pytest.mark.parametrize("mode", MODES)
def test_files_of_others(mode: str, grade_cheats: Callable[[str], Graded]) -> None:
    """In the sandbox they are as they were; in plain mode they can be overwritten, as docs/security.md says."""
    graded = grade_cheats(mode)
    content = {path.name: path.read_text() for path in graded.files.iterdir()}
    unharmed = dict(zip(FILES, FILES, strict=True))
    assert content == (unharmed if mode == SANDBOX else dict.fromkeys((*FILES, "new"), "mine"))
    metric = graded.kit / "evaluation" / "metrics" / "metric.py"
    assert metric.read_text().endswith("# mine\n") == (mode == PLAIN)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_cheat_reached_is_in_its_log(mode: str, grade_cheats: Callable[[str], Graded]) -> None:
    """No descriptor of the process that it was forked from, in either mode; no network in the sandbox."""
    verdicts = grade_cheats(mode).verdicts
    assert not list(verdicts["Writers", "the_log_of_the_grader"].folder.glob("runs/*.log"))
    if mode == SANDBOX:
        assert not list(verdicts["Writers", "the_network"].folder.glob("runs/*.log"))


def test_nothing_of_them_is_left_running(grade_cheats: Callable[[str], Graded]) -> None:
    """No process in the folder of the kit outlives the command."""
    kit = str(grade_cheats(PLAIN).kit)
    folders = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            folders.append(os.readlink(f"/proc/{process}/cwd"))
        except OSError:
            continue
    assert kit not in folders


@pytest.mark.parametrize("family", EXPECTED)
def test_every_cheat_is_expected(family: str) -> None:
    """Catches one that is written and never graded."""
    (method,) = [thing for name, thing in vars(FAMILIES[family]).items() if name == family]
    written = {
        name
        for name, thing in vars(method).items()
        if inspect.isfunction(thing)
        and not name.startswith("_")
        and name not in ("run", "prepare", "honest", "afterwards")
    }
    assert written == EXPECTED[family].keys() - {"honest"}
    for name in written:
        assert getattr(method, name).__doc__, name
