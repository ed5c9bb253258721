"""What an audit is: another question to what a grading has stored, and the facts about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

import msgspec

from checkpoints.grouped import State
from checkpoints.outputs import Outputs
from data import Task
from data.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a grading has stored of one method on one task."""

    method: str
    task: Task
    originals: Outputs
    """Of K models."""
    retrained: Outputs
    """Of N models."""
    unlearned: list[Outputs]
    """Of the runs from each original; by the protocol "full", of the one run from each as one list."""
    original_weights: Callable[[int], State]
    """The weights of an original, by its number, on the CPU."""
    retrained_weights: Callable[[int], State]
    unlearned_weights: Callable[[int, int], State] | None
    """The weights that a run left, by original and run. None unless the audit needs weights."""


class Result(Protocol):
    """What an audit comes to: a frozen dataclass of numbers, lists, texts and records of them, which is its JSON.

    Its type is what `examine` says that it returns: `python main.py schema NAME` is made from that, and from the
    strings below its fields.
    """

    def as_table(self) -> Table:
        """For a terminal."""

    def as_rows(self) -> list[dict[str, Any]]:
        """For a spreadsheet: one row or more, of equal columns, none of them among `record.CONTEXT`."""


@dataclass(frozen=True)
class Audit:
    """A question that is put to stored outputs, so that it costs no new run."""

    name: str
    """As `python main.py audit NAME` has it."""
    summary: str
    """One line: what it asks, with the ideal value."""
    examine: Callable[..., Result]
    """From `Evidence`, and options by keyword: plain values with a default, which `--option name=value` sets."""
    needs_weights: bool = False
    """Whether it needs the weights that runs left. Those of runs that have not kept them are run again."""

    def options(self) -> dict[str, Any]:
        """The options with their defaults."""
        parameters = list(inspect.signature(self.examine).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def values_in_force(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options, those in `given` (which may be texts) with the given values.

        Raises:
            UserError: an unknown option, or a value of another type.
        """
        values = self.options()
        types = get_type_hints(self.examine)
        for name, value in given.items():
            if name not in values:
                raise unknown_name(f"option of {self.name}", name, values)
            try:
                values[name] = msgspec.convert(value, types[name], strict=False)
            except msgspec.ValidationError as error:
                wanted = getattr(types[name], "__name__", types[name])
                raise UserError(f"{self.name}: {name} takes a value of type {wanted}, not {value!r}.") from error
        return values
