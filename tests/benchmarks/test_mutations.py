"""Mutations: what is changed, and whether it is noticed."""

from __future__ import annotations

import ast

import pytest

from benchmarks.checks.mutations import Mutation, files_with_tests, mutations, survivors_of


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


@pytest.mark.slow
def test_what_survives() -> None:
    """A sample: what changes nothing survives, and a sign, a set, a default and a loop without end don't."""
    found = {one.what: one for one in mutations("gradient_ascent")}
    original = found["default of epochs: 5 -> 10"]
    same = Mutation("gradient_ascent", 1, "nothing", original.source.replace("epochs: int = 10", "epochs: int = 5"))
    noticed = ["default of epochs: 5 -> 10", "run: forget_loader -> retain_loader", "run: without the sign of -loss"]
    assert list(survivors_of([same, *(found[what] for what in noticed)], workers=2)) == [same]
