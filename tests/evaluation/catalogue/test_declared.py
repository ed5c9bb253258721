"""What a class may declare, and one sentence for each mistake in it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import msgspec
import pytest
import torch

from evaluation.catalogue.cache import digests
from evaluation.catalogue.declared import DeclarationError, describe_class
from evaluation.catalogue.facts import Described, MethodFacts
from methods.BaseMethod import Bars, BaseMethod, Between, Matrix, OneOf
from methods.registry import Place


class Sound(BaseMethod):
    """One line.

    And more: $\\frac$ [/red].
    """

    search_space: ClassVar = {
        "rate": Between(0.01, 1, log=True),
        "steps": Between(1, 5),
        "mode": OneOf(("plain", "fancy")),
        "noisy": OneOf((False, True)),
    }
    drawings: ClassVar = {"losses": Bars("Losses", "term", limits=(0, 1)), "map": Matrix("Map", "from", "to", True)}
    tried_with: ClassVar = {"steps": 2}
    prepares_with = ("rate",)
    guarantee = "exact"

    rate: float = 0.1
    """In [a, b]."""
    steps: int = 3
    """How many."""
    noisy: bool = False
    """Whether."""
    mode: str = "plain"
    """Which."""
    most: float = math.inf
    """Without end."""
    untyped = 0.5
    without_default: float
    _hidden = 1
    constant: ClassVar[int] = 7

    def run(self, *arguments: Any) -> None:
        """Nothing."""


def facts_of_class(handler: type[BaseMethod], name: str = "a_method") -> MethodFacts:
    """What a process that gets the description of a class as JSON makes of it."""
    described = {**describe_class(handler), "source": "", "source_file": "methods/MyMethod.py", "files": []}
    said = msgspec.convert(json.loads(json.dumps(described)), Described)
    return said.build(name, Place("methods.MyMethod", handler.__name__), True, digests([]))


def test_facts_are_what_the_class_says() -> None:
    """Types, order, ranges with whole numbers, infinity, drawings: all survive the way through JSON."""
    facts = facts_of_class(Sound)
    assert facts.hyper_parameters == Sound.hyper_parameters()
    assert list(facts.hyper_parameters) == ["rate", "steps", "noisy", "mode", "most"]
    assert facts.search_space == Sound.search_space
    assert repr(facts.search_space) == repr(Sound.search_space)
    assert facts.drawings == Sound.drawings
    assert facts.tried_with == Sound.tried_with
    assert (facts.prepares_with, facts.guarantee, facts.summary) == (("rate",), "exact", "One line.")
    assert not any((facts.has_init, facts.has_prepare, facts.exempt_from_budget, facts.certifies))
    assert facts.values_in_force({"rate": "1"}) == Sound.values_in_force({"rate": "1"})


def yields(self: Any, net: Any, *loaders: Any) -> Any:
    """Does nothing when it is called."""
    if loaders:
        yield net


async def waits(self: Any, net: Any, *loaders: Any) -> None:
    """Nor does this."""


def returns(self: Any, net: Any, *loaders: Any) -> Any:
    """In one of its ways."""
    if not loaders:
        return None
    return net


def returns_a_constant(self: Any, net: Any, *loaders: Any) -> bool:
    """As good as nothing."""
    return True


def returns_nothing(self: Any, net: Any, *loaders: Any) -> None:
    """Functions inside of it may return what they like."""

    def size() -> int:
        return len(loaders)

    for _ in range(size()):
        return


@pytest.mark.parametrize(
    ("run", "gives"),
    [
        (yields, "generator"),
        (torch.no_grad()(yields), "generator"),
        (waits, "coroutine"),
        (returns, "value"),
        (torch.no_grad()(returns), "value"),
        (returns_a_constant, "value"),
        (returns_nothing, ""),
    ],
)
def test_what_a_call_of_run_gives(run: Any, gives: str) -> None:
    """Behind decorators, too. It tells why a method changes nothing."""
    handler = type("Odd", (BaseMethod,), {"run": run})
    assert facts_of_class(handler).run_gives == gives


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("untyped", "that attribute needs a type, like untyped: float = 0.5"),
        ("without_default", "that attribute needs a default, like without_default: float = ..."),
        ("rat", "it has rate"),
        ("guarantee", "it has"),
        ("_hidden", "it has"),
        ("constant", "it has"),
    ],
)
def test_what_is_almost_a_hyper_parameter_is_explained(name: str, said: str) -> None:
    """By the class and by its facts, in the same words."""
    for refuse in (Sound.values_in_force, facts_of_class(Sound).values_in_force, lambda values: Sound(**values)):
        with pytest.raises(ValueError, match=f"^Sound has no hyper-parameter '{name}'. {said}".replace("'.", "'[:;]")):
            refuse({name: "1"})


def test_facts_with_a_type_are_facts() -> None:
    """Catches `certifies: bool = True`, taken for a hyper-parameter."""

    class Typed(Sound):
        certifies: bool = True  # type: ignore[misc]
        search_space: dict[str, Any] = {"rate": Between(0.1, 0.2)}  # type: ignore[misc]  # noqa: RUF012

    facts = facts_of_class(Typed)
    assert facts.certifies
    assert list(facts.search_space) == ["rate"]
    assert facts.hyper_parameters.keys() == Sound.hyper_parameters().keys()


def test_names_may_be_typed_as_those_of_attributes() -> None:
    """Of the two letters for micro, Python keeps one in an attribute; of two letters r, here, likewise."""
    rate = "\uff52ate"
    typed = {"search_space": {rate: Between(0.1, 0.2)}, "tried_with": {rate: 0.2}, "prepares_with": (rate,)}
    facts = facts_of_class(type("Odd", (Sound,), typed))
    assert (list(facts.search_space), facts.tried_with, facts.prepares_with) == (["rate"], {"rate": 0.2}, ("rate",))


@pytest.mark.parametrize(
    ("key", "range_", "said"),
    [
        ("xyzzy", Between(0, 1), r" names 'xyzzy', which is no hyper-parameter: it has rate, "),
        ("untyped", Between(0, 1), " names 'untyped', .*: that attribute needs a type"),
        (3, Between(0, 1), " names 3"),
        ("rate", Between(0, 0.1, log=True), "must begin above 0"),
        ("rate", Between(-1, 0.1, log=True), "must begin above 0"),
        ("rate", Between(0.2, 0.05), "must have the lower end first"),
        ("rate", Between(0.2, 0.3), "must include the default, 0.1"),
        ("rate", Between(0, math.inf), "must have two finite numbers"),
        ("rate", Between(math.nan, 1), "must have two finite numbers"),
        ("rate", Between(0, 10**400), "must have two finite numbers"),
        ("rate", Between("0", "1"), "must have two finite numbers"),  # type: ignore[arg-type]
        ("rate", Between(False, True), "must have two finite numbers"),
        ("rate", Between(0, 1, log="yes"), "must have two finite numbers"),  # type: ignore[arg-type]
        ("rate", 0.1, r"must be Between\(low, high\) or OneOf\(\(first, second\)\), not 0.1"),
        ("rate", (0.01, 1), "must be Between"),
        ("rate", [0.1], "must be Between"),
        ("rate", None, "must be Between"),
        ("rate", Between, "must be Between"),
        ("steps", Between(0.5, 4, log=True), "must have whole numbers as ends"),
        ("steps", Between(1, 4.5), "must have whole numbers as ends"),
        ("steps", OneOf((1, 2)), "must include the default, 3"),
        ("steps", OneOf((3, 2.5)), "must have values of the type int"),
        ("steps", OneOf((3, True)), "must have values of the type int"),
        ("steps", OneOf(()), "must have a tuple of values"),
        ("steps", OneOf(3), "must have a tuple of values"),  # type: ignore[arg-type]
        ("mode", OneOf("plain"), "must have a tuple of values"),  # type: ignore[arg-type]
        ("steps", OneOf((3, 3)), "must have each value once"),
        ("mode", OneOf(("fancy",)), "must include the default, 'plain'"),
        ("mode", Between(0, 1), "must be OneOf"),
        ("noisy", Between(0, 1), "must be OneOf"),
        ("noisy", OneOf((0, 1)), "must have values of the type bool"),
    ],
)
def test_a_search_space_that_makes_no_sense_is_refused(key: Any, range_: Any, said: str) -> None:
    """One sentence that names class, hyper-parameter and what is wrong."""
    handler = type("Odd", (Sound,), {"search_space": {key: range_}})
    with pytest.raises(DeclarationError, match=rf"^Odd\.search_space.*{said}"):
        describe_class(handler)


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("search_space", [("rate", Between(0, 1))], "Odd.search_space must be a dict"),
        ("certifies", "yes", "Odd.certifies must be True or False"),
        ("exempt_from_budget", 1, "Odd.exempt_from_budget must be True or False"),
        ("guarantee", None, "Odd.guarantee must be a text"),
        ("prepares_with", "rate", "Odd.prepares_with must be a tuple of names"),
        ("prepares_with", ("rat",), "Odd.prepares_with names 'rat', which is no hyper-parameter"),
        ("tried_with", {"step": 1}, "Odd.tried_with names 'step'"),
        ("tried_with", {"steps": "many"}, "Odd.tried_with: steps takes a value of type int"),
        ("drawings", {"losses": "bars"}, r"Odd.drawings\['losses'\] must be a Matrix or Bars"),
        ("run", None, "Odd.run must be a method"),
        ("run", BaseMethod.run, "Odd needs a method run"),
        ("settings", {"a": 1}, "Odd.settings must be a method"),
    ],
)
def test_facts_of_another_type_are_refused(fact: str, value: Any, said: str) -> None:
    """Each with what it must be."""
    with pytest.raises(DeclarationError, match=f"^{said}"):
        describe_class(type("Odd", (Sound,), {fact: value}))


class OptionalRate(Sound):
    clip: Optional[float] = None  # noqa: UP045  # as a user writes it


class UnionRate(Sound):
    clip: float | None = None


class PairOfRates(Sound):
    betas: tuple[float, float] = (0.9, 0.99)


class NoneForNumber(Sound):
    clip: float = None  # type: ignore[assignment]


class TextForNumber(Sound):
    clip: float = "0.1"  # type: ignore[assignment]


class FractionForWhole(Sound):
    count: int = 2.5  # type: ignore[assignment]


class NumberForSwitch(Sound):
    on: bool = 1  # type: ignore[assignment]


class Forgotten(Sound):
    clip: Missing = 1  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (OptionalRate, "OptionalRate.clip: the type of a hyper-parameter is one of bool, int, float, str"),
        (UnionRate, "UnionRate.clip: the type of a hyper-parameter is one of"),
        (PairOfRates, "PairOfRates.betas: the type of a hyper-parameter is one of"),
        (NoneForNumber, "NoneForNumber.clip: its default, None, is not of the type float"),
        (TextForNumber, "TextForNumber.clip: its default, '0.1', is not of the type float"),
        (FractionForWhole, "FractionForWhole.count: its default, 2.5, is not of the type int"),
        (NumberForSwitch, "NumberForSwitch.on: its default, 1, is not of the type bool"),
        (Forgotten, "Forgotten: its hyper-parameters can't be read .NameError: name 'Missing' is not defined"),
        (
            type("Made", (BaseMethod,), {"run": Sound.run, "__annotations__": {"a": "int"}, "a": 1}),
            "Made: its hyper-parameters can't be read",
        ),
    ],
)
def test_types_and_defaults_that_do_not_fit_are_refused(handler: type[BaseMethod], said: str) -> None:
    """One sentence each. Catches a list of methods that ends with a traceback."""
    with pytest.raises(DeclarationError, match=f"^{said}"):
        describe_class(handler)


def test_a_class_without_a_docstring_has_no_summary() -> None:
    """Not that of the class it inherits from. Catches an IndexError."""
    for text in (None, "", "  \n "):
        facts = facts_of_class(
            type("Silent", (Sound,), {"__doc__": text, "__module__": Sound.__module__, "search_space": {}})
        )
        assert (facts.docstring, facts.summary) == ("", "")


def test_a_constructor_of_its_own_is_known() -> None:
    """Written, or made by a decorator."""

    @dataclass
    class Data(Sound):
        rate: float = 0.2

    class Written(Sound):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)

    assert facts_of_class(Data).has_init
    assert facts_of_class(Written).has_init


@pytest.mark.parametrize(
    "change",
    [
        {"docstring": 3},
        {"certifies": "no"},
        {"hyper_parameters": [{"name": "a", "type": "list", "default": 1, "explanation": ""}]},
        {"hyper_parameters": [{"name": "a", "type": "int", "default": "1", "explanation": ""}]},
        {"hyper_parameters": {}},
        {"search_space": {"rate": {"Between": {"low": "0", "high": 1}}}},
        {"search_space": {"rate": {"Between": {"low": 0}}}},
        {"search_space": {"rate": {"eval": {"choices": [1]}}}},
        {"search_space": {"other": {"OneOf": {"choices": [1]}}}},
        {"search_space": {"rate": {}}},
        {"drawings": {"a": {"Bars": {"title": 1, "entries": "b"}}}},
        {"drawings": {"a": {}}},
        {"files": ["methods/Absent.py"]},
        {"prepares_with": 3},
        {"exempt_from_budget": None},
        {"extra": 1},
    ],
)
def test_an_answer_is_not_believed(change: dict[str, Any]) -> None:
    """A file that is imported may answer anything in its own name."""
    described = {**describe_class(Sound), "source": "", "source_file": "", "files": [], **change}
    with pytest.raises((ValueError, TypeError, KeyError)):
        msgspec.convert(described, Described).build("a", Place("methods.A", "A"), True, {})


@pytest.mark.parametrize(
    "file", ["/dev/zero", "../../dev/zero", "methods", "methods/Absent.py", "methods/../../etc/passwd"]
)
def test_no_file_outside_of_the_kit_is_read(file: str) -> None:
    """Whatever an answer names. Catches a device that is read for ever."""
    with pytest.raises(FileNotFoundError, match="is no file of the kit"):
        digests(["methods/MyMethod.py", file])


def test_only_references_of_the_kit_are_exempt() -> None:
    """By the place that the registry names, not by what a class says of itself; the others are told so."""
    described = {**describe_class(Sound), "exempt_from_budget": True, "source": "", "source_file": "", "files": []}
    said = msgspec.convert(described, Described)
    stranger = said.build("retrain", Place("methods.Mine", "Retrain"), True, {})
    assert not stranger.exempt_from_budget
    assert any("exempt_from_budget counts for the kit's own references" in remark for remark in stranger.remarks)
    own = said.build("any_name", Place("methods.Retrain", "Retrain"), True, {})
    assert own.exempt_from_budget
    assert own.remarks == []
