"""The processes that do the heavy work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
LEAVES_AT_ONCE = """
from checkpoints.workers import Workers

if __name__ == "__main__":
    for _ in range(3):
        with Workers(12) as workers:
            assert workers.submit(abs, -1).result() == 1
"""


@pytest.mark.slow
def test_leaving_while_workers_start_is_silent(tmp_path: Path) -> None:
    """The first of twelve workers has answered; the others are still starting when the pool goes.

    Catches locks that are gone before the workers are, for which each of them prints a traceback.
    """
    script = tmp_path / "leaves_at_once.py"
    script.write_text(LEAVES_AT_ONCE)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
