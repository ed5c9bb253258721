"""What a method's class declares, checked: hyper-parameters, what may be searched, facts.

The class is described in the process that imports it; what a search space may be is checked wherever one is read.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict
from types import CodeType
from typing import Any

from data.texts import as_attribute
from methods.BaseMethod import Bars, BaseMethod, Between, HyperParameter, Matrix, OneOf

TEXTS = ("guarantee", "published_figures", "mechanism")
SWITCHES = (
    "leaves_original",
    "deterministic",
    "exempt_from_budget",
    "follows_recipe",
    "recipe_is_binding",
    "certifies",
    "whole_classes",
    "self_tuning",
)


GIVES = ("", "generator", "coroutine", "value")


class DeclarationError(Exception):
    """Something that a class declares makes no sense; the message is a sentence that begins with the class's name."""


def describe_class(handler: type[BaseMethod]) -> dict[str, Any]:
    """All that a class says of itself, as values that JSON has.

    Raises:
        DeclarationError: something of it is wrong.
    """
    name = handler.__name__
    try:
        parameters = handler.hyper_parameters()
        almost = handler.almost_hyper_parameters()
    except ValueError as error:
        raise DeclarationError(str(error)) from error
    except Exception as error:  # a type that needs a name which the file lacks, a class that no file has
        raise DeclarationError(
            f"{name}: its hyper-parameters can't be read ({type(error).__name__}: {error})."
        ) from error
    for check in (_check_attributes, _check_defaults, _check_facts, _check_search_space):
        check(handler, parameters)
    return {
        "class_name": name,
        "docstring": inspect.cleandoc(handler.__doc__ or "").strip(),
        "hyper_parameters": [
            {**asdict(parameter), "type": parameter.type.__name__} for parameter in parameters.values()
        ],
        "almost": almost,
        "search_space": {as_attribute(key): as_json(value) for key, value in handler.search_space.items()},
        "drawings": {key: as_json(value) for key, value in handler.drawings.items()},
        "tried_with": {as_attribute(key): value for key, value in handler.tried_with.items()},
        "prepares_with": list(map(as_attribute, handler.prepares_with)),
        "has_prepare": handler.prepare is not BaseMethod.prepare,
        "has_init": handler.__init__ is not BaseMethod.__init__,
        "run_gives": _what_run_gives(handler),
        **{fact: getattr(handler, fact) for fact in (*TEXTS, *SWITCHES)},
    }


def _what_run_gives(handler: type[BaseMethod]) -> str:
    """What a call of `run` gives in place of, or besides, its work: one of `GIVES`; "" if that is nothing."""
    try:
        run = inspect.unwrap(handler.run)
    except ValueError:  # decorators that wrap each other
        return ""
    if inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
        return "generator"
    if inspect.iscoroutinefunction(run):
        return "coroutine"
    return "value" if inspect.isfunction(run) and _returns_something(run.__code__) else ""


def _returns_something(code: CodeType) -> bool:
    """Whether a function has a `return` with anything but None."""
    before = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return True
        nothing = before is not None and before.opname == "LOAD_CONST" and before.argval is None
        if instruction.opname == "RETURN_VALUE" and not nothing:
            return True
        before = instruction
    return False


def as_json(declared: object) -> dict[str, Any]:
    """A range, a choice or a drawing, under the name of its class."""
    return {type(declared).__name__: asdict(declared)}  # type: ignore[call-overload]


def _check_attributes(handler: type[BaseMethod], parameters: Mapping[str, HyperParameter]) -> None:
    """What the kit calls is callable, and there is something to run."""
    for attribute in ("run", "prepare", "settings", "hyper_parameters", "values_in_force"):
        if not callable(getattr(handler, attribute)):
            raise DeclarationError(
                f"{handler.__name__}.{attribute} must be a method: give your attribute another name."
            )
    if handler.run is BaseMethod.run:
        raise DeclarationError(
            f"{handler.__name__} needs a method run(self, net, retain_loader, forget_loader, val_loader)."
        )


def _check_defaults(handler: type[BaseMethod], parameters: Mapping[str, HyperParameter]) -> None:
    for parameter in parameters.values():
        if not fits(parameter.default, parameter.type):
            raise DeclarationError(
                f"{handler.__name__}.{parameter.name}: its default, {parameter.default!r}, is not of the type "
                f"{parameter.type.__name__}."
            )


def fits(value: Any, wanted: type) -> bool:
    """Whether a value is of a plain type; a whole number may stand for a float."""
    if isinstance(value, bool) or wanted is bool:
        return wanted is bool and isinstance(value, bool)
    return isinstance(value, wanted) or (wanted is float and isinstance(value, int))


def _check_facts(handler: type[BaseMethod], parameters: Mapping[str, HyperParameter]) -> None:
    """Each fact is of the type that it has in `BaseMethod`, and names nothing that isn't there."""
    name = handler.__name__
    expected: list[tuple[str, type | tuple[type, ...], str]] = [
        *((fact, str, 'a text, like "exact"') for fact in TEXTS),
        *((fact, bool, "True or False") for fact in SWITCHES),
        ("prepares_with", (tuple, list), 'a tuple of names, like ("epochs",)'),
        ("search_space", dict, 'a dict, like {"learning_rate": Between(0.001, 0.1, log=True)}'),
        ("drawings", dict, 'a dict, like {"losses": Bars("losses", "term")}'),
        ("tried_with", dict, 'a dict of values by hyper-parameter, like {"epochs": 2}'),
    ]
    for fact, kind, like in expected:
        value = getattr(handler, fact)
        if not isinstance(value, kind):
            raise DeclarationError(f"{name}.{fact} must be {like}, not {value!r}.")
    for fact in ("prepares_with", "tried_with"):
        for key in getattr(handler, fact):
            _require_known(handler, fact, key, parameters)
    try:
        handler.values_in_force({as_attribute(key): value for key, value in handler.tried_with.items()})
    except ValueError as error:
        raise DeclarationError(f"{name}.tried_with: {error}") from error
    for key, drawing in handler.drawings.items():
        if not isinstance(key, str) or not isinstance(drawing, (Matrix, Bars)):
            raise DeclarationError(f"{name}.drawings[{key!r}] must be a Matrix or Bars, not {drawing!r}.")


def _require_known(
    handler: type[BaseMethod], fact: str, key: object, parameters: Mapping[str, HyperParameter]
) -> HyperParameter:
    key = as_attribute(key) if isinstance(key, str) else key
    if not isinstance(key, str) or key not in parameters:
        advice = handler.almost_hyper_parameters().get(key) if isinstance(key, str) else None
        known = f"that attribute {advice}" if advice else f"it has {', '.join(parameters) or 'none'}"
        raise DeclarationError(f"{handler.__name__}.{fact} names {key!r}, which is no hyper-parameter: {known}.")
    return parameters[key]


# ----------------------------------------------------------------------------------------------------------------------
# What is searched
# ----------------------------------------------------------------------------------------------------------------------


def _check_search_space(handler: type[BaseMethod], parameters: Mapping[str, HyperParameter]) -> None:
    """Each entry has values of the hyper-parameter's type, and the default among them: it is the first trial."""
    for key, range_ in handler.search_space.items():
        parameter = _require_known(handler, "search_space", key, parameters)
        if complaint := complaint_of_entry(range_, parameter):
            raise DeclarationError(f"{handler.__name__}.search_space[{key!r}] {complaint}, not {range_!r}.")


def complaint_of_entry(range_: object, parameter: HyperParameter) -> str | None:
    """What is wrong with an entry of a search space, in words that follow its name; None if nothing is."""
    if isinstance(range_, OneOf):
        return _complaint_of_choices(range_, parameter)
    if isinstance(range_, Between):
        return _complaint_of_range(range_, parameter)
    return "must be Between(low, high) or OneOf((first, second))"


def _complaint_of_choices(choice: OneOf, parameter: HyperParameter) -> str | None:
    choices = choice.choices
    if not isinstance(choices, (tuple, list)) or not choices:
        return "must have a tuple of values, like OneOf((16, 32))"
    if not all(fits(value, parameter.type) for value in choices):
        return f"must have values of the type {parameter.type.__name__}"
    if len(set(choices)) < len(choices):
        return "must have each value once"
    if parameter.default not in choices:
        return f"must include the default, {parameter.default!r}"
    return None


def _complaint_of_range(range_: Between, parameter: HyperParameter) -> str | None:
    ends, kind = (range_.low, range_.high), parameter.type
    if kind not in (int, float):
        return f"must be OneOf(...), as its values are of the type {kind.__name__}"
    if not all(fits(end, float) and abs(end) <= sys.float_info.max for end in ends) or not isinstance(range_.log, bool):
        return "must have two finite numbers, and log=True or False"
    if range_.low > range_.high:
        return "must have the lower end first"
    if range_.log and range_.low <= 0:
        return "must begin above 0, as log=True takes logarithms"
    if kind is int and any(end != int(end) for end in ends):
        return "must have whole numbers as ends, as its values are whole"
    if not range_.low <= parameter.default <= range_.high:
        return f"must include the default, {parameter.default!r}"
    return None
