"""Grades the catalogue of cheats, once in each mode."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from data import UserError
from data.files import locked
from evaluation.isolation.sandbox import check_sandbox
from tests.security.command import Graded, grade, read
from tests.security.expected import SANDBOX

if TYPE_CHECKING:
    from tests.conftest import Kit


@pytest.fixture(scope="session")
def grade_cheats(make_kit: Callable[[], Kit], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graded]:
    """Grades the whole catalogue in a mode, once for all tests; skips where there is no sandbox."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    graded: dict[str, Graded] = {}

    def grade_once(mode: str) -> Graded:
        if mode == SANDBOX:
            try:
                check_sandbox()
            except UserError as error:
                pytest.skip(str(error))
        if mode not in graded:
            folder = shared / "cheats" / mode
            with locked(folder.with_suffix(".lock")):  # of several processes of pytest, one does it for all
                if not folder.exists():
                    grade(mode, make_kit(), folder)
            graded[mode] = read(folder)
        return graded[mode]

    return grade_once
