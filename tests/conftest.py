"""Shared by all tests: folders of their own for generated files, and a copy of the kit to add methods to."""

from __future__ import annotations

import compileall
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import hypothesis
import pytest
import torch

from data.files import generated_folder, locked
from evaluation.catalogue.lookup import all_facts
from evaluation.isolation.limits import Limits
from evaluation.metrics.accuracies import Accuracies
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.score import Reference, Scores
from evaluation.report import FORMAT, Cost, GradingRecord, MethodRecord, Provenance, Report
from tests.warm import Forked, WarmPython

Process = subprocess.Popen[str] | Forked
REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("commands", "data", "checkpoints", "evaluation", "methods", "notebooks")
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


COMMAND = """
import os, runpy
runpy.run_path(os.path.abspath("main.py"), run_name="__main__")
"""
"""A program that is `main.py`."""
WITH_LIMITS = """
from evaluation.isolation import limits
from evaluation.isolation.limits import Limits
limits.LIMITS = {}
"""
"""What comes before it, for other limits."""
WARM = WarmPython()


def copy_of_the_kit(folder: Path) -> Path:
    """The folder, with a copy of the kit that is compiled: what every `Kit` begins with."""
    for file in ("main.py", "notebook_utils.py"):
        shutil.copy(REPOSITORY / file, folder)
    for part in PACKAGES:
        shutil.copytree(REPOSITORY / part, folder / part, ignore=GENERATED)
    # Compiled once for all commands, and compared by content: a test may edit a file twice within a second.
    compileall.compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


class Kit:
    """A copy of the kit, without anything generated, to which a test adds methods the way a user does."""

    def __init__(self, folder: Path, compiled: Path) -> None:
        self.folder = folder
        self.limits: Limits | None = None
        """In place of those of every grading."""
        shutil.copytree(compiled, folder, dirs_exist_ok=True)

    def add_method(self, name: str, source: str) -> None:
        """The two steps: a file with a class (`my_idea` is `MyIdea`), and an entry in the registry."""
        class_name = name.title().replace("_", "")
        (self.folder / "methods" / f"{class_name}.py").write_text(source)
        self.edit("methods/__init__.py", "    entries = {\n", f'    entries = {{\n        "{name}": "{class_name}",\n')

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that occurs once in a file."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start `python main.py ...` in a process group of its own, with these environment variables."""
        program = COMMAND if self.limits is None else WITH_LIMITS.format(self.limits) + COMMAND
        return self.start_program(program, *arguments, **environment)

    def start_program(self, program: str, *arguments: str, **environment: str) -> Process:
        """The same with `python -c program ...`, in the kit's folder."""
        # No other compiled files: of those Python tells an edited source by its size and its second.
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        if sys.platform == "linux" and not any(name.startswith("PYTHON") for name in environment):
            return WARM.start(program, arguments, self.folder, settings)
        command, pipe = [sys.executable, "-c", program, *arguments], subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=settings, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def finish(self, process: Process, timeout: float = 300) -> Answer:
        """Wait for what `start` started; it and its workers are killed after `timeout` seconds, which is an error."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Answer(process.wait(), stdout, stderr)

    def run(self, *arguments: str, **environment: str) -> Answer:
        """Run `python main.py ...` to its end."""
        return self.finish(self.start(*arguments, **environment))

    def run_program(self, program: str, *arguments: str, **environment: str) -> Answer:
        """Run `python -c program ...` to its end."""
        return self.finish(self.start_program(program, *arguments, **environment))


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: many tests wait for a command, or for something to be killed."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: at the end, one process would do it while the others have nothing to do."""
    items.sort(key=lambda item: "security" not in item.path.parts)


def pytest_collection_finish() -> None:
    """All that is there now stays: to look for garbage among it takes half a second, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a script runs in the background ignores Ctrl-C, and so would all programs that tests start and interrupt.

    With `nohup` they would ignore the end of their terminal, too.
    """
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the bank, the results and the cache of all tests are, here and in subprocesses: never the user's.

    The processes of pytest-xdist share the cache alone: what is in it does not depend on who made it.
    """
    folder = tmp_path_factory.mktemp("generated")
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bank", "results", "tuned", "strangers"):
            patch.setenv(f"UNLEARNING_{name.upper()}", str(folder / name))
        patch.setenv("UNLEARNING_CACHE", str(shared / "cache"))
        yield folder


@pytest.fixture(scope="session")
def described() -> None:
    """All methods are described at once, and kept: to ask for one at a time takes two seconds each."""
    with locked(generated_folder("UNLEARNING_CACHE") / "described.lock"):
        all_facts()


@pytest.fixture(scope="session")
def make_kit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Kit]:
    """Makes a copy of the kit for tests that edit it; compiled once for all of them."""
    compiled = cache(lambda: copy_of_the_kit(tmp_path_factory.mktemp("compiled_kit")))
    return lambda: Kit(tmp_path_factory.mktemp("kit"), compiled())


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
    """Makes a report of a grading of 64 models; the tests say in which fields its records differ.

    `method` is the name of the method, and a number for a score an estimate with an interval of plus or minus 0.01.
    """
    return changed_report


def changed_report(method: str = "my_method", **changes: Any) -> Report:
    """See `make_report`."""
    report = replace(REPORT, method=replace(REPORT.method, name=method))
    for name, value in changes.items():
        if name in {field.name for field in fields(Report)}:
            report = replace(report, **{name: value})
            continue
        (record,) = [one for one in RECORDS if name in {field.name for field in fields(getattr(REPORT, one))}]
        if name in ("score", "forgetting_quality") and isinstance(value, float):
            value = Estimate(value, value - 0.01, value + 0.01)
        report = replace(report, **{record: replace(getattr(report, record), **{name: value})})
    return report


RECORDS = ("method", "grading", "scores", "cost", "provenance")
REPORT = Report(
    format=FORMAT,
    method=MethodRecord(
        name="my_method",
        settings={"epochs": 1, "learning_rate": 0.001},
        changed={},
        tuned_trials=None,
        exempt_from_budget=False,
        submission=None,
    ),
    grading=GradingRecord(
        task="digits",
        forget=["random:0.5"],
        requests=1,
        forget_examples=2,
        forget_indices=[1, 3],
        train_examples=4,
        network="small_cnn",
        recipe={"epochs": 60},
        models=64,
        originals=1,
        protocol="per-original",
        metric="official",
        seed=0,
        task_fingerprint="aaa",
        bank_fingerprint="bbb",
    ),
    scores=Scores(
        score=Estimate(0.05, 0.04, 0.06),
        forgetting_quality=Estimate(0.06, 0.05, 0.07),
        retain_ratio=0.9,
        test_ratio=0.95,
        share_of_ceiling=0.05 / 0.18,
        floor=Reference(Estimate(0.0, 0.0, 0.0), Estimate(0.0, 0.0, 0.0), 1.0, 1.01),
        ceiling=Reference(Estimate(0.18, 0.17, 0.19), Estimate(0.18, 0.17, 0.19), 1.0, 1.0),
        score_by_original=[0.05],
        forgetting_quality_by_original=[0.06],
        forgetting_quality_by_request=[0.05],
        epsilons=[[0.5, 50.0]],
    ),
    unlearned=Accuracies(retain=0.9, test=0.8, validation=0.81, forget=0.85, forget_by_request=[0.9]),
    retrained=Accuracies(retain=1.0, test=0.84, validation=0.85, forget=0.84, forget_by_request=[0.9]),
    drift=0.1,
    cost=Cost(
        retrain_seconds=1.0,
        budget_seconds=0.2,
        budget_fraction_used=0.1,
        runs_seconds_mean=0.1,
        peak_memory_bytes=1 << 30,
    ),
    provenance=Provenance(
        seconds=12.5,
        device="cpu (x86_64)",
        workers=2,
        versions={"torch": "2.0"},
        git_commit=None,
        created="2026-01-01T00:00:00+00:00",
    ),
)
