"""Asking the catalogue of a copy of the kit, to which a test has added methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit

Ask = Callable[..., Any]

PROGRAM = """
import json, sys
from evaluation.catalogue import lookup
asked = 0
def counted(*arguments, describe=lookup.describe):
    global asked
    asked += 1
    return describe(*arguments, **LIMIT)
lookup.describe = counted
found = lookup.look_up(NAMES or list(lookup.registry()))
main = sorted(name for name in sys.modules if name.startswith("methods."))
answers = {
    name: str(one)
    if isinstance(one, lookup.UserError)
    else {
        "code": one.code,
        "files": one.files,
        "summary": one.summary,
        "defaults": {name: str(parameter.default) for name, parameter in one.hyper_parameters.items()},
    }
    for name, one in found.items()
}
print(json.dumps({"asked": asked, "main": main, "methods": answers}))
"""


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """`ask(kit, "a", "b")` is what a process of the kit knows of methods, in a cache of the test's own.

    `asked` says how often a child process was needed, `main` which modules of `methods` the process itself imported.
    """

    def ask(kit: Kit, *names: str, limit: float | None = None, **environment: str) -> Any:
        program = PROGRAM.replace("NAMES", repr(list(names))).replace("LIMIT", repr({"limit": limit} if limit else {}))
        answer = kit.run_program(program, UNLEARNING_CACHE=str(tmp_path / "cache"), **environment)
        assert answer.code == 0, answer.stderr
        return json.loads(answer.stdout)

    return ask
