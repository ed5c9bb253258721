"""Shared by all tests: folders of their own for generated files, and a copy of the kit to add methods to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import torch

from evaluation.report import Reference, Report

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("data", "checkpoints", "evaluation", "methods", "notebooks")
GENERATED = shutil.ignore_patterns("__pycache__", "cache", "bank", "results", "submissions", "tuned")

# The same examples whenever the tests run; `pytest --hypothesis-profile=default` looks for others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

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
        for file in ("main.py", "notebook_utils.py"):
            shutil.copy(REPOSITORY / file, folder)
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
def interruptible() -> None:
    """What a script runs in the background ignores Ctrl-C, and so would all programs that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the bank, the results and the cache of all tests are, here and in subprocesses: never the user's.

    The processes of pytest-xdist share the cache alone: what is in it does not depend on who made it.
    """
    folder = tmp_path_factory.mktemp("generated")
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bank", "results", "tuned"):
            patch.setenv(f"UNLEARNING_{name.upper()}", str(folder / name))
        patch.setenv("UNLEARNING_CACHE", str(shared / "cache"))
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


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    """Makes a report of a grading of 64 models; the tests say in which fields it differs."""
    floor = Reference(0.0, 0.0, 1.0, 1.01, (0.0, 0.0), (0.0, 0.0))
    ceiling = Reference(0.18, 0.18, 1.0, 1.0, (0.17, 0.19), (0.17, 0.19))
    report = Report(
        method="my_method",
        submission=None,
        settings={"epochs": 1, "learning_rate": 0.001},
        tuned_trials=None,
        changed={},
        exempt_from_budget=False,
        task="digits",
        requests=1,
        drift=0.1,
        forgetting_quality_by_request=[0.05],
        forget_accuracy_by_request=[0.9],
        forget_accuracy_by_request_retrained=[0.9],
        forget=["random:0.5"],
        forget_examples=2,
        train_examples=4,
        network="small_cnn",
        recipe={"epochs": 60},
        task_fingerprint="aaa",
        bank_fingerprint="bbb",
        models=64,
        originals=1,
        protocol="per-original",
        metric="official",
        seed=0,
        score=0.05,
        score_interval=(0.04, 0.06),
        forgetting_quality=0.06,
        forgetting_quality_interval=(0.05, 0.07),
        retain_ratio=0.9,
        test_ratio=0.95,
        share_of_ceiling=0.05 / 0.18,
        floor=floor,
        ceiling=ceiling,
        score_by_original=[0.05],
        forgetting_quality_by_original=[0.06],
        retain_accuracy=0.9,
        test_accuracy=0.8,
        validation_accuracy=0.81,
        forget_accuracy=0.85,
        retain_accuracy_retrained=1.0,
        test_accuracy_retrained=0.84,
        validation_accuracy_retrained=0.85,
        forget_accuracy_retrained=0.84,
        epsilons=[[0.5, 50.0]],
        forget_indices=[1, 3],
        budget_seconds=0.2,
        budget_fraction_used=0.1,
        retrain_seconds=1.0,
        runs_seconds_mean=0.1,
        seconds=12.5,
        peak_memory_bytes=1 << 30,
        device="cpu (x86_64)",
        workers=2,
        versions={"torch": "2.0"},
        git_commit=None,
        created="2026-01-01T00:00:00+00:00",
    )
    return partial(replace, report)
