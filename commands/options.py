"""The options of all commands, in groups: each flag is declared here once, and so is what it changes in a grading.

A group is a frozen dataclass; a command takes it as a keyword-only parameter. The docstring of a field is its help. A
field that is None, empty or False was not given: the value is then that of the `GradingSpec` that is changed, which is
the command's own or that of `--config`. Groups inherit from smaller ones, for commands that need only a few options;
all groups stand in this file, because cyclopts looks up the annotations of inherited fields here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, Token

from data.errors import UserError
from data.own_network import pinned

if TYPE_CHECKING:
    from checkpoints.workers import Workers
    from data.task import TaskSpec
    from evaluation.console import Console
    from evaluation.spec import GradingSpec
    from evaluation.tuned import Tuned


def whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """The value of an option that takes a whole number."""
    token = tokens[-1]
    try:
        return int(token.value)
    except ValueError as error:
        raise UserError(f"{token.keyword} takes a whole number, not {token.value!r}.") from error


def number(_: Any, tokens: Sequence[Token]) -> float:
    """The value of an option that takes a number."""
    token = tokens[-1]
    try:
        return float(token.value)
    except ValueError as error:
        raise UserError(f"{token.keyword} takes a number, not {token.value!r}.") from error


OPTIONS = Parameter(name="*")
"""Marks a dataclass as a group: its fields are options of the command."""

WHOLE = Parameter(converter=whole_number)
NUMBER = Parameter(converter=number)

# The titles in the help, in their order.
METHOD = Parameter(group=Group("Method", sort_key=1))
TASK = Parameter(group=Group("Task", sort_key=2))
GRADING = Parameter(group=Group("Grading", sort_key=3))
DATA = Parameter(group=Group("Data", sort_key=4))
RUN = Parameter(group=Group("Run", sort_key=5))
AUDIT = Parameter(group=Group("Audit", sort_key=6))
OUTPUT = Parameter(group=Group("Output", sort_key=7))
NOTEBOOK = Parameter(group=Group("Notebook", sort_key=8))

ResultFolder = Annotated[Path, Parameter(help="A folder of results/.")]
"""An argument, of the commands that read what a grading has left."""


def given(group: object) -> dict[str, Any]:
    """The fields of a group that were on the command line."""
    values = {field.name: getattr(group, field.name) for field in fields(group)}  # type: ignore[arg-type]
    for name, value in values.items():
        if value == "":
            raise UserError(f"--{name.replace('_', '-')} needs a value, not an empty text.")
    return {name: value for name, value in values.items() if value not in (None, ()) and value is not False}


# ----------------------------------------------------------------------------------------------------------------------
# The task
# ----------------------------------------------------------------------------------------------------------------------


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class TaskName:
    """Which task."""

    task: Annotated[str | None, TASK] = None
    """Data set and problem. [for a grading: digits; for a zip: kaggle]"""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class DataDir:
    """Where the data lie."""

    data_dir: Annotated[str | None, DATA] = None
    """Folder of the images (tasks folder, kaggle), or of downloads."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class DataOptions(TaskName, DataDir):
    """Which data, and which network."""

    train_size: Annotated[int | None, DATA, WHOLE] = None
    """Train on this many images, a class-balanced subset."""
    test_size: Annotated[int | None, DATA, WHOLE] = None
    """Test on this many images, a class-balanced subset."""
    network: Annotated[str | None, DATA] = None
    """Network to train; yours: FILE.py:NAME. [default: that of the task]"""
    features: Annotated[str | None, DATA] = None
    """resnet18, resnet18-imagenet: use features instead of images."""

    def changes(self) -> dict[str, Any]:
        """The fields of a `TaskSpec` that were given."""
        values = given(self)
        if "task" in values:
            values["name"] = values.pop("task")
        if "network" in values:
            values["network"] = pinned(values["network"])
        return values


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class TaskOptions(DataOptions):
    """The whole problem: data, network, training recipe, and what is to be forgotten."""

    forget: Annotated[tuple[str, ...], TASK] = ()
    """What to forget: random:0.1, random:0.1@SEED, class:cat, class:cat:0.5, group:COLUMN:9,
    where:EXPRESSION, file:forget.csv, confuse:0.1. Repeatable."""
    at_once: Annotated[bool, TASK] = False
    """Make one request of several --forget; else one comes after another."""
    size: Annotated[str | None, DATA] = None
    """Size of a generated task: faces has mini (default) and full."""
    recipe: Annotated[tuple[str, ...], DATA] = ()
    """Value of the training recipe, like epochs=30. Repeatable."""

    def changed(self, spec: TaskSpec) -> TaskSpec:
        """`spec` with what was given in its place. A list that was given replaces the whole list."""
        from evaluation.spec import pairs

        values = self.changes()
        if self.recipe:
            values["recipe"] = pairs("--recipe", self.recipe)
        spec = replace(spec, **values)
        return replace(spec, at_once=spec.at_once and len(spec.forget) > 1)


# ----------------------------------------------------------------------------------------------------------------------
# The method
# ----------------------------------------------------------------------------------------------------------------------


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class MethodNames:
    """Which methods."""

    method: Annotated[str | None, METHOD, Parameter(name=("--method", "-m"))] = None
    """Name of a method; to grade or tune several: a,b or all."""

    def names(self) -> list[str]:
        """The methods. Raises `UserError` if there is no such method, or none was named."""
        from evaluation.spec import choose_methods

        return choose_methods(self.method or "")

    def name(self) -> str:
        """The only method. Raises `UserError` if there is no such method, or not exactly one was named."""
        from evaluation.spec import choose_one_method

        return choose_one_method(self.method or "")


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class MethodOptions(MethodNames):
    """Which methods, and their hyper-parameters."""

    set_: Annotated[tuple[str, ...], METHOD, Parameter(name="--set")] = ()
    """Value of a hyper-parameter, like learning_rate=0.01. Repeatable."""

    def settings(self, otherwise: tuple[tuple[str, Any], ...] = ()) -> tuple[tuple[str, Any], ...]:
        """The hyper-parameters that were given; if none was, those of `otherwise`."""
        from evaluation.spec import pairs

        return pairs("--set", self.set_) if self.set_ else otherwise


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class ValuesOptions(MethodOptions):
    """Which methods, their hyper-parameters, and whether tuned values are used."""

    published: Annotated[bool, METHOD] = False
    """Use the default hyper-parameters, even if tuned ones exist."""

    def tuned(self, problem: TaskSpec, method: str, config: GradingSpec | None = None) -> Tuned | None:
        """The tuned values to use: those of `config` if there is one, else those found for the problem, if any."""
        from evaluation.tuned import find_tuned

        if self.published:
            return None
        return find_tuned(problem, method) if config is None else config.tuned


# ----------------------------------------------------------------------------------------------------------------------
# The grading
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _GradingGroup:
    def changed(self, spec: GradingSpec) -> GradingSpec:
        """`spec` with what was given in its place."""
        return replace(spec, **given(self))


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class MetricOption(_GradingGroup):
    """Which metric."""

    metric: Annotated[str | None, GRADING] = None
    """official (default); notebook: the CIFAR-10 notebook's, not comparable."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Models(_GradingGroup):
    """How many models."""

    models: Annotated[int | None, GRADING, WHOLE] = None
    """N: runs per original. [default: 64; task kaggle: 512; tune: 32]"""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Originals(_GradingGroup):
    """How many originals."""

    originals: Annotated[int | None, GRADING, WHOLE] = None
    """K: original models, graded separately. [default: 8; task kaggle: 1; others: 2]"""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Seed(_GradingGroup):
    """Which seed."""

    seed: Annotated[int | None, GRADING, WHOLE] = None
    """Seed of the grading or search. [default: 0; unlearn: secret]"""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Budget(_GradingGroup):
    """How long a run may take."""

    budget: Annotated[float | None, GRADING, NUMBER] = None
    """Time limit of a run, as a fraction of retraining. [default: 0.2]"""
    budget_seconds: Annotated[float | None, GRADING, NUMBER] = None
    """Time limit of a run in seconds, instead of --budget."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class ZipOptions(MetricOption, Models):
    """How to grade a zip."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class SearchOptions(Budget, Seed, MetricOption, Models):
    """How to grade the trials of a search."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class GradingOptions(SearchOptions, Originals):
    """How to grade."""

    protocol: Annotated[str | None, GRADING] = None
    """per-original (default); full (textbook): N originals, one run each."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Trials:
    """How long a search is."""

    trials: Annotated[int | None, GRADING, WHOLE] = None
    """Settings to try, earlier calls included. [default: tune: 30; suite: 0]"""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class UntilOptions(GradingOptions):
    """How to grade, and how closely."""

    until: Annotated[str | None, GRADING] = None
    """Add originals, up to 64, until the interval is as narrow as this share: 10%."""

    def changed(self, spec: GradingSpec) -> GradingSpec:
        """`spec` with what was given in its place."""
        return replace(spec, **{name: value for name, value in given(self).items() if name != "until"})


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class AttackOptions(Seed, Originals, Models):
    """Which grading is attacked."""


def usual_grading(problem: TaskSpec) -> GradingSpec:
    """A grading of a task by the usual number of originals and models. Raises `UserError` for an unknown task."""
    from data import task_info
    from evaluation.spec import GradingSpec

    usual = task_info(problem)
    return GradingSpec("", problem, originals=usual.originals, models=usual.models)


def changed(
    spec: GradingSpec, task: TaskOptions, grading: _GradingGroup, method: MethodOptions | None = None
) -> GradingSpec:
    """`spec` with what was given on the command line in its place."""
    settings = spec.settings if method is None else method.settings(otherwise=spec.settings)
    return grading.changed(replace(spec, task=task.changed(spec.task), settings=settings))


def grading_specs(
    names: Sequence[str],
    values: ValuesOptions,
    task: TaskOptions,
    grading: _GradingGroup,
    config: GradingSpec | None = None,
) -> list[GradingSpec]:
    """The grading of each method: that of `config`, else the usual one of the task, with what was given changed."""
    if config is None:
        from data import TaskSpec

        start = usual_grading(task.changed(TaskSpec()))
    else:
        start = config
    spec = changed(start, task, grading, values)
    return [replace(spec, method=name, tuned=values.tuned(spec.task, name, config)) for name in names]


def attacked(values: ValuesOptions, task: TaskOptions, grading: AttackOptions) -> GradingSpec:
    """The grading of one method whose stored outputs are looked at. Raises `UserError` if several are named."""
    (spec,) = grading_specs([values.name()], values, task, grading)
    return spec


# ----------------------------------------------------------------------------------------------------------------------
# Run and output
# ----------------------------------------------------------------------------------------------------------------------


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class QuietOptions:
    """What is said meanwhile."""

    quiet: Annotated[bool, OUTPUT, Parameter(name=("--quiet", "-q"))] = False
    """No progress bars and no remarks."""

    def console(self) -> Console:
        """Where progress and remarks go. Nobody is asked."""
        from evaluation.console import Console

        return Console(quiet=self.quiet)


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class LongOptions(QuietOptions):
    """Whether work of more than an hour begins at once."""

    yes: Annotated[bool, RUN, Parameter(name=("--yes", "-y"))] = False
    """Begin work of more than an hour without a question."""

    def console(self) -> Console:
        """Where progress, remarks and the question go."""
        from evaluation.console import Console

        return Console(quiet=self.quiet, asks=not self.yes)


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class SandboxOptions(LongOptions):
    """What methods are kept from."""

    sandbox: Annotated[bool, RUN] = False
    """Keep methods from network and files; needs bubblewrap (docs/security.md)."""

    def enter_sandbox(self) -> None:
        """Before anything of a method is looked at. Raises `UserError` if there is no sandbox here."""
        if self.sandbox:
            from evaluation.isolation.sandbox import use_sandbox

            use_sandbox()


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class RunOptions(SandboxOptions):
    """Where the work is done."""

    workers: Annotated[int | None, RUN, WHOLE] = None
    """Processes on each device. [default: one per core; on a GPU at most four]"""
    device: Annotated[str, RUN] = "auto"
    """cpu; cuda:1; cuda:0,cuda:1 (both); auto: a GPU if any."""

    def places(self) -> list[str]:
        """The devices. Raises `UserError` if one is not there."""
        from checkpoints.devices import choose_devices

        return choose_devices(self.device)

    def pool(self, places: Sequence[str]) -> Workers:
        """The processes, on each device. Raises `UserError` if there are to be none."""
        from checkpoints.workers import SharedWorkers, default_workers
        from evaluation.isolation.handle import room_workers

        pools = [
            room_workers(default_workers(device) if self.workers is None else self.workers, device) for device in places
        ]
        return pools[0] if len(pools) == 1 else SharedWorkers(pools)


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class ConfigOptions(RunOptions):
    """Where the work is done, which grading is repeated, and whether the method is only tried."""

    config: Annotated[Path | None, RUN] = None
    """Repeat the grading of this config.yaml; other options change it."""
    debug: Annotated[bool, RUN] = False
    """One run, in this process, for breakpoint() and print; nothing is stored."""
    quick: Annotated[bool, RUN] = False
    """The same with four runs: the loop while you develop."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class WeightsOption:
    """Which model is meant."""

    weights: Annotated[Path | None, DATA] = None
    """Weights of a model: a state_dict by torch.save, a checkpoint, or safetensors."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class JsonOptions:
    """In which form the result is printed."""

    json: Annotated[bool, OUTPUT] = False
    """Print the report as JSON and nothing else."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class ReportOptions(JsonOptions):
    """How a report is printed."""

    all: Annotated[bool, OUTPUT] = False
    """Show all numbers: F as of as many models as the competition had, too."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class CsvOptions:
    """Whether the result is printed for a spreadsheet."""

    csv: Annotated[bool, OUTPUT] = False
    """Print comma-separated values, unrounded, with all columns."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class AuditOutput(CsvOptions, JsonOptions):
    """In which form the result of an audit is printed."""

    def check(self) -> None:
        """Raise `UserError` if two forms are wanted."""
        if self.csv and self.json:
            raise UserError("Choose one of --csv and --json: they are two forms of the same result.")


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class TableOptions(CsvOptions):
    """In which form tables are printed."""

    markdown: Annotated[bool, OUTPUT] = False
    """Print Markdown tables."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class SuiteOutput(TableOptions, JsonOptions):
    """In which form the table of a suite is printed."""

    def check(self) -> None:
        """Raise `UserError` if several forms are wanted."""
        if self.csv + self.json + self.markdown > 1:
            raise UserError("Choose one of --csv, --json and --markdown: they are forms of the same results.")


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class OutOptions:
    """Where the result is written."""

    out: Annotated[Path | None, OUTPUT] = None
    """File to write; of sweep, a folder. [default: one in results/]"""


# ----------------------------------------------------------------------------------------------------------------------
# Notebook
# ----------------------------------------------------------------------------------------------------------------------


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class NotebookOptions:
    """How a submission notebook is made."""

    owner: Annotated[str | None, NOTEBOOK] = None
    """Your name on Kaggle, as in kaggle.com/NAME."""
    whole_module: Annotated[bool, NOTEBOOK] = False
    """Send the method's whole file."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(NotebookOptions):
    """How a notebook is made and executed."""

    checkpoints: Annotated[int, NOTEBOOK, WHOLE] = 2
    """How many checkpoints the execution makes."""
    allow_unchanged: Annotated[bool, NOTEBOOK] = False
    """Accept a method that changes nothing."""
    no_run: Annotated[bool, NOTEBOOK] = False
    """Write the notebook without executing it."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class Phase:
    """Whether to grade here, or to make a notebook."""

    phase: Annotated[str, NOTEBOOK, Parameter(name=("--phase", "-p"))] = "dev"
    """dev: grade here. test: make the submission notebook."""


@OPTIONS
@dataclass(frozen=True, kw_only=True)
class PhaseOptions(NotebookOptions, Phase):
    """Whether to grade here, or to make a notebook, and which."""
