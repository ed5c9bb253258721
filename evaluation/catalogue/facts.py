"""What is known of a method: what its class declares, and which files its code comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from evaluation.catalogue.declared import complaint_of_entry, fits
from methods.BaseMethod import PLAIN_TYPES, Bars, Between, Drawing, HyperParameter, Matrix, OneOf, values_in_force
from methods.registry import Place

REFERENCES = (Place("methods.Retrain", "Retrain"), Place("methods.DoNothing", "DoNothing"))
"""The kit's own references, which alone may take as long as they like. What another file says of itself is ignored."""
WHY_UNCHANGED = {
    "generator": "its run contains yield, so that a call of it executes nothing",
    "coroutine": "its run is async, so that a call of it executes nothing",
    "value": "what its run returns is ignored, and net itself has to be changed",
    "": "its run has to change net itself, unless its class says leaves_original = True",
}
"""What is the matter with a method that changes nothing, by what a call of its `run` gives."""
ROOT = Path(__file__).parents[2]
PLAIN = {kind.__name__: kind for kind in PLAIN_TYPES}


@dataclass(frozen=True)
class MethodFacts:
    """A method, as its class describes itself; see `BaseMethod` for what the facts mean."""

    name: str
    """The registered one."""
    place: Place
    registered: bool
    """Whether `methods/__init__.py` names it; otherwise it was found by the name of its file."""
    class_name: str
    docstring: str
    """Without indentation; empty if the class has none."""
    hyper_parameters: Mapping[str, HyperParameter]
    """By name, in the order of the file, those of base classes first."""
    almost: Mapping[str, str]
    """Attributes that are no hyper-parameters, though they look like some, and what they need to be such."""
    search_space: Mapping[str, Between | OneOf]
    drawings: Mapping[str, Drawing]
    tried_with: Mapping[str, Any]
    prepares_with: tuple[str, ...]
    has_prepare: bool
    """Whether it has a `prepare` of its own."""
    has_init: bool
    """Whether it has a constructor of its own, which may refuse values."""
    guarantee: str
    published_figures: str
    mechanism: str
    leaves_original: bool
    deterministic: bool
    claims_exemption: bool
    """What it says about itself; `exempt_from_budget` is what holds."""
    follows_recipe: bool
    recipe_is_binding: bool
    certifies: bool
    source: str
    """The text of the file that the class is written in."""
    source_file: str
    """That file, as a path in the kit."""
    files: Mapping[str, str]
    """All files of the kit that the code comes from, with their SHA-256, by their path in the kit."""
    run_gives: str = ""
    """What a call of `run` gives: "generator" or "coroutine", and nothing is done; "value", which is ignored; or ""."""
    whole_classes: bool = False
    self_tuning: bool = False

    @property
    def why_unchanged(self) -> str:
        """Why it may have changed nothing, if it has, in words."""
        return WHY_UNCHANGED[self.run_gives]

    @property
    def summary(self) -> str:
        """The first line of the docstring, or "" if there is none."""
        return self.docstring.partition("\n")[0]

    @property
    def is_stranger(self) -> bool:
        """Whether its file is none of the kit's, but was handed in by somebody."""
        return bool(self.place.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that its code comes from, that of the class first; a sandbox shows them to it.

        It says itself which these are. So only Python files count, and what lies in `methods/`: no model of the bank.
        """
        files = dict.fromkeys((self.source_file, *self.files))
        return tuple(ROOT / file for file in files if file.endswith(".py") or file.startswith("methods/"))

    @property
    def exempt_from_budget(self) -> bool:
        """Whether its runs may take as long as they like."""
        return self.claims_exemption and self.place in REFERENCES

    @property
    def code(self) -> str | list[Any]:
        """What stands for the code where a hash tells versions of it apart; JSON has it.

        Of a method in one file it is the text; any other files are added with their hashes.
        """
        others = sorted([file, digest] for file, digest in self.files.items() if file != self.source_file)
        return [self.source, others] if others else self.source

    @property
    def code_sha256(self) -> str:
        """The SHA-256 of `code`, in hexadecimal digits: what a certificate is bound to."""
        return hashlib.sha256(json.dumps(self.code).encode()).hexdigest()

    @property
    def code_hash(self) -> str:
        """A name for this version of the code, for people: the beginning of `code_sha256`."""
        return self.code_sha256[:8]

    @property
    def remarks(self) -> list[str]:
        """What whoever uses the method should know, as sentences."""
        said = []
        if not self.registered and not self.is_stranger:
            line = f'"{self.name}": "{self.place.class_name}",'
            said.append(f"{self.name} is not registered: add the line {line} to methods/__init__.py.")
        if self.claims_exemption and not self.exempt_from_budget:
            said.append(
                f"{self.name} has the budget of every method: exempt_from_budget counts for the kit's own references."
            )
        return said

    def values_in_force(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every hyper-parameter, by name, if those in `overrides` (which may be texts) are set.

        Raises:
            ValueError: a name that is no hyper-parameter, or a value that is not of its type.
        """
        return values_in_force(self.class_name, self.hyper_parameters, self.almost, overrides)


class _Parameter(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    type: str
    default: Any
    explanation: str

    def build(self) -> HyperParameter:
        kind = PLAIN[self.type]
        if not fits(self.default, kind):
            raise ValueError(f"the default of {self.name} is not of its type")
        return HyperParameter(self.name, kind, self.default, self.explanation)


Declared = dict[str, dict[str, dict[str, Any]]]
"""By name: the fields of an object, under the name of its class."""


class Described(msgspec.Struct, forbid_unknown_fields=True):
    """What a child process says of a method: `facts` of its answer. Nothing of it is trusted to be of its type."""

    class_name: str
    docstring: str
    hyper_parameters: list[_Parameter]
    almost: dict[str, str]
    search_space: Declared
    drawings: Declared
    tried_with: dict[str, Any]
    prepares_with: tuple[str, ...]
    has_prepare: bool
    has_init: bool
    guarantee: str
    published_figures: str
    mechanism: str
    leaves_original: bool
    deterministic: bool
    exempt_from_budget: bool
    follows_recipe: bool
    recipe_is_binding: bool
    certifies: bool
    source: str
    source_file: str
    files: list[str]
    run_gives: Literal["", "generator", "coroutine", "value"] = ""
    whole_classes: bool = False
    self_tuning: bool = False

    def build(self, name: str, place: Place, registered: bool, digests: Mapping[str, str]) -> MethodFacts:
        """The facts of the method `name`; `digests` are the SHA-256 of its files.

        Raises:
            ValueError, TypeError, KeyError: something in it is not what it should be.
        """
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        values["claims_exemption"] = values.pop("exempt_from_budget")
        parameters = {parameter.name: parameter.build() for parameter in self.hyper_parameters}
        values["hyper_parameters"] = parameters
        values["search_space"] = {key: _range(one, parameters[key]) for key, one in self.search_space.items()}
        values["drawings"] = {key: _drawing(one) for key, one in self.drawings.items()}
        values["files"] = {file: digests[file] for file in self.files}
        return MethodFacts(name=name, place=place, registered=registered, **values)


def _range(described: Mapping[str, Mapping[str, Any]], parameter: HyperParameter) -> Between | OneOf:
    ((kind, fields),) = described.items()
    # Between keeps its numbers as they are: 1 and 1.0 are other texts in the hash of a search.
    range_ = Between(**fields) if kind == Between.__name__ else OneOf(tuple(fields["choices"]))
    if complaint := complaint_of_entry(range_, parameter):
        raise ValueError(f"search_space: {parameter.name} {complaint}")
    return range_


def _drawing(described: Mapping[str, Mapping[str, Any]]) -> Drawing:
    ((kind, fields),) = described.items()
    return msgspec.convert(fields, Matrix) if kind == Matrix.__name__ else msgspec.convert(fields, Bars)
