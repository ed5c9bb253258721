"""Grading: what a method may do to the grader, what interrupts it, and that neither changes a report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from checkpoints.workers import Workers
from commands import trouble
from data import TaskSpec, UserError, load
from data.arrays import read_arrays, read_sealed, write_sealed
from data.files import write_arrays
from evaluation import logit_scaled_confidence
from evaluation.catalogue.lookup import facts_of
from evaluation.console import Console
from evaluation.grading import grade_methods, remarks_on, score_again
from evaluation.isolation.handle import open_beside, room_workers
from evaluation.isolation.limits import Limits
from evaluation.metrics import METRICS
from evaluation.report import Report, read_report
from evaluation.runs.many import GradingFailedError, RunFailedError, do_runs
from evaluation.runs.one import Failure
from evaluation.runs.resolve import resolve
from evaluation.runs.settings import outside_gradings
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec

if TYPE_CHECKING:
    from tests.conftest import Answer, Kit

TASK = TaskSpec("digits", forget=("random:12",), train_size=160, recipe=(("epochs", 3),))
N = METRICS["official"].fewest_models
TINY = GradingSpec("my_method", TASK, (("learning_rate", "0.1"),), originals=1, models=N, budget_seconds=60.0)
FLAGS = (
    f"--train-size 160 --recipe epochs=3 --forget random:12 --set learning_rate=0.1 --originals 1 --models {N}"
).split()

VARYING = ("seconds", "created")
"""Fields of its provenance that change when the same grading is repeated; the whole cost does, too."""


def lasting(report: Report, *more: str) -> dict[str, Any]:
    """What two equal gradings have in common."""
    record = report.to_dict()
    del record["cost"]
    record["provenance"] = {
        name: value for name, value in record["provenance"].items() if name not in (*VARYING, *more)
    }
    return record


# ----------------------------------------------------------------------------------------------------------------------
# Methods that misbehave, added as users add theirs
# ----------------------------------------------------------------------------------------------------------------------

METHOD = '''"""A method of the tests."""

import ctypes, itertools, logging, os, pathlib, random, signal, subprocess, sys, time, warnings

import numpy as np
import torch
import torch.nn.utils.prune
from torch import nn

from methods.BaseMethod import BaseMethod
from methods.MyMethod import MyMethod


def call(name):
    """Note a call in the file $LEDGER; how many there have been before it."""
    with open(os.environ["LEDGER"], "a+") as ledger:
        ledger.seek(0)
        before = ledger.read().split().count(name)
        print(name, file=ledger)
    return before


COUNTED = []
call.counted = 0


class CLASS(MyMethod):
    """A method of the tests."""

    counted = 0

    def run(self, net, retain_loader, forget_loader, val_loader):
BODY
'''


def add_method(kit: Kit, name: str, body: str) -> None:
    """A method that inherits from the baseline and whose `run` is `body`."""
    text = METHOD.replace("CLASS", name.title().replace("_", "")).replace("BODY", textwrap.indent(body, " " * 8))
    kit.add_method(name, text)


BASELINE = "super().run(net, retain_loader, forget_loader, val_loader)\n"

FAILING = {
    "raises": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "leaves_by_exit": ("sys.exit(0)", "SystemExit: 0"),
    "raises_interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "leaves_nan": ("net[0].weight.data.fill_(float('nan'))", "MethodError: leaves_nan left NaN .* in 0.weight"),
    "leaves_inf": ("net[1].running_var.fill_(float('inf'))", "MethodError: .* infinite values in 1.running_var"),
    "replaces_module": ("net[2] = nn.LeakyReLU()", r"MethodError: .* changed the architecture \(2\)"),
    "adds_module": ("net.append(nn.Softmax(1))", r"MethodError: .* changed the architecture \(12\)"),
    "drops_module": ("del net[-1]", r"MethodError: .* changed the architecture \(11\)"),
    "replaces_class": (
        "net.__class__ = type('Other', (nn.Sequential,), {})",
        r"MethodError: .* changed the architecture \(the network itself\)",
    ),
    "adds_weights": ("net.register_buffer('mask', torch.ones(3))", r"MethodError: .* added or removed weights \(mask"),
    "prunes": (
        "nn.utils.prune.l1_unstructured(net[0], 'weight', 0.5)",
        r"MethodError: .* added or removed weights \(0.weight",
    ),
    "changes_shape": (
        "net[-1] = nn.Linear(16, 11)",
        r"MethodError: .* changed the shape of 11.weight: \(11, 16\) instead of \(10, 16\)",
    ),
    "replaces_forward": ("net.forward = lambda x: x", r"MethodError: .* replaced forward\(\) of the network"),
    "leaves_hook": ("net[0].register_forward_hook(lambda *_: None)", "MethodError: .* left a hook on 0"),
    "exits": ("os._exit(1)", "its process died with exit code 1"),
    "crashes": ("ctypes.string_at(0)", "its process died with exit code -11"),
    "is_killed": ("os.kill(os.getpid(), signal.SIGKILL)", r"its process died with exit code -9 \(.* out of memory\)"),
    "unpacks_batches": ("for x, y in retain_loader: pass", "ValueError: .*; if that was a batch: it is a dict, with "),
    "asks": ("input('what? ')", "EOFError: .*; a run has no standard input: input.. works with --debug"),
    "leaves_odd_notes": ("self.notes = {'net': net}", "TypeError: .* not JSON serializable"),
    "poisons": (
        "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.set_default_device('meta')\n"
        "raise ValueError('left in disorder')",
        "ValueError: left in disorder",
    ),
}
"""What a method does, and what is said of it."""

RUDE = {
    "changes_data": """
for loader in (retain_loader, forget_loader, val_loader):
    for value in vars(loader.dataset).values():
        for array in value.values() if isinstance(value, dict) else [value]:
            if isinstance(array, torch.Tensor):
                array.zero_()
            elif isinstance(array, np.ndarray) and array.dtype.kind in "if":
                array[:] = 0
""",
    "changes_batches": """
for sample in itertools.chain(retain_loader, forget_loader, val_loader):
    sample["image"].zero_()
    sample["age_group"].zero_()
""",
    "seeds": "torch.manual_seed(0); np.random.seed(0); random.seed(0)",
    "turns_gradients_off": "torch.set_grad_enabled(False)",
    "changes_default_type": "torch.set_default_dtype(torch.float64)",
    "changes_default_device": "torch.set_default_device('meta')",
    "changes_threads": "torch.set_num_threads(2); torch.use_deterministic_algorithms(False)",
    "freezes": "net.requires_grad_(False); net.train()",
    "computes_in_double": "net.double()",
    "prints": """
print("hello from print")
print("hello from stderr", file=sys.stderr)
os.write(1, b"hello from descriptor 1\\n")
subprocess.run("echo hello from a child", shell=True)
warnings.warn("hello from a warning")
logging.getLogger().warning("hello from logging")
""",
    "takes_notes": "self.notes = {'history': {'lr': [self.learning_rate, 2.0]}, 'drawn': torch.rand(1).item()}",
    "returns_another": "return nn.Linear(1, 1)",
    "forks": "list(torch.utils.data.DataLoader(retain_loader.dataset, 16, num_workers=2))",
    "is_slow": "time.sleep(0.3)",
    "counts_its_runs": """
before = [len(COUNTED), type(self).counted, call.counted, getattr(np, "counted", 0), "COUNTED" in os.environ]
COUNTED.append(1)
type(self).counted = call.counted = np.counted = 1
os.environ["COUNTED"] = "1"
with torch.no_grad():
    net[-1].bias.add_(sum(before))
""",
}
"""What a method does after it has done exactly what the baseline does."""

HANGING = {
    "sleeps": "while True: time.sleep(1)",
    "spins": "while True: pass",
    "holds_the_lock": "sum(itertools.repeat(0))  # in C, without ever letting go of Python's global lock",
    "lets_others_work": "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.7: pass'])",
    "ignores_interrupts": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
}
"""Methods that take more than half a second, from the third call on."""
SLOW_ONCE = f"if call('slow_once') == 3:\n    while True: pass\n{BASELINE}"


FAILS_ONCE = f"""
before = call("fails_once")
if before == 2:
    raise RuntimeError("once")
if before > 2 and "MENDED" not in os.environ:
    time.sleep(60)  # so that no run is finished after the failure, before it is noticed
{BASELINE}"""


@dataclass(frozen=True)
class Gradings:
    """What a command said, and where it left results."""

    answer: Answer
    results: Path

    def folder(self, method: str) -> Path:
        """The folder of a method's grading."""
        (folder,) = self.results.glob(f"digits-*/{method}-*")
        return folder

    def report(self, method: str) -> Report:
        """Its report."""
        report = read_report(self.folder(method) / "report.json")
        assert report is not None, self.answer.stderr
        return report

    def complaint(self, method: str) -> str:
        """The line on standard error that says how a method failed."""
        (line,) = [line for line in self.answer.stderr.splitlines() if line.startswith(f"error: {method} failed")]
        return line


@pytest.fixture(scope="module")
def kit(make_kit: Callable[[], Kit], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """A kit with all these methods, which waits for less long until it kills one; $LEDGER is theirs to write to."""
    kit = make_kit()
    kit.limits = Limits(patience=1.0, more_patience=0.5, attempts=2)
    for name, (body, _) in FAILING.items():
        add_method(kit, name, body)
    for name, body in RUDE.items():
        add_method(kit, name, BASELINE + body)
    add_method(kit, "notes_twice", f"{BASELINE}self.notes = torch.rand(1).item()")
    for name, body in HANGING.items():
        add_method(kit, name, f"if call('{name}') > 1:\n" + textwrap.indent(body, "    "))
    add_method(kit, "fails_once", FAILS_ONCE)
    add_method(kit, "slow_once", SLOW_ONCE)
    add_method(kit, "is_edited", f"call('is_edited')\n{BASELINE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEDGER", str(tmp_path_factory.mktemp("ledger") / "ledger"))
        yield kit


def run(kit: Kit, results: Path, methods: list[str], *flags: str) -> Gradings:
    """Grade methods one after another, in one worker unless the flags say otherwise."""
    workers = () if "--workers" in flags else ("--workers", "1")
    answer = kit.run("-m", ",".join(methods), *FLAGS, *workers, *flags, UNLEARNING_RESULTS=str(results))
    return Gradings(answer, results)


@pytest.fixture(scope="module")
def failed(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Gradings:
    """All that fail, and after the last of them some that do not."""
    methods = [*FAILING, "my_method", "fails_once", "is_edited"]
    return run(kit, tmp_path_factory.mktemp("failed"), methods, "--budget-seconds", "60")


@pytest.fixture(scope="module")
def behaved(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Gradings:
    """The baseline, and all that do what it does and then something rude."""
    results = tmp_path_factory.mktemp("behaved")
    return run(kit, results, ["my_method", *RUDE], "--budget-seconds", "60", "--json")


@pytest.mark.parametrize("method", FAILING)
@pytest.mark.slow
def test_a_failure_is_named_with_its_log(method: str, failed: Gradings) -> None:
    """Which method, which run, what it did, where the log is; in one line, without a traceback of ours."""
    line = failed.complaint(method)
    log = failed.folder(method) / "runs" / "original-000-run-0000.log"
    which = rf"error: {method} failed in run \d+ from original 0"
    assert re.match(rf"{which}: ({FAILING[method][1]}).*\. Its log: {re.escape(str(log))}\.", line), line
    assert line.endswith("The 0 runs that finished are kept.")
    assert log.exists()
    if "died" not in line:
        assert "Traceback" in log.read_text() or re.search(FAILING[method][1], log.read_text())


@pytest.mark.slow
def test_failures_are_the_users_and_stop_no_other_method(failed: Gradings, behaved: Gradings) -> None:
    """Exit code 2, no traceback, and the baseline at the end is graded as if nothing had been.

    Catches a default type or device that a failed run leaves to the next method in its process.
    """
    assert failed.answer.code == 2
    assert "Traceback" not in failed.answer.stderr
    assert lasting(failed.report("my_method")) == lasting(behaved.report("my_method"))


@pytest.mark.slow
@pytest.mark.parametrize("method", RUDE)
def test_what_a_run_leaves_behind_does_not_reach_the_next(method: str, behaved: Gradings) -> None:
    """Every run's outputs are those of the baseline with the same seed, bit for bit."""
    outputs, expected = (Unlearned.load(behaved.folder(name) / "outputs.npz") for name in (method, "my_method"))
    assert outputs is not None, behaved.answer.stderr
    assert expected is not None
    for name, values in expected.outputs.arrays().items():
        np.testing.assert_array_equal(outputs.outputs.arrays()[name], values, err_msg=name)


@pytest.mark.slow
def test_state_of_a_method_lasts_for_no_run_with_any_number_of_workers(
    kit: Kit, behaved: Gradings, tmp_path: Path
) -> None:
    """A count of its runs, kept in five places, is 0 in each, with two workers as with one."""
    method = "counts_its_runs"
    two = run(kit, tmp_path, [method], "--budget-seconds", "60", "--workers", "2").report(method)
    assert two.provenance.workers == 2
    assert lasting(two, "workers") == lasting(behaved.report(method), "workers")


def test_runs_differ_from_each_other(behaved: Gradings) -> None:
    """Else the test before would compare copies of one run."""
    unlearned = Unlearned.load(behaved.folder("my_method") / "outputs.npz")
    assert unlearned is not None
    assert len(np.unique(unlearned.outputs.forget, axis=0)) == N


def test_what_a_method_prints_goes_to_its_log(behaved: Gradings) -> None:
    """With --json, standard output holds the reports alone, however a method prints."""
    reports = json.loads(behaved.answer.stdout)
    assert [report["method"]["name"] for report in reports] == ["my_method", *RUDE]
    assert "hello" not in behaved.answer.stdout + behaved.answer.stderr
    logs = behaved.folder("prints") / "runs"
    for run_number in range(N):
        log = (logs / f"original-000-run-{run_number:04d}.log").read_text()
        for where in ("print", "stderr", "descriptor 1", "a child", "logging"):
            assert f"hello from {where}" in log
    assert "hello from a warning" in (logs / "original-000-run-0000.log").read_text()
    assert list((behaved.folder("my_method")).glob("runs/*.log")) == []


@pytest.mark.slow
def test_methods_that_change_nothing_are_told_so(kit: Kit, tmp_path: Path) -> None:
    """Below the table and in the report, in a sentence that says why. They were ranked without a word."""
    add_method(kit, "trains_a_copy", "import copy\nnet = copy.deepcopy(net)\nnet[0].weight.data.zero_()\nreturn net")
    add_method(kit, "is_a_generator", "net[0].weight.data.zero_()\nyield net")
    add_method(kit, "returns_its_net", "net[0].weight.data.zero_()\nreturn net")
    methods = ["trains_a_copy", "is_a_generator", "returns_its_net"]
    gradings = run(kit, tmp_path, methods, "--budget-seconds", "60")
    shown = " ".join(gradings.answer.stdout.split())
    for method, why in (
        ("trains_a_copy", "what its run returns is ignored"),
        ("is_a_generator", "its run contains yield"),
    ):
        (remark,) = gradings.report(method).remarks
        assert remark.startswith(f"{method} left the original unchanged: {why}")
        assert shown.count(f"remark {remark}") == 1
    (remark,) = gradings.report("returns_its_net").remarks  # it does change, to the same in each run
    assert "of the confidences of the runs of the method equal another model's" in remark
    assert shown.count("remark ") == 3


def test_only_runs_that_should_change_something_are_remarked_on() -> None:
    """Some of them, all of them, none of them; not if a class says that it is meant."""
    moved, still = np.array([0.1, 1e-30]), np.zeros(2)
    mine, nothing = facts_of("my_method"), facts_of("do_nothing")
    assert remarks_on(mine, moved) == []
    assert remarks_on(mine, np.append(moved, 0)) == ["my_method left the original unchanged in 1 of 3 runs."]
    assert remarks_on(mine, still)[0].startswith("my_method left the original unchanged: its run has to change net")
    assert remarks_on(nothing, still) == []


@pytest.mark.slow
def test_methods_that_hang_are_killed(kit: Kit, tmp_path: Path) -> None:
    """Whether they sleep, compute, hold Python's lock, or let others compute; with the budget in the message."""
    gradings = run(kit, tmp_path, list(HANGING), "--budget-seconds", "0.5")
    assert gradings.answer.code == 2
    assert "Traceback" not in gradings.answer.stderr
    for method in HANGING:
        said = f"error: {method} failed in run 2 from original 0: it exceeded the budget of 0.5 seconds"
        assert gradings.complaint(method).startswith(said)
        assert gradings.complaint(method).endswith("The 2 runs that finished are kept.")


@pytest.mark.slow
def test_a_run_that_is_too_slow_is_tried_again(kit: Kit, behaved: Gradings, tmp_path: Path) -> None:
    """The machine may have been busy. The report is that of a run that never was: the same scores, nothing failed.

    Catches a grading that ends with the first run that is killed, one that leaves it out, and one with other seeds.
    """
    gradings = run(kit, tmp_path, ["slow_once"], "--budget-seconds", "0.5")
    assert gradings.answer.code == 0, gradings.answer.stderr
    assert gradings.report("slow_once").scores.epsilons == behaved.report("my_method").scores.epsilons


def test_of_several_failures_the_first_is_told() -> None:
    """On a busy machine many runs may have ended before the main process looks. Catches one taken from a set."""
    keys = [(original, run) for original in range(2) for run in range(20)]

    def submit(key: tuple[int, int], pool: Workers) -> Future[Failure | None]:
        future: Future[Failure | None] = Future()
        future.set_result(None if key == keys[0] else Failure(f"run {key} failed", retry=False))
        return future

    with Workers(len(keys)) as never_used, pytest.raises(RunFailedError) as caught:
        do_runs(keys, submit, never_used, total=len(keys), on_progress=lambda done, total: None)
    failure = caught.value
    assert (failure.key, failure.complaint, failure.finished) == (keys[1], f"run {keys[1]} failed", 1)


def test_attempts_are_told() -> None:
    """While the grading still goes on: which run was killed, why, and how often it is tried. Catches silence."""
    told: list[str] = []
    tries = Counter[tuple[int, int]]()

    def submit(key: tuple[int, int], pool: Workers) -> Future[Failure | None]:
        tries[key] += 1
        future: Future[Failure | None] = Future()
        slow = Failure("it exceeded the budget of 2 seconds and was killed; --budget allows more", retry=True)
        future.set_result(slow if tries[key] < 3 and key == (1, 4) else None)
        return future

    settings = outside_gradings(TaskSpec(), "my_method", {})
    assert settings.limits.attempts == 3
    with Workers(1) as never_used:
        do_runs([(0, 0), (1, 4)], submit, never_used, 2, lambda done, total: None, settings, told.append)
    said = "run 4 from original 1: it exceeded the budget of 2 seconds and was killed; attempt {} of 3 comes next"
    assert told == [said.format(2), said.format(3)]


class Removing(Workers):
    """Workers during whose fourth run a folder is removed, or replaced by a file."""

    def __init__(self, victim: Callable[[], Path], replace_it: bool) -> None:
        super().__init__(1, beside=open_beside)
        self.victim, self.replace_it, self.runs = victim, replace_it, 0

    def submit(self, job: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do it before the run is queued."""
        self.runs += job.__name__ == "perform"
        if job.__name__ == "perform" and self.runs == 4:
            shutil.rmtree(self.victim(), ignore_errors=True)
            if self.replace_it:
                self.victim().write_text("")
        return super().submit(job, *args)


@pytest.mark.slow
@pytest.mark.parametrize("replace_it", [False, True])
@pytest.mark.parametrize("what", ["results", "runs", "bank"])
def test_folders_that_are_removed_meanwhile(
    what: str, replace_it: bool, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, whatever is gone; if nothing is in the way, the next grading makes it again, with the same report."""
    bank = tmp_path / "bank"
    monkeypatch.setenv("UNLEARNING_BANK", str(bank))
    with room_workers(1) as whole:
        (expected,) = grade_methods([TINY], whole, Console(quiet=True))
    shutil.rmtree(results)
    victims = {"results": lambda: results, "runs": lambda: folder_of(TINY) / "runs", "bank": lambda: bank}
    with Removing(victims[what], replace_it) as workers, pytest.raises((UserError, OSError)) as caught:
        list(grade_methods([TINY], workers, Console(quiet=True)))
    if isinstance(caught.value, OSError):
        assert trouble.sentence(caught.value) is not None
    if not replace_it:
        with room_workers(1) as again:
            (report,) = grade_methods([TINY], again, Console(quiet=True))
        assert isinstance(expected, Report)
        assert isinstance(report, Report)
        assert lasting(report) == lasting(expected)


# ----------------------------------------------------------------------------------------------------------------------
# Interruptions
# ----------------------------------------------------------------------------------------------------------------------


def test_notes_are_kept(behaved: Gradings) -> None:
    """Each run's own, as JSON beside its log; runs of a method without notes leave no file."""
    notes = [json.loads(path.read_text()) for path in sorted(behaved.folder("takes_notes").glob("runs/*.json"))]
    assert [note["history"] for note in notes] == [{"lr": [0.1, 2.0]}] * N
    assert len({note["drawn"] for note in notes}) == N
    assert list(behaved.folder("my_method").glob("runs/*.json")) == []


@pytest.mark.slow
def test_finished_runs_are_kept_and_an_edited_method_is_another(
    kit: Kit, failed: Gradings, behaved: Gradings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure that is mended, only the missing runs are done; after an edit, all of them are done again."""
    assert "failed in run 2 from original 0: RuntimeError: once" in failed.complaint("fails_once")
    assert failed.complaint("fails_once").endswith("The 2 runs that finished are kept.")
    (before_the_edit,) = failed.results.glob("digits-*/is_edited-*/report.json")

    kit.edit("methods/IsEdited.py", "call('is_edited')", "call('is_edited'); self.learning_rate = 0.5")
    monkeypatch.setenv("MENDED", "yes")
    ledger = Path(os.environ["LEDGER"])
    calls = Counter(ledger.read_text().split())
    mended = run(kit, failed.results, ["fails_once", "is_edited", "my_method"], "--budget-seconds", "60")
    assert mended.answer.code == 0, mended.answer.stderr
    more = Counter(ledger.read_text().split()) - calls
    assert more["fails_once"] == N - 2  # what was missing
    assert more["is_edited"] == N

    whole, resumed = behaved.report("my_method"), mended.report("fails_once")
    assert (resumed.scores.epsilons, resumed.unlearned) == (whole.scores.epsilons, whole.unlearned)
    (after_the_edit,) = set(failed.results.glob("digits-*/is_edited-*/report.json")) - {before_the_edit}
    one, other = read_report(before_the_edit), read_report(after_the_edit)
    assert one is not None
    assert other is not None
    assert one.unlearned.test != other.unlearned.test


@pytest.mark.slow
def test_kill_9_and_resume(kit: Kit, behaved: Gradings, tmp_path: Path) -> None:
    """Killed between two runs and resumed, a grading gives the report of one that was left in peace."""
    flags = ("-m", "is_slow", *FLAGS, "--workers", "1", "--budget-seconds", "60")
    process = kit.start(*flags, UNLEARNING_RESULTS=str(tmp_path))
    limit = time.monotonic() + 120
    while len(list(tmp_path.glob("*/*/runs/*.npz"))) < 2:
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    kit.finish(process)
    assert list(tmp_path.glob("*/*/outputs.npz")) == []
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/runs/*.npz")}

    resumed = run(kit, tmp_path, ["is_slow"], "--budget-seconds", "60")
    assert resumed.answer.code == 0, resumed.answer.stderr
    assert len(done) < N, "it was killed too late for this test to show anything"
    assert lasting(resumed.report("is_slow")) == lasting(behaved.report("is_slow"))


# ----------------------------------------------------------------------------------------------------------------------
# The kit's own methods
# ----------------------------------------------------------------------------------------------------------------------


class CountingWorkers(Workers):
    """Workers that remember which runs they were given."""

    def __init__(self, count: int) -> None:
        super().__init__(count, beside=open_beside)
        self.runs: list[tuple[int, int]] = []

    def submit(self, job: Callable[..., Any], *args: Any) -> Future[Any]:
        """Remember it if it is a run."""
        if job.__name__ == "perform":
            self.runs.append((args[1], args[2]))
        return super().submit(job, *args)


@pytest.fixture(scope="module")
def workers() -> Iterator[CountingWorkers]:
    """Two workers for all tests below."""
    workers = CountingWorkers(2)
    with workers:
        yield workers


def grade_one(spec: GradingSpec, workers: CountingWorkers) -> Report:
    """Grade one method; its error is raised. `workers.runs` has the runs that this took."""
    workers.runs = []
    (report,) = grade_methods([spec], workers, Console(quiet=True))
    if isinstance(report, GradingFailedError):
        raise report
    return report


def folder_of(spec: GradingSpec) -> Path:
    """Where its results are."""
    return resolve(spec, load(spec.task), "cpu").folder


def test_the_number_of_workers_changes_nothing(
    workers: CountingWorkers, results: Path, behaved: Gradings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and two workers, here and in a process of its own: the same report."""
    report = grade_one(TINY, workers)
    assert sorted(workers.runs) == [(0, run) for run in range(N)]
    assert lasting(report, "workers", "git_commit") == lasting(behaved.report("my_method"), "workers", "git_commit")
    assert (report.provenance.workers, behaved.report("my_method").provenance.workers) == (2, 1)


@pytest.mark.slow
def test_growing_reuses_the_runs(workers: CountingWorkers, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few models, then 8, then few again: no run is done twice, and each report is that of a grading in one go."""
    small = grade_one(TINY, workers)
    large = grade_one(replace(TINY, models=8), workers)
    assert sorted(workers.runs) == [(0, run) for run in range(N, 8)]
    assert lasting(grade_one(TINY, workers)) == lasting(small)
    assert workers.runs == []
    grade_one(replace(TINY, models=8, originals=2), workers)
    assert sorted(workers.runs) == [(1, run) for run in range(8)]

    monkeypatch.setenv("UNLEARNING_RESULTS", str(results / "in one go"))
    assert lasting(grade_one(replace(TINY, models=8), workers)) == lasting(large)
    assert len(workers.runs) == 8


@pytest.mark.slow
def test_growing_takes_the_notes_along(kit: Kit, tmp_path: Path) -> None:
    """A larger grading that takes over runs of a smaller one has their notes, too."""
    run(kit, tmp_path, ["notes_twice"], "--budget-seconds", "60")
    larger = run(kit, tmp_path, ["notes_twice"], "--budget-seconds", "60", "--models", str(N + 1))
    assert larger.answer.code == 0, larger.answer.stderr
    assert sorted(len(list(folder.glob("runs/*.json"))) for folder in tmp_path.glob("digits-*/*-*")) == [N, N + 1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1000])
def test_damaged_outputs_are_made_again(size: int, workers: CountingWorkers, results: Path) -> None:
    """An empty or truncated `outputs.npz`, as a full disk leaves it, costs time and nothing else."""
    report = grade_one(TINY, workers)
    path = folder_of(TINY) / "outputs.npz"
    path.write_bytes(path.read_bytes()[:size])
    assert lasting(grade_one(TINY, workers)) == lasting(report)
    assert len(workers.runs) == N


def changed_outputs(path: Path) -> None:
    """Other numbers in a file that is whole, with the checksum that was there."""
    arrays = read_arrays(path)
    arrays["forget"] = arrays["forget"] + np.float32(1e-3)
    write_arrays(path, arrays)


@pytest.mark.slow
def test_changed_outputs_are_not_believed(
    workers: CountingWorkers, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`outputs.npz` with other numbers: told, and made again; `score` refuses it. Catches a file that scored."""
    report = grade_one(TINY, workers)
    path = folder_of(TINY) / "outputs.npz"
    changed_outputs(path)
    with pytest.raises(UserError, match=r"outputs\.npz is damaged, or was changed .* python main\.py --config"):
        score_again(path.parent, None)
    workers.runs = []
    (again,) = grade_methods([TINY], workers, Console())
    assert isinstance(again, Report)
    assert lasting(again) == lasting(report)
    assert len(workers.runs) == N
    assert "outputs.npz is damaged, or was changed after it was written" in capsys.readouterr().err


def test_outputs_of_early_versions_are_read(workers: CountingWorkers, results: Path) -> None:
    """Without a checksum."""
    report = grade_one(TINY, workers)
    path = folder_of(TINY) / "outputs.npz"
    write_arrays(path, read_sealed(path))
    assert lasting(grade_one(TINY, workers)) == lasting(report)
    assert workers.runs == []
    assert score_again(path.parent, None).scores == report.scores


def shorter(arrays: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    """The arrays of one model less."""
    return {**arrays, **{name: arrays[name][1:] for name in names}}


UNFIT: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "unequal lengths": lambda arrays: shorter(arrays, "forget"),
    "a run less": lambda arrays: shorter(arrays, *arrays),
    "examples less": lambda arrays: {**arrays, "forget": arrays["forget"][:, 1:]},
    "classes less": lambda arrays: {**arrays, **{k: arrays[k][:, :, 1:] for k in arrays if arrays[k].ndim == 3}},
    "classes less of one": lambda arrays: {**arrays, "test": arrays["test"][:, :, 1:]},
    "texts": lambda arrays: {**arrays, "seconds": np.array(["a"] * N)},
    "two axes": lambda arrays: {**arrays, "test": arrays["test"][:, :, 0]},
    "an array more": lambda arrays: {**arrays, "more": arrays["seconds"]},
    "an array less": lambda arrays: {name: array for name, array in arrays.items() if name != "drift"},
    "NaN": lambda arrays: {**arrays, "forget": arrays["forget"] * np.float32("nan")},
    "no runs": lambda arrays: {name: array[:0] for name, array in arrays.items()},
}


def test_outputs_that_do_not_fit_are_refused(workers: CountingWorkers, results: Path) -> None:
    """In somebody else's folder, with a right checksum: one sentence each, and no score."""
    grade_one(TINY, workers)
    path = folder_of(TINY) / "outputs.npz"
    arrays = read_sealed(path)
    report = (path.parent / "report.json").read_text()
    for what, change in UNFIT.items():
        write_sealed(path, change(arrays))
        with pytest.raises(UserError, match=r"outputs\.npz") as refused:
            score_again(path.parent, None)
        assert "\n" not in str(refused.value), what
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with pytest.raises(UserError, match="larger than the outputs"):
        score_again(path.parent, None)
    assert (path.parent / "report.json").read_text() == report


@pytest.mark.slow
def test_hyper_parameters_and_seed_make_another_grading(workers: CountingWorkers, results: Path) -> None:
    """Nothing is reused from runs of another learning rate, or another seed."""
    first = grade_one(TINY, workers)
    for spec in (replace(TINY, settings=(("learning_rate", "0.01"),)), replace(TINY, seed=1)):
        report = grade_one(spec, workers)
        assert len(workers.runs) == N
        assert report.scores.epsilons != first.scores.epsilons or report.unlearned.test != first.unlearned.test


@pytest.mark.slow
def test_a_run_over_the_budget_is_killed(workers: CountingWorkers, results: Path) -> None:
    """Also when an earlier grading had a larger budget: what it allowed does not count any more."""
    grade_one(TINY, workers)
    for spec in (replace(TINY, budget_seconds=1e-9), replace(TINY, budget_seconds=None, budget=1e-6)):
        with pytest.raises(
            GradingFailedError, match=r"my_method failed in run \d from original 0: it exceeded the bud"
        ):
            grade_one(spec, workers)
    record = json.loads((folder_of(TINY) / "failed.json").read_text())
    assert record["method"] == "my_method"
    grade_one(TINY, workers)
    assert not (folder_of(TINY) / "failed.json").exists()


@pytest.mark.parametrize("method", ["do_nothing", "retrain"])
def test_references_have_no_budget(method: str, workers: CountingWorkers, results: Path) -> None:
    """They are measured, and marked, but not killed."""
    report = grade_one(replace(TINY, method=method, settings=(), budget_seconds=0.001), workers)
    assert report.method.exempt_from_budget
    assert report.cost.budget_seconds is None
    assert report.cost.budget_fraction_used is not None
    assert report.cost.budget_fraction_used >= 0


@pytest.mark.slow
def test_doing_nothing_is_the_floor(workers: CountingWorkers, results: Path) -> None:
    """Graded as a method, under both protocols, it gets what every report shows as the floor."""
    for spec in (replace(TINY, originals=2), replace(TINY, protocol="full")):
        report = grade_one(replace(spec, method="do_nothing", settings=()), workers)
        other = grade_one(spec, workers)
        scores, floor = report.scores, report.scores.floor
        assert scores.score.value == pytest.approx(floor.score.value, abs=1e-9)
        assert scores.forgetting_quality.value == pytest.approx(floor.forgetting_quality.value, abs=1e-9)
        assert other.scores.floor == report.scores.floor
        assert other.scores.ceiling == report.scores.ceiling


@pytest.mark.slow
def test_each_original_is_graded_by_itself(workers: CountingWorkers, results: Path) -> None:
    """The mean over originals, and never one pool of all runs: with one original the same number comes again."""
    both = grade_one(replace(TINY, originals=2), workers)
    assert sorted(workers.runs) == [(original, run) for original in range(2) for run in range(N)]
    assert np.array(both.scores.epsilons).shape == (2, 12)
    assert both.scores.score.value == pytest.approx(np.mean(both.scores.score_by_original))
    first = grade_one(TINY, workers)
    assert first.scores.score_by_original == both.scores.score_by_original[:1]
    assert first.scores.epsilons == both.scores.epsilons[:1]


def test_protocol_full_runs_each_of_n_originals_once(workers: CountingWorkers, results: Path) -> None:
    """The textbook definition: one distribution of N models, from N originals."""
    report = grade_one(replace(TINY, protocol="full"), workers)
    assert sorted(workers.runs) == [(original, 0) for original in range(N)]
    assert (report.grading.originals, report.grading.models) == (N, N)
    assert np.array(report.scores.epsilons).shape == (1, 12)


@pytest.mark.slow
def test_retrain_is_what_it_is_measured_against(workers: CountingWorkers, results: Path) -> None:
    """The oracle's runs have the distribution of the bank's retrained models: mean confidence over the forget set.

    Kolmogorov-Smirnov over 32 models each. The control, an oracle that trains a third as long, must be told apart.
    """
    task = replace(TASK, train_size=60, recipe=(("epochs", 12), ("batch_size", 16)))
    spec = GradingSpec("retrain", task, originals=1, models=32)
    loaded = load(task)
    labels = loaded.train.labels[loaded.request_indices].numpy()

    def confidences(spec: GradingSpec) -> np.ndarray:
        grade_one(spec, workers)
        unlearned = Unlearned.load(folder_of(spec) / "outputs.npz")
        assert unlearned is not None
        return logit_scaled_confidence(unlearned.outputs.forget, labels).mean(axis=1)  # (models,)

    from checkpoints.pool import Pool

    same, shorter = confidences(spec), confidences(replace(spec, settings=(("epochs", 4),)))
    truth = logit_scaled_confidence(Pool(loaded, "retrained").outputs(32).forget, labels).mean(axis=1)
    assert stats.ks_2samp(same, truth).pvalue > 1e-3
    assert stats.ks_2samp(shorter, truth).pvalue < 1e-4


# ----------------------------------------------------------------------------------------------------------------------
# Scoring again
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stored_outputs_give_the_same_report(workers: CountingWorkers, results: Path) -> None:
    """Every field of it, without a run; for the notebook's metric a report of its own beside the first."""
    spec = replace(TINY, models=METRICS["notebook"].fewest_models)
    report = grade_one(spec, workers)
    folder = folder_of(spec)
    assert score_again(folder, None) == report

    notebook = score_again(folder, "notebook")
    assert notebook.grading.metric == "notebook"
    assert notebook.scores.forgetting_quality.value != report.scores.forgetting_quality.value
    assert read_report(folder / "report.json") == report
    assert read_report(folder / "report-notebook.json") == notebook


def test_scoring_again_needs_a_finished_grading(workers: CountingWorkers, results: Path, tmp_path: Path) -> None:
    """What is missing is named, and how to make it."""
    with pytest.raises(UserError, match=r"no config\.yaml"):
        score_again(tmp_path, None)
    grade_one(TINY, workers)
    folder = folder_of(TINY)
    with pytest.raises(UserError, match="--metric is one of"):
        score_again(folder, "accuracy")
    (folder / "outputs.npz").unlink()
    with pytest.raises(UserError, match=r"is not finished: python main\.py --config"):
        score_again(folder, None)


def test_a_damaged_config_of_another_grading_is_passed_over(workers: CountingWorkers, results: Path) -> None:
    """It costs the reuse of that grading's runs, and nothing else."""
    report = grade_one(TINY, workers)
    large = replace(TINY, models=8)
    (folder_of(TINY) / "config.yaml").write_bytes(b"\xff")
    grade_one(large, workers)
    assert len(workers.runs) == 8
    assert lasting(grade_one(TINY, workers)) == lasting(report)


def test_a_grading_survives_its_config(tmp_path: Path) -> None:
    """`config.yaml` says all that the user decided, whatever characters it has."""
    task = TaskSpec(
        "folder",
        forget=('where:camera == "A: b" and year <= 2016', "random:0.1"),
        train_size=100,
        data_dir="some where",
        network="mlp",
        recipe=(("epochs", "3"), ("class_weights", "true")),
    )
    spec = GradingSpec("retrain", task, (("epochs", "4"),), 3, 50, "full", "notebook", 7, 0.5, 1.5)
    for one in (spec, TINY):
        (tmp_path / "config.yaml").write_text(one.to_yaml())
        assert GradingSpec.read(tmp_path / "config.yaml") == one
