"""Can the competition's published comparisons be reproduced here? `python -m benchmarks.published.published_orders`.

Each row is a published comparison: two settings, and which of them scored higher on the hidden data. Here both are
graded, with published values for everything else, and the row says whether our order agrees. Where the two intervals
overlap it is a tie, which is not significant. `--out` writes the table as Markdown.

`forget` resets about 30 % of a ResNet-18's layers in a cycle, so here it resets 30 % of the network's layers: six
draws, as published, would reset everything that a network of three layers has learned. An epoch there had about 370
steps. An epoch of `digits` has six, in which the published rates change little: `--rate-factor 60` compensates for
that.

Sources: JB, project page of the team Forget (ablations on the public leaderboard); LP, submissions of the team Air
Liquide (luispintoc/machine-unlearning), a grid of plain fine-tuning.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints.devices import choose_device
from checkpoints.networks import build_network
from checkpoints.server import start_server
from checkpoints.workers import Workers, default_workers, load_task
from data import Task, TaskSpec, UserError
from evaluation.catalogue.lookup import facts_of
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.report import Report
from evaluation.spec import GradingSpec
from methods.Forget import Forget

Settings = tuple[tuple[str, str], ...]

BATCH_SIZES = ("batch_size", "retain_batch_size")
"""The hyper-parameters that are a number of images."""


@dataclass(frozen=True)
class Entry:
    """A method with some settings, and its score on the hidden data."""

    method: str
    settings: Settings
    published: float

    @property
    def key(self) -> tuple[str, Settings]:
        """What decides our score of it."""
        return self.method, self.settings


@dataclass(frozen=True)
class Comparison:
    """Two entries; `better` scored more on the hidden data."""

    about: str
    better: Entry
    worse: Entry
    source: str


def _forget(published: float, **settings: str) -> Entry:
    """A variant of `forget`: by default with everything that the ablation in question has not added yet."""
    return Entry("forget", tuple(settings.items()), published)


def _finetune(published: float, learning_rate: str, batch_size: str, epochs: str) -> Entry:
    values = {"learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs, "cosine": "true"}
    return Entry("finetune", tuple(values.items()), published)


# The ablations were made one after another, each upon the one before. How many epochs the single cycle and each of the
# two cycles had is not published: here two.
_ALL = {"keep_classifier": "false", "keep_shortcuts": "false"}
ONE_CYCLE = {"cycles": "2", **_ALL}
COMPARISONS = (
    Comparison(
        "re-initialised layers, against plain fine-tuning",
        _forget(0.0617, **ONE_CYCLE, loss="ce", noise="0"),
        _finetune(0.0496, "1e-3", "64", "1"),
        "JB",
    ),
    Comparison(
        "Gaussian noise 0.1 on images, against none",
        _forget(0.0653, **ONE_CYCLE, loss="ce", noise="0.1"),
        _forget(0.0617, **ONE_CYCLE, loss="ce", noise="0"),
        "JB",
    ),
    Comparison(
        "MSE to the original's logits, against cross-entropy",
        _forget(0.0680, **ONE_CYCLE, loss="mse", noise="0.1"),
        _forget(0.0653, **ONE_CYCLE, loss="ce", noise="0.1"),
        "JB",
    ),
    Comparison(
        "cross-entropy, against L1",
        _forget(0.0653, **ONE_CYCLE, loss="ce", noise="0.1"),
        _forget(0.0326, **ONE_CYCLE, loss="l1", noise="0.1"),
        "JB",
    ),
    Comparison(
        "two cycles, against one",
        _forget(0.0844, **_ALL, cycles="2,2", noise="0.1"),
        _forget(0.0680, **ONE_CYCLE, loss="mse", noise="0.1"),
        "JB",
    ),
    Comparison(
        "three cycles, against two",
        _forget(0.0856, **_ALL, cycles="1,2,2", noise="0.1"),
        _forget(0.0844, **_ALL, cycles="2,2", noise="0.1"),
        "JB",
    ),
    Comparison(
        "layer-wise, against element-wise re-initialisation (20 %)",
        _forget(0.0856, **_ALL, cycles="1,2,2", noise="0.1"),
        _forget(0.0575, **_ALL, cycles="1,2,2", noise="0.1", share="0.2"),
        "JB",
    ),
    Comparison(
        "last layer excluded, against all layers",
        _forget(0.0926, cycles="1,2,2", noise="0.1", keep_shortcuts="false"),
        _forget(0.0856, **_ALL, cycles="1,2,2", noise="0.1"),
        "JB",
    ),
    Comparison(
        "shortcuts excluded, too, against the last layer alone",
        _forget(0.0969, cycles="1,2,2", noise="0.1"),
        _forget(0.0926, cycles="1,2,2", noise="0.1", keep_shortcuts="false"),
        "JB",
    ),
    Comparison(
        "fine-tuning at 1e-3: 1 epoch, against 3",
        _finetune(0.046, "1e-3", "64", "1"),
        _finetune(0.005, "1e-3", "64", "3"),
        "LP",
    ),
    Comparison(
        "fine-tuning at 1e-3: 1 epoch, against 4",
        _finetune(0.046, "1e-3", "64", "1"),
        _finetune(0.009, "1e-3", "64", "4"),
        "LP",
    ),
    Comparison(
        "fine-tuning at 1e-2: 2 epochs, against 4",
        _finetune(0.0234, "1e-2", "64", "2"),
        _finetune(0.019, "1e-2", "64", "4"),
        "LP",
    ),
    Comparison(
        "fine-tuning at 1e-2: 2 epochs of batches of 64, against 5 of 512",
        _finetune(0.0234, "1e-2", "64", "2"),
        _finetune(0.012, "1e-2", "512", "5"),
        "LP",
    ),
)


def main() -> None:
    """Grade both sides of every comparison, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--originals", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget", type=float, default=1.0, help="more than a grading's 0.2: the order is asked for")
    parser.add_argument("--rate-factor", type=float, default=1.0, help="multiplies all learning rates")
    parser.add_argument("--out", type=Path, help="write the table into this file, too")
    options = parser.parse_args()
    start_server()
    entries = {side.key: side for row in COMPARISONS for side in (row.better, row.worse)}
    specs = [spec_of(entry, options) for entry in entries.values()]
    device = choose_device(options.device)
    with Workers(default_workers(device), device) as workers:
        graded = list(grade_methods(specs, workers, Console()))
    failed = [result for result in graded if isinstance(result, UserError)]
    for error in failed:
        print(f"failed: {error}")
    reports = {key: report for key, report in zip(entries, graded, strict=True) if isinstance(report, Report)}
    if not reports:
        raise SystemExit(2)
    text = as_markdown(COMPARISONS, reports)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


def spec_of(entry: Entry, options: argparse.Namespace) -> GradingSpec:
    """How to grade an entry here."""
    settings = {"learning_rate": "1e-3", **dict(entry.settings)}  # the default of `forget`
    settings["learning_rate"] = str(float(settings["learning_rate"]) * options.rate_factor)
    return grading_spec(entry.method, tuple(settings.items()), TaskSpec(options.task), options)


def grading_spec(method: str, settings: Settings, task: TaskSpec, options: argparse.Namespace) -> GradingSpec:
    """A grading with `options` (originals, models, budget) of published settings, to the scale of the task."""
    chosen = tuple(to_scale(method, dict(settings), load_task(task, "cpu")).items())
    return GradingSpec(method, task, chosen, options.originals, options.models, budget=options.budget)


def to_scale(method: str, settings: dict[str, str], task: Task) -> dict[str, str]:
    """Published settings, scaled to a small network and small batches.

    Batch sizes are scaled with those of the loaders, 64 on Kaggle. `forget` resets the same share of the layers with
    weights, apart from the last and projection shortcuts: 30 %, or what its `layers` says, like "20%".
    """
    if method == "forget":
        share = float(settings.get("layers", "30%").rstrip("%")) / 100
        return settings | {"layers": str(max(1, round(share * len(Forget().pool(build_network(task))))))}
    in_force = facts_of(method).values_in_force(settings)
    scale = task.recipe.batch_size / 64
    return settings | {name: str(round(in_force[name] * scale)) for name in BATCH_SIZES if name in in_force}


def as_markdown(comparisons: Sequence[Comparison], reports: dict[tuple[str, Settings], Report]) -> str:
    """The table, and how many rows agree."""
    lines = ["| published comparison (the better side first) | published | ours | agreement |", "|---|---|---|---|"]
    verdicts = []
    for row in comparisons:
        if row.better.key not in reports or row.worse.key not in reports:
            continue
        better, worse = reports[row.better.key], reports[row.worse.key]
        verdicts.append(verdict(better, worse))
        published = f"{row.better.published:.4f} > {row.worse.published:.4f} ({row.source})"
        lines.append(f"| {row.about} | {published} | {_score(better)}, {_score(worse)} | {verdicts[-1]} |")
    counts = ", ".join(f"{name}: {verdicts.count(name)}" for name in ("yes", "no", "tie", "equal"))
    conditions = next(iter(reports.values())).described_conditions
    return "\n".join([f"**{conditions}**", "", *lines, "", f"Agreement, of {len(verdicts)}: {counts}.", ""])


def verdict(better: Report, worse: Report) -> str:
    """Whether our scores are in the published order; "equal" if the settings make no difference here at all."""
    if better.scores.epsilons == worse.scores.epsilons:
        return "equal"
    one, other = better.scores.score, worse.scores.score
    if one.low <= other.high and other.low <= one.high:
        return "tie"
    return "yes" if one.value > other.value else "no"


def _score(report: Report) -> str:
    score = report.scores.score
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"


if __name__ == "__main__":
    main()
