"""What recomputing a certificate says: `python main.py certify`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from data.documents import read_json, read_yaml
from data.errors import UserError, shortened
from data.files import sha256_of
from data.texts import printable
from evaluation.certification.certificates import MOST_CHARACTERS, Certificate
from evaluation.certification.mechanisms import CONDITIONS, Mechanism, Value, mechanisms

NO_GRADING = "It belongs to a run of its method: no config.yaml beside it says which method left it."
NOT_SIGNED = "The kit has written this file, and nobody has signed it: who made the models could have written another."
TOLERANCE = 1e-6
"""Relative; what rounding may do to epsilon."""


@dataclass(frozen=True)
class Verdict:
    """What recomputing a certificate came to."""

    certificate: Certificate
    epsilon: float
    """What its constants give at its delta, rightly accounted for."""
    epsilon_as_accounted: float | None
    """What they give by the certificate's own accounting; None where that claims nothing."""
    reasons: tuple[str, ...]
    """Why it does not hold, as sentences; empty if it does."""
    for_grading: tuple[str, ...] = ()
    """Those among the reasons that are not the method's doing: runs that are graded have them all."""
    together: tuple[float, float] | None = None
    """Epsilon and delta of all models that were made from one original; None if it is one, or nobody says."""
    is_of_a_grading: bool = True
    """Whether it is known that it was left by runs of its method; else it is a claim about numbers."""

    @property
    def holds(self) -> bool:
        """Whether it is a guarantee."""
        return not self.reasons

    @property
    def holds_otherwise(self) -> bool:
        """Whether everything holds but for what all graded runs have: it would be a guarantee with a secret seed."""
        return set(self.reasons) <= set(self.for_grading)

    def __str__(self) -> str:
        certificate = self.certificate
        claim = f"epsilon = {certificate.epsilon:.6g} at delta = {certificate.delta:g} ({certificate.accounting})"
        lines = [f"{certificate.method}: {claim} {'holds' if self.holds else 'does not hold'}."]
        lines += [f"- {reason}" for reason in self.reasons]
        if self.reasons and self.holds_otherwise:
            lines.append("Everything else holds: epsilon follows from the constants, and nothing else voids it.")
        lines.append(f"recomputed: epsilon = {self.epsilon:.6g}")
        if self.together is not None:
            models, (epsilon, delta) = certificate.models_per_original, self.together
            of_all = f"epsilon = {epsilon:.3g}, delta = {delta:.3g}"
            lines.append(f"together: {models} models from one original have {of_all}")
        lines.append("assumed:")
        assumed = [*certificate.assumptions, *([] if self.is_of_a_grading else [NO_GRADING])]
        assumed += [NOT_SIGNED] if certificate.is_finished else []
        return "\n".join([*lines, *(f"- {printable(sentence, MOST_CHARACTERS)}" for sentence in assumed)])


def verify(certificate: Certificate) -> Verdict:
    """Recompute epsilon from the constants alone, and say whether the claim holds.

    It holds if nothing that was done voids it, and the epsilon of the constants, rightly accounted for, is no more than
    the certificate says. One that was made with the published code's accounting does not; nor does a claim that the kit
    has not finished: nobody knows its seed, or what its run read.

    Raises:
        UserError: the constants are such as no run can have; or dp-accounting is needed and not installed.
    """
    mechanism = mechanisms()[certificate.method]
    voided = tuple(_complaint(name, value) for name, value in certificate.conditions.items() if _voids(name, value))
    for_grading = tuple(_of_the_kit(certificate, mechanism))
    epsilon, accounted, wrong = _recomputed(certificate, mechanism)
    own = tuple(reason for reason in voided if reason not in for_grading)
    return Verdict(
        certificate, epsilon, accounted, (*for_grading, *own, *wrong), for_grading, _together(certificate, mechanism)
    )


def _voids(name: str, value: Value) -> bool:
    return value not in CONDITIONS[name].allowed


def _complaint(name: str, value: Value) -> str:
    """Why a condition with this value voids a certificate."""
    condition = CONDITIONS[name]
    said = condition.first.get(value) if isinstance(value, str) else None
    beginning = "" if said is None else f"{said} "
    return f"{beginning}{condition.otherwise} (It says {name} = {shortened(repr(value))}.)"


def _of_the_kit(certificate: Certificate, mechanism: Mechanism) -> list[str]:
    """What is missing because runs were graded, or because the kit has not finished the certificate."""
    if certificate.is_finished:
        said = certificate.conditions.get("seed")
        return [_complaint("seed", said)] if said is not None and _voids("seed", said) else []
    unwatched = "The kit has not said what its run read, as it is what a method claims, or is of version 0.1."
    unknown = CONDITIONS["seed"]
    seed = [f"{unknown.first['']} {unknown.otherwise}"] if "seed" in mechanism.found else []
    return [*seed, unwatched]


def _recomputed(certificate: Certificate, mechanism: Mechanism) -> tuple[float, float | None, list[str]]:
    """Epsilon, epsilon by the certificate's own accounting, and what is wrong with its claim, as sentences."""
    constants, delta = dict(certificate.constants), certificate.delta
    most = certificate.epsilon * (1 + TOLERANCE)
    reasons = []
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
    return epsilon, accounted, reasons


def _together(certificate: Certificate, mechanism: Mechanism) -> tuple[float, float] | None:
    """Epsilon and delta of all models from one original; infinity if it is too large to be computed."""
    models = certificate.models_per_original
    if models <= 1:
        return None
    try:
        return mechanism.together(dict(certificate.constants), certificate.epsilon, certificate.delta, models)
    except (ValueError, ArithmeticError):
        return math.inf, certificate.delta


# ----------------------------------------------------------------------------------------------------------------------
# A file
# ----------------------------------------------------------------------------------------------------------------------


def certify(path: Path, weights: Path | None = None) -> Verdict:
    """Read a certificate (or the notes of a certified run) and recompute it: `python main.py certify PATH`.

    It doesn't hold if another method than its own left it, for what a method notes of itself may be copied; if its
    method has other code here; or if it is not for the file `weights`.

    Raises:
        UserError: as `Certificate.read` and `verify`; or it is in notes of a run of which the method is not known; or
            the file of weights can't be read.
    """
    verdict = verify(Certificate.read(path))
    certificate, graded = verdict.certificate, _graded_method(path)
    reasons = []
    if graded not in (None, certificate.method):
        left = printable(str(graded), 100)
        reasons.append(f"It was left by {left}, and a certificate is for runs of its own method.")
    reasons += _other_code(certificate)
    reasons += [] if weights is None else _other_weights(certificate, weights)
    known = graded is not None or certificate.is_finished
    return replace(verdict, reasons=(*reasons, *verdict.reasons), is_of_a_grading=known)


def _other_code(certificate: Certificate) -> list[str]:
    """What is to be said if the method has other code here than it had when it left the certificate."""
    from evaluation.catalogue.lookup import facts_of  # here, because that imports PyTorch

    here = facts_of(certificate.method).code_sha256
    if certificate.code in ("", here):
        return []
    codes = f"SHA-256 {certificate.code[:8]}..., here {here[:8]}..."
    return [f"It was left by other code of {certificate.method} than is here ({codes}): check it with that version."]


def _other_weights(certificate: Certificate, weights: Path) -> list[str]:
    """What is to be said if the certificate is not for this file."""
    try:
        found = sha256_of(weights)
    except OSError as error:
        raise UserError(f"{weights} can't be read ({error.strerror}): name the file that unlearn wrote.") from error
    if not certificate.weights:
        return [f"It is for no file of weights, so not for {weights}: gradings keep none."]
    if certificate.weights != found:
        digests = f"SHA-256 {certificate.weights[:8]}..., that of the file is {found[:8]}..."
        return [f"It is not for {weights}, but for other weights ({digests})."]
    return []


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
