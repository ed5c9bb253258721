"""What a user decides about a grading; `runs/resolve.py` says what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import yaml

from data import TaskSpec, UserError
from data.documents import read_yaml
from data.texts import as_attribute
from evaluation.catalogue.lookup import find_name, registry
from evaluation.metrics import DEFAULT_METRIC, METRICS
from evaluation.texts import with_numbers
from evaluation.tuned import Tuned

PROTOCOLS = ("per-original", "full")
MOST_MODELS = 10**6
MOST_SEED = 2**64
"""More is a mistake. (Searches derive seeds of up to 64 bits from the user's.)"""


@dataclass(frozen=True)
class GradingSpec:
    """Everything that a user decides about a grading; `config.yaml` holds it.

    `protocol` "per-original" grades `models` runs from each of `originals` originals, each by itself, and
    averages. "full" grades one run from each of `models` originals (and `originals` does not count).
    """

    method: str
    task: TaskSpec = field(default_factory=TaskSpec)
    settings: tuple[tuple[str, Any], ...] = ()
    """Hyper-parameters that the user set."""
    originals: int = 2
    models: int = 64
    protocol: str = "per-original"
    metric: str = DEFAULT_METRIC
    seed: int = 0
    budget: float = 0.2
    """The most seconds a run may take, as a fraction of the measured seconds of retraining."""
    budget_seconds: float | None = None
    """The same in seconds; overrides `budget`."""
    tuned: Tuned | None = None
    """Values that `tune` found, for the other hyper-parameters; None: they have their published values."""
    submission: str | None = None
    """Of a graded zip: where it lay. `method` is then no method, but the name it was given."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(f"--protocol is one of {', '.join(PROTOCOLS)}, not {self.protocol!r}.")
        if self.metric not in METRICS:
            raise UserError(f"--metric is one of {', '.join(METRICS)}, not {self.metric!r}.")
        if self.originals < 1:
            raise UserError(f"A grading needs at least 1 original, not {self.originals}.")
        for name, number, most in (
            ("originals", self.originals, MOST_MODELS),
            ("models", self.models, MOST_MODELS),
            ("seed", abs(self.seed), MOST_SEED),
        ):
            if number > most:
                raise UserError(f"--{name} can't be more than {most:,}.")
        fewest = METRICS[self.metric].fewest_models
        if self.models < fewest:
            raise UserError(
                f"The {self.metric} metric needs at least {fewest} models, not {self.models}: of fewer it has no "
                "value. python main.py -m METHOD --debug tries a method once, without a score."
            )
        for budget in (self.budget, self.budget_seconds):
            if budget is not None and not 0 < budget < math.inf:
                raise UserError(f"The budget must be greater than 0 and finite, not {budget}.")

    def runs(self) -> list[tuple[int, int]]:
        """The runs `(original, run)` of the grading, in the order of `outputs.npz`."""
        if self.protocol == "full":
            return [(original, 0) for original in range(self.models)]
        return [(original, run) for original in range(self.originals) for run in range(self.models)]

    @property
    def originals_needed(self) -> int:
        """How many originals the bank must have."""
        return self.models if self.protocol == "full" else self.originals

    @property
    def shape(self) -> tuple[int, int]:
        """(distributions to grade, models in each)."""
        return (1 if self.protocol == "full" else self.originals, self.models)

    def command(self, config: Path) -> str:
        """What the user types to repeat this grading, or to go on with it; `config` is its `config.yaml`."""
        if self.submission is not None:
            return f"python main.py grade {self.submission} (with the options that are in {config})"
        return f"python main.py --config {config}"

    def to_yaml(self) -> str:
        """As the text of a `config.yaml`."""
        values = asdict(self)
        values["settings"] = dict(self.settings)
        values["tuned"] = self.tuned and self.tuned.to_dict()
        values["task"] = {**asdict(self.task), "recipe": dict(self.task.recipe), "forget": list(self.task.forget)}
        return yaml.safe_dump(values, sort_keys=False)

    @staticmethod
    def read(path: Path) -> GradingSpec:
        """From a `config.yaml`.

        Raises:
            UserError: the file can't be read, or is something else.
        """
        try:
            values = dict(read_yaml(path))
            task = dict(values.get("task") or {})
            _check_entries(values, GradingSpec)
            values |= {name: with_numbers(values[name]) for name in ("budget", "budget_seconds") if name in values}
            _check_entries(task, TaskSpec)
            task["recipe"] = list(dict(task.get("recipe") or {}).items())
            values["task"] = task
            values["settings"] = list(dict(values.get("settings") or {}).items())
            if values.get("tuned"):
                tuned = dict(values["tuned"])
                values["tuned"] = {**tuned, "settings": list(dict(tuned["settings"]).items())}
            return msgspec.convert(values, GradingSpec)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}. Name a config.yaml from results/.") from error
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is not the config.yaml of a grading: {reason}.") from error


def _check_entries(values: Mapping[str, Any], kind: type[GradingSpec] | type[TaskSpec]) -> None:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"it has an unknown entry {name}")


def choose_methods(names: str) -> list[str]:
    """The names of the methods that "a,b" stands for, or "all": all that are registered.

    A method may also be named by its class or its file, `MyIdea` or `methods/MyIdea.py`, registered or not.

    Raises:
        UserError: there is no such method; the message has the nearest ones.
    """
    if names == "all":
        return list(registry())
    chosen = [find_name(name.strip()) for name in names.split(",") if name.strip()]
    if not chosen:
        raise UserError("Name a method: -m my_method (python main.py list shows them).")
    return chosen


def choose_one_method(name: str) -> str:
    """The method of this name.

    Raises:
        UserError: there is none, or several are named.
    """
    chosen = choose_methods(name)
    if len(chosen) > 1:
        raise UserError(f"This command takes one method: -m {chosen[0]}, not -m {name}.")
    return chosen[0]


def pairs(flag: str, texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """["epochs=4"], as an option like --set has them, as (("epochs", "4"),)."""
    for text in texts or ():
        if "=" not in text or text.startswith("="):
            raise UserError(f"{flag} takes name=value, like {flag} epochs=4, not {text!r}.")
    split = (text.partition("=") for text in texts or ())
    return tuple((as_attribute(name.strip()), value.strip()) for name, _, value in split)
