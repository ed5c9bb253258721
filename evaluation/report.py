"""The report of a grading: one flat record, written as `report.json` and read back as what it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.files import generated_folder, write_atomically

NOT_A_REPORT = (ValueError, TypeError, KeyError, AttributeError)
"""What reading a text that is not the JSON of a report can raise."""


def results_folder() -> Path:
    """`results/`, or the environment variable UNLEARNING_RESULTS."""
    return generated_folder("UNLEARNING_RESULTS")


@dataclass(frozen=True)
class Reference:
    """What doing nothing (the floor) or a perfect method (the ceiling) gets under the same conditions."""

    score: float
    forgetting_quality: float
    retain_ratio: float
    test_ratio: float
    score_interval: tuple[float, float]
    forgetting_quality_interval: tuple[float, float]


@dataclass(frozen=True)
class Report:
    """Everything that is known of a graded method.

    Intervals are 95 % confidence intervals `(low, high)`; accuracies are shares of 1; what has one value for
    each original is a list in the order of the originals. Only `seconds`, `runs_seconds_mean`, `prepare_seconds`,
    `budget_seconds`, `budget_fraction_used`, `retrain_seconds`, `peak_memory_bytes` and `created` change when the
    same grading is repeated on the same machine.
    """

    method: str
    """Name in the registry; of a submission, the name it was given."""
    submission: str | None
    """SHA-256 of the zip of checkpoints that was graded; None where the method ran here."""
    settings: dict[str, Any]
    """Every hyper-parameter's value; empty for a submission."""
    changed: dict[str, Any]
    """The hyper-parameters that the user set."""
    tuned_trials: int | None
    """Trials that `tune` took to find the values of the others; None where they are the published ones."""
    exempt_from_budget: bool
    """Whether the method is a reference that may take as long as it likes."""

    task: str
    forget: list[str]
    """The forget requests that have arrived so far, as the user put them."""
    requests: int
    """How many will have arrived in the end."""
    forget_examples: int
    """Of all requests so far."""
    train_examples: int
    network: str
    recipe: dict[str, Any]
    task_fingerprint: str
    """Hash of data, splits, network, recipe and forget requests."""
    bank_fingerprint: str
    """Hash of the weights of all originals and retrained models that were used."""

    models: int
    """N: runs per original, and retrained models that they are compared with."""
    originals: int
    """K: originals graded, each by itself (under protocol "full": N, one run each)."""
    protocol: str
    """"per-original" or "full"."""
    metric: str
    """"official" or "notebook"."""
    seed: int

    score: float
    """F x retain ratio x test ratio, averaged over originals."""
    score_interval: tuple[float, float]
    forgetting_quality: float
    """F: mean points of the forget examples, averaged over originals."""
    forgetting_quality_interval: tuple[float, float]
    retain_ratio: float
    """Mean retain accuracy of the unlearned models over that of the retrained ones."""
    test_ratio: float
    """The same for the test set."""
    share_of_ceiling: float | None
    """score / ceiling score: 1 is a perfect method. None by the notebook metric, whose ceiling bounds nothing."""
    floor: Reference
    ceiling: Reference

    score_by_original: list[float]
    forgetting_quality_by_original: list[float]
    retain_accuracy: float
    """Mean over all runs; the next five likewise, of unlearned and retrained models."""
    test_accuracy: float
    validation_accuracy: float
    forget_accuracy: float
    retain_accuracy_retrained: float
    test_accuracy_retrained: float
    validation_accuracy_retrained: float
    forget_accuracy_retrained: float
    epsilons: list[list[float]]
    """Epsilon of every forget example, `(originals, forget)`, in the order of the training indices."""
    forget_indices: list[int]
    """The training indices of the forget examples."""
    forgetting_quality_by_request: list[float]
    """F of the examples of each request so far, averaged over originals."""
    forget_accuracy_by_request: list[float]
    """Mean accuracy over all runs on the examples of each request so far; next, that of the retrained models."""
    forget_accuracy_by_request_retrained: list[float]

    budget_seconds: float | None
    """Seconds after which a run is killed; None for exempt methods."""
    budget_fraction_used: float | None
    """Mean seconds of a run over the seconds of retraining; None for a submission, as the next two."""
    runs_seconds_mean: float | None
    peak_memory_bytes: int | None
    """The largest of all runs. On a GPU what the run has allocated; on a CPU all that its process ever had, PyTorch and
    earlier runs included."""
    drift: float | None
    """How far the weights have moved from the original's, relative to their size (L2), mean over runs."""
    retrain_seconds: float
    """Measured seconds of training one retrained model in an ordinary loop on this device."""
    seconds: float
    """Wall-clock seconds of this grading, bank and scoring included."""
    device: str
    workers: int
    versions: dict[str, str]
    git_commit: str | None
    created: str
    """Time of the grading, ISO 8601, UTC."""

    accuracy_by_class: dict[str, list[float | None]] | None = None
    """Mean accuracy of the unlearned models on each class, in the order of the task's classes, by split: "test",
    "validation" and "forget"; None for a class without examples. None altogether in reports from before."""
    accuracy_by_class_retrained: dict[str, list[float | None]] | None = None
    top5_accuracy: dict[str, float] | None = None
    """Mean top-5 accuracy of the unlearned models by split: "test", "validation", "forget" and, unless some outputs are
    from before, "retain"; None where there are 10 classes or fewer, and in reports from before."""
    top5_accuracy_retrained: dict[str, float] | None = None
    prepare_seconds: float | None = None
    """Seconds that the method took to prepare for an original, before any request; None if it does not."""

    @property
    def conditions(self) -> tuple[Any, ...]:
        """Two reports can be compared if these are equal."""
        grading = (self.models, self.originals, self.protocol, self.metric)
        return (self.task, self.task_fingerprint, self.bank_fingerprint, *grading)

    @property
    def described_conditions(self) -> str:
        """The conditions in words."""
        forgotten = f"forget {', then '.join(self.forget)} ({self.forget_examples} of {self.train_examples} images)"
        if self.requests > 1:
            forgotten += f", request {len(self.forget)} of {self.requests}"
        runs = f"{self.originals} originals x {self.models} runs"
        if self.protocol == "full":
            runs = f"{self.models} originals, one run each"
        metric = "" if self.metric == "official" else f", {self.metric} metric"
        return f"{self.task}, {self.network}, {forgotten}, {runs}{metric}"

    @property
    def label(self) -> str:
        """The method, with the hyper-parameters that the user set."""
        changed = " ".join(f"{name}={value}" for name, value in self.changed.items())
        return f"{self.method} {changed}".rstrip()

    def percent_of_ceiling(self, unit: str = "") -> str:
        """The share of the ceiling in per cent and the `unit`; "-" where there is none."""
        return "-" if self.share_of_ceiling is None else f"{100 * self.share_of_ceiling:.0f}{unit}"

    @property
    def values(self) -> str:
        """Where the hyper-parameters come from, in words."""
        if self.submission is not None:
            return "?"
        return "published" if self.tuned_trials is None else f"tuned, {self.tuned_trials} trials"

    def to_dict(self) -> dict[str, Any]:
        """As what `report.json` holds."""
        return asdict(self)

    def to_json(self) -> str:
        """As the text of a `report.json`."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_json(text: str) -> Report:
        """From the text of a `report.json`. Raises one of `NOT_A_REPORT` if it is something else."""
        values = json.loads(text)
        if values["metric"] == "notebook":
            values["share_of_ceiling"] = None  # an earlier version stored a number
        for name in ("floor", "ceiling"):
            values[name] = Reference(**_with_tuples(values[name]))
        return Report(**_with_tuples(values))

    def save(self, folder: Path) -> Path:
        """Write `report.json` (for another metric than the official one, `report-<metric>.json`)."""
        path = folder / ("report.json" if self.metric == "official" else f"report-{self.metric}.json")
        write_atomically(path, lambda beside: beside.write_text(self.to_json() + "\n"))
        return path


def read_report(path: Path) -> Report | None:
    """The report in a file; None if the file is not a report of this version."""
    try:
        return Report.from_json(path.read_text())
    except (OSError, *NOT_A_REPORT):
        return None


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: intervals come back as lists."""
    return {name: tuple(value) if name.endswith("_interval") else value for name, value in values.items()}
