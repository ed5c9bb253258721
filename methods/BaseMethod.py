"""The class that every unlearning method inherits from."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

Loader = DataLoader[dict[str, Any]]


PLAIN_TYPES = (bool, int, float, str)
"""Types that a hyper-parameter can have: what the command line can set and a report can hold."""


@dataclass(frozen=True)
class Between:
    """A range of a hyper-parameter to search, ends included; `log` for one whose order of magnitude matters."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """The values of a hyper-parameter to search among."""

    choices: tuple[Any, ...]


@dataclass(frozen=True)
class Matrix:
    """How a note that is a matrix, a list of rows, is drawn: as a heat map of its mean over the runs."""

    title: str
    rows: str
    """What a row stands for."""
    columns: str
    """What a column stands for."""
    less_identity: bool = False
    """Whether the identity is subtracted first: for a square matrix that is close to it."""


@dataclass(frozen=True)
class Bars:
    """How a note that is an object of numbers is drawn: a bar for each, the mean over the runs, and their range."""

    title: str
    entries: str
    """What a number is of, in a word; shown where there are too many bars to name each."""
    limits: tuple[float, float] | None = None
    """The ends of the axis; None leaves them to the numbers."""


Drawing = Matrix | Bars


@dataclass(frozen=True)
class HyperParameter:
    """One hyper-parameter of a method: its type, its default value, and a line that explains it."""

    name: str
    type: type
    default: Any
    explanation: str


CLAIMS = ("guarantee", "published_figures", "leaves_original", "deterministic", "mechanism")
"""Facts that hold for the code of one class. A class that inherits from it may do something else: it starts without
them, and has to state what is true of it."""


class BaseMethod:
    """An unlearning method. Inherit, give it hyper-parameters and a `run`, and a name in `methods/__init__.py`.

    Hyper-parameters are class attributes with a type, a default and a docstring of their own:

        class MyMethod(BaseMethod):
            learning_rate: float = 0.001
            \"\"\"Step size of SGD.\"\"\"

    They can be overridden by keyword, `MyMethod(learning_rate=0.01)`, and from the command line,
    `--set learning_rate=0.01`; in `run` they are `self.learning_rate`.

    Facts about the method, which nobody can set, are class attributes without a type of their own: `certifies = True`.
    Those below are known; all have a default. They stay behind when a method is exported to a notebook.

    Raises:
        ValueError: on an unknown hyper-parameter, or a value that is not of its type.
    """

    # What is claimed of this class alone; see `CLAIMS`.
    guarantee: ClassVar[str] = ""
    """What is proven about the result, in a few words; empty if nothing is."""
    published_figures: ClassVar[str] = ""
    """Its results as published by its authors, or by those who compared them, in a line; empty if there are none."""
    leaves_original: ClassVar[bool] = False
    """True if its runs are to leave the original unchanged; with any other method that is an error in a notebook."""
    deterministic: ClassVar[bool] = False
    """True if nothing is random in it, with its default values: runs from one original are equal, and F is 0."""
    mechanism: ClassVar[str] = ""
    """How the epsilon of its certificates follows from their constants: a name among the `MECHANISMS` of
    `evaluation.certification.mechanisms`. Without one, or if a certificate names another method, none is kept."""

    # How the kit treats it. These are inherited, as `run` is.
    exempt_from_budget: ClassVar[bool] = False
    """True for references (retraining from scratch) that may take as long as they like, and are marked so. It counts
    for those of the kit alone (`REFERENCES` in `evaluation.catalogue.facts`)."""
    follows_recipe: ClassVar[bool] = False
    """True if hyper-parameters that the task's training recipe has too, by name, take the recipe's values."""
    recipe_is_binding: ClassVar[bool] = False
    """True if these must keep the recipe's values, because they tell how the original was trained."""
    certifies: ClassVar[bool] = False
    """True if its runs leave certificates. They hold only for runs that don't read the forget set, which is
    watched; for values that were chosen without looking at it, so `tune` goes by validation accuracy from retrained
    models; and for networks in which nothing else of the original is left. A class that inherits keeps these
    restrictions; for its certificates to count, it has to name its own `mechanism`."""
    whole_classes: ClassVar[bool] = False
    """True if it is meant for the removal of whole classes; `python main.py check` warns of other requests."""
    self_tuning: ClassVar[bool] = False
    """True if its runs choose its values for each problem, within their budget; `python main.py suite` says so."""
    search_space: ClassVar[dict[str, Between | OneOf]] = {}
    """What `python main.py tune` may change, by hyper-parameter; the rest keep their values."""
    prepares_with: ClassVar[tuple[str, ...]] = ()
    """The hyper-parameters that `prepare` looks at, so that changing others does not repeat it; empty: all."""
    drawings: ClassVar[dict[str, Drawing]] = {}
    """How `python main.py history` draws its notes, by the name of the note; lists of numbers need no entry."""
    tried_with: ClassVar[dict[str, Any]] = {}
    """Values that the contract tests set, if with its defaults it may find nothing to change in a small network that
    has learned nothing yet."""

    notes: dict[str, Any]  # see `run`; neither is there until a method makes it
    memory: dict[str, torch.Tensor]
    prepared: dict[str, torch.Tensor]  # see `prepare`; not there if nobody has prepared anything

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Withdraw what is claimed of the classes that this one inherits from, unless it claims the same itself."""
        super().__init_subclass__(**keywords)
        for claim in CLAIMS:
            if claim not in vars(cls):
                setattr(cls, claim, getattr(BaseMethod, claim))

    def __init__(self, **overrides: Any) -> None:
        values = self.values_in_force(overrides)
        for name in overrides:
            setattr(self, name, values[name])

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """Make `net` forget, in place.

        Args:
            net: the original model, trained on the retain and the forget set; in eval mode, on its device.
            retain_loader: what is to be kept. Batches are dicts, `sample["image"]` float32 `(B, C, H, W)` and
                `sample["age_group"]` int64 `(B,)`: the class label, by the name it had in the competition.
            forget_loader: what is to be forgotten.
            val_loader: images that the original was not trained on.

        The return value is ignored. Only `net.state_dict()` is taken; the architecture must stay as it is.

        A run may leave anything else it has to tell in the dict `self.notes`, as lists, numbers and strings: the
        grader keeps that as a JSON file of the run. `python main.py history` draws every list of numbers in it, like
        `self.notes = {"loss": [0.7, 0.5]}` (one number for each epoch, say), and what `drawings` describes.

        Where several requests arrive one after another, `run` is called for each on the model it left for the one
        before. Tensors by name that it leaves in `self.memory` are there again for the next request (at the first
        there is no such attribute).
        """
        raise NotImplementedError(f"{type(self).__name__} needs a run() method.")

    def prepare(self, net: nn.Module, train_loader: Loader, val_loader: Loader) -> dict[str, torch.Tensor]:
        """Optional: what can be done once for each original, before anybody asks to be forgotten.

        `train_loader` is over all that the original `net` was trained on. The grader calls this once, without a budget,
        keeps the tensors that it returns beside the original, and gives them to every run as `self.prepared`; a report
        has the seconds that it took. A notebook has nothing prepared, so that `run` must do without, too.
        """
        return {}

    @classmethod
    def hyper_parameters(cls) -> dict[str, HyperParameter]:
        """The hyper-parameters by name, in the order of the file, those of base classes first."""
        return _hyper_parameters(cls, explained=True)

    @classmethod
    def almost_hyper_parameters(cls) -> dict[str, str]:
        """Attributes that look like hyper-parameters, by name, and what would make them such, in a few words."""
        known, found = _hyper_parameters(cls), {}
        for base in _own_bases(cls):
            annotations = inspect.get_annotations(base)
            for name, annotation in annotations.items():
                if not hasattr(cls, name):
                    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", annotation)
                    found[name] = f"needs a default, like {name}: {kind} = ..."
            for name, value in vars(base).items():
                if type(value) in PLAIN_TYPES and name not in annotations:
                    found[name] = f"needs a type, like {name}: {type(value).__name__} = {value!r}"
        return {
            name: advice
            for name, advice in found.items()
            if not name.startswith("_") and name not in known and name not in ATTRIBUTES
        }

    @classmethod
    def values_in_force(cls, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every hyper-parameter, by name, if those in `overrides` (which may be texts) are set.

        Raises:
            ValueError: as the class does.
        """
        return values_in_force(cls.__name__, _hyper_parameters(cls), cls.almost_hyper_parameters(), overrides)

    def settings(self) -> dict[str, Any]:
        """The values in force, by name."""
        return {name: getattr(self, name) for name in _hyper_parameters(type(self))}


ATTRIBUTES = frozenset(
    [name for name in vars(BaseMethod) if not name.startswith("_")] + list(inspect.get_annotations(BaseMethod))
)
"""What every method has, with or without a value; none of it is a hyper-parameter."""


def values_in_force(
    class_name: str, known: Mapping[str, HyperParameter], almost: Mapping[str, str], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """See `BaseMethod.values_in_force`; of a class that is described by its name and its (almost) hyper-parameters.

    Raises:
        ValueError: a name in `overrides` that is no hyper-parameter, or a value that is not of its type; a batch of
            no images, unless 0 has a meaning, and is the default; less than no epochs.
    """
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in overrides.items():
        if name in almost:
            raise ValueError(f"{class_name} has no hyper-parameter {name!r}: that attribute {almost[name]}.")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or list(known) or ["none at all"]
            raise ValueError(f"{class_name} has no hyper-parameter {name!r}; it has {', '.join(close)}.")
        values[name] = _convert(name, value, known[name].type)
        if name.endswith("batch_size") and known[name].default > 0 > values[name] - 1:
            raise ValueError(f"{name} must be at least 1, not {values[name]}.")
        if name == "epochs" and known[name].default >= 0 > values[name]:
            raise ValueError(f"epochs must be at least 0, not {values[name]}.")
    return values


def _own_bases(cls: type) -> list[type]:
    """The classes that a method inherits from, first, and itself; without `BaseMethod`, which every one has."""
    return [base for base in reversed(cls.__mro__) if base not in (object, BaseMethod)]


def _hyper_parameters(cls: type, explained: bool = False) -> dict[str, HyperParameter]:
    """See `BaseMethod.hyper_parameters`. To have them explained, files are read and parsed; a run does without."""
    found = {}
    for base in _own_bases(cls):
        explanations = _attribute_docstrings(base) if explained else {}
        for name, kind in _annotated_with_value(base).items():
            if kind not in PLAIN_TYPES:
                plain = ", ".join(plain.__name__ for plain in PLAIN_TYPES)
                raise ValueError(f"{cls.__name__}.{name}: the type of a hyper-parameter is one of {plain}.")
            found[name] = HyperParameter(name, kind, getattr(cls, name), explanations.get(name, ""))
    return found


def _annotated_with_value(cls: type) -> dict[str, Any]:
    """The types of a class's own attributes that have one and a value, and may be hyper-parameters."""
    names = [name for name, annotation in inspect.get_annotations(cls).items() if "ClassVar" not in str(annotation)]
    own = [name for name in names if name in vars(cls) and not name.startswith("_") and name not in ATTRIBUTES]
    types = inspect.get_annotations(cls, eval_str=True) if own else {}
    return {name: types[name] for name in own}


@cache  # a file has to be parsed for it
def _attribute_docstrings(cls: type) -> dict[str, str]:
    """The string that follows each annotated attribute of a class, if there is one."""
    if not inspect.get_annotations(cls):  # nor need it have a file
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def _convert(name: str, value: Any, wanted: type) -> Any:
    """`value`, which may be a text from the command line, as the type of the hyper-parameter."""
    if wanted is bool:
        choices = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() in choices:
            return choices[str(value).lower()]
    elif not isinstance(value, bool):
        try:
            converted = wanted(value)
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            if wanted is not int or isinstance(value, str) or converted == value:
                return converted
    raise ValueError(f"{name} takes a value of type {wanted.__name__}, not {value!r}.")
