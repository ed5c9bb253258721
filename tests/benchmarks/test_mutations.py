"""Mutations: what is changed, and whether it is noticed."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from benchmarks.checks.mutations import ROOT, files_with_tests, mutations


def test_mistakes_that_people_make() -> None:
    """Each is one change of a file that stays Python. Catches a change that changes nothing, or two of one name."""
    found = mutations("finetune")
    texts = [one.source for one in found]
    assert len(set(texts)) == len(texts)
    for one in found:
        ast.parse(one.source)
    words = {one.what for one in found}
    assert "default of learning_rate: 0.01 -> 0.02" in words
    assert "default of cosine: False -> True" in words
    assert "run: retain_loader -> forget_loader" in words
    assert "run: schedule.step() for each batch" in words or any("schedul" in one for one in words)
    assert any(one.startswith("run: net.train(") for one in words)
    assert any("without momentum" in one for one in words)
    assert any("without optimizer.step()" in one for one in words)


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("salun", ("without the sign of -loss", "comparison in", "default of threshold")),
        ("scrub", ("without the sign of -distance", "arguments exchanged in F.kl_div", "val_loader -> forget_loader")),
        ("kookmin", ("without largest", "arguments exchanged in torch.where", "scheduler.step() for each batch")),
    ],
)
def test_kinds(method: str, kinds: tuple[str, ...]) -> None:
    """Signs, sets, masks, teachers, schedules."""
    words = [one.what for one in mutations(method)]
    for kind in kinds:
        assert any(kind in one for one in words), kind


def test_files_with_tests_a_method() -> None:
    """The files that import its class."""
    assert [path.rpartition("/")[2] for path in files_with_tests("scrub")] == ["test_teachers.py"]


SAMPLE = """
from benchmarks.checks.mutations import Mutation, mutations, survivors_of

found = {one.what: one for one in mutations("hirs")}
doubled = found["default of epochs: 2 -> 4"]
same = Mutation("hirs", 1, "nothing", doubled.source.replace("epochs: int = 4", "epochs: int = 2"))
others = [doubled, found["_filtration: forget_loader -> retain_loader"], found["_wanted: without the sign of ~removed"]]
print([one.what for one in survivors_of([same, *others], workers=2)])
"""


@pytest.mark.slow
def test_what_survives() -> None:
    """A sample, in a program of its own: what changes nothing survives; a default, a set and a sign don't."""
    program = [sys.executable, "-c", SAMPLE]
    answer = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert answer.stdout.strip().splitlines()[-1:] == ["['nothing']"], answer.stderr[-2000:]
