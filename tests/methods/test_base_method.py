"""Hyper-parameters: where they come from, and what they refuse."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from methods.BaseMethod import BaseMethod


class Example(BaseMethod):
    """A method with one hyper-parameter of each type, and some attributes that are none."""

    rate: float = 0.1
    """Step size,
    in two lines."""
    steps: int = 3
    """Number of steps."""
    noisy: bool = False
    """Whether to add noise."""
    mode: str = "plain"
    unexplained: int = 1
    constant: ClassVar[int] = 7
    """Not a hyper-parameter: it is the class's."""
    _hidden: int = 5
    """Not a hyper-parameter: it is private."""
    untyped = 2
    """Not a hyper-parameter: it has no type."""


class Heir(Example):
    """Another default, and one hyper-parameter more."""

    steps: int = 10
    """Number of steps, again."""
    extra: float = 1.0
    """One more."""


class Outlandish(BaseMethod):
    """Its hyper-parameter has a type that no command line can set."""

    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""


def test_hyper_parameters_are_the_typed_public_attributes() -> None:
    """In the order of the file, with type, default and explanation."""
    parameters = Example.hyper_parameters()
    assert list(parameters) == ["rate", "steps", "noisy", "mode", "unexplained"]
    assert [parameter.type for parameter in parameters.values()] == [float, int, bool, str, int]
    assert [parameter.default for parameter in parameters.values()] == [0.1, 3, False, "plain", 1]
    assert parameters["rate"].explanation == "Step size,\nin two lines."
    assert parameters["mode"].explanation == parameters["unexplained"].explanation == ""


def test_hyper_parameters_are_inherited() -> None:
    """Those of the base class first; a new default replaces the old one."""
    parameters = Heir.hyper_parameters()
    assert list(parameters) == ["rate", "steps", "noisy", "mode", "unexplained", "extra"]
    assert parameters["steps"].default == 10
    assert parameters["steps"].explanation == "Number of steps, again."
    assert Example().settings()["steps"] == 3


class Certain(Example):
    """A method that claims all there is to claim."""

    guarantee = "exact"
    published_figures = "1.0"
    leaves_original = True
    deterministic = True
    mechanism = "retraining"
    certifies = True
    exempt_from_budget = True
    tried_with: ClassVar = {"steps": 1}


class HeirOfCertain(Certain):
    """Claims one of these again."""

    guarantee = "nearly exact"


def test_claims_are_not_inherited() -> None:
    """Not by a grandchild, either. Restrictions are: `tune` must not look at the forget set for a certified `run`."""

    class Grandchild(HeirOfCertain):
        mechanism = "retraining"

    assert Certain.guarantee == "exact"
    assert Certain.deterministic
    assert (HeirOfCertain.guarantee, HeirOfCertain.published_figures, HeirOfCertain.mechanism) == (
        "nearly exact",
        "",
        "",
    )
    assert not HeirOfCertain.leaves_original
    assert not HeirOfCertain.deterministic
    assert (Grandchild.guarantee, Grandchild.mechanism) == ("", "retraining")
    assert Grandchild.certifies
    assert Grandchild.exempt_from_budget
    assert Grandchild.tried_with == {"steps": 1}


def test_facts_are_no_hyper_parameters() -> None:
    """They are in no report, and can't be set."""
    assert Certain.hyper_parameters().keys() == Example.hyper_parameters().keys()
    assert Certain().settings() == Example().settings()
    with pytest.raises(ValueError, match="no hyper-parameter 'guarantee'"):
        Certain(guarantee="all")


def test_a_file_may_be_edited_while_its_method_runs(tmp_path: Path) -> None:
    """The class has the hyper-parameters that it was imported with. Catches a name from the file that it lacks."""
    file = tmp_path / "edited_method.py"
    lines = ["from methods.BaseMethod import BaseMethod", "class EditedMethod(BaseMethod):", "    rate: float = 0.1"]
    file.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("edited_method", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        file.write_text("\n".join([*lines, "    steps: int = 3"]))
        assert list(module.EditedMethod.hyper_parameters()) == ["rate"]
    finally:
        del sys.modules[spec.name]


def test_overrides_belong_to_the_instance() -> None:
    """Catches a value that is set on the class: the next run would have it too."""
    assert Example(steps=9).settings() == {**Example().settings(), "steps": 9}
    assert Example.steps == Example().steps == 3


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("rate", "0.5", 0.5),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("steps", "7", 7),
        ("steps", 7.0, 7),
        ("noisy", "true", True),
        ("noisy", "No", False),
        ("noisy", "1", True),
        ("noisy", True, True),
        ("mode", "fancy", "fancy"),
        ("mode", "true", "true"),
    ],
)
def test_values_become_the_declared_type(name: str, given: Any, expected: Any) -> None:
    """From a command line all values are texts; from code they may be a number of another type."""
    value = getattr(Example(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("rate", "fast", "float"),
        ("rate", None, "float"),
        ("rate", True, "float"),
        ("steps", "2.5", "int"),
        ("steps", 2.5, "int"),
        ("steps", float("inf"), "int"),
        ("steps", True, "int"),
        ("noisy", "maybe", "bool"),
        ("noisy", 2, "bool"),
        ("noisy", None, "bool"),
        ("mode", True, "str"),
    ],
)
def test_values_of_another_type_are_refused(name: str, given: Any, wanted: str) -> None:
    """The message has the name, the type and the value. Catches 2.5 steps cut to 2, and True taken for 1."""
    with pytest.raises(ValueError, match=f"{name} takes a value of type {wanted}, not") as error:
        Example(**{name: given})
    assert repr(given) in str(error.value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    """A typing error must not be ignored: the run would be of something else than its author believes."""
    with pytest.raises(ValueError, match=r"Example has no hyper-parameter 'step'; it has steps\."):
        Example(step=1)
    with pytest.raises(ValueError, match="it has rate, steps, noisy, mode, unexplained"):
        Example(zzz=1)
    for name in ("constant", "_hidden", "untyped", "run"):
        with pytest.raises(ValueError, match=f"no hyper-parameter '{name}'"):
            Example(**{name: 1})


def test_types_that_cannot_be_set_are_refused() -> None:
    """Rather than a text from the command line handed on as if it were a tuple."""
    with pytest.raises(ValueError, match=r"Outlandish.sizes: the type .* is one of bool, int, float, str\."):
        Outlandish()


def test_a_method_needs_a_run() -> None:
    """Said by name, for those who have misspelled it."""
    with pytest.raises(NotImplementedError, match="Example needs a run"):
        Example().run(*[None] * 4)  # type: ignore[arg-type]


def test_values_in_force_are_those_before_the_constructor() -> None:
    """A method whose own __init__ changes a value is given the value once, not what an earlier __init__ made of it."""

    class Doubling(BaseMethod):
        rate: float = 1.0
        """Rate."""

        def __init__(self, **overrides: Any) -> None:
            super().__init__(**overrides)
            self.rate *= 2

    values = Doubling.values_in_force({"rate": "3"})
    assert values["rate"] == 3
    assert Doubling(**values).settings()["rate"] == 6
    assert Doubling.values_in_force({})["rate"] == 1


def test_advice_names_the_type_of_a_class_without_the_future_import() -> None:
    """Whose annotations are types, not texts. Catches `<class 'float'>`."""
    odd: type[BaseMethod] = type("Odd", (BaseMethod,), {"__annotations__": {"rate": float}})
    assert odd.almost_hyper_parameters() == {"rate": "needs a default, like rate: float = ..."}
