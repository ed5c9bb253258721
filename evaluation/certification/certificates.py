"""A certificate of unlearning as a file.

A method leaves a claim: epsilon and delta, the constants that they follow from, and what it says of its run. The kit
makes a certificate of it (`finishing.py`), by what it has found out itself: how the seed was made, whether the forget
set was read, where the constants come from, the code of the method, and the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.documents import read_json
from data.errors import UserError, shortened
from data.files import write_atomically
from evaluation.certification.mechanisms import Value, mechanism_name, mechanisms

SMALLEST, LARGEST = 1e-100, 1e100
"""Of the numbers in a certificate, apart from 0."""
MOST_STEPS = {"model_clipping": 20_000}
"""Steps that a mechanism can have, if they are gone through one by one."""
MOST_CHARACTERS = 2000
"""Of a text."""
MOST_MODELS = 10**6
"""From one original."""

CLAIM = {"epsilon", "delta"}
"""What every certificate has, and a file that is none has not."""
OF_THE_KIT = ("code", "weights", "models_per_original")
"""Fields that a claim lacks, and so do certificates of version 0.1."""


@dataclass(frozen=True)
class Certificate:
    """What runs of a certified method claim, and all that is needed to check it.

    A method leaves it as a dict, `notes["certificate"]`, whose keys are these fields without those `OF_THE_KIT`.
    """

    method: str
    """The registered name of the method."""
    epsilon: float
    delta: float
    accounting: str
    """How epsilon follows from the constants: one of those that the mechanism has; "code_compat" does not hold."""
    constants: Mapping[str, Value]
    """The numbers that epsilon and delta follow from."""
    conditions: Mapping[str, Value]
    """What was done, as far as it could have voided the certificate (see `mechanisms.CONDITIONS`)."""
    assumptions: tuple[str, ...]
    """What nobody can check afterwards, as sentences."""
    code: str = ""
    """SHA-256 of the method's code (`MethodFacts.code_sha256`); empty if the kit has not finished it."""
    weights: str = ""
    """SHA-256 of the file of weights that it is for; empty where none was kept."""
    models_per_original: int = 0
    """How many models were made from each original; it is for one of them."""

    @property
    def is_finished(self) -> bool:
        """Whether the kit has said what it knows of the runs."""
        return self.code != ""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as JSON holds them."""
        values = asdict(self)
        if not self.is_finished:
            values = {name: value for name, value in values.items() if name not in OF_THE_KIT}
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
        if not any(name in values for name in OF_THE_KIT):
            fields -= set(OF_THE_KIT)
        if values.keys() != fields:
            odd = shortened(", ".join(sorted(map(str, values.keys() ^ fields))), 200)
            raise UserError(f"This certificate has been edited, or is of another version: {odd} missing or too much.")
        if not isinstance(values["assumptions"], list):
            raise UserError("This certificate has been edited: assumptions must be a list of sentences.")
        certificate = Certificate(**{**values, "assumptions": tuple(values["assumptions"])})
        _check_types(certificate)
        if "code" in values:
            _check_what_the_kit_says(certificate)
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
            return claim(values["certificate"])
        if isinstance(values, dict) and CLAIM & values.keys():
            checksum = values.pop("sha256", None)
            if checksum != _checksum(values):
                raise UserError(f"{path} has been edited: its checksum is not that of its content.")
        return Certificate.from_dict(values)


def claim(values: object) -> Certificate:
    """What a method claims: a certificate that the kit has not finished.

    Raises:
        UserError: it is none; or the method has written what only the kit can say.
    """
    certificate = Certificate.from_dict(values)
    if certificate.is_finished:
        raise UserError(f"This is no claim of a method: {', '.join(OF_THE_KIT)} are for the kit to say.")
    return certificate


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# What a file may hold
# ----------------------------------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    """Whether it is one that can be computed with: 0, or of a size that the formulas don't lose."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _is_plain(value: object) -> bool:
    """Whether a condition can have this value."""
    return _is_number(value) or (isinstance(value, str) and len(value) <= MOST_CHARACTERS)


def _require(right: bool, what: str) -> None:
    if not right:
        raise UserError(f"This certificate has been edited: {what}.")


def _check_types(certificate: Certificate) -> None:
    """Every field that a method writes is of its type, and the constants are those that the method has."""
    known = mechanisms()
    names = ", ".join(known)
    method = certificate.method
    is_known = isinstance(method, str) and method in known
    _require(is_known, f"its method is {shortened(repr(method), 100)}, not one of {names}")
    _require(_is_number(certificate.epsilon) and certificate.epsilon >= 0, "epsilon must be a number from 0")
    _require(_is_number(certificate.delta) and 0 <= certificate.delta < 1, "delta must be a number from 0 to 1")
    mechanism = known[method]
    accountings = ", ".join(mechanism.accountings)
    _require(certificate.accounting in mechanism.accountings, f"accounting must be one of {accountings}")
    for name in ("constants", "conditions"):
        _require(isinstance(getattr(certificate, name), dict), f"{name} must be an object")
    _require(certificate.constants.keys() == mechanism.constants.keys(), f"{method} has other constants")
    for name, kind in mechanism.constants.items():
        value = certificate.constants[name]
        if kind is list:
            _require(isinstance(value, list) and all(map(_is_number, value)), f"{name} must be a list of numbers")
        else:
            _require(_is_number(value) and (kind is float or isinstance(value, int)), f"{name} must be {kind.__name__}")
    most = MOST_STEPS.get(mechanism_name(mechanism), math.inf)
    steps = certificate.constants.get("steps", 0)
    _require(isinstance(steps, int) and steps <= most, f"{method} has at most {most:,} steps")
    due = {*mechanism.conditions, *(mechanism.found if certificate.is_finished else ())}
    _require(certificate.conditions.keys() == due, f"{method} has other conditions")
    _require(all(map(_is_plain, certificate.conditions.values())), "conditions must be numbers or short texts")
    sentences = all(isinstance(one, str) and len(one) <= MOST_CHARACTERS for one in certificate.assumptions)
    _require(sentences, "assumptions must be a list of sentences")


def _check_what_the_kit_says(certificate: Certificate) -> None:
    """The fields `OF_THE_KIT` are of their types."""
    for name, digest in (("code", certificate.code), ("weights", certificate.weights or "0" * 64)):
        is_digest = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
        _require(is_digest, f"{name} must be a SHA-256")
    models = certificate.models_per_original
    is_count = isinstance(models, int) and not isinstance(models, bool) and 1 <= models <= MOST_MODELS
    _require(is_count, f"models_per_original must be a number from 1 to {MOST_MODELS:,}")
