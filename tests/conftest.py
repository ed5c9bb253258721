"""Shared by all tests: folders of their own for generated files, and a copy of the kit to add methods to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("data", "checkpoints", "evaluation", "methods")
GENERATED = shutil.ignore_patterns("__pycache__", "cache", "bank", "results")

torch.set_num_threads(1)  # as in the workers, so that the same work gives the same bits here


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output and standard error."""

    code: int
    stdout: str
    stderr: str


class Kit:
    """A copy of the kit, without anything generated, to which a test adds methods the way a user does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(REPOSITORY / "main.py", folder)
        for part in PACKAGES:
            shutil.copytree(REPOSITORY / part, folder / part, ignore=GENERATED)

    def add_method(self, name: str, source: str) -> None:
        """The three steps: a file with a class (`my_idea` is `MyIdea`), an import, and an entry in the registry."""
        class_name = name.title().replace("_", "")
        (self.folder / "methods" / f"{class_name}.py").write_text(source)
        self.edit(
            "methods/__init__.py",
            "from methods.BaseMethod import BaseMethod\n",
            f"from methods.BaseMethod import BaseMethod\nfrom methods.{class_name} import {class_name}\n",
        )
        self.edit("methods/__init__.py", "    return {\n", f'    return {{\n        "{name}": {class_name},\n')

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that occurs once in a file."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python main.py ...` in a process group of its own, with these environment variables."""
        command = [sys.executable, "main.py", *arguments]
        # No compiled files: Python tells an edited source by its size and its second.
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=settings, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 300) -> Answer:
        """Wait for what `start` started; it and its workers are killed after `timeout` seconds, which is an error."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Answer(process.returncode, stdout, stderr)

    def run(self, *arguments: str, **environment: str) -> Answer:
        """Run `python main.py ...` to its end."""
        return self.finish(self.start(*arguments, **environment))


@pytest.fixture(scope="session", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the bank, the results and the cache of all tests are, here and in subprocesses: never the user's."""
    folder = tmp_path_factory.mktemp("generated")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bank", "results", "cache"):
            patch.setenv(f"UNLEARNING_{name.upper()}", str(folder / name))
        yield folder


@pytest.fixture(scope="session")
def make_kit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Kit]:
    """Makes a copy of the kit for tests that edit it."""
    return lambda: Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="session")
def kit(make_kit: Callable[[], Kit]) -> Kit:
    """One copy for all tests that only run it or add methods."""
    return make_kit()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder for one test alone."""
    folder = tmp_path / "results"
    monkeypatch.setenv("UNLEARNING_RESULTS", str(folder))
    return folder
