"""Zips of checkpoints made elsewhere: an honest one gets its method's score, a hostile one gets a sentence."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from checkpoints.networks import build_network
from checkpoints.pool import Pool
from checkpoints.workers import Workers, be_deterministic
from data import Task, TaskSpec, UserError, load
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.runs.settings import RunSettings, run_seed
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec
from evaluation.submission import CheckpointJob, check_all, evaluate, largest_checkpoint, look_over
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Answer

N = 6
SPEC = TaskSpec(forget=("random:12",), train_size=60, test_size=50, recipe=(("epochs", 3),))
FLAGS = ["--task", "digits", "--train-size", "60", "--test-size", "50", "--recipe", "epochs=3", "--forget", "random:12"]


State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def task() -> Task:
    """The task that the submissions are for."""
    return load(SPEC)


def name_of(run: int) -> str:
    """The name of a checkpoint in a submission."""
    return f"unlearned_checkpoint_{run}.pth"


def as_bytes(content: object, **how: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def good_state(task: Task, seed: int = 0) -> State:
    """The weights of a fresh network of the task."""
    return build_network(task, seed).state_dict()


def write_zip(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """A zip file with these members."""
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def good_members(task: Task) -> dict[str, bytes]:
    """The members of an honest submission."""
    return {name_of(run): as_bytes(good_state(task, run)) for run in range(N)}


def refusal(path: Path, folder: Path, task: Task) -> str:
    """Do what the grader does with a zip, in this process; what it says of it ("" if nothing)."""
    try:
        submission = look_over(path, N, task)
    except UserError as error:
        return str(error)
    job = CheckpointJob(SPEC, "cpu", submission, folder)
    complaints = (job(run) for run in range(N))
    return next((failure.complaint for failure in complaints if failure is not None), "")


# ----------------------------------------------------------------------------------------------------------------------
# Honest submissions
# ----------------------------------------------------------------------------------------------------------------------


def test_an_honest_zip_is_accepted(task: Task, tmp_path: Path) -> None:
    """Stored or compressed, weights in half precision or double, in a list of any order: all checkpoints are read."""
    members = good_members(task)
    assert refusal(write_zip(tmp_path / "stored.zip", members), tmp_path / "a", task) == ""
    placed = {f"kaggle/tmp/{name}": data for name, data in members.items()}
    assert refusal(write_zip(tmp_path / "as-on-kaggle.zip", placed), tmp_path / "c", task) == ""
    mixed = dict(reversed(members.items()))
    mixed[name_of(1)] = as_bytes({name: value.double() for name, value in good_state(task, 1).items()})
    mixed[name_of(2)] = as_bytes(
        {name: value.half() if value.is_floating_point() else value for name, value in good_state(task, 2).items()}
    )
    assert refusal(write_zip(tmp_path / "deflated.zip", mixed, zipfile.ZIP_DEFLATED), tmp_path / "b", task) == ""


@pytest.mark.slow
def test_devices_that_share_the_work_leave_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, runs, a graded zip: the processor twice is the processor, bit for bit. Catches work that is done once."""
    left: list[dict[str, bytes]] = []
    for devices in ("cpu", "cpu,cpu"):
        folder = tmp_path / devices
        for name in ("BANK", "RESULTS"):
            monkeypatch.setenv(f"UNLEARNING_{name}", str(folder / name))
        common = (*FLAGS, "--models", str(N), "--device", devices, "--workers", "1")
        answer = command("-m", "my_method", "--originals", "2", "--budget-seconds", "60", *common)
        assert answer.code == 0, answer.stderr
        assert f"{devices}, {1 + devices.count(',')} worker" in answer.stderr
        models = sorted(folder.glob("BANK/*/model-*.pt"), key=lambda path: path.relative_to(folder))
        members = {name_of(number): path.read_bytes() for number, path in enumerate(models[:N])}
        answer = command("grade", str(write_zip(folder / "models.zip", members)), *common)
        assert answer.code == 0, answer.stderr
        left.append({str(path.relative_to(folder)): path.read_bytes() for path in models})
        for path in sorted(folder.glob("RESULTS/*/*/outputs.npz")):
            unlearned = Unlearned.load(path)
            assert unlearned is not None
            arrays = unlearned.outputs.arrays()
            left[-1][path.parent.name.partition("-")[0]] = b"".join(array.tobytes() for array in arrays.values())
    assert left[0] == left[1]


@pytest.mark.slow
def test_the_score_is_that_of_the_runs(results: Path, task: Task, tmp_path: Path) -> None:
    """Checkpoints of a method's own runs get the report that the method gets, and a place on the same leaderboard."""
    flags = [*FLAGS, "--models", str(N)]
    graded = command(
        "-m", "my_method", "--set", "learning_rate=0.1", "--originals", "1", "--budget-seconds", "60", "--json", *flags
    )
    report = json.loads(graded.stdout)

    be_deterministic("cpu")
    original = Pool(task, "original").state(0)
    settings = RunSettings(SPEC, "cpu", "my_method", report["method"]["settings"], 0, tmp_path)
    members = {}
    for run in range(N):
        seed = run_seed(settings, 0, run)
        net = unlearn_once("my_method", settings.hyper_parameters, task, original_network(task, original), seed).net
        members[name_of(run)] = as_bytes(net.state_dict())
    path = write_zip(tmp_path / "submission.zip", members)

    first = command("grade", str(path), "--json", *flags)
    submitted = json.loads(first.stdout)
    for name in report.keys() - {"method", "cost", "provenance", "drift"}:
        assert submitted[name] == report[name], name
    assert submitted["cost"]["retrain_seconds"] == report["cost"]["retrain_seconds"]
    for name in ("device", "versions", "git_commit"):
        assert submitted["provenance"][name] == report["provenance"][name]
    assert submitted["method"]["name"] == "submission"

    shown = command("grade", str(path), "--name", "of a friend", *flags)
    assert "unknown: the checkpoints were made elsewhere" in shown.stdout
    rows = [
        line
        for line in command("leaderboard").stdout.splitlines()
        if f"{report['scores']['score']['value']:.4f}  [" in line
    ]
    assert len(rows) == 3, "my_method, submission and of_a_friend are in one table"

    (folder,) = results.glob("*/submission-*")
    again = command("score", str(folder), "--json")
    assert json.loads(again.stdout)["scores"] == report["scores"]

    assert "Only 12 images are to be forgotten" in first.stderr
    for_config = command("--config", str(folder / "config.yaml"))
    assert (for_config.code, for_config.stdout) == (2, "")
    assert f"is that of a graded zip: python main.py grade {path} " in for_config.stderr
    (folder / "outputs.npz").unlink()
    assert f"is not finished: python main.py grade {path} " in command("score", str(folder)).stderr


@pytest.mark.slow
def test_a_zip_of_the_banks_own_models_is_named(results: Path, task: Task, tmp_path: Path) -> None:
    """In another order and with a little noise: in the report, on the terminal, and on the leaderboard."""
    flags = [*FLAGS, "--models", str(N)]
    command("-m", "do_nothing", "--originals", "1", "--quiet", *flags)
    generator = torch.Generator().manual_seed(0)
    members = {}
    for run in range(N):
        state = Pool(task, "retrained").state(N - 1 - run)
        for value in state.values():
            if value.is_floating_point() and value.numel() > 1:
                value += 0.001 * value.std() * torch.randn(value.shape, generator=generator)
        members[name_of(run)] = as_bytes(state)
    path = write_zip(tmp_path / "submission.zip", members)
    report = json.loads(command("grade", str(path), "--json", *flags).stdout)
    copies = report["plausibility"]["copies"]
    assert [(one["run"], one["retrained"]) for one in copies] == [(run, N - 1 - run) for run in range(N)]
    shown = command("grade", str(path), *flags).stdout
    assert f"{N} of its models are copies, or nearly so, of the bank's retrained models: checkpoint 0 of 5" in shown
    assert "hardly possible for an honest method" in command("leaderboard").stdout
    assert "BEWARE" not in command("-m", "do_nothing", "--originals", "1", "--quiet", *flags).stdout


def test_a_bad_checkpoint_is_found_before_anything_is_trained(
    task: Task, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last one. Catches checkpoints that are first read when the bank is there, hours later."""
    monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / "bank"))
    members = good_members(task)
    members[name_of(5)] = as_bytes({"a": torch.zeros(1)})
    path = write_zip(tmp_path / "submission.zip", members)
    answer = command("grade", str(path), *FLAGS, "--models", str(N), "--workers", "1")
    assert answer.code == 2
    assert "unlearned_checkpoint_5.pth is of another network" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "bank").exists()
    assert list(results.rglob("*.npz")) == []


def test_an_interrupted_grading_goes_on(task: Task, results: Path, tmp_path: Path) -> None:
    """Checkpoints that were evaluated before an interruption are neither read nor evaluated again."""
    submission = look_over(write_zip(tmp_path / "submission.zip", good_members(task)), N, task)
    job = CheckpointJob(SPEC, "cpu", submission, results / "submission")
    spec = GradingSpec("submission", SPEC, originals=1, models=N)
    for run in (0, 1, 3):
        assert job(run) is None
    done: dict[str, list[int]] = {"read": [], "evaluated": []}
    with Workers(1) as workers:
        check_all(job, workers, lambda count, _: done["read"].append(count))
        evaluate(job, spec, workers, lambda text: None, lambda count, _: done["evaluated"].append(count))
    for counts in done.values():
        assert (counts[0], counts[-1]) == (3, N)


LITTER = (
    *("kaggle/", "kaggle/tmp/", ".DS_Store", "kaggle/.DS_Store", "__MACOSX/", "__MACOSX/._unlearned_checkpoint_0.pth"),
    *("__MACOSX/kaggle/tmp/._unlearned_checkpoint_3.pth", "kaggle/tmp/._unlearned_checkpoint_3.pth", "a/Thumbs.db"),
    *("desktop.ini", ".ipynb_checkpoints/", ".ipynb_checkpoints/unlearned_checkpoint_0-checkpoint.pth", "Desktop.ini"),
    *("a/thumbs.db", "Icon\r", "@eaDir/x", "__MACOSX", ".Trashes/x", "kaggle\\", "./", "./.DS_Store", "b\\Thumbs.db"),
)


def test_what_systems_put_into_a_zip_is_passed_over(task: Task, tmp_path: Path) -> None:
    """Folders, and what file managers leave. Catches a zip of macOS that is refused."""
    members = {
        **dict.fromkeys(LITTER, b""),
        **{f"kaggle/tmp/{name}": data for name, data in good_members(task).items()},
    }
    members["__MACOSX/kaggle/tmp/._unlearned_checkpoint_3.pth"] = bytes(10_000_000)
    assert refusal(write_zip(tmp_path / "of-a-mac.zip", members), tmp_path / "folder", task) == ""
    (tmp_path / "tree" / "kaggle" / "tmp").mkdir(parents=True)
    for name, data in good_members(task).items():
        (tmp_path / "tree" / "kaggle" / "tmp" / name).write_bytes(data)
    shutil.make_archive(str(tmp_path / "tree"), "zip", tmp_path / "tree")
    assert refusal(tmp_path / "tree.zip", tmp_path / "folder", task) == ""


@pytest.mark.parametrize("before", ["./", "./kaggle/tmp/", "kaggle\\tmp\\"])
def test_zips_of_other_programs(before: str, task: Task, tmp_path: Path) -> None:
    """bsdtar begins names with ./, and older programs of Windows have backslashes in them. Catches a refusal."""
    members = {f"{before}{name}": data for name, data in good_members(task).items()}
    assert refusal(write_zip(tmp_path / "other.zip", members), tmp_path / "folder", task) == ""


# ----------------------------------------------------------------------------------------------------------------------
# Hostile and broken zips
# ----------------------------------------------------------------------------------------------------------------------

Members = Callable[[Task], dict[str, bytes]]


def with_extra(name: str) -> Members:
    """An honest submission with one more member."""
    return lambda task: {**good_members(task), name: b"hello"}


def with_first(make: Callable[[Task], bytes]) -> Members:
    """An honest submission whose first checkpoint is another."""
    return lambda task: {**good_members(task), name_of(0): make(task)}


def with_state(change: Callable[[State], object]) -> Members:
    """An honest submission whose first checkpoint is what `change` makes of its state, or leaves of it."""

    def make(task: Task) -> bytes:
        state = dict(good_state(task))
        changed = change(state)
        return as_bytes(state if changed is None else changed)

    return with_first(make)


class Evil:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("open('/tmp/you-have-been-had', 'w').write('!')",))


def compressed_inside(task: Task) -> bytes:
    """A checkpoint whose tensors are compressed, which PyTorch would unpack without asking."""
    stored = zipfile.ZipFile(io.BytesIO(as_bytes(good_state(task))))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in stored.infolist():
            archive.writestr(part.filename, stored.read(part))
    return file.getvalue()


def fill(state: State, name: str, value: float) -> None:
    """Overwrite all numbers of a weight."""
    state[name].fill_(value)


def with_dtype(dtype: torch.dtype) -> Members:
    """An honest submission but for a weight of this type, in the right shape."""
    return with_state(lambda state: {**state, "0.weight": torch.empty(state["0.weight"].shape, dtype=dtype)})


def small_file_of_a_large_tensor(state: State) -> None:
    """One number that claims to be a hundred billion: `expand` needs no memory until it is looked at."""
    state["0.weight"] = torch.zeros(1).expand(10**11)


def prefixed(prefix: str) -> Members:
    """An honest submission but for what stands before the names in the first checkpoint."""
    return with_state(lambda state: {f"{prefix}{name}": value for name, value in state.items()})


def scripted(task: Task) -> bytes:
    """A network that `torch.jit` has saved."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


def numpys(task: Task) -> bytes:
    """Weights that NumPy has saved."""
    file = io.BytesIO()
    np.savez(file, *(value.numpy() for value in good_state(task).values()))
    return file.getvalue()


HOSTILE: dict[str, tuple[Members, str]] = {
    "path that climbs out": (with_extra("../../evil.pth"), "only unlearned_checkpoint_0.pth"),
    "absolute path": (with_extra("/etc/passwd"), "only unlearned_checkpoint_0.pth"),
    "windows path": (with_extra("..\\..\\evil.pth"), "only unlearned_checkpoint_0.pth"),
    "path that climbs in between": (with_extra("a/../unlearned_checkpoint_6.pth"), "only unlearned_checkpoint_0.pth"),
    "checkpoint of a path that climbs": (
        with_extra("../unlearned_checkpoint_6.pth"),
        "only unlearned_checkpoint_0.pth",
    ),
    "checkpoint at an absolute path": (with_extra("/unlearned_checkpoint_6.pth"), "only unlearned_checkpoint_0.pth"),
    "checkpoint of a windows path that climbs": (
        with_extra("a\\..\\unlearned_checkpoint_6.pth"),
        "only unlearned_checkpoint_0.pth",
    ),
    "one twice, with a backslash": (with_extra("deep\\unlearned_checkpoint_3.pth"), "is in it twice"),
    "checkpoint on a drive": (with_extra("C:/unlearned_checkpoint_6.pth"), "only unlearned_checkpoint_0.pth"),
    "one too many, in a folder": (with_extra("deep/unlearned_checkpoint_6.pth"), "holds 7 checkpoints"),
    "one twice, in a folder": (with_extra("deep/unlearned_checkpoint_3.pth"), "is in it twice"),
    "another file": (with_extra("method.py"), "only unlearned_checkpoint_0.pth"),
    "number with zeros": (with_extra("unlearned_checkpoint_007.pth"), "only unlearned_checkpoint_0.pth"),
    "one too many": (with_extra("unlearned_checkpoint_6.pth"), "holds 7 checkpoints"),
    "one too few": (lambda task: {k: v for k, v in good_members(task).items() if k != name_of(3)}, "_3.pth is missing"),
    "empty": (lambda task: {}, "holds 0 checkpoints"),
    "zip bomb": (with_first(lambda task: bytes(10 * largest_checkpoint(build_network(task)))), "unpacked, and a"),
    "code in a pickle": (with_first(lambda task: as_bytes(Evil())), "without running code"),
    "code beside weights": (with_state(lambda state: {**state, "evil": Evil()}), "without running code"),
    "bare pickle with code": (with_first(lambda task: pickle.dumps(Evil())), "not a file of torch.save"),
    "old format": (
        with_first(lambda task: as_bytes(good_state(task), _use_new_zipfile_serialization=False)),
        "not a file of torch.save",
    ),
    "whole network": (with_first(lambda task: as_bytes(build_network(task))), "without running code"),
    "network of a module": (
        with_first(lambda task: as_bytes(build_network(task))),
        "a pickled object (torch.nn.modules.container.Sequential)",
    ),
    "TorchScript": (with_first(scripted), "is a TorchScript module: save its state_dict()"),
    "NumPy arrays": (
        with_state(lambda state: {name: value.numpy() for name, value in state.items()}),
        "holds NumPy arrays, which can't be read without running code: save tensors (torch.from_numpy(array))",
    ),
    "NumPy arrays of numpy.savez": (with_first(numpys), "is a file of numpy.savez"),
    "DataParallel": (prefixed("module."), "has 'module.' before the name of each weight, as torch.nn.DataParallel"),
    "averaged": (
        with_state(lambda state: {"n_averaged": torch.tensor(3), **{f"module.{n}": state[n] for n in state}}),
        "as torch.nn.DataParallel (or AveragedModel) saves them: save net.module.state_dict()",
    ),
    "compiled": (prefixed("_orig_mod."), "as torch.compile saves them: save net._orig_mod.state_dict()"),
    "Opacus": (prefixed("_module."), "as Opacus saves them: save net._module.state_dict()"),
    "Lightning": (prefixed("model.net."), "has 'model.net.' before the name of each weight: save"),
    "terminal codes": (prefixed("\x1b[31m."), "has '\\x1b[31m.' before the name"),
    "folder that climbs": (with_extra("../__MACOSX/x"), "only unlearned_checkpoint_0.pth"),
    "content in a folder's name": (with_extra("kaggle/"), "only unlearned_checkpoint_0.pth"),
    "list": (with_state(lambda state: list(state.values())), "not a state_dict"),
    "dict in a dict": (with_state(lambda state: {"state_dict": state}), "not a state_dict"),
    "empty file": (with_first(lambda task: b""), "not a file of torch.save"),
    "truncated": (with_first(lambda task: as_bytes(good_state(task))[:-300]), "not a file of torch.save"),
    "compressed inside": (with_first(compressed_inside), "compressed parts"),
    "other network": (with_state(lambda state: {"fc.weight": torch.zeros(2)}), "of another network"),
    "weight missing": (
        with_state(lambda state: {k: v for k, v in state.items() if k != "0.weight"}),
        "0.weight is missing or not known",
    ),
    "weight too many": (with_state(lambda state: {**state, "x": torch.zeros(1)}), "x is missing or not known"),
    "wrong shape": (
        with_state(lambda state: {**state, "0.weight": torch.zeros(3, 3)}),
        r"the shape (3, 3) in 0.weight",
    ),
    "tensor of nothing": (with_state(small_file_of_a_large_tensor), "the shape (100000000000,) in 0.weight"),
    "NaN": (with_state(lambda state: fill(state, "0.weight", float("nan"))), "NaN or infinite"),
    "infinite": (with_state(lambda state: fill(state, "1.running_var", float("inf"))), "NaN or infinite"),
    "too large for float32": (
        with_state(lambda state: {**state, "0.weight": torch.full_like(state["0.weight"], 1e300, dtype=torch.double)}),
        "NaN or infinite",
    ),
    "complex": (with_state(lambda state: {**state, "0.weight": state["0.weight"].to(torch.complex64)}), "unusual kind"),
    "sparse": (with_state(lambda state: {**state, "0.weight": state["0.weight"].to_sparse()}), "unusual kind"),
    "on no device": (
        with_state(lambda state: {**state, "0.weight": state["0.weight"].to("meta")}),
        "unusual kind of tensor in 0.weight",
    ),
    "bits": (with_dtype(torch.bits8), "unusual kind of tensor in 0.weight"),
    "two numbers in a byte": (
        with_dtype(getattr(torch, "float4_e2m1fn_x2", torch.bits4x2)),  # PyTorch 2.8 has the first
        "unusual kind of tensor in 0.weight",
    ),
    "unsigned numbers that PyTorch hardly knows": (with_dtype(torch.uint16), "unusual kind of tensor in 0.weight"),
    "quantized": (
        with_state(
            lambda state: {**state, "0.weight": torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)}
        ),
        "unusual kind of tensor in 0.weight",
    ),
    "NaN where whole numbers belong": (
        with_state(lambda state: {**state, "1.num_batches_tracked": torch.tensor(float("nan"))}),
        "NaN or infinite values in 1.num_batches_tracked",
    ),
    "no tensors": (with_state(lambda state: dict.fromkeys(state, 1.0)), "not a state_dict"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_contents_are_refused(case: str, task: Task, tmp_path: Path) -> None:
    """Each with a sentence that names what is wrong, and without a trace on the disk."""
    make, said = HOSTILE[case]
    path = write_zip(tmp_path / "submission.zip", make(task), zipfile.ZIP_DEFLATED)
    assert said in refusal(path, tmp_path / "folder", task)
    assert not Path("/tmp/you-have-been-had").exists()
    assert not (tmp_path / "folder" / "runs" / "original-000-run-0000.npz").exists()


def directory_of(data: bytes) -> int:
    """Where a zip's directory starts."""
    end = data.rfind(b"PK\x05\x06")
    (start,) = struct.unpack("<I", data[end + 16 : end + 20])
    return int(start)


def lie_about_the_size(data: bytes) -> bytes:
    """Every size in the zip's directory becomes 100: what is unpacked would be more than was looked over."""
    start = directory_of(data)
    changed = bytearray(data)
    while changed[start : start + 4] == b"PK\x01\x02":
        changed[start + 24 : start + 28] = struct.pack("<I", 100)
        lengths = struct.unpack("<HHH", changed[start + 28 : start + 34])
        start += 46 + sum(lengths)
    return bytes(changed)


def flip(data: bytes) -> bytes:
    """One bit of the first checkpoint's numbers has changed on the way."""
    changed = bytearray(data)
    changed[len(data) // (2 * N)] ^= 16
    return bytes(changed)


def encrypt(data: bytes) -> bytes:
    """The mark of an encrypted member, at the first one, in its own header and in the directory."""
    changed = bytearray(data)
    changed[data.find(b"PK\x03\x04") + 6] |= 1
    changed[directory_of(data) + 8] |= 1
    return bytes(changed)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no zip": (lambda data: b"hello", "is not a zip file"),
    "nothing": (lambda data: b"", "is not a zip file"),
    "cut off": (lambda data: data[: len(data) // 2], "is not a zip file"),
    "flipped bit": (flip, "damaged in the zip"),
    "false sizes": (lie_about_the_size, "damaged in the zip"),
    "encrypted": (encrypt, "is encrypted"),
    "gzip": (lambda data: zlib.compress(data), "is not a zip file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_zips_are_refused(case: str, task: Task, tmp_path: Path) -> None:
    """Whatever is wrong with the container itself."""
    spoil, said = BROKEN[case]
    path = write_zip(tmp_path / "submission.zip", good_members(task), zipfile.ZIP_DEFLATED)
    path.write_bytes(spoil(path.read_bytes()))
    assert said in refusal(path, tmp_path / "folder", task)


def test_a_member_twice_is_refused(task: Task, tmp_path: Path) -> None:
    """Which of the two would count?"""
    path = tmp_path / "submission.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # the library warns
        for name, data in [*good_members(task).items(), (name_of(2), b"x")]:
            archive.writestr(name, data)
    assert "unlearned_checkpoint_2.pth is in it twice" in refusal(path, tmp_path / "folder", task)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.zip"], "can't be read: No such file"),
        (["."], "can't be read: Is a directory"),
        (["nowhere.zip", "--task", "digit"], "digits"),
        (["nowhere.zip", "--metric", "offical"], "--metric is one of"),
        (["nowhere.zip", "--models", "2"], "needs at least"),
        (["nowhere.zip", "--task", "kaggle"], "--data-dir"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str) -> None:
    """One sentence, exit code 2."""
    answer: Answer = command("grade", *FLAGS, *arguments)
    assert answer.code == 2
    assert answer.stderr.startswith("error: ")
    assert said in answer.stderr


def test_the_largest_checkpoint_allows_what_torch_saves(task: Task) -> None:
    """The bound holds for every network of the kit, in single and in double precision, and is not much more."""
    for network in ("small_cnn", "all_cnn", "mlp", "resnet18"):
        net = build_network(load(TaskSpec(train_size=60, network=network)))
        size = len(as_bytes({name: value.double() for name, value in net.state_dict().items()}))
        assert size < largest_checkpoint(net) < 2 * size + (2 << 20)
