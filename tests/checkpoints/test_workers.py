"""The processes that do the heavy work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints.workers import Workers
from data.files import generated_folder

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


def test_workers_use_the_folders_of_their_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the moment when the server was started that they are forked from: that may have been another pool's.

    Catches models that are written where nobody looks for them.
    """
    seen = []
    for folder in ("/one", "/other", None):
        if folder is None:
            monkeypatch.delenv("UNLEARNING_RESULTS", raising=False)
        else:
            monkeypatch.setenv("UNLEARNING_RESULTS", folder)
        with Workers(1) as workers:
            seen.append(workers.submit(generated_folder, "UNLEARNING_RESULTS").result())
    assert seen == [Path("/one"), Path("/other"), REPOSITORY / "results"]
