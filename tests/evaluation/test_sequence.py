"""Several requests, one after another: who sees what, what runs go on from, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from checkpoints.pool import Pool
from data import TaskSpec, UserError, load
from evaluation.metrics import METRICS
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Kit

REQUESTS = ("random:12", "class:3:6", "class:5:0.2")
TASK = TaskSpec("digits", forget=REQUESTS, train_size=160, test_size=100, recipe=(("epochs", "3"),))
N = METRICS["official"].fewest_models
FLAGS = [
    *(flag for request in REQUESTS for flag in ("--forget", request)),
    *("--train-size", "160", "--test-size", "100", "--recipe", "epochs=3", "--originals", "1"),
    *("--models", str(N), "--budget-seconds", "60", "--workers", "1", "--json"),
]

WATCHER = '''"""A method of the tests."""

import torch

from methods.BaseMethod import BaseMethod


class Watcher(BaseMethod):
    """Note what the method is given, and move one weight by 1 and a little noise."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        """Note, and move."""
        calls = getattr(self, "memory", {"calls": torch.zeros(1)})["calls"] + 1
        ids = {name: sorted(id for sample in loader for id in sample["image_id"])
               for name, loader in (("retain", retain_loader), ("forget", forget_loader))}
        self.notes = {"bias": net[-1].bias[0].item(), "calls": calls.item(), **ids}
        net[-1].bias.data[0] += 1 + 0.001 * torch.rand(1).item()
        self.memory = {"calls": calls}
'''


@dataclass(frozen=True)
class Graded:
    """What a command said, and where it left results."""

    answer: dict[str, Any]
    results: Path

    def notes(self, report: dict[str, Any], run: int) -> dict[str, Any]:
        """The notes of a run of the grading that a report is of."""
        (path,) = self.results.glob(
            f"*-{report['grading']['task_fingerprint']}/watcher-*/runs/original-000-run-{run:04d}.json"
        )
        return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def kit(make_kit: Callable[[], Kit]) -> Kit:
    """A kit with the method that watches."""
    kit = make_kit()
    kit.add_method("watcher", WATCHER)
    return kit


@pytest.fixture(scope="module")
def watched(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The watching method, graded in sequence."""
    results = tmp_path_factory.mktemp("watched")
    answer = kit.run("-m", "watcher", *FLAGS, UNLEARNING_RESULTS=str(results))
    assert answer.code == 0, answer.stderr
    return Graded(json.loads(answer.stdout), results)


def test_a_step_keeps_what_no_request_so_far_names() -> None:
    """The loaders' sets, step by step; all that has been forgotten is what is scored."""
    steps = [load(replace(TASK, step=step)) for step in range(3)]
    for number, step in enumerate(steps):
        requests = steps[0].requests[: number + 1]
        forgotten = np.concatenate([request.indices for request in requests])
        np.testing.assert_array_equal(step.request_indices, requests[-1].indices)
        np.testing.assert_array_equal(step.forget_indices, np.sort(forgotten))
        assert sorted([*step.forget_indices, *step.retain_indices]) == list(range(160))
    once = load(replace(TASK, at_once=True))
    np.testing.assert_array_equal(once.request_indices, steps[2].forget_indices)
    np.testing.assert_array_equal(once.retain_indices, steps[2].retain_indices)


def test_models_are_shared_where_they_are_the_same() -> None:
    """Originals by all steps; retrained ones by the first step and its request alone, by the last and all at once.

    Their outputs are not: other examples are recorded. Catches a bank that is trained twice, and one mixed up.
    """
    steps = [load(replace(TASK, step=step)) for step in range(3)]
    alone, once = load(replace(TASK, forget=REQUESTS[:1])), load(replace(TASK, at_once=True))
    assert len({Pool(task, "original").folder for task in (*steps, alone, once)}) == 1
    assert len({Pool(task, "retrained").folder for task in steps}) == 3
    assert Pool(steps[0], "retrained").folder == Pool(alone, "retrained").folder
    assert Pool(steps[2], "retrained").folder == Pool(once, "retrained").folder
    assert len({task.fingerprint for task in (*steps, alone, once)}) == 5


@pytest.mark.slow
def test_each_run_goes_on_from_its_own(watched: Graded) -> None:
    """Run i after the second request starts from what run i has left after the first; at once, from the original.

    Catches steps that all start from the original, and runs that start from another run's weights.
    """
    first, second, third = watched.answer["steps"]
    for run in range(N):
        biases = [watched.notes(report, run)["bias"] for report in (first, second, third)]
        assert 1 <= biases[1] - biases[0] < 1.0015
        assert 1 <= biases[2] - biases[1] < 1.0015
        assert watched.notes(watched.answer["at_once"], run)["bias"] == biases[0]
    assert len({watched.notes(third, run)["bias"] for run in range(N)}) == N
    assert first["drift"] < second["drift"] < third["drift"]


def test_a_method_keeps_its_memory(watched: Graded) -> None:
    """From request to request, not from run to run."""
    calls = [watched.notes(report, N - 1)["calls"] for report in (*watched.answer["steps"], watched.answer["at_once"])]
    assert calls == [1, 2, 3, 1]


def test_a_method_sees_the_request_that_has_arrived(watched: Graded) -> None:
    """Its images in the forget loader, and none of any request so far in the retain loader."""
    ids = load(TASK).train.image_ids
    for step, report in enumerate(watched.answer["steps"]):
        task, notes = load(replace(TASK, step=step)), watched.notes(report, 0)
        assert notes["forget"] == sorted(ids[task.request_indices])
        assert notes["retain"] == sorted(ids[task.retain_indices])


def test_reports_follow_every_request(watched: Graded) -> None:
    """One F and one accuracy for each request so far; the conditions differ, so no table mixes steps."""
    steps, once = watched.answer["steps"], watched.answer["at_once"]
    assert [len(report["scores"]["forgetting_quality_by_request"]) for report in (*steps, once)] == [1, 2, 3, 1]
    assert [len(report["retrained"]["forget_by_request"]) for report in (*steps, once)] == [1, 2, 3, 1]
    sizes = [len(request.indices) for request in load(TASK).requests]
    last, scores = steps[2]["unlearned"], steps[2]["scores"]
    assert last["forget"] == pytest.approx(np.average(last["forget_by_request"], weights=sizes))
    by_hand = np.average(scores["forgetting_quality_by_request"], weights=sizes)
    assert scores["forgetting_quality"]["value"] == pytest.approx(by_hand)
    assert len({report["grading"]["task_fingerprint"] for report in (*steps, once)}) == 4
    assert steps[2]["grading"]["forget_indices"] == once["grading"]["forget_indices"]


@pytest.mark.slow
def test_nothing_is_left_over_and_everything_can_be_made_again(watched: Graded, kit: Kit, tmp_path: Path) -> None:
    """No weights stay on disk. Lose the outputs of the second step: all that it needs is made again, bit for bit."""
    assert list(watched.results.rglob("*.pt")) == []
    copy = tmp_path / "results"
    shutil.copytree(watched.results, copy)
    (outputs,) = copy.glob(f"*-{watched.answer['steps'][1]['grading']['task_fingerprint']}/watcher-*/outputs.npz")
    outputs.unlink()
    answer = kit.run("-m", "watcher", *FLAGS, UNLEARNING_RESULTS=str(copy))
    assert answer.code == 0, answer.stderr
    before, again = ([*each["steps"], each["at_once"]] for each in (watched.answer, json.loads(answer.stdout)))
    for one, other in zip(before, again, strict=True):
        for name in ("scores", "drift", "unlearned", "retrained"):
            assert one[name] == other[name]


@pytest.mark.slow
def test_the_table_has_a_row_for_each_request(results: Path) -> None:
    """On a terminal: the three requests in order, then all at once."""
    answer = command("-m", "do_nothing", *[flag for flag in FLAGS if flag != "--json"])
    assert answer.code == 0, answer.stderr
    lines = [line for line in answer.stdout.splitlines() if "%" in line]
    assert [line.split("  ")[0].strip() for line in lines] == [
        *(f"{number}. {request}" for number, request in enumerate(REQUESTS, start=1)),
        "all at once",
    ]


def test_what_needs_one_request_says_so(results: Path, tmp_path: Path) -> None:
    """Tuning and zips are about one request; `--at-once` makes one of several."""
    requests = ["--forget", "class:3", "--forget", "class:5"]
    (tmp_path / "a.zip").write_bytes(b"")
    for arguments in (["tune", "-m", "finetune"], ["grade", str(tmp_path / "a.zip"), "--task", "digits"]):
        answer = command(*arguments, *requests)
        assert answer.code == 2
        assert "--at-once" in answer.stderr
    with pytest.raises(UserError, match="must not overlap"):
        load(TaskSpec("digits", forget=("class:3", "class:3")))
