"""Six ways in which a certificate could assert too much: each fails, by what the kit finds out and not the method."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from checkpoints.networks import build_network
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError, load
from data.loaders import ExampleDataset, TensorLoader, run_loaders
from evaluation.catalogue import lookup
from evaluation.catalogue.facts import MethodFacts
from evaluation.certification.certificates import Certificate
from evaluation.certification.finishing import (
    Chosen,
    Circumstances,
    collect,
    finish,
    how_chosen,
    warning_of_many,
)
from evaluation.certification.mechanisms import mechanisms
from evaluation.certification.verification import certify, verify
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.isolation.handle import room_workers
from evaluation.isolation.watched import WatchedDataset
from evaluation.report import Report
from evaluation.runs import resolve as resolving
from evaluation.runs.notes import with_watched
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec
from evaluation.tuned import Tuned
from methods.CertifiedRetrain import CertifiedRetrain
from methods.registry import Place
from tests.command_line import command
from tests.evaluation.certification.test_certificates import (
    gradient_clipping,
    model_clipping,
    output_perturbation,
    private_training,
    published,
    retraining,
    write_runs,
)

NAME = "certified_gradient_clipping"
TASK = TaskSpec("digits", forget=("random:12",), train_size=60, test_size=60, recipe=(("epochs", 1),))
SPEC = GradingSpec(NAME, TASK, originals=1, models=8, budget_seconds=60.0)


@pytest.fixture(scope="module")
def task() -> Task:
    """A small one."""
    return load(TASK)


def grading_in(folder: Path, task: Task, spec: GradingSpec = SPEC) -> Grading:
    """A grading whose folder is this one."""
    return replace(resolve(spec, task, "cpu"), folder=folder)


def notes_of(certificate: Certificate, read: bool | None = False) -> Any:
    """What the grader keeps of a run that left this claim."""
    return json.loads(with_watched(json.dumps({"certificate": certificate.to_dict(), "history": {}}), read))


# ----------------------------------------------------------------------------------------------------------------------
# 1: seeds of gradings are public, so that the noise can be subtracted
# ----------------------------------------------------------------------------------------------------------------------


def test_who_knows_the_seed_has_the_original(task: Task) -> None:
    """Why a public seed voids a certificate: the noise comes again, and what is left is the original, but shortened."""
    network = build_network(task, 0)
    settings = {"epochs": 0, "initial_clip": 0.01}
    name = "certified_output_perturbation"
    values = lookup.facts_of(name).values_in_force(settings)
    zeros = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    weights = [dict(network.state_dict()), zeros]
    left = [unlearn_once(name, values, task, original_network(task, one), seed=5).net for one in weights]
    told = flat(left[0]) - flat(left[1])  # the second has the same noise, and nothing else
    clipped = flat(network) * 0.01 / flat(network).norm()
    assert float((told - clipped).norm() / clipped.norm()) < 1e-3


def flat(network: nn.Module) -> torch.Tensor:
    """All weights, float64 `(weights,)`."""
    return torch.cat([weight.detach().double().flatten() for weight in network.parameters()])


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One process, for the gradings."""
    with room_workers(1) as pool:
        yield pool


@pytest.mark.slow
def test_a_grading_certifies_nothing_but_its_accounting(workers: Workers, results: Path) -> None:
    """From runs to the answer of `certify`: the one reason is the seed, and everything else is seen to hold."""
    spec = replace(SPEC, settings=(("epochs", "1"),))
    (report,) = grade_methods([spec], workers, Console(quiet=True))
    assert isinstance(report, Report), report
    (path,) = results.glob("*/*/certificate.json")
    verdict = certify(path)
    assert not verdict.holds
    assert verdict.holds_otherwise
    (reason,) = verdict.reasons
    assert reason.startswith("seed: public; for grading only.")
    answer = command("certify", str(path))
    assert answer.code == 1
    assert "Everything else holds: epsilon follows from the constants" in answer.stdout
    assert "8 models from one original have epsilon = 3.19" in answer.stdout
    assert "The user chose epochs without looking at the forget set." in answer.stdout
    kept = Certificate.read(path)
    assert kept.conditions["forget_set"] == "not read"
    assert kept.code == lookup.facts_of(NAME).code_sha256


@pytest.mark.parametrize(("seed", "holds"), [("operating system", True), ("user", False), ("public", False)])
def test_only_the_operating_systems_seed_is_secret(seed: str, holds: bool) -> None:
    """That of `unlearn` without `--seed`. Retraining has nothing that a seed could tell of."""
    assert verify(published(gradient_clipping(), seed=seed)).holds == holds
    assert verify(published(retraining(), seed=seed)).holds


def test_noise_of_an_original_of_the_bank_is_public() -> None:
    """However the run's seed was made: DP-SGD hides by the training, which anybody can repeat."""
    made = private_training()
    assert verify(published(made)).holds
    verdict = verify(published(made, original_has_public_seed=True))
    assert verdict.reasons[0].startswith("seed: public; for grading only.")


@pytest.mark.parametrize(
    "change", [{"code": "0" * 64, "weights": "", "models_per_original": 1}, {"models_per_original": 1}]
)
def test_a_method_can_not_finish_its_certificate(change: dict[str, Any], task: Task, tmp_path: Path) -> None:
    """Nor say how the seed was made: what is for the kit to say is refused in what a method leaves."""
    claimed = gradient_clipping().to_dict()
    finished = {**claimed, **change, "conditions": {**claimed["conditions"], "seed": "operating system"}}
    finished["conditions"]["forget_set"] = "not read"
    folder = write_runs(tmp_path, {"certificate": finished})
    known = Circumstances(NAME, finished.get("code", ""), "operating system", Chosen("published"), "not read")
    for wrong in (
        lambda: certify(folder / "runs" / "original-000-run-0000.json"),
        lambda: finish(finished, known),
        lambda: collect(grading_in(folder, task)),
    ):
        with pytest.raises(UserError, match=r"for the kit to say|has been edited"):
            wrong()


# ----------------------------------------------------------------------------------------------------------------------
# 2 and 3: constants that were chosen by looking at the forget set, or by the user
# ----------------------------------------------------------------------------------------------------------------------


def chosen(facts: MethodFacts, user: dict[str, Any], searched: dict[str, Any] | None = None) -> Chosen:
    """What is said of values that `--set` and `tune` gave."""
    return how_chosen(facts, facts.values_in_force({**(searched or {}), **user}), user, searched)


def test_where_constants_come_from() -> None:
    """Derived from the values in force. Catches "published" beside a changed constant, whatever the method says."""
    facts = lookup.facts_of(NAME)
    assert chosen(facts, {}) == Chosen("published")
    assert chosen(facts, {"epochs": "6", "initial_clip": "0.01"}) == Chosen("published")
    assert chosen(facts, {"initial_clip": "0.02", "epochs": "6"}) == Chosen("user", ("initial_clip",))
    said = {"constants_chosen_on": "published", "steps": "3"}
    assert chosen(facts, said) == Chosen("user", ("steps",))
    right = {"epochs": 5, "constants_chosen_on": "retrained"}
    assert chosen(facts, {}, right) == Chosen("retrained")
    assert chosen(facts, {"momentum": "0.9"}, right) == Chosen("user", ("momentum",))
    for older in ({"epochs": 5, "constants_chosen_on": "retain"}, {"epochs": 5}):
        assert chosen(facts, {}, older).on == "forget"
        assert chosen(facts, {"momentum": "0.9"}, older).on == "forget"


def test_the_users_choice_is_an_assumption(task: Task, tmp_path: Path) -> None:
    """With the names. A certificate that calls it published does not say so any more."""
    claimed = gradient_clipping()
    assert claimed.conditions["constants_chosen_on"] == "published"
    folder = write_runs(tmp_path, notes_of(claimed))
    spec = replace(SPEC, settings=(("initial_clip", "20"), ("steps", "11")))
    path = collect(grading_in(folder, task, spec))
    assert path is not None
    kept = Certificate.read(path)
    assert kept.conditions["constants_chosen_on"] == "user"
    assert "The user chose initial_clip, steps without looking at the forget set." in kept.assumptions
    assert certify(path).holds_otherwise


def test_values_of_older_searches_void_a_certificate(task: Task, tmp_path: Path) -> None:
    """They started from originals, which had seen the forget set, and so do those for a suite: from other requests."""
    for number, (said, holds) in enumerate({"retain": False, "retrained": True}.items()):
        tuned = Tuned((("epochs", 5), ("constants_chosen_on", said)), 15)
        folder = write_runs(tmp_path / str(number), notes_of(gradient_clipping()))
        path = collect(grading_in(folder, task, replace(SPEC, tuned=tuned)))
        assert path is not None
        assert certify(path).holds_otherwise == holds
        assert ("models that saw it, tell about it" in str(certify(path))) != holds


# ----------------------------------------------------------------------------------------------------------------------
# 4: one certificate, many models
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "epsilon"), [(1, 1.0), (2, 1.465), (64, 10.90), (512, 43.51)])
def test_what_many_models_tell_together(models: int, epsilon: float) -> None:
    """At the kit's epsilon = 1. Two Gaussians that are sqrt(n) times as far apart; twice by adding up loss."""
    for make in (gradient_clipping, output_perturbation):
        made = published(make(), models_per_original=models)
        assert "One model per original is published" in str(verify(made))
        together = verify(made).together
        if models == 1:
            assert together is None
            continue
        assert together is not None
        assert together == pytest.approx((epsilon, 1e-5), rel=1e-3)
        assert f"{models} models from one original have epsilon = {epsilon:.3g}" in str(verify(made))


def test_what_many_models_tell_together_by_other_mechanisms() -> None:
    """Nothing is known of model clipping but its epsilon and delta, which add up; one private original is one."""
    assert verify(published(model_clipping(), models_per_original=3)).together == pytest.approx((3.0, 3e-5))
    assert verify(published(model_clipping(), models_per_original=10**6)).together == (1e6, 1.0)
    for make in (private_training, retraining):
        made = make()
        assert verify(published(made, models_per_original=512)).together == (made.epsilon, made.delta)
        assert warning_of_many(made.to_dict(), 512) is None


def test_a_notebook_warns() -> None:
    """Of 512 checkpoints from one original, with the figure."""
    warning = warning_of_many(gradient_clipping().to_dict(), 512)
    assert warning is not None
    assert "512 models from one original together have epsilon = 43.5, delta = 1e-05." in warning


# ----------------------------------------------------------------------------------------------------------------------
# 5: weights that survive retraining
# ----------------------------------------------------------------------------------------------------------------------


class Scaled(nn.Sequential):
    """A network with a weight of its own, which nothing draws anew."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, `(n, 10)`."""
        return self[1](self[0](images)) * self.scale


def test_weights_that_survive_are_no_retraining(task: Task) -> None:
    """A sentence in place of epsilon = 0."""
    left = CertifiedRetrain()
    with pytest.raises(ValueError, match="scale can't be drawn anew"):
        left.run(Scaled(), *run_loaders(task, 1))
    assert not hasattr(left, "notes")


# ----------------------------------------------------------------------------------------------------------------------
# 6: of which method, and which weights?
# ----------------------------------------------------------------------------------------------------------------------


def test_a_certificate_is_for_one_file_of_weights(tmp_path: Path) -> None:
    """`certify --weights`: that one, and no other, nor any for which there is none."""
    weights, other = tmp_path / "unlearned.pth", tmp_path / "other.pth"
    weights.write_bytes(b"weights")
    other.write_bytes(b"Weights")
    path = tmp_path / "certificate.json"
    published(gradient_clipping(), weights=hashlib.sha256(b"weights").hexdigest()).write(path)
    assert certify(path).holds
    assert command("certify", str(path), "--weights", str(weights)).code == 0
    answer = command("certify", str(path), "--weights", str(other))
    assert answer.code == 1
    assert "but for other weights (SHA-256 " in answer.stdout
    answer = command("certify", str(path), "--weights", str(tmp_path / "nothing.pth"))
    assert answer.code == 2
    assert "can't be read" in answer.stderr
    published(gradient_clipping()).write(path)
    assert "It is for no file of weights" in str(certify(path, weights))


def test_a_certificate_is_for_one_version_of_the_code(tmp_path: Path) -> None:
    """With another one here, nobody has looked at what the runs did."""
    path = tmp_path / "certificate.json"
    published(gradient_clipping(), code="0" * 64).write(path)
    verdict = certify(path)
    assert not verdict.holds_otherwise
    assert "It was left by other code of certified_gradient_clipping than is here (SHA-256 00000000...," in str(verdict)


@pytest.mark.parametrize(
    "change",
    [
        {"code": "abc"},
        {"code": ""},
        {"code": None},
        {"weights": 3},
        {"weights": "x" * 64},
        {"models_per_original": 0},
        {"models_per_original": True},
        {"models_per_original": 10**9},
        {"models_per_original": 1.5},
        {"conditions": {}},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    """In what the kit adds."""
    with pytest.raises(UserError, match="edited"):
        Certificate.from_dict({**published(gradient_clipping()).to_dict(), **change})


KIT = Path(__file__).parents[3]


WAYS = {
    "by the loader": "for sample in forget_loader: pass",
    "by a loader of its own": "next(iter(DataLoader(forget_loader.dataset, 4)))",
    "in another process": "next(iter(DataLoader(forget_loader.dataset, 4, num_workers=1)))",
    "by an index": "forget_loader.dataset[0]",
    "by a name": "forget_loader.dataset._images",
    "by a copy": "import copy; copy.deepcopy(forget_loader.dataset)",
}
"""What a copied method may do in its run."""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copied_method_that_reads_the_forget_set_does_not_hold(
    way: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is registered with the mechanism, and notes that its noisy phase reads the retain set alone."""
    claimed, read = run_of_copy(way, task, tmp_path)
    assert read
    register(monkeypatch, copied="gradient_clipping")
    assert claimed["conditions"]["noisy_phase_reads"] == "retain set"
    for folder, notes in (("seen", notes_of(Certificate.from_dict(claimed), read)), ("lost", {"certificate": claimed})):
        spec = replace(SPEC, method="copied")
        path = collect(replace(grading_in(write_runs(tmp_path / folder, notes), task), spec=spec))
        assert path is not None
        assert not certify(path).holds_otherwise
        assert "A run that reads the forget set has traces of it" in str(certify(path))


def run_of_copy(way: str, task: Task, folder: Path) -> tuple[Any, bool | None]:
    """What a copy of the method claims that does this in its run; and whether it was seen to read the forget set."""
    text = (KIT / "methods" / "CertifiedGradientClipping.py").read_text(encoding="utf-8")
    line = "        _reset_statistics(net)\n        if self.fresh_start"
    assert text.count(line) == 1
    text = text.replace(line, f"        {way}\n{line}").replace(f'"method": "{NAME}"', '"method": "copied"')
    file = folder / "Copied.py"
    file.write_text(text, encoding="utf-8")
    module = f"copied_{hashlib.sha256(way.encode()).hexdigest()[:8]}"  # a name is imported once
    place = Place(module, "CertifiedGradientClipping", str(file))
    values = lookup.facts_of(NAME).values_in_force({"epochs": 0})
    done = unlearn_once(place, values, task, build_network(task, 0), seed=1)
    return json.loads(json.dumps(done.notes))["certificate"], done.read_forget_set


def register(monkeypatch: pytest.MonkeyPatch, **mechanism: str) -> None:
    """As if these were methods of the registry, with the mechanisms that they name, and otherwise the kit's."""
    known, of_one = lookup.all_facts(), lookup.facts_of
    facts = {name: replace(known[NAME], name=name, mechanism=what) for name, what in mechanism.items()}
    monkeypatch.setattr(lookup, "all_facts", lambda: known | facts)
    for module in (lookup, resolving):
        monkeypatch.setattr(module, "facts_of", lambda name: facts[name] if name in facts else of_one(name))


def test_a_copy_that_does_not_read_it_is_not_accused(task: Task, tmp_path: Path) -> None:
    """How many images are to be forgotten may be asked."""
    for way in ("len(forget_loader.dataset)", "len(forget_loader)", "pass"):
        _, read = run_of_copy(way, task, tmp_path)
        assert read is False


@pytest.mark.parametrize("name", [name for name, facts in lookup.all_facts().items() if facts.certifies])
def test_certified_methods_are_not_seen_to_read_it(name: str, task: Task) -> None:
    """None of the kit's reads the forget set. Catches a watch that accuses them, and a method that begins to."""
    values = lookup.facts_of(name).values_in_force({})
    done = unlearn_once(name, values, task, build_network(task, 0), seed=1)
    assert done.read_forget_set is False


def test_others_are_not_watched(task: Task) -> None:
    """A method that certifies nothing gets the data set itself."""
    values = lookup.facts_of("gradient_ascent").values_in_force({"epochs": 1})
    assert unlearn_once("gradient_ascent", values, task, build_network(task, 0), seed=1).read_forget_set is None


def test_a_watched_data_set_is_the_data_set(task: Task) -> None:
    """For whoever reads it: the same samples, batches and copies; and it notes that it was read."""
    examples = ExampleDataset(task.train, task.forget_indices)
    for read in (
        lambda one: one[3]["image"],
        lambda one: one.batch([1, 2])["image"],
        lambda one: next(iter(TensorLoader(one, 5)))["image"],
        lambda one: next(iter(DataLoader(Subset(one, [2, 5]), 2)))["image"],
        lambda one: copy.deepcopy(one)[1]["image"],
        lambda one: pickle.loads(pickle.dumps(one))[1]["image"],
    ):
        watched = WatchedDataset(examples)
        assert len(watched) == len(examples)
        assert not watched.was_read
        assert torch.equal(read(watched), read(examples))
        assert watched.was_read
    assert not hasattr(watched, "images")


def test_a_copy_without_a_mechanism_is_no_known_method(tmp_path: Path, task: Task) -> None:
    """A copy that nobody has registered: no certificate is kept of it."""
    folder = write_runs(tmp_path, notes_of(gradient_clipping()))
    for name in ("finetune", "copied"):
        assert name not in mechanisms()
        assert collect(replace(grading_in(folder, task), spec=replace(SPEC, method=name))) is None
    assert not (folder / "certificate.json").exists()


# ----------------------------------------------------------------------------------------------------------------------
# What a grading collects
# ----------------------------------------------------------------------------------------------------------------------


def test_a_grading_keeps_the_certificate_of_its_runs(task: Task, tmp_path: Path) -> None:
    """If all have left the same; its condition is that of the run that read most."""
    notes = notes_of(gradient_clipping())
    path = collect(grading_in(write_runs(tmp_path / "same", notes, notes), task))
    assert path == tmp_path / "same" / "certificate.json"
    assert certify(path).holds_otherwise
    one_read = collect(grading_in(write_runs(tmp_path / "read", notes, notes_of(gradient_clipping(), True)), task))
    assert one_read is not None
    assert Certificate.read(one_read).conditions["forget_set"] == "read"
    other = {"certificate": replace(gradient_clipping(), delta=1e-6).to_dict()}
    several: list[tuple[Any, ...]] = [(), (notes, {}), (notes, other), ({"certificate": None},), ([],)]
    for number, some in enumerate(several):
        folder = write_runs(tmp_path / str(number), *some)
        assert collect(grading_in(folder, task)) is None
        assert not (folder / "certificate.json").exists()


def test_what_a_method_notes_of_itself_does_not_count(task: Task, tmp_path: Path) -> None:
    """By the name that the kit uses for what it has seen."""
    claimed = {"certificate": gradient_clipping().to_dict(), "watched": {"forget_set": "not read"}}
    assert json.loads(with_watched(json.dumps(claimed), True))["watched"] == {"forget_set": "read"}
    assert json.loads(with_watched(json.dumps(claimed), None))["watched"] == {"forget_set": "not watched"}
    for other in ("[1]", '{"certificate": null}', '{"loss": [1]}'):
        assert with_watched(other, True) == other


def test_a_certificate_is_not_inherited(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What inherits from a certified method leaves its certificate, too, and may have done something else.

    It counts if the class names a mechanism, and the certificate the class; a misspelt mechanism is none.
    """
    register(monkeypatch, heir="", own="gradient_clipping", misspelt="gradient_cliping")
    made = gradient_clipping()
    for name in ("heir", "own", "misspelt"):
        grading = replace(grading_in(tmp_path, task), spec=replace(SPEC, method=name))
        inherited = write_runs(tmp_path / "inherited" / name, notes_of(made))
        assert collect(replace(grading, folder=inherited)) is None
        anew = write_runs(tmp_path / "anew" / name, notes_of(replace(made, method=name)))
        path = collect(replace(grading, folder=anew))
        assert (path is not None) == (name == "own")
        if path is not None:
            assert certify(path).holds_otherwise
    with pytest.raises(UserError, match=r"its method is 'heir', not one of certified_gradient_clipping, .*, own"):
        Certificate.from_dict(replace(made, method="heir").to_dict())
