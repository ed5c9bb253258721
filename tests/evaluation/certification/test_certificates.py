"""Certificates as files, and their verification."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from evaluation.catalogue import lookup
from evaluation.certification.certificates import Certificate
from evaluation.certification.dp_sgd import dp_sgd_epsilon
from evaluation.certification.finishing import Chosen, Circumstances, finish
from evaluation.certification.hockey_stick import gaussian_noise, model_clipping_noise
from evaluation.certification.mechanisms import CONDITIONS, mechanisms
from evaluation.certification.renyi import clipping_noise
from evaluation.certification.verification import certify, verify
from tests.command_line import command

DYNAMICS: dict[str, Any] = {"initial_clip": 20.0, "gradient_clip": 10.0, "learning_rate": 0.01, "weight_decay": 50.0}
GOOD: dict[str, float | int | str] = {
    "noisy_phase_reads": "retain set",
    "noisy_phase_momentum": 0.0,
    "batch_norm_statistics": "reset",
    "start": "projected",
    "constants_chosen_on": "published",
}


def certificate(method: str, accounting: str, constants: dict[str, Any], epsilon: float = 1.0) -> Certificate:
    """One at delta = 1e-5 whose run did nothing wrong."""
    conditions = {name: GOOD[name] for name in mechanisms()[method].conditions}
    return Certificate(method, epsilon, 1e-5, accounting, constants, conditions, ("The seed is secret.",))


def published(claimed: Certificate, **changes: Any) -> Certificate:
    """The certificate of one model that is published as it should be."""
    known: dict[str, Any] = {
        "code": lookup.facts_of(claimed.method).code_sha256,
        "seed": "operating system",
        "chosen": Chosen("published"),
        "forget_set": "not read",
        "original_has_public_seed": False,
    }
    return finish(claimed.to_dict(), Circumstances(claimed.method, **{**known, **changes}))


def gradient_clipping(accounting: str = "gdp") -> Certificate:
    """Of the published CIFAR configuration."""
    noise = clipping_noise(1.0, 1e-5, **DYNAMICS, steps=11, accounting=accounting)
    return certificate("certified_gradient_clipping", accounting, {**DYNAMICS, "noise": noise.tolist()})


def model_clipping(gradient_clip: float = 0.0) -> Certificate:
    """With noise at the start; and with clipped gradients, which make the radius 0.5 * 0.9 + 0.01 * C1."""
    radius = 0.5 if gradient_clip == 0 else 0.5 * 0.9 + 0.01 * gradient_clip
    noise = model_clipping_noise(1.0, 1e-5, radius, 4, initial_clip=3.0, initial_noise=2.0)
    constants = {"initial_clip": 3.0, "initial_noise": 2.0, "model_clip": 0.5, "gradient_clip": gradient_clip}
    rest = {"learning_rate": 0.01, "weight_decay": 10.0, "steps": 4, "noise": noise}
    return certificate("certified_model_clipping", "exact", {**constants, **rest})


def output_perturbation(accounting: str = "analytic") -> Certificate:
    """Of the published clip for MNIST."""
    noise = gaussian_noise(1.0, 1e-5, 0.02, accounting)
    return certificate("certified_output_perturbation", accounting, {"initial_clip": 0.01, "noise": noise})


@cache
def private_training() -> Certificate:
    """A short training, 5 images to forget."""
    constants: dict[str, Any] = {"noise_multiplier": 2.0, "sampling_rate": 0.1, "steps": 20, "group": 5}
    return certificate("certified_dp_sgd", "exact", constants, dp_sgd_epsilon(**constants, delta=1e-5))


def retraining() -> Certificate:
    """Nothing is left of the original."""
    return replace(certificate("certified_retrain", "exact", {}, epsilon=0.0), delta=0.0)


RIGHT = {
    "gradient clipping": gradient_clipping,
    "by zCDP": lambda: gradient_clipping("exact"),
    "by theorem 1": lambda: gradient_clipping("paper"),
    "model clipping": model_clipping,
    "model clipping, noise first": lambda: model_clipping(2.0),
    "output perturbation": output_perturbation,
    "classical": lambda: output_perturbation("classical"),
    "DP-SGD": private_training,
    "retraining": retraining,
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_right_certificates_hold_and_survive_a_file(make: Any, tmp_path: Path) -> None:
    """Written, read and recomputed. The constants alone give the claim, or less where the accounting is generous."""
    made = published(make())
    path = tmp_path / "certificate.json"
    made.write(path)
    assert Certificate.read(path) == made
    verdict = certify(path)
    assert verdict.holds
    assert verdict.reasons == ()
    generous = made.method == "certified_gradient_clipping" and made.accounting != "gdp"
    generous |= made.accounting == "classical"
    assert verdict.epsilon <= made.epsilon * (1 + 1e-6)
    assert (verdict.epsilon == pytest.approx(made.epsilon, rel=1e-3)) != generous
    assert verdict.epsilon_as_accounted == pytest.approx(made.epsilon, rel=1e-3)
    assert f"{made.method}: epsilon = {made.epsilon:g}" in str(verdict)
    assert "The seed is secret." in str(verdict)


@pytest.mark.parametrize("make", [name for name in RIGHT.values() if name is not retraining])
def test_a_bolder_claim_does_not_hold(make: Any) -> None:
    """Half the epsilon with the same constants."""
    made = published(make())
    verdict = verify(replace(made, epsilon=made.epsilon / 2))
    assert not verdict.holds
    assert "give epsilon =" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (gradient_clipping, {"initial_clip": 25.0}),
        (gradient_clipping, {"gradient_clip": 11.0}),
        (gradient_clipping, {"weight_decay": 40.0}),
        (gradient_clipping, {"noise": [1.0] * 11}),
        (model_clipping, {"model_clip": 0.6}),
        (model_clipping, {"steps": 3}),
        (model_clipping, {"initial_noise": 0.0}),
        (lambda: model_clipping(2.0), {"gradient_clip": 3.0}),
        (lambda: model_clipping(2.0), {"weight_decay": 0.0}),
        (output_perturbation, {"initial_clip": 0.02}),
        (private_training, {"group": 6}),
        (private_training, {"steps": 30}),
    ],
)
def test_every_constant_counts(make: Any, change: dict[str, Any]) -> None:
    """Each changed for the worse makes the claim fail. Catches a constant that is stored and not used."""
    made = published(make())
    verdict = verify(replace(made, constants={**made.constants, **change}))
    assert not verdict.holds
    assert verdict.epsilon > made.epsilon


def test_the_published_accounting_does_not_hold() -> None:
    """Its epsilon of 1 is recomputed as it was computed, and shown to be 6.56 (rho = 0.9964)."""
    verdict = verify(published(gradient_clipping("code_compat")))
    assert not verdict.holds
    assert verdict.epsilon_as_accounted == pytest.approx(1.0)
    assert verdict.epsilon == pytest.approx(6.56, abs=0.01)
    (reason,) = verdict.reasons
    assert reason.startswith("Rightly accounted for, its constants give epsilon = 6.558")


def test_an_accounting_that_claims_nothing() -> None:
    """Theorem 1 is silent beyond ln(1 / delta) / 4."""
    made = published(gradient_clipping("paper"))
    verdict = verify(replace(made, epsilon=3.5, constants={**made.constants, "noise": [0.5] * 11}))
    assert verdict.epsilon_as_accounted is None
    assert not verdict.holds
    assert any("Theorem 1" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noisy_phase_reads", "training set"),
        ("noisy_phase_momentum", 0.9),
        ("batch_norm_statistics", "kept"),
        ("start", "as it was"),
        ("constants_chosen_on", "forget"),
        ("constants_chosen_on", "retain"),
        ("seed", "public"),
        ("seed", "user"),
        ("seed", "12345"),
        ("forget_set", "read"),
        ("forget_set", "not watched"),
    ],
)
def test_what_voids_a_certificate(name: str, value: float | str) -> None:
    """Each condition, with its sentence, whatever the numbers say."""
    made = published(gradient_clipping())
    verdict = verify(replace(made, conditions={**made.conditions, name: value}))
    assert not verdict.holds
    assert verdict.holds_otherwise == (name == "seed")
    (reason,) = verdict.reasons
    assert CONDITIONS[name].otherwise in reason
    assert reason in str(verdict)


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_a_claim_is_no_certificate(make: Any, tmp_path: Path) -> None:
    """What a method leaves, and what version 0.1 wrote: read and recomputed by its own rules, and no guarantee.

    Catches a public seed that nobody mentions, and a certificate that is brought into the older form to be rid of it.
    """
    path = tmp_path / "certificate.json"
    make().write(path)
    assert '"seed":' not in path.read_text()
    verdict = certify(path)
    assert not verdict.holds
    assert verdict.holds_otherwise
    assert verdict.epsilon_as_accounted == pytest.approx(make().epsilon, rel=1e-3)
    assert ("seed: public; for grading only" in str(verdict)) == (make is not retraining)
    assert "Everything else holds" in str(verdict)


def graded_run(folder: Path, config: str | None) -> tuple[Path, Path]:
    """The notes of a certified run in the folder of a grading with this `config.yaml`; and its `certificate.json`."""
    made = gradient_clipping()
    write_runs(folder, {"certificate": made.to_dict(), "history": {}})
    made.write(folder / "certificate.json")
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder / "runs" / "original-000-run-0000.json", folder / "certificate.json"


def test_notes_of_a_run_can_be_certified(tmp_path: Path) -> None:
    """What the grader keeps of a certified run, and of all runs."""
    for path in graded_run(tmp_path, "method: certified_gradient_clipping"):
        assert certify(path).holds_otherwise
        assert "which method left it" not in str(certify(path))


@pytest.mark.parametrize("method", ["do_nothing", "certified_model_clipping", "[/red]\\x1b[31m", "certified"])
def test_a_copied_certificate_does_not_hold(method: str, tmp_path: Path) -> None:
    """In the notes of a run of another method, and in the folder of its grading. Catches a do-nothing run that held."""
    for path in graded_run(tmp_path, f'method: "{method}"'):
        verdict = certify(path)
        assert not verdict.holds_otherwise
        assert verdict.reasons[0].startswith("It was left by ")
        assert "does not hold" in str(verdict)
        assert "\x1b" not in str(verdict)
        answer = command("certify", str(path))
        assert (answer.code, answer.stderr) == (1, "")


@pytest.mark.parametrize("config", [None, "", "[1]", "method: 3", "method: [", "method: a\nsubmission: x.zip", "\x00"])
def test_notes_of_nobody_are_refused(config: str | None, tmp_path: Path) -> None:
    """Nothing beside them says which method was run. A `certificate.json` alone is a claim, and says so."""
    notes, whole = graded_run(tmp_path, config)
    with pytest.raises(UserError, match=r"Nothing says which method left|can't be certified"):
        certify(notes)
    if config is None:
        verdict = certify(whole)
        assert verdict.holds_otherwise
        assert "It belongs to a run of its method: no config.yaml" in str(verdict)
    else:
        with pytest.raises(UserError, match=r"Nothing says which method left|can't be certified"):
            certify(whole)


def test_the_run_of_a_sweep_names_its_method(tmp_path: Path) -> None:
    """Its file has the method beside the certificate."""
    path = tmp_path / "run.json"
    result = {"accuracy": {}, "certificate": gradient_clipping().to_dict()}
    path.write_text(json.dumps({**result, "method": "certified_gradient_clipping"}))
    assert certify(path).holds_otherwise
    path.write_text(json.dumps({**result, "method": "finetune"}))
    assert not certify(path).holds_otherwise


EXTREME = [0, -1, 5e-324, 1e-100, 1e100, 10**12, 10**400]


@pytest.mark.slow
@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_extreme_numbers_are_answered(make: Any) -> None:
    """Each constant, epsilon and delta: a verdict or a sentence, soon. Catches steps that are counted to 10^12."""
    whole = published(make(), models_per_original=10**6)
    for made, name in product((make(), whole), [*make().constants, "epsilon", "delta"]):
        for value in EXTREME:
            values = made.to_dict()
            room = values["constants"] if name in values["constants"] else values
            room[name] = [value] * 3 if isinstance(room[name], list) else value
            assert answered(values).startswith((values["method"], "This certificate has been edited: "))


def answered(values: dict[str, Any]) -> str:
    """What is said of a certificate, whatever that is."""
    try:
        return str(verify(Certificate.from_dict(json.loads(json.dumps(values)))))
    except UserError as error:
        return str(error)


def write_runs(folder: Path, *notes: Any) -> Path:
    """A folder of a grading whose runs have left these notes."""
    (folder / "runs").mkdir(parents=True)
    for run, note in enumerate(notes):
        (folder / "runs" / f"original-000-run-{run:04d}.json").write_text(json.dumps(note))
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Files that are something else
# ----------------------------------------------------------------------------------------------------------------------


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    """Any change of a number. Catches a checksum that is not compared."""
    path = tmp_path / "certificate.json"
    gradient_clipping().write(path)
    text = path.read_text()
    assert '"epsilon": 1.0' in text
    path.write_text(text.replace('"epsilon": 1.0', '"epsilon": 0.5'))
    with pytest.raises(UserError, match="has been edited"):
        certify(path)
    values = json.loads(text)
    del values["sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="has been edited"):
        certify(path)
    path.write_text(json.dumps(json.loads(text), indent=4))  # laid out anew: still what was certified
    assert certify(path).holds_otherwise


@pytest.mark.parametrize(
    "text", ["", "not JSON", '{"method": ', '{"certificate": {"epsilon": NaN}}', '{"a": Infinity}', "\x80"]
)
def test_an_unreadable_file_is_refused(text: str, tmp_path: Path) -> None:
    """No JSON, or JSON with numbers that JSON has not."""
    path = tmp_path / "certificate.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="can't be read"):
        certify(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """And a folder."""
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UserError, match="can't be read"):
            certify(path)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{}", '{"method": "retrain", "score": 0.1}', '{"certificate": null}', '{"certificate": [1]}']
)
def test_foreign_files_are_refused(text: str, tmp_path: Path) -> None:
    """JSON of something else, for example a report, or notes of a run without a certificate.

    Catches a report that is called an edited certificate because it names a method, too.
    """
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no certificate"):
        certify(path)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "finetune"},
        {"method": ["certified_retrain"]},
        {"epsilon": "1"},
        {"epsilon": -1.0},
        {"epsilon": True},
        {"delta": 1.0},
        {"accounting": "paper theorem"},
        {"accounting": ["exact"]},
        {"constants": []},
        {"constants": DYNAMICS},
        {"constants": {**DYNAMICS, "noise": 1.0}},
        {"constants": {**DYNAMICS, "noise": [1.0, "2"]}},
        {"constants": {**DYNAMICS, "noise": []}},
        {"constants": {**DYNAMICS, "noise": [-1.0]}},
        {"constants": {**DYNAMICS, "noise": [1.0], "learning_rate": "0.01"}},
        {"constants": {**DYNAMICS, "noise": [1.0], "learning_rate": 10.0}},
        {"constants": {**DYNAMICS, "noise": [1.0], "more": 1.0}},
        {"conditions": {}},
        {"conditions": None},
        {"assumptions": "none"},
        {"assumptions": [1]},
        {"version": 2},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """As a sentence, never as another exception: fields that are missing, too many, or of another type or range."""
    path = tmp_path / "notes.json"
    path.write_text(json.dumps({"certificate": {**gradient_clipping().to_dict(), **change}}))
    with pytest.raises(UserError, match="edited"):
        certify(path)


def test_a_number_of_steps_is_whole(tmp_path: Path) -> None:
    """4.5 steps."""
    made = model_clipping()
    values = replace(made, constants={**made.constants, "steps": 4.5}).to_dict()
    with pytest.raises(UserError, match="steps must be int"):
        Certificate.from_dict(values)
