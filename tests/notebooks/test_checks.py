"""Wrong checkpoints are found, and said in a sentence."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from checkpoints.grouped import State
from checkpoints.networks import build_network
from data import Task, TaskSpec, load
from data.errors import UserError
from notebooks import checks


@pytest.fixture(scope="module")
def task(small_input: Path) -> Task:
    """The task of the small folder."""
    return load(TaskSpec("kaggle", data_dir=str(small_input), network="small_cnn"))


@pytest.fixture
def states(task: Task) -> list[State]:
    """Three different networks."""
    return [dict(build_network(task, seed=seed).state_dict()) for seed in range(3)]


def write_zip(path: Path, states: Sequence[State], names: Sequence[str]) -> Path:
    """A submission with these files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, state in zip(names, states, strict=True):
            buffer = io.BytesIO()
            torch.save(state, buffer)
            archive.writestr(name, buffer.getvalue())
    return path


def test_checkpoints_are_read_in_the_order_of_their_numbers(tmp_path: Path, states: list[State]) -> None:
    """Whatever their order in the archive, and with the path that `zip` keeps; 10 after 9, not after 1."""
    many = [states[0], states[1], *[states[2]] * 9]
    names = [f"kaggle/tmp/unlearned_checkpoint_{run}.pth" for run in range(11)]
    path = write_zip(tmp_path / "submission.zip", many[::-1], names[::-1])
    read = checks.read_states(path, 11)
    checks.check_equal(read, many)


@pytest.mark.parametrize("runs", [(0,), (0, 1, 2), (0, 2), (0, 0), (0, 1, 1)])
def test_a_wrong_number_of_checkpoints(tmp_path: Path, states: list[State], runs: tuple[int, ...]) -> None:
    """Too few, too many, misnumbered, or the same twice (in two folders)."""
    names = [f"{i}/unlearned_checkpoint_{run}.pth" for i, run in enumerate(runs)]
    path = write_zip(tmp_path / "submission.zip", states[: len(runs)], names)
    with pytest.raises(UserError, match=f"has {len(runs)} files; 2 checkpoints were due"):
        checks.read_states(path, 2)


def test_checkpoints_that_are_right(task: Task, states: list[State]) -> None:
    """Nothing is said of them."""
    assert checks.check_states(states[:2], task, states[2], expect_change=True) == []


def test_a_missing_weight(task: Task, states: list[State]) -> None:
    """Keys are compared strictly."""
    name = next(iter(states[1]))
    del states[1][name]
    with pytest.raises(UserError, match=rf"checkpoint_1\.pth does not fit a fresh small_cnn: .*{name}"):
        checks.check_states(states[:2], task, states[2], expect_change=True)


def test_a_wrong_shape(task: Task, states: list[State]) -> None:
    """As after a method that added a class."""
    name = list(states[0])[-1]
    states[0][name] = torch.zeros(11)
    with pytest.raises(UserError, match=r"checkpoint_0\.pth does not fit .*size mismatch"):
        checks.check_states(states, task, states[2], expect_change=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite(task: Task, states: list[State], value: float) -> None:
    """One is enough."""
    name = next(iter(states[1]))
    states[1][name].view(-1)[3] = value
    with pytest.raises(UserError, match=rf"checkpoint_1\.pth has NaN or infinite values in {name}"):
        checks.check_states(states[:2], task, states[2], expect_change=True)


def test_the_original_handed_back(task: Task, states: list[State]) -> None:
    """An error that counters of batches don't hide; a remark for a method that is to do nothing."""
    unchanged = {name: value.clone() for name, value in states[2].items()}
    counters = [name for name in unchanged if name.endswith("num_batches_tracked")]
    unchanged[counters[0]] += 5
    with pytest.raises(UserError, match=r"checkpoint_1\.pth is the original: the method silently does nothing"):
        checks.check_states([states[0], unchanged], task, states[2], expect_change=True)
    (remark,) = checks.check_states([unchanged] * 2, task, states[2], expect_change=False)
    assert "the original" in remark


def test_equal_checkpoints_are_remarked(task: Task, states: list[State]) -> None:
    """A method without randomness is told apart from retraining at once."""
    (remark,) = checks.check_states([states[0], states[0]], task, states[2], expect_change=True)
    assert "All checkpoints are equal" in remark


def test_one_bit_is_a_difference(states: list[State]) -> None:
    """Also where the numbers compare as equal: 0.0 and -0.0."""
    copy = {name: value.clone() for name, value in states[0].items()}
    checks.check_equal([copy], [states[0]])
    name = next(iter(copy))
    copy[name].view(-1)[0] = torch.nextafter(copy[name].view(-1)[0], torch.tensor(9.0))
    with pytest.raises(UserError, match=f"Run 1 in the notebook is not the grader's: {name} differs by up to"):
        checks.check_equal([states[0], copy], [states[0], states[0]])
    zeros, negative = {"weight": torch.zeros(2)}, {"weight": torch.tensor([0.0, -0.0])}
    with pytest.raises(UserError, match="weight differs by up to 0"):
        checks.check_equal([negative], [zeros])


def test_a_lost_counter_is_a_difference(states: list[State]) -> None:
    """Weights without dimensions are compared as well."""
    copy = {name: value.clone() for name, value in states[0].items()}
    counter = next(name for name in copy if name.endswith("num_batches_tracked"))
    copy[counter] += 1
    with pytest.raises(UserError, match=counter):
        checks.check_equal([copy], [states[0]])


def test_the_time_for_512_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s for 240 images are 200 s for 24,000, and 512 of those 28.4 h; 0.2 s are 2.8 h. A CPU only gets a remark."""
    monkeypatch.setattr(checks, "describe_device", lambda device: f"kind of {device}")
    on_cpu = checks.check_time(2.0, 240, "cpu", exempt=False)
    assert "about 28.4 h on this machine's kind of cpu" in on_cpu
    assert "A CPU is no guide to that: compare with what my_method takes here" in on_cpu
    on_gpu = checks.check_time(0.2, 240, "cuda", exempt=False)
    assert "about 2.8 h on this machine's kind of cuda" in on_gpu
    assert "no guide" not in on_gpu
    assert "28.4 h" in checks.check_time(2.0, 240, "cuda", exempt=True)
    with pytest.raises(UserError, match=r"about 28\.4 h .* has to be faster"):
        checks.check_time(2.0, 240, "cuda", exempt=False)
