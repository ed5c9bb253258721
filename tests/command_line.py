"""The command line in this process, which saves the seconds that it takes to start one."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from commands import start

if TYPE_CHECKING:
    from tests.conftest import Answer


def command(*arguments: str) -> Answer:
    """`python main.py ...`: its exit code, and what it printed."""
    from tests.conftest import Answer

    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        code = start(arguments)
    return Answer(code, stdout.getvalue(), stderr.getvalue())
