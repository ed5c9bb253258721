"""`--debug`: the run of a grading, in this process, with a debugger's standard input; nothing of it is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from bdb import BdbQuit
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from checkpoints.bank import Bank
from checkpoints.jobs import train_group
from checkpoints.pool import Pool
from data import TaskSpec, UserError, load
from evaluation.runs.debug import run_here
from evaluation.runs.one import single_run
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec
from evaluation.views.debug import debug
from methods.MyMethod import MyMethod

if TYPE_CHECKING:
    from tests.conftest import Kit

TASK = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", "2"),))
RETRAINING = 10.0
"""Seconds of retraining, so that 2 are allowed."""

Make = Callable[..., Grading]


@pytest.fixture
def make(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the grading of a method with some settings, on a bank that has two originals and nothing else."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / "bank"))
    train_group(TASK, "cpu", "original", 0, 2)

    def grading(method: str = "my_method", **settings: Any) -> Grading:
        return resolve(GradingSpec(method, TASK, tuple(settings.items())), load(TASK), "cpu")

    return grading


def bank_of(grading: Grading) -> Bank:
    """The bank, of which only the seconds of retraining are asked for."""
    return Bank(Pool(grading.task, "original"), Pool(grading.task, "retrained"), RETRAINING)


def files(folder: Path) -> set[Path]:
    """All that is in it."""
    return set(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [("my_method", {"learning_rate": 0.1}), ("adversarial", {"pretrain_steps": 2, "epochs": 1, "noisy_copies": 2})],
)
def test_it_is_run_0_of_a_grading(method: str, settings: dict[str, Any], make: Make, tmp_path: Path) -> None:
    """The same weights, bit for bit, whether a grading has prepared something before or not; and no file is left.

    Catches another seed, the test set's presence, and what is prepared for another original.
    """
    grading = make(method, **settings)
    before = files(tmp_path)
    first = run_here(grading)
    assert files(tmp_path) == before
    assert (first.prepare_seconds is not None) == (method == "adversarial")
    with open(os.devnull, "wb") as nothing:
        graded, _ = single_run(grading.run_settings, grading.task, 0, 0, nothing.fileno())
    again = run_here(grading)
    assert again.prepare_seconds is None
    for name, value in graded.weights.items():
        assert torch.equal(first.weights[name], value)
        assert torch.equal(again.weights[name], value)


def test_what_is_told(make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds and their share of the budget, how far the weights moved, accuracies on three sets before and after."""

    def run(self: MyMethod, net: Any, *_: object) -> None:
        """Take all images for a 3."""
        net[-1].weight.data.zero_()
        net[-1].bias.data = torch.eye(10)[3]

    monkeypatch.setattr(MyMethod, "run", run)
    grading = make()
    debug(grading, bank_of(grading))
    out, err = capsys.readouterr()
    title, time, weights, *table = out.splitlines()
    assert err == ""
    assert title == "my_method: run 0 from original 0, in this process; nothing is stored"
    assert " of retraining; " in time
    assert time.endswith(" % of the budget of 2 s")
    assert weights.startswith("weights     changed by ")
    assert weights.endswith(", all finite")
    assert [line.split()[0] for line in table] == ["accuracy", "before", "after"]
    assert table[0].split()[1:] == ["retain", "forget", "validation"]
    task = grading.task
    retained = task.train.labels.numpy()[task.retain_indices]
    threes = [float((labels == 3).mean()) for labels in (retained, task.labels("forget"), task.labels("validation"))]
    assert table[2].split()[1:] == [f"{share:.3f}" for share in threes]
    assert table[1].split()[1:] != table[2].split()[1:]


def test_several_runs_are_those_of_a_grading(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--quick`: a row for each, with its own seed; where seeds make no difference, that is said."""
    grading = make(learning_rate=0.1)
    assert not torch.equal(*(next(iter(run_here(grading, run).weights.values())) for run in (0, 1)))
    with open(os.devnull, "wb") as nothing:
        graded, _ = single_run(grading.run_settings, grading.task, 0, 3, nothing.fileno())
    there = run_here(grading, 3).weights
    assert all(torch.equal(there[name], value) for name, value in graded.weights.items())

    debug(grading, bank_of(grading), 4)
    title, *_, before, first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert title == "my_method: 4 runs from original 0, in this process; nothing is stored"
    assert before.split()[0] == "before"
    assert [row.split()[:2] for row in (first, second, third, fourth)] == [["run", str(run)] for run in range(4)]

    monkeypatch.setattr(MyMethod, "run", lambda self, net, *_: net[-1].bias.data.add_(1.0))
    debug(grading, bank_of(grading), 3)
    said = capsys.readouterr().out
    assert [f"runs 0 and {run} have left the same outputs" in said for run in range(4)] == [False, True, True, False]


def test_a_run_that_a_grading_would_kill(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """It comes to its end all the same, and tells how much it needs. Exempt ones are told apart."""
    grading = make()
    debug(grading, Bank(Pool(grading.task, "original"), Pool(grading.task, "retrained"), 1e-6))
    assert " % of the budget of 2e-07 s, for which a grading would kill it\n" in capsys.readouterr().out
    grading = make("do_nothing")
    debug(grading, bank_of(grading))
    out = capsys.readouterr().out
    assert "weights     unchanged, all finite" in out
    assert "remark" not in out


def body(net: torch.nn.Module, what: str) -> Any:
    """What a method in a test does to its network."""
    if what == "hook":
        net.register_forward_hook(lambda *_: None)
    elif what == "return":
        return net
    else:
        net.state_dict()["0.weight"].fill_(float(what))
    return None


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nan", "left NaN or infinite values in 0.weight"),
        ("hook", "left a hook on"),
        ("1e38", "left weights with which outputs .* are NaN"),
    ],
)
def test_what_a_grading_would_refuse(
    what: str, said: str, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are not finite, a hook, outputs that are not finite: said after what is known of the run."""
    monkeypatch.setattr(MyMethod, "run", lambda self, net, *loaders: body(net, what))
    grading = make()
    with pytest.raises(UserError, match=rf"^A grading would fail: my_method {said}.*(?<!\.)\.$"):
        debug(grading, bank_of(grading))
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "time"
    assert lines[-1] == "before"


def test_an_original_that_is_left_unchanged(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is remarked on, as in a grading."""
    monkeypatch.setattr(MyMethod, "run", lambda self, net, *loaders: body(net, "return"))
    grading = make()
    debug(grading, bank_of(grading))
    assert "remark      my_method left the original unchanged: " in capsys.readouterr().out


def test_a_traceback_begins_in_the_method(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """As Python shows it, from the frames of the method's file on. Catches ours before them, and none at all."""
    with pytest.raises(UserError, match=r"^my_method failed: ValueError: Invalid learning rate: -1\.0\.$"):
        run_here(make(learning_rate=-1.0))
    traceback = capsys.readouterr().err.splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert "methods/MyMethod.py" in traceback[1]
    assert traceback[-1] == "ValueError: Invalid learning rate: -1.0"
    assert not any("evaluation/" in line for line in traceback)


@pytest.mark.parametrize("raised", [SystemExit(3), RuntimeError("no luck"), BdbQuit()], ids=repr)
def test_whatever_a_method_raises_is_a_sentence(
    raised: BaseException, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the traceback before it; but none if somebody has left the debugger."""

    def run(self: MyMethod, *_: object) -> None:
        raise raised

    monkeypatch.setattr(MyMethod, "run", run)
    left = isinstance(raised, BdbQuit)
    with pytest.raises(UserError, match="the debugger has ended the run" if left else "my_method failed: "):
        run_here(make())
    assert ("Traceback" in capsys.readouterr().err) != left


def test_a_batch_taken_for_a_tuple(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is the same as in a grading."""

    def run(self: MyMethod, net: object, retain_loader: Any, *_: object) -> None:
        for _images, _labels in retain_loader:
            pass

    monkeypatch.setattr(MyMethod, "run", run)
    with pytest.raises(UserError, match=r"values to unpack .*; if that was a batch: it is a dict, with "):
        run_here(make())


@pytest.mark.slow
def test_breakpoint(kit: Kit, tmp_path: Path) -> None:
    """A real one, with standard input: what is typed is answered, what is printed is seen, `c` goes on to the end.

    Of a bank that has nothing, the first group of originals is trained, and no model is retrained. No result is left.
    """
    source = (
        (Path(__file__).parents[3] / "methods" / "MyMethod.py").read_text().replace("class MyMethod", "class Stops")
    )
    kit.add_method(
        "stops",
        source.replace("        optimizer =", '        print("here")\n        breakpoint()\n        optimizer ='),
    )
    folders = {f"UNLEARNING_{name}": str(tmp_path / name.lower()) for name in ("BANK", "RESULTS")}
    done = subprocess.run(
        [sys.executable, "main.py", "-m", "stops", "--debug", "--train-size", "60", "--recipe", "epochs=2", "-q"],
        input="p 1+1\nc\n",
        cwd=kit.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **folders},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("here\n")
    assert "\n(Pdb) 2\n(Pdb) stops: run 0 from original 0" in done.stdout
    assert not (tmp_path / "results").exists()
    (pool,) = {path.parent for path in (tmp_path / "bank").rglob("model-*.pt")}
    assert len(list(pool.glob("model-*.pt"))) == 2
