"""The report of a grading: nested, typed records, written as `report.json` and read back as what they were.

`python main.py schema` prints the JSON schema, which is made from these classes. Intervals are 95 % confidence
intervals; accuracies are shares of 1; what has one value for each original is a list in the order of the originals.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from data.documents import parse_json, read_text
from data.files import generated_folder, write_atomically
from evaluation.metrics import DEFAULT_METRIC
from evaluation.metrics.accuracies import Accuracies
from evaluation.metrics.plausibility import Plausibility
from evaluation.metrics.quantities import AtLeastOne, Count, Name, NotNegative, Text
from evaluation.metrics.score import Reference, Scores
from evaluation.texts import counted

FORMAT = 2
"""Version of `report.json`; the flat reports of version 1 had no number, and can still be read."""

NOT_A_REPORT = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""What reading a text that is not the JSON of a report can raise."""


Protocol = Annotated[str, msgspec.Meta(pattern="^(per-original|full)$")]
"""How a grading is done."""

ROUNDING = 1e-9
"""How much an interval may miss its value by."""
LONGEST_VALUE = 10_000
"""Characters of a hyper-parameter that is a text."""


def results_folder() -> Path:
    """`results/`, or the environment variable UNLEARNING_RESULTS."""
    return generated_folder("UNLEARNING_RESULTS")


@dataclass(frozen=True)
class MethodRecord:
    """What was graded."""

    name: Name
    """Name in the registry; of a submission, the name it was given."""
    settings: dict[str, Any]
    """Every hyper-parameter's value; empty for a submission."""
    changed: dict[str, Any]
    """The hyper-parameters that the user set."""
    tuned_trials: Count | None
    """Trials that `tune` took to find the values of the others; None where they are the defaults."""
    exempt_from_budget: bool
    """Whether the method is a reference that may take as long as it likes."""
    submission: Text | None
    """SHA-256 of the zip of checkpoints that was graded; None where the method ran here."""
    code: Text | None = None
    """Hash of the method's code, which tells its versions apart; None for a submission, and in reports of early
    versions."""


@dataclass(frozen=True)
class GradingRecord:
    """What it was graded on, and how."""

    task: Name
    """Name of the task."""
    forget: list[Text]
    """The forget requests that have arrived so far, as the user put them."""
    requests: AtLeastOne
    """How many will have arrived in the end."""
    forget_examples: AtLeastOne
    """Of all requests so far."""
    forget_indices: list[Count]
    """The training indices of the forget examples."""
    train_examples: AtLeastOne
    """Training images, those to be forgotten included."""
    network: Name
    """Name of the architecture."""
    recipe: dict[str, Any]
    """How originals and retrained models were trained; see `Recipe` in `data/task.py`."""
    models: AtLeastOne
    """N: runs per original, and retrained models that they are compared with."""
    originals: AtLeastOne
    """K: originals graded, each by itself (under protocol "full": N, one run each)."""
    protocol: Protocol
    """"per-original" or "full"."""
    metric: Name
    """Name of the metric: "official" or "notebook"."""
    seed: int
    """Of the grading: the seeds of the runs follow from it."""
    task_fingerprint: Text
    """Hash of data, splits, network, recipe and forget requests."""
    bank_fingerprint: Text
    """Hash of the weights and outputs of all originals and retrained models that were used. (Of the weights alone in
    reports of version 0.1.0, which are compared among themselves until they are scored again.)"""
    role: Text = "grading"
    """What the models are for, see `TaskSpec.role`: "grading", or the held-out part of a suite."""


@dataclass(frozen=True)
class Cost:
    """What runs and retraining take in seconds and bytes; None for a submission, of which that is not known."""

    retrain_seconds: NotNegative
    """Measured seconds of training one retrained model in an ordinary loop on this device."""
    budget_seconds: NotNegative | None
    """Seconds after which a run is killed; None for exempt methods, too."""
    budget_fraction_used: NotNegative | None
    """Mean seconds of a run over the seconds of retraining."""
    runs_seconds_mean: NotNegative | None
    """Mean seconds of a run."""
    peak_memory_bytes: Count | None
    """The largest of all runs. On a GPU what the run has allocated; on a CPU all that its process ever had, PyTorch and
    earlier runs included."""
    prepare_seconds: NotNegative | None = None
    """Seconds that the method took to prepare for an original, before any request; None if it does not."""


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from."""

    seconds: NotNegative
    """Wall-clock seconds of this grading, bank and scoring included."""
    device: Text
    """The processor or GPU that the runs were done on."""
    workers: AtLeastOne
    """Processes that did them."""
    versions: dict[Name, Text]
    """Of Python, PyTorch and NumPy."""
    git_commit: Text | None
    """Of the kit, with "+" if files differ from it; None outside a repository."""
    created: Text
    """Time of the grading, ISO 8601, UTC."""


@dataclass(frozen=True)
class Report:
    """Everything that is known of a graded method."""

    format: int
    """Version of this format."""
    method: MethodRecord
    """What was graded."""
    grading: GradingRecord
    """What it was graded on, and how."""
    scores: Scores
    """The scores, between floor and ceiling."""
    unlearned: Accuracies
    """Mean over all runs."""
    retrained: Accuracies
    """Mean over the retrained models."""
    drift: NotNegative | None
    """How far the weights have moved from the original's, relative to their size (L2), mean over runs; None for a
    submission, whose original is not known."""
    cost: Cost
    """What runs and retraining take."""
    provenance: Provenance
    """Where the numbers come from."""
    plausibility: Plausibility | None = None
    """Whether an honest method can have left these models; None in reports of early versions."""
    remarks: tuple[Text, ...] = ()
    """What is odd about the runs, a sentence each."""

    @property
    def conditions(self) -> tuple[Any, ...]:
        """Two reports can be compared if these are equal."""
        about = self.grading
        numbers = (about.models, about.originals, about.protocol, about.metric)
        return (about.task, about.task_fingerprint, about.bank_fingerprint, *numbers)

    @property
    def described_conditions(self) -> str:
        """The conditions in words."""
        about = self.grading
        forgotten = f"forget {', then '.join(about.forget)} ({about.forget_examples} of {about.train_examples} images)"
        if about.requests > 1:
            forgotten += f", request {len(about.forget)} of {about.requests}"
        runs = f"{counted(about.originals, 'original')} x {about.models} runs"
        if about.protocol == "full":
            runs = f"{about.models} originals, one run each"
        metric = "" if about.metric == DEFAULT_METRIC else f", {about.metric} metric"
        return f"{about.task}, {about.network}, {forgotten}, {runs}{metric}"

    @property
    def label(self) -> str:
        """The method, with the hyper-parameters that the user set."""
        changed = " ".join(f"{name}={value}" for name, value in self.method.changed.items())
        return f"{self.method.name} {changed}".rstrip()

    def percent_of_ceiling(self, unit: str = "") -> str:
        """The share of the ceiling in per cent and the `unit`; "-" where there is none."""
        share = self.scores.share_of_ceiling
        return "-" if share is None else f"{100 * share:.0f}{unit}"

    @property
    def values(self) -> str:
        """Where the hyper-parameters come from, in words."""
        if self.method.submission is not None:
            return "?"
        trials = self.method.tuned_trials
        return "default" if trials is None else f"tuned, {counted(trials, 'trial')}"

    @property
    def allowed(self) -> float | None:
        """The budget of a run as a fraction of retraining; None if it had none, or that is not known."""
        seconds, retraining = self.cost.budget_seconds, self.cost.retrain_seconds
        return None if seconds is None or not retraining else seconds / retraining

    def to_dict(self) -> dict[str, Any]:
        """As what `report.json` holds."""
        return asdict(self)

    def to_json(self) -> str:
        """As the text of a `report.json`."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_json(text: str) -> Report:
        """From the text of a `report.json`. Raises one of `NOT_A_REPORT` if it is something else."""
        values = parse_json(text)
        if "format" not in values:
            values = _from_flat(values)
        if values["format"] != FORMAT:
            raise ValueError(f"it has format {values['format']}, and this version of the kit reads up to {FORMAT}")
        _refuse_unknown(values, Report)
        report = msgspec.convert(values, Report)
        _check_consistent(report)
        return report

    def save(self, folder: Path) -> Path:
        """Write `report.json` (for another metric than the default one, `report-<metric>.json`)."""
        metric = self.grading.metric
        path = folder / ("report.json" if metric == DEFAULT_METRIC else f"report-{metric}.json")
        write_atomically(path, lambda beside: beside.write_text(self.to_json() + "\n"))
        return path


def read_report(path: Path) -> Report | None:
    """The report in a file; None if the file is not a report that this version can read."""
    try:
        return Report.from_json(read_text(path))
    except (OSError, *NOT_A_REPORT):
        return None


def read_reports(folder: Path) -> tuple[list[Report], list[Path]]:
    """All reports below a results folder, whatever their task, and the files that are none and should be."""
    found = {path: read_report(path) for path in sorted(folder.glob("*/*/report*.json"))}
    return [report for report in found.values() if report is not None], [path for path in found if found[path] is None]


def _refuse_unknown(values: Any, kind: Any, where: str = "it") -> None:
    """Raise ValueError if an object has a field that its record, a dataclass, does not know."""
    if not isinstance(values, dict):
        return
    types = get_type_hints(kind)
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{where} has an unknown field {name}")
        if is_dataclass(types[name]):
            _refuse_unknown(value, types[name], name)


def _check_consistent(report: Report) -> None:
    """Raise ValueError if what a report says in one place does not fit what it says in another."""

    def require(right: bool, what: str) -> None:
        if not right:
            raise ValueError(what)

    about, scores = report.grading, report.scores
    graded = 1 if about.protocol == "full" else about.originals
    arrived = len(about.forget)
    require(1 <= arrived <= about.requests, "it has other numbers of requests")
    require(len(about.forget_indices) == about.forget_examples, "it has other numbers of forget_indices")
    require(max(about.forget_indices) < about.train_examples, "its forget_indices are not among the training images")
    for values in (scores.score_by_original, scores.forgetting_quality_by_original, scores.epsilons):
        require(len(values) == graded, "its scores are of another number of originals")
    if scores.overlap_by_original is not None:
        require(len(scores.overlap_by_original) == graded, "its overlaps are of another number of originals")
    if scores.as_of is not None:
        of_originals = scores.as_of.forgetting_quality_by_original
        require(len(of_originals) == graded, "its F as of more models is of another number of originals")
    require({len(row) for row in scores.epsilons} == {about.forget_examples}, "its epsilons are of other examples")
    for of_requests in (
        scores.forgetting_quality_by_request,
        report.unlearned.forget_by_request,
        report.retrained.forget_by_request,
    ):
        require(len(of_requests) == arrived, "its values by request are of other requests")
    rows: list[Scores | Reference] = [scores, scores.floor, scores.ceiling]
    for estimate in (one for row in rows for one in (row.score, row.forgetting_quality)):
        around = estimate.low <= estimate.value + ROUNDING and estimate.value <= estimate.high + ROUNDING
        require(around, "an interval does not have its value inside")
    for settings in (report.method.settings, report.method.changed, about.recipe):
        require(all(map(_is_plain, settings.values())), "its settings are not plain values")


def _is_plain(value: Any) -> bool:
    """Whether it is a number of usual size, a text that is not too long, true, false or nothing."""
    if isinstance(value, int):
        return abs(value) < 2**64
    return value is None or isinstance(value, float) or (isinstance(value, str) and len(value) <= LONGEST_VALUE)


def _from_flat(flat: dict[str, Any]) -> dict[str, Any]:
    """Version 1, one flat record, as version 2. Raises KeyError if it is something else."""
    flat = dict(flat)
    flat["epsilons"] = [[None if one == math.inf else one for one in row] for row in flat["epsilons"]]
    if flat["metric"] == "notebook":
        flat["share_of_ceiling"] = None  # an early version stored a number

    def estimate(values: dict[str, Any], name: str) -> dict[str, Any]:
        low, high = values.pop(f"{name}_interval")
        return {"value": values.pop(name), "low": low, "high": high}

    def scored(values: dict[str, Any]) -> dict[str, Any]:
        return {name: estimate(values, name) for name in ("score", "forgetting_quality")}

    def accuracies(ending: str) -> dict[str, Any]:
        found = {split: flat.pop(f"{split}_accuracy{ending}") for split in ("retain", "test", "validation", "forget")}
        found["forget_by_request"] = flat.pop(f"forget_accuracy_by_request{ending}")
        found["by_class"] = flat.pop(f"accuracy_by_class{ending}", None)
        found["top5"] = flat.pop(f"top5_accuracy{ending}", None)
        return found

    def record(kind: Any) -> dict[str, Any]:
        return {field.name: flat.pop(field.name) for field in fields(kind) if field.name in flat}

    method = {"name": flat.pop("method"), **record(MethodRecord)}
    references = {name: flat.pop(name) for name in ("floor", "ceiling")}
    scores = {**scored(flat), **{name: {**scored(values), **values} for name, values in references.items()}}
    nested = {
        "format": FORMAT,
        "method": method,
        "unlearned": accuracies(""),
        "retrained": accuracies("_retrained"),
        "drift": flat.pop("drift"),
    }
    scores |= record(Scores)
    return {
        **nested,
        "scores": scores,
        "grading": record(GradingRecord),
        "cost": record(Cost),
        "provenance": record(Provenance),
        **flat,  # nothing, or what will be refused as unknown
    }
