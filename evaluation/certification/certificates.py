"""A certificate of unlearning as a file, and what recomputing it from its constants says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.documents import read_json, read_yaml
from data.errors import UserError, shortened
from data.files import write_atomically
from data.texts import printable
from evaluation.certification import dp_sgd, hockey_stick, renyi

SMALLEST, LARGEST = 1e-100, 1e100
"""Of the numbers in a certificate, apart from 0."""
MOST_STEPS = {"model_clipping": 20_000}
"""Steps that a mechanism can have, if they are gone through one by one."""
MOST_CHARACTERS = 2000
"""Of a text."""

CLAIM = {"epsilon", "delta"}
"""What every certificate has, and a file that is none has not."""

Value = float | int | str | list[float]
"""What a constant can be."""


@dataclass(frozen=True)
class Certificate:
    """What a run of a certified method claims, and all that is needed to check it.

    A method leaves it as a dict, `notes["certificate"]`, whose keys are these fields.
    """

    method: str
    """The registered name of the method."""
    epsilon: float
    delta: float
    accounting: str
    """How epsilon follows from the constants; "exact" or "analytic" are the ones that hold."""
    constants: Mapping[str, Value]
    """The numbers that epsilon and delta follow from."""
    conditions: Mapping[str, Value]
    """What was done, as far as it could have voided the certificate (see `CONDITIONS`)."""
    assumptions: tuple[str, ...]
    """What nobody can check afterwards, as sentences."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as JSON holds them."""
        values = asdict(self)
        return {
            **values,
            "constants": dict(self.constants),
            "conditions": dict(self.conditions),
            "assumptions": list(self.assumptions),
        }

    @staticmethod
    def from_dict(values: object) -> Certificate:
        """The inverse of `to_dict`.

        Raises:
            UserError: something is missing, superfluous, or of another type.
        """
        fields = set(Certificate.__dataclass_fields__)
        if not isinstance(values, dict) or not CLAIM & values.keys():
            raise UserError("This is no certificate: give a certificate.json, or the notes of a certified run.")
        if values.keys() != fields:
            odd = shortened(", ".join(sorted(map(str, values.keys() ^ fields))), 200)
            raise UserError(f"This certificate has been edited, or is of another version: {odd} missing or too much.")
        if not isinstance(values["assumptions"], list):
            raise UserError("This certificate has been edited: assumptions must be a list of sentences.")
        certificate = Certificate(**{**values, "assumptions": tuple(values["assumptions"])})
        _check_types(certificate)
        return certificate

    def write(self, path: Path) -> None:
        """Write `certificate.json`, with a checksum."""
        values = self.to_dict()
        text = json.dumps({**values, "sha256": _checksum(values)}, indent=1, allow_nan=False) + "\n"
        write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))

    @staticmethod
    def read(path: Path) -> Certificate:
        """Read what `write` wrote, or the notes that a certified run left (`runs/original-000-run-0000.json`).

        Raises:
            UserError: the file can't be read, is something else, or has been edited.
        """
        try:
            values = read_json(path, with_nan=False)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error  # without the number and the path
            raise UserError(f"{path} can't be read as a certificate: {reason}.") from error
        if isinstance(values, dict) and "certificate" in values:
            return Certificate.from_dict(values["certificate"])
        if isinstance(values, dict) and CLAIM & values.keys():
            checksum = values.pop("sha256", None)
            if checksum != _checksum(values):
                raise UserError(f"{path} has been edited: its checksum is not that of its content.")
        return Certificate.from_dict(values)


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_number(value: object) -> bool:
    """Whether it is one that can be computed with: 0, or of a size that the formulas don't lose."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _is_plain(value: object) -> bool:
    """Whether a condition can have this value."""
    return _is_number(value) or (isinstance(value, str) and len(value) <= MOST_CHARACTERS)


def _check_types(certificate: Certificate) -> None:
    """Every field is of its type, and the constants are those that the method has."""

    def require(right: bool, what: str) -> None:
        if not right:
            raise UserError(f"This certificate has been edited: {what}.")

    known = mechanisms()
    names = ", ".join(known)
    method = certificate.method
    is_known = isinstance(method, str) and method in known
    require(is_known, f"its method is {shortened(repr(method), 100)}, not one of {names}")
    require(_is_number(certificate.epsilon) and certificate.epsilon >= 0, "epsilon must be a number from 0")
    require(_is_number(certificate.delta) and 0 <= certificate.delta < 1, "delta must be a number from 0 to 1")
    mechanism = known[method]
    accountings = ", ".join(mechanism.accountings)
    require(certificate.accounting in mechanism.accountings, f"accounting must be one of {accountings}")
    for name in ("constants", "conditions"):
        require(isinstance(getattr(certificate, name), dict), f"{name} must be an object")
    require(certificate.constants.keys() == mechanism.constants.keys(), f"{method} has other constants")
    for name, kind in mechanism.constants.items():
        value = certificate.constants[name]
        if kind is list:
            require(isinstance(value, list) and all(map(_is_number, value)), f"{name} must be a list of numbers")
        else:
            require(_is_number(value) and (kind is float or isinstance(value, int)), f"{name} must be {kind.__name__}")
    most = MOST_STEPS.get(_mechanism_of(method), math.inf)
    steps = certificate.constants.get("steps", 0)
    require(isinstance(steps, int) and steps <= most, f"{method} has at most {most:,} steps")
    require(certificate.conditions.keys() == set(mechanism.conditions), f"{method} has other conditions")
    require(all(map(_is_plain, certificate.conditions.values())), "conditions must be numbers or short texts")
    sentences = all(isinstance(one, str) and len(one) <= MOST_CHARACTERS for one in certificate.assumptions)
    require(sentences, "assumptions must be a list of sentences")


# ----------------------------------------------------------------------------------------------------------------------
# What voids a certificate
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What a certificate must say of its run, and why."""

    allowed: tuple[Value, ...]
    otherwise: str
    """The sentence for any other value."""


CONDITIONS = {
    "noisy_phase_reads": Condition(
        ("retain set",), "The noisy phase must read the retain set and nothing else: any other image leaves traces."
    ),
    "noisy_phase_momentum": Condition(
        (0,), "Momentum carries the start from step to step beside the weights, where no noise hides it."
    ),
    "batch_norm_statistics": Condition(
        ("none", "reset"), "Running statistics of batch normalisation that were not reset have seen the forget set."
    ),
    "start": Condition(("projected",), "The start was not brought into the ball, so that the noise may be too little."),
    "constants_chosen_on": Condition(
        ("published", "retain"), "Constants that were chosen by looking at the forget set tell about it."
    ),
}
"""By the name that a certificate has for it."""


# ----------------------------------------------------------------------------------------------------------------------
# The mechanisms
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mechanism:
    """How the epsilon of a certificate follows from its constants."""

    constants: dict[str, type]
    """Names and types (float, int, or list for a list of numbers)."""
    conditions: tuple[str, ...]
    accountings: tuple[str, ...]
    """The first is the right one."""
    epsilon: Callable[[dict[str, Any], float, str], float]
    """Of the constants, delta and the accounting."""


def _gradient_clipping(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return renyi.clipping_epsilon(delta=delta, accounting=accounting, **constants)


def _model_clipping(constants: dict[str, Any], delta: float, accounting: str) -> float:
    names = ("model_clip", "gradient_clip", "learning_rate", "weight_decay")
    radius = hockey_stick.model_clipping_radius(*(constants[name] for name in names))
    others = {name: value for name, value in constants.items() if name not in names}
    return hockey_stick.model_clipping_epsilon(radius=radius, delta=delta, **others)


def _output_perturbation(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return hockey_stick.gaussian_epsilon(constants["noise"], delta, 2 * constants["initial_clip"], accounting)


def _dp_sgd(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return dp_sgd.dp_sgd_epsilon(delta=delta, accounting=accounting, **constants)


def _nothing_is_left(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return 0.0


_ALWAYS = ("batch_norm_statistics", "constants_chosen_on")

MECHANISMS = {
    "gradient_clipping": Mechanism(
        {"initial_clip": float, "gradient_clip": float, "learning_rate": float, "weight_decay": float, "noise": list},
        (*CONDITIONS,),
        renyi.ACCOUNTINGS,
        _gradient_clipping,
    ),
    "model_clipping": Mechanism(
        {
            "initial_clip": float, "initial_noise": float, "model_clip": float, "gradient_clip": float,
            "learning_rate": float, "weight_decay": float, "steps": int, "noise": float,
        },
        (*CONDITIONS,),
        ("exact",),
        _model_clipping,
    ),
    "output_perturbation": Mechanism(
        {"initial_clip": float, "noise": float}, ("start", *_ALWAYS), hockey_stick.ACCOUNTINGS, _output_perturbation
    ),
    "dp_sgd": Mechanism(
        {"noise_multiplier": float, "sampling_rate": float, "steps": int, "group": int},
        _ALWAYS,
        dp_sgd.ACCOUNTINGS,
        _dp_sgd,
    ),
    "retraining": Mechanism({}, _ALWAYS, ("exact",), _nothing_is_left),
}  # fmt: skip
"""By the name that a method has for it, as its `mechanism`."""


def mechanisms() -> dict[str, Mechanism]:
    """The mechanisms of the registered methods whose certificates can be recomputed, by the name of the method."""
    from evaluation.catalogue.lookup import all_facts  # here, because that imports PyTorch

    used = {name: facts.mechanism for name, facts in all_facts().items()}
    return {name: MECHANISMS[mechanism] for name, mechanism in used.items() if mechanism in MECHANISMS}


def _mechanism_of(method: str) -> str:
    """The name of the mechanism of a method that has one."""
    mechanism = mechanisms()[method]
    return next(name for name, one in MECHANISMS.items() if one is mechanism)


# ----------------------------------------------------------------------------------------------------------------------
# Verification
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What recomputing a certificate came to."""

    certificate: Certificate
    holds: bool
    epsilon: float
    """What its constants give at its delta, rightly accounted for."""
    epsilon_as_accounted: float | None
    """What they give by the certificate's own accounting; None where that claims nothing."""
    reasons: tuple[str, ...]
    """Why it does not hold, as sentences; empty if it does."""
    is_of_a_grading: bool = True
    """Whether it is known that it was left by runs of its method; else it is a claim about numbers."""

    def __str__(self) -> str:
        claim = f"epsilon = {self.certificate.epsilon:.6g} at delta = {self.certificate.delta:g}"
        word = "holds" if self.holds else "does not hold"
        lines = [f"{self.certificate.method}: {claim} ({self.certificate.accounting}) {word}."]
        lines += [f"- {reason}" for reason in self.reasons]
        lines += [f"recomputed: epsilon = {self.epsilon:.6g}", "assumed:"]
        assumed = [*self.certificate.assumptions, *([] if self.is_of_a_grading else [NO_GRADING])]
        return "\n".join([*lines, *(f"- {printable(sentence, MOST_CHARACTERS)}" for sentence in assumed)])


NO_GRADING = "It belongs to a run of its method: no config.yaml beside it says which method left it."
TOLERANCE = 1e-6
"""Relative; what rounding may do to epsilon."""


def verify(certificate: Certificate) -> Verdict:
    """Recompute epsilon from the constants alone, and say whether the claim holds.

    It holds if nothing that was done voids it, and the epsilon of the constants, rightly accounted for, is no more than
    the certificate says. One that was made with the published code's accounting does not.

    Raises:
        UserError: the constants are such as no run can have; or dp-accounting is needed and not installed.
    """
    mechanism = mechanisms()[certificate.method]
    constants, delta = dict(certificate.constants), certificate.delta
    most = certificate.epsilon * (1 + TOLERANCE)
    reasons = [
        f"{CONDITIONS[name].otherwise} (It says {name} = {shortened(repr(value))}.)"
        for name, value in certificate.conditions.items()
        if value not in CONDITIONS[name].allowed
    ]
    try:
        epsilon = mechanism.epsilon(constants, delta, mechanism.accountings[0])
    except ValueError as error:
        raise UserError(f"This certificate has been edited: {error}") from error
    except ArithmeticError as error:
        raise UserError("This certificate has been edited: with such constants, no epsilon can be computed.") from error
    accounted: float | None = epsilon
    if certificate.accounting != mechanism.accountings[0]:
        try:
            accounted = mechanism.epsilon(constants, delta, certificate.accounting)
        except (ValueError, ArithmeticError) as error:
            accounted = None
            reasons.append(str(error))
    if accounted is not None and accounted > most:
        reasons.append(f"Its constants give epsilon = {accounted:.6g} by its own accounting.")
    if epsilon > most:
        reasons.append(f"Rightly accounted for, its constants give epsilon = {epsilon:.6g}.")
    return Verdict(certificate, not reasons, epsilon, accounted, tuple(reasons))


def collect(folder: Path, method: str) -> Path | None:
    """Write `certificate.json` into the folder of a grading of `method` whose runs have all left the same certificate.

    None if they have left none, or not the same, or one of another method: a class that inherits from a certified
    method may do something that its certificate does not cover.
    """
    notes = [read_json(path) for path in sorted((folder / "runs").glob("*.json"))]
    found = [note.get("certificate") if isinstance(note, dict) else None for note in notes]
    if not found or not found[0] or any(other != found[0] for other in found) or method not in mechanisms():
        return None
    certificate = Certificate.from_dict(found[0])
    if certificate.method != method:
        return None
    path = folder / "certificate.json"
    certificate.write(path)
    return path


def certify(path: Path) -> Verdict:
    """Read a certificate (or the notes of a certified run) and recompute it: `python main.py certify PATH`.

    It doesn't hold if another method than its own left it: what a method notes of itself may be copied.

    Raises:
        UserError: as `Certificate.read` and `verify`; or it is in notes of a run of which the method is not known.
    """
    verdict = verify(Certificate.read(path))
    graded = _graded_method(path)
    if graded is None:
        return replace(verdict, is_of_a_grading=False)
    if graded == verdict.certificate.method:
        return verdict
    reason = f"It was left by {printable(graded, 100)}, and a certificate is for runs of its own method."
    return replace(verdict, holds=False, reasons=(reason, *verdict.reasons))


def _graded_method(path: Path) -> str | None:
    """The method whose runs left a file with a certificate; None for a `certificate.json` out of its folder.

    The notes of a run lie in the folder `runs` of their grading, whose `config.yaml` names the method;
    `certificate.json` lies beside that; and the file of a sweep's run names the method itself.

    Raises:
        UserError: nothing says so for the notes of a run, or the grading is that of a zip.
    """
    values = read_json(path, with_nan=False)
    is_note = "certificate" in values
    if is_note and {"accuracy", "method"} <= values.keys():
        return str(values["method"])
    config = (path.resolve().parent.parent if is_note else path.resolve().parent) / "config.yaml"
    if not config.exists() and not is_note:
        return None
    try:
        grading = read_yaml(config)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Nothing says which method left {path}: {config} can't be read ({reason}).") from error
    if not isinstance(grading, dict) or not isinstance(grading.get("method"), str):
        raise UserError(f"Nothing says which method left {path}: {config} is not that of a grading.")
    if grading.get("submission") is not None:
        raise UserError(f"{path} can't be certified: its models are those of a zip, of which nobody saw the run.")
    return grading["method"]
