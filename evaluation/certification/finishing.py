"""From what a method claims to a certificate: the kit adds what it knows of the runs, and the method can't know or say.

Who publishes a model (`python main.py unlearn`) calls `finish`, once; gradings call `collect`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.documents import read_json
from data.errors import UserError
from evaluation.certification.certificates import Certificate, claim
from evaluation.certification.mechanisms import Together, mechanisms
from evaluation.runs.notes import CERTIFICATE, FORGET_SET, SEEN, WATCHED
from evaluation.texts import counted

if TYPE_CHECKING:
    from evaluation.catalogue.facts import MethodFacts
    from evaluation.runs.resolve import Grading

SEARCHED = "retrained"
"""What a search for values says of them, as the method's `constants_chosen_on`, if its trials started from retrained
models of the very request: then neither its models nor its loaders have seen the forget set."""
ONE_MODEL = "One model per original is published: what several tell together adds up."


class Chosen(NamedTuple):
    """Where the hyper-parameters of a run come from."""

    on: str
    """"published", "user" or "retrained", see `CONDITIONS`; or "forget", which voids a certificate."""
    by_user: tuple[str, ...] = ()
    """Names of those that the user set to something else than the default."""


@dataclass(frozen=True)
class Circumstances:
    """What the kit knows of the runs that a certificate is for."""

    method: str
    """The registered name of the method that was run."""
    code: str
    """SHA-256 of its code: `facts_of(method).code_sha256`."""
    seed: str
    """How the seed of the run was made: "operating system", and kept by nobody; "user"; or "public", in gradings."""
    chosen: Chosen
    """See `how_chosen`."""
    forget_set: str
    """Whether the run read it, as was watched: one of the words of `SEEN`."""
    models_per_original: int = 1
    """How many models were made from each original."""
    weights: str = ""
    """SHA-256 of the file of weights that is published; empty if there is none."""
    original_has_public_seed: bool = True
    """Whether the original is one of the bank's, whose training anybody can repeat."""


def finish(claimed: object, circumstances: Circumstances) -> Certificate:
    """The certificate of runs whose method has left `claimed`, `notes["certificate"]`.

    Raises:
        UserError: that is no claim, or one of another method.
    """
    certificate = claim(claimed)
    method = circumstances.method
    if certificate.method != method:
        raise UserError(f"{method} has left a certificate of {certificate.method}: it can't be certified.")
    mechanism = mechanisms()[method]
    repeatable = mechanism.noise_of_original and circumstances.original_has_public_seed
    found = {"seed": "public" if repeatable else circumstances.seed, "forget_set": circumstances.forget_set}
    conditions = {**certificate.conditions, "constants_chosen_on": circumstances.chosen.on}
    conditions |= {name: found[name] for name in mechanism.found}
    assumptions = [*certificate.assumptions, ONE_MODEL]
    if circumstances.chosen.by_user:
        names = ", ".join(circumstances.chosen.by_user)
        assumptions.append(f"The user chose {names} without looking at the forget set.")
    finished = replace(
        certificate,
        conditions=conditions,
        assumptions=tuple(assumptions),
        code=circumstances.code,
        weights=circumstances.weights,
        models_per_original=circumstances.models_per_original,
    )
    return Certificate.from_dict(finished.to_dict())  # whatever is wrong with it is told now, not to who reads it


def how_chosen(
    facts: MethodFacts, settings: Mapping[str, Any], set_by_user: Iterable[str], searched: Mapping[str, Any] | None
) -> Chosen:
    """Where the hyper-parameters in force come from.

    Args:
        settings: the values in force, by name.
        set_by_user: names of those that `--set`, or `--recipe`, gave a value.
        searched: what `tune` has found, by name; None if nothing of it is used.
    """
    parameters = facts.hyper_parameters
    changed = (name for name in dict.fromkeys(set_by_user) if name in parameters and name != "constants_chosen_on")
    by_user = tuple(name for name in changed if settings[name] != parameters[name].default)
    if searched is not None and searched.get("constants_chosen_on") != SEARCHED:
        return Chosen("forget", by_user)
    if by_user:
        return Chosen("user", by_user)
    return Chosen("published" if searched is None else SEARCHED)


def chosen_for(grading: Grading) -> Chosen:
    """Where the hyper-parameters of a grading, or of a run like one of its, come from."""
    spec, facts = grading.spec, grading.method
    user = [name for name, _ in spec.settings]
    if facts.follows_recipe:
        user += [name for name, _ in spec.task.recipe]
    return how_chosen(facts, grading.settings, user, dict(spec.tuned.settings) if spec.tuned else None)


# ----------------------------------------------------------------------------------------------------------------------
# Gradings
# ----------------------------------------------------------------------------------------------------------------------


def collect(grading: Grading) -> Path | None:
    """Write `certificate.json` into the folder of a grading whose runs have all left the same claim.

    None if they have left none, or not the same, or one of another method: a class that inherits from a certified
    method may do something that its certificate does not cover. It does not hold as a guarantee: seeds of gradings are
    public (but where no noise has to be secret).
    """
    folder, method = grading.folder, grading.spec.method
    notes = [read_json(path) for path in sorted((folder / "runs").glob("*.json"))]
    found = [note.get(CERTIFICATE) if isinstance(note, dict) else None for note in notes]
    if not found or not found[0] or any(other != found[0] for other in found) or method not in mechanisms():
        return None
    if claim(found[0]).method != method:
        return None
    certificate = finish(found[0], _circumstances(grading, [note.get(WATCHED) for note in notes]))
    path = folder / "certificate.json"
    certificate.write(path)
    return path


def _circumstances(grading: Grading, watched: list[Any]) -> Circumstances:
    spec, facts = grading.spec, grading.method
    seen = {one.get(FORGET_SET, SEEN[None]) if isinstance(one, dict) else SEEN[None] for one in watched}
    return Circumstances(
        spec.method,
        facts.code_sha256,
        seed="public",
        chosen=chosen_for(grading),
        forget_set=SEEN[True] if SEEN[True] in seen else SEEN[False] if seen == {SEEN[False]} else SEEN[None],
        models_per_original=1 if spec.protocol == "full" else spec.models,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Many models
# ----------------------------------------------------------------------------------------------------------------------


def warning_of_many(claimed: object, models: int) -> str | None:
    """What to say to who publishes so many models from one original; None if they cost no more than one.

    Raises:
        UserError: `claimed` is no claim of a method.
    """
    certificate = claim(claimed)
    together: Together = mechanisms()[certificate.method].together
    epsilon, delta = together(dict(certificate.constants), certificate.epsilon, certificate.delta, models)
    if (epsilon, delta) == (certificate.epsilon, certificate.delta):
        return None
    return (
        f"{certificate.method} certifies one model, with epsilon = {certificate.epsilon:g}: "
        f"{counted(models, 'model')} from one original together have epsilon = {epsilon:.3g}, delta = {delta:.3g}."
    )
