"""The bank: whatever interrupts, damages or shares it, its files are those of a bank that was made in one go."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints.jobs
from checkpoints.bank import Bank, ensure
from checkpoints.jobs import SNAPSHOT_SECONDS
from checkpoints.networks import build_network
from checkpoints.outputs import SCORED, Outputs, record_outputs
from checkpoints.pool import Pool, group_bounds
from checkpoints.training import GroupTrainer
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError, load
from data.files import sha256_of, write_arrays
from tests.checkpoints.noting import LONG, MODELS, ORIGINALS, build_long

TINY = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 3),))
PRIVATE = (("optimizer", "dp_sgd"), ("noise_multiplier", 1.0), ("batch_size", 15))
REPOSITORY = Path(__file__).parent.parent.parent


class InThisProcess(Workers):
    """Does each job at once where it is submitted, and remembers it: tests need no processes to see what is done."""

    def __init__(self, snapshot_seconds: float = SNAPSHOT_SECONDS) -> None:
        self.snapshot_seconds = snapshot_seconds
        self.count = 1
        self.device = "cpu"
        self.jobs: list[tuple[str, str, int, int]] = []

    def submit(self, job: Callable[..., Any], *args: object) -> Future[Any]:
        """Do the job now."""
        if job.__name__ in ("train_group", "record_group"):
            kind, start, stop = args[2:]
            self.jobs.append((job.__name__, str(kind), int(str(start)), int(str(stop))))
        if job.__name__ == "train_group":
            job = partial(job, snapshot_seconds=self.snapshot_seconds)
        future: Future[Any] = Future()
        future.set_result(job(*args))
        return future

    @property
    def progress(self) -> float:
        """Nobody looks."""
        return 0.0


def build(
    folder: Path,
    spec: TaskSpec = TINY,
    originals: int = ORIGINALS,
    models: int = MODELS,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
) -> tuple[Bank, InThisProcess, list[str]]:
    """The bank of `spec` in `folder`; the jobs it took are in the workers; and what was told on the way."""
    workers, told = InThisProcess(snapshot_seconds), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_BANK", str(folder))
        bank = ensure(load(spec), originals, models, workers, told.append)
    return bank, workers, told


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of all weights and outputs below a bank's folder."""
    files = [*folder.glob("*/model-*.pt"), *folder.glob("*/outputs-*.npz")]
    return {str(file.relative_to(folder)): sha256_of(file) for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bank that was made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    build(folder)
    assert len(digests(folder)) == (2 + 1) + (8 + 3)  # weights and outputs of originals, of retrained models
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def in_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes pools look into a folder."""
    return lambda folder: monkeypatch.setenv("UNLEARNING_BANK", str(folder))


def pool_folder(folder: Path, kind: str = "retrained") -> Path:
    """The folder of a pool of `TINY`."""
    return folder / Pool(load(TINY), kind).fingerprint


# ----------------------------------------------------------------------------------------------------------------------
# What is in it
# ----------------------------------------------------------------------------------------------------------------------


def test_weights_are_plain_state_dicts(whole: Path, in_folder: Callable[[Path], None]) -> None:
    """Anybody can use them: safe to load, they fit the network, and no two models are alike."""
    in_folder(whole)
    task = load(TINY)
    seen = []
    for kind, models in (("original", ORIGINALS), ("retrained", MODELS)):
        pool = Pool(task, kind)
        for model in range(models):
            network = build_network(task)
            network.load_state_dict(torch.load(pool.model_path(model), weights_only=True))
            seen.append(network.state_dict()["0.weight"])
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(seen, 2))


def test_outputs_are_those_of_the_weights(whole: Path, in_folder: Callable[[Path], None]) -> None:
    """Recorded in groups, they are what each model computes by itself. Catches models or images in another order."""
    in_folder(whole)
    task = load(TINY)
    pool = Pool(task, "retrained")
    outputs = pool.outputs(MODELS)
    assert outputs.forget.shape == (MODELS, 12, 10)
    for model in range(MODELS):
        network = build_network(task)
        network.load_state_dict(pool.state(model))
        with torch.no_grad():
            network.eval()
            forget = network(task.train.images[task.request_indices]).numpy()
            test = network(task.test.images)
            retain = network(task.train.images[task.retain_indices])
        correct = retain.argmax(1) == task.train.labels[task.retain_indices]
        np.testing.assert_allclose(outputs.forget[model], forget, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs.test[model], test.numpy(), rtol=1e-4, atol=1e-4)
        assert outputs.retain_accuracy[model] == pytest.approx(correct.double().mean().item())
        accuracy = (test.argmax(1) == task.test.labels).double().mean().item()
        assert outputs.accuracy("test", task.test.labels.numpy())[model] == pytest.approx(accuracy)


def test_manifest_describes_every_file(whole: Path) -> None:
    """Seeds, recipe, checksums, training seconds and versions, as the README promises."""
    folder = pool_folder(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["examples"], manifest["network"]) == ("retrained", 48, "small_cnn")
    assert manifest["recipe"]["epochs"] == 3
    weights = {name: record for name, record in manifest["files"].items() if name.startswith("model")}
    assert len({record["seed"] for record in weights.values()}) == MODELS
    for name, record in manifest["files"].items():
        assert record["sha256"] == sha256_of(folder / name)
    for record in weights.values():
        assert record["seconds"] > 0
        assert {"python", "torch", "numpy"} <= record["versions"].keys()


def test_group_bounds_do_not_depend_on_how_many_are_wanted() -> None:
    """Else a bank that grew would have other groups, and so other bits, than one made in one go."""
    longest = group_bounds(100, together=16)
    assert longest[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(longest))
    for models in range(1, 100):
        bounds = group_bounds(models, together=16)
        assert bounds == longest[: len(bounds)]
        assert bounds[-1][0] < models <= bounds[-1][1]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 200])
def test_seconds_of_retraining_are_those_of_all_steps(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once a step, `epochs` steps take `epochs` ticks, however few there are to measure.

    Catches a warm-up that leaves nothing to measure: the budget of every run was 0 then.
    """
    ticks = 0

    def counted(*args: Any, **settings: Any) -> Iterator[None]:
        nonlocal ticks
        for _ in range(epochs):
            ticks += 1
            yield

    spec = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", epochs),))  # a batch an epoch
    monkeypatch.setattr(checkpoints.jobs, "training_steps", counted)
    monkeypatch.setattr(checkpoints.jobs, "compute_seconds", lambda device: float(ticks))
    assert checkpoints.jobs.time_retraining(spec, "cpu") == epochs


# ----------------------------------------------------------------------------------------------------------------------
# Growing and sharing
# ----------------------------------------------------------------------------------------------------------------------


def test_growing_trains_the_new_groups_alone(whole: Path, tmp_path: Path) -> None:
    """4 models, then 8: the old files are not touched, and the result is a bank of 8 made in one go."""
    build(tmp_path, models=4)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/model-*.pt")}
    _, workers, told = build(tmp_path)
    assert workers.jobs == [("train_group", "retrained", 4, 8)]
    assert told == []
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert digests(tmp_path) == digests(whole)


def test_a_whole_bank_is_left_alone(copy: Path) -> None:
    """Nothing to do for as many models as there are, or fewer."""
    for models in (MODELS, 3):
        _, workers, told = build(copy, models=models)
        assert (workers.jobs, told) == ([], [])


def test_requests_share_originals(whole: Path, copy: Path, in_folder: Callable[[Path], None]) -> None:
    """Another forget set retrains, but does not train the originals again: it records what they say on its images.

    Catches an original whose fingerprint depends on what is forgotten, and outputs that one task takes from another.
    """
    other = TaskSpec("digits", forget=("class:3",), train_size=60, recipe=TINY.recipe)
    _, workers, told = build(copy, spec=other, models=2)
    assert workers.jobs == [("record_group", "original", 0, 2), ("train_group", "retrained", 0, 2)]
    assert told == []
    after = digests(copy)
    assert all(after[name] == digest for name, digest in digests(whole).items())

    in_folder(copy)
    for spec in (TINY, other):
        task = load(spec)
        pool = Pool(task, "original")
        network = build_network(task)
        network.load_state_dict(pool.state(0))
        expected = record_outputs(network, task)
        for name, values in pool.outputs(1).arrays().items():
            np.testing.assert_allclose(values, expected.arrays()[name], rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Damage
# ----------------------------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    """In the middle of the file, where the numbers are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    """As a full disk leaves it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """As a power failure leaves it."""
    path.write_bytes(b"")


def delete(path: Path) -> None:
    """As a tidy user leaves it."""
    path.unlink()


DAMAGES = (flip_a_bit, cut_in_half, empty, delete)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_noticed_named_and_made_again(
    damage: Callable[[Path], None], whole: Path, copy: Path
) -> None:
    """Only the group of the damaged model is trained again, to the same bits."""
    path = pool_folder(copy) / "model-00003.pt"
    damage(path)
    _, workers, told = build(copy)
    assert len(told) == 1
    assert str(path) in told[0]
    assert "damaged" in told[0]
    assert workers.jobs == [("train_group", "retrained", 2, 4)]
    assert digests(copy) == digests(whole)


def know_every_image(path: Path) -> None:
    """Overwrite outputs with valid ones."""
    write_arrays(path, {name: array + 1 for name, array in Outputs.load(path).arrays().items()})


@pytest.mark.parametrize("damage", [*DAMAGES, know_every_image])
def test_changed_outputs_are_not_believed(
    damage: Callable[[Path], None], copy: Path, in_folder: Callable[[Path], None]
) -> None:
    """Whoever scores without making what is missing gets a sentence. Catches outputs that are read without a look at
    their hash: an overwritten file, valid in itself, once gave a score of 19."""
    in_folder(copy)
    pool = Pool(load(TINY), "retrained")
    damage(pool.outputs_path(4))
    with pytest.raises(UserError, match="grade again, which records it anew"):
        pool.outputs(8)
    assert len(pool.outputs(4)) == 4


def test_the_fingerprint_is_of_weights_and_outputs(copy: Path, in_folder: Callable[[Path], None]) -> None:
    """Of as many models as are compared. Catches two banks with the same weights that score differently."""
    in_folder(copy)
    task = load(TINY)
    bank = Bank(Pool(task, "original"), Pool(task, "retrained"), 1.0)
    originals, retrained = bank.originals.outputs(2), bank.retrained.outputs(8)
    found = bank.fingerprint(originals, retrained)
    assert found == bank.fingerprint(originals, replace(retrained, retain=None)), "early versions lack some arrays"
    others = [bank.fingerprint(originals[:1], retrained), bank.fingerprint(originals, retrained[:6])]
    others += [
        bank.fingerprint(originals, replace(retrained, **{name: array + np.float32(1e-3)}))
        for name, array in retrained.arrays().items()
        if name in SCORED
    ]
    manifest = bank.retrained.manifest_path
    manifest.write_text(manifest.read_text().replace(sha256_of(bank.retrained.model_path(7)), "0" * 64))
    others.append(bank.fingerprint(originals, retrained))
    assert len({found, *others}) == 1 + len(others) == 8


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_outputs_are_recorded_again(damage: Callable[[Path], None], whole: Path, copy: Path) -> None:
    """From the weights, without training, to the same bits."""
    (path,) = pool_folder(copy).glob("outputs-*-00004.npz")
    damage(path)
    _, workers, told = build(copy)
    assert len(told) == 1
    assert str(path) in told[0]
    assert workers.jobs == [("record_group", "retrained", 4, 8)]
    assert digests(copy) == digests(whole)


@pytest.mark.parametrize("content", ["", '{"files": {"model-000', "[]", '{"files": 3}', "\0\1\2"])
def test_damaged_manifest_is_named_and_made_again(content: str, whole: Path, copy: Path) -> None:
    """Without it nothing tells whether weights are whole: they are trained again, to the same bits."""
    path = pool_folder(copy) / "manifest.json"
    path.write_text(content)
    _, _, told = build(copy)
    assert any(str(path) in line for line in told)
    assert digests(copy) == digests(whole)
    assert build(copy)[1].jobs == []


def test_files_without_a_record_are_made_again(whole: Path, copy: Path) -> None:
    """A crash between the last file of a group and the manifest: files of unknown content are not trusted."""
    path = pool_folder(copy) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["model-00005.pt"]
    path.write_text(json.dumps(manifest))
    torch.save({}, pool_folder(copy) / "model-00005.pt")
    _, workers, _ = build(copy)
    assert workers.jobs == [("train_group", "retrained", 4, 8)]
    assert digests(copy) == digests(whole)


# ----------------------------------------------------------------------------------------------------------------------
# Interruptions
# ----------------------------------------------------------------------------------------------------------------------


class Interruption(BaseException):
    """Stops a build."""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[int]]:
    """A bank that was stopped after two of the three epochs of its first group, and the epochs trained from then on."""
    epochs: list[int] = []
    train_epoch = GroupTrainer.train_epoch
    with monkeypatch.context() as patch:

        def stopped(self: GroupTrainer) -> None:
            if self.epoch == 2:
                raise Interruption
            train_epoch(self)

        patch.setattr(GroupTrainer, "train_epoch", stopped)
        with pytest.raises(Interruption):
            build(tmp_path, snapshot_seconds=-1.0)

    def noted(self: GroupTrainer) -> None:
        epochs.append(self.epoch)
        train_epoch(self)

    monkeypatch.setattr(GroupTrainer, "train_epoch", noted)
    return tmp_path, epochs


def test_a_group_goes_on_from_its_snapshot(interrupted: tuple[Path, list[int]], whole: Path) -> None:
    """Its last epoch is all that is left to train, and the bits are those of training without a stop."""
    folder, epochs = interrupted
    build(folder)
    assert epochs == [2] + 3 * [0, 1, 2]
    assert digests(folder) == digests(whole)
    assert list(folder.glob("*/snapshot*")) == []


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, empty])
def test_a_damaged_snapshot_is_not_used(
    damage: Callable[[Path], None], interrupted: tuple[Path, list[int]], whole: Path
) -> None:
    """The group starts anew. Catches a flipped bit, which `torch.load` reads without complaint."""
    folder, epochs = interrupted
    (snapshot,) = folder.glob("*/snapshot*")
    damage(snapshot)
    build(folder)
    assert epochs == 4 * [0, 1, 2]
    assert digests(folder) == digests(whole)


@pytest.fixture(scope="module")
def whole_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of the longer recipe, made in one go."""
    folder = tmp_path_factory.mktemp("whole-long")
    build(folder, LONG)
    return folder


def start(workers: int, bank: Path, ledger: Path) -> subprocess.Popen[str]:
    """Start a process, in a group of its own, that builds the bank of `LONG` with so many workers."""
    command = [sys.executable, "-m", "tests.checkpoints.noting", str(workers), str(ledger)]
    environment = {**os.environ, "UNLEARNING_BANK": str(bank), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def living_processes(group: int) -> list[str]:
    """The processes of a group that still run, as Linux lists them (the dead may wait there for their parent)."""
    living = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(its_group) == group and state not in "ZX":
            living.append(status.parent.name)
    return living


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.slow
def test_kill_9_and_resume(whole_long: Path, tmp_path: Path) -> None:
    """Killed in the middle of a group, resumed with another number of workers: the bits of a build in one go.

    And the workers of the killed process end, instead of training to the end for nobody.
    """
    bank, ledger = tmp_path / "bank", tmp_path / "ledger"
    process = start(1, bank, ledger)
    wait_until(lambda: any(bank.glob("*/model-*.pt")) and any(bank.glob("*/snapshot*")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    wait_until(lambda: living_processes(process.pid) == [])
    assert digests(bank) != digests(whole_long), "it was killed too late for this test to show anything"

    process = start(2, bank, ledger)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "damaged" not in stderr
    assert digests(bank) == digests(whole_long)


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    """Look every few milliseconds; an error if it does not happen."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.slow
def test_two_processes_build_the_bank_once(whole_long: Path, tmp_path: Path) -> None:
    """One trains, the other waits, says so, and uses the same models."""
    bank, ledger = tmp_path / "bank", tmp_path / "ledger"
    processes = [start(1, bank, ledger) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    groups = [line for line in ledger.read_text().splitlines() if "timed" not in line]
    assert sorted(groups) == ["original 0", "retrained 0", "retrained 2", "retrained 4"]
    assert sum("waiting for it" in text for text in told) == 1
    assert digests(bank) == digests(whole_long)


@pytest.mark.slow
def test_all_workers_time_retraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, at once: the budget is a share of what retraining takes where the others are busy, too.

    Catches a measurement by one worker alone, and one of all by the same worker.
    """
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / "bank"))
    ledger = tmp_path / "ledger"
    for _ in range(2):  # the second time, it is known
        build_long(2, ledger)
        timed_by = [line for line in ledger.read_text().splitlines() if line.startswith("timed by")]
        assert len(timed_by) == 2
        assert len(set(timed_by)) == 2


def test_how_long_training_may_take_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for all models, and for one alone; whoever does not want them has lost nothing, and has no model."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path))
    told: list[tuple[float, float]] = []

    def foresee(training: float, retraining: float) -> None:
        told.append((training, retraining))
        if len(told) < 3:
            raise UserError("That takes too long.")

    for closely in (False, True):
        monkeypatch.setattr("checkpoints.bank.SHORT", 0.0 if closely else 1e9)
        with pytest.raises(UserError, match="That takes too long"):
            ensure(load(TINY), 2, 4, InThisProcess(), foresee=foresee)
        assert not list(tmp_path.glob("*/model-*"))
    for training, retraining in told:
        assert 0 < training <= 6 * retraining  # six models, which may be quicker together
    monkeypatch.setattr("checkpoints.bank.SHORT", 1e9)
    for _ in range(2):
        ensure(load(TINY), 2, 4, InThisProcess(), foresee=foresee)
    assert told[2][0] == pytest.approx(6 * told[2][1])
    assert told[3] == (0.0, told[2][1]), "all models are there"


@pytest.mark.parametrize("recipe", [(), PRIVATE, (("pruning", "omp"), ("sparsity", 0.5)), (("epochs", 1),)])
def test_every_kind_of_training_can_be_timed(recipe: tuple[Any, ...]) -> None:
    """Catches one that can't train on a few batches."""
    network = "mlp" if recipe == PRIVATE else None
    spec = replace(TINY, network=network, recipe=(*TINY.recipe, *recipe))
    assert 0 < checkpoints.jobs.time_training(spec, "cpu", "retrained", 0, 2) < 60


def test_outputs_survive_saving(tmp_path: Path) -> None:
    """What is read back is what was saved, and slices and joins keep the order of the models."""
    generator = np.random.default_rng(0)
    forget, validation, test = generator.normal(size=(3, 5, 4, 2))
    outputs = Outputs(forget, validation, test, retain_accuracy=generator.random(5))
    outputs.save(tmp_path / "outputs.npz")
    again = Outputs.join([Outputs.load(tmp_path / "outputs.npz")[:2], outputs[2:]])
    assert len(again) == 5
    for name, values in outputs.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)


# ----------------------------------------------------------------------------------------------------------------------
# Training that diverges
# ----------------------------------------------------------------------------------------------------------------------

DIVERGING = {
    "weights": {"learning_rate": 1e6, "weight_decay": 1e3},
    "pruned": {"learning_rate": 1e6, "weight_decay": 1e3, "pruning": "synflow", "sparsity": 0.5},
    "alone": {"learning_rate": 1e6, "weight_decay": 1e3, "models_together": 1},
}


@pytest.mark.parametrize("recipe", DIVERGING.values(), ids=DIVERGING)
def test_training_that_diverges_is_told_of_and_leaves_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Catches a bank of NaN, for which the first method that was graded on it got the blame."""
    spec = replace(TINY, network="mlp", recipe=(("epochs", 12), *recipe.items()))
    with pytest.raises(UserError, match=r"The training of \w+ model \d+ \(mlp\) diverged.*--recipe learning_rate="):
        build(tmp_path, spec, snapshot_seconds=0.0)
    assert digests(tmp_path) == {}
    assert not list(tmp_path.glob("*/*.pt"))


def test_finite_weights_with_infinite_outputs_have_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of large weights overflow. Catches a check of weights alone."""

    def huge(network: torch.nn.Module, task: Task) -> Outputs:
        outputs = record_outputs(network, task)
        outputs.test[-1, 0, 0] = np.inf
        return outputs

    monkeypatch.setattr(checkpoints.jobs, "record_outputs", huge)
    with pytest.raises(UserError, match=r"model 1 .*infinite outputs on the test set"):
        build(tmp_path, originals=2, models=2)
    assert digests(tmp_path) == {}
