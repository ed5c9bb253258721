"""`unlearn` and `evaluate`: what goes in, what comes out, what is refused, and what the record says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from checkpoints.networks import build_network
from checkpoints.own_weights import read_weights
from checkpoints.workers import Workers
from data import TaskSpec, UserError, load
from data.files import sha256_of
from evaluation.certification.verification import certify
from evaluation.console import Console
from evaluation.handover.conduct import SMALL_SEEDS, Order, hand_over
from evaluation.handover.look import evaluate_weights
from evaluation.handover.record import HandoverRecord
from evaluation.spec import GradingSpec
from tests.command_line import command

TASK = TaskSpec("digits", ("random:12",), train_size=160, test_size=100, network="mlp", recipe=(("epochs", "3"),))
QUIET = Console(quiet=True)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkpoint of somebody's own, with a prefix, in an entry."""
    network = build_network(load(TASK), seed=5)
    path = tmp_path / "own.pth"
    torch.save({"model": nn.DataParallel(network).state_dict(), "epoch": 3}, path)
    return path


def order(method: str, weights: Path | None, out: Path, seed: int | None = 3, task: TaskSpec = TASK) -> Order:
    """An order with the method's default values."""
    return Order(GradingSpec(method, task), weights, seed, out)


def test_weights_go_in_and_come_out(own: Path, tmp_path: Path, workers: Workers) -> None:
    """The weights that come out are those of the record, differ from what went in, and can be evaluated again.

    Catches a record of other weights, and accuracies of the wrong model.
    """
    out = tmp_path / "home" / "unlearned.pth"
    record, path = hand_over(order("finetune", own, out), workers, QUIET)
    assert path == out
    stored = json.loads(out.with_suffix(".json").read_text())
    assert stored == json.loads(record.to_json())
    assert stored["weights_out"] == {"name": out.name, "sha256": sha256_of(out)}
    assert stored["weights_in"] == {"name": own.name, "sha256": sha256_of(own)}
    assert [step.images for step in record.steps] == [12]
    assert record.steps[0].drift > 0
    assert asdict(evaluate_weights(own, TASK, "cpu", QUIET)) == asdict(record.before)
    assert asdict(evaluate_weights(out, TASK, "cpu", QUIET)) == asdict(record.after)
    assert record.certificate is None


def test_nothing_is_done_by_do_nothing(own: Path, tmp_path: Path, workers: Workers) -> None:
    """Bit for bit, whatever the form of the file: what a method leaves alone comes home as it was."""
    for name in ("same.pth", "same.safetensors"):
        record, out = hand_over(order("do_nothing", own, tmp_path / name), workers, QUIET)
        task = load(TASK)
        before, after = read_weights(own, task), read_weights(out, task)
        assert all(torch.equal(before[key], value) for key, value in after.items())
        assert record.before == record.after
        assert record.steps[0].drift == 0


def test_seeds(own: Path, tmp_path: Path, workers: Workers) -> None:
    """A seed repeats a result; without one, each call gives other weights, and the record tells no seed."""

    def result(name: str, seed: int | None) -> tuple[HandoverRecord, str]:
        record, out = hand_over(order("noisy_finetune", own, tmp_path / name, seed), workers, QUIET)
        return record, sha256_of(out)

    assert result("a.pth", 1)[1] == result("b.pth", 1)[1] != result("c.pth", 2)[1]
    (first, one), (_, other) = result("d.pth", None), result("e.pth", None)
    assert one != other
    assert first.seed is None


def test_requests_arrive_in_order(own: Path, tmp_path: Path, workers: Workers) -> None:
    """Each request is a step of its own; the forget set of the looks is all of them."""
    task = replace(TASK, forget=("random:12", "class:3:6"))
    out = tmp_path / "u.pth"
    record, _ = hand_over(order("finetune", own, out, task=task), workers, QUIET)
    assert [step.images for step in record.steps] == [12, 6]
    assert record.forget_examples == 18
    assert len(record.after.accuracies.forget_by_request) == 2
    assert asdict(evaluate_weights(out, task, "cpu", QUIET)) == asdict(record.after)


def test_the_original_of_the_bank_is_the_default(tmp_path: Path, workers: Workers) -> None:
    """Without weights; and what a method prepares for a model (`linear_filtration`, `amnesiacs`, ...) is prepared."""
    record, _ = hand_over(order("datamodel_matching", None, tmp_path / "u.pth"), workers, QUIET)
    assert record.weights_in.sha256 is None
    assert record.steps[0].drift > 0


@pytest.mark.parametrize(("seed", "holds"), [(None, True), (7, False)])
def test_certificates(seed: int | None, holds: bool, own: Path, tmp_path: Path, workers: Workers) -> None:
    """It holds for the very weights, if nobody knows the seed, and for no others."""
    record, out = hand_over(order("certified_gradient_clipping", own, tmp_path / "u.pth", seed), workers, QUIET)
    assert record.certificate == "u-certificate.json"
    verdict = certify(out.with_name(record.certificate), out)
    assert verdict.holds is holds
    assert (SMALL_SEEDS in verdict.certificate.assumptions) is (seed is None)
    assert not certify(out.with_name(record.certificate), own).holds
    record, _ = hand_over(order("finetune", own, out), workers, QUIET)
    assert not out.with_name("u-certificate.json").exists(), "it was of the weights before"


def test_a_certificate_is_of_one_request(own: Path, tmp_path: Path, workers: Workers) -> None:
    """That of the last request says nothing of what earlier ones have published."""
    task = replace(TASK, forget=("random:12", "class:3:6"))
    record, _ = hand_over(order("certified_gradient_clipping", own, tmp_path / "u.pth", task=task), workers, QUIET)
    assert record.certificate is None


def test_only_its_own_files_are_overwritten(own: Path, tmp_path: Path, workers: Workers) -> None:
    """What this command wrote may be replaced; the file of the weights, and any other, may not, by whatever name."""
    again = order("do_nothing", own, tmp_path / "u.pth")
    hand_over(again, workers, QUIET)
    hand_over(again, workers, QUIET)
    (tmp_path / "u.pth").write_bytes(b"somebody else's")
    with pytest.raises(UserError, match="was not written by this command"):
        hand_over(again, workers, QUIET)
    (tmp_path / "link.pth").symlink_to(own)
    for out in (own, tmp_path / "link.pth"):
        with pytest.raises(UserError, match="is the file of --weights"):
            hand_over(order("do_nothing", own, out), workers, QUIET)
    for name, said in (("u.txt", "ends in .pth"), ("unlearned", "ends in .pth")):
        with pytest.raises(UserError, match=said):
            hand_over(order("do_nothing", own, tmp_path / name), workers, QUIET)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        hand_over(order("do_nothing", own, tmp_path / "folder.pth"), workers, QUIET)


FLAGS = (
    "--train-size",
    "160",
    "--test-size",
    "100",
    "--network",
    "mlp",
    "--recipe",
    "epochs=3",
    "--forget",
    "random:12",
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unlearn", "-m", "finetune", "--weights", "absent.pth"), "absent.pth can't be read"),
        (("unlearn", "--weights", "{own}"), "Name a method"),
        (("unlearn", "-m", "finetune,seif", "--weights", "{own}"), "one method"),
        (("unlearn", "-m", "finetune", "--weights", "{own}", "--network", "strided_cnn"), "They fit --network mlp"),
        (("unlearn", "-m", "finetune", "--weights", "{own}", "--set", "epochs=no"), "epochs"),
        (("evaluate",), "--weights model.pth"),
        (("evaluate", "--weights", "{own}", "--network", "small_cnn"), "They fit --network mlp"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], said: str, own: Path, tmp_path: Path) -> None:
    """One sentence, exit code 2, and no file."""
    given = [text.format(own=own) for text in arguments]
    out = ["--out", str(tmp_path / "u.pth"), "--workers", "1"] if given[0] == "unlearn" else []
    answer = command(given[0], *FLAGS, *given[1:], *out)
    assert answer.code == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "u.pth").exists()


def test_commands(own: Path, tmp_path: Path) -> None:
    """Both print a table, or JSON and nothing else; weights that know nothing of the images are told of."""
    out = tmp_path / "u.pth"
    common = (*FLAGS, "--weights", str(own))
    answer = command("unlearn", "-m", "finetune", *common, "--out", str(out), "--workers", "1", "-q")
    assert (answer.code, answer.stderr) == (0, "")
    assert "random:12, 12 images forgotten" in answer.stdout
    assert "before" in answer.stdout
    answer = command("evaluate", *FLAGS, "--weights", str(out), "--json", "-q")
    assert json.loads(answer.stdout) == json.loads(out.with_suffix(".json").read_text())["after"]
    torch.save({name: value * 0 for name, value in torch.load(out, weights_only=True).items()}, tmp_path / "zero.pth")
    answer = command("evaluate", *FLAGS, "--weights", str(tmp_path / "zero.pth"))
    assert answer.code == 0
    assert "hardly more than a guess" in " ".join(answer.stderr.split())
