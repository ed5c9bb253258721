"""`constrained` beside SCRUB and NegGrad+, all three tuned alike, on MNIST.

Run it with `python -m benchmarks.published.constrained_proxy`.

Constraint-based unlearning aims at the retain accuracy of the original, and at a forget accuracy equal to that on
unseen images. Two gaps, in points, measure the distance: |retain - the original's retain| and |forget - validation|.

    random:0.1     a tenth of the training images
    confuse:0.1    a tenth of each class, mislabelled as the next class before the training

The original predicts the wrong labels of mislabelled images most of the time; retrained models hardly ever do.
Validation labels are correct. So for mislabelled images, the accuracy to be compared with validation is the accuracy on
their true labels: that is "forget" here. "given" is the accuracy on the labels that they were trained with.

Each method is tuned in the same way: its published values, then values drawn at random from its `search_space`, with a
few runs each from an original that is not used afterwards. The candidate whose larger gap is smallest wins, among those
that stay within the budget.

    --data-dir DIR    images in DIR/train/CLASS/* and DIR/test/CLASS/*; default: MNIST, 12 MB to download
    --models, --originals, --trials    runs per original and retrained models; originals; candidates per method
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from checkpoints.bank import Bank, ensure
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.pool import Pool
from checkpoints.server import start_server
from checkpoints.workers import Workers, be_deterministic
from data import Task, TaskSpec, UserError, load
from data.seeds import derive_seed
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.metrics import METRICS
from evaluation.metrics.score import quick_score
from evaluation.spec import GradingSpec
from evaluation.tuning import propose

Settings = dict[str, Any]

STOPS = {"random:0.1": "unlearning", "confuse:0.1": "confusion"}
"""What ends `constrained`, by forget request: wrong labels' loss passes validation's long before they are gone."""
METHODS = ("constrained", "scrub", "neg_grad_plus")
BUDGET = 1.0
"""Most time of a run, as a share of retraining: five times a grading's, for it is the accuracies that are compared."""
TUNING_RUNS = 2
COLUMNS = ("retain", "forget", "given", "validation", "test", "retain gap", "forget gap")


@dataclass(frozen=True)
class Result:
    """A row: percentages of `COLUMNS`, means over models, and what is known of a method beyond them."""

    name: str
    values: dict[str, float]
    time_share: float | None = None
    score: float | None = None


def main() -> None:
    """Train, search, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", choices=("mnist", "folder"))
    parser.add_argument("--data-dir", help="for --task folder")
    parser.add_argument("--train-size", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=24, help="of the originals and the retrained models")
    parser.add_argument("--forget", nargs="+", choices=tuple(STOPS), default=tuple(STOPS))
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--originals", type=int, default=2)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start_server()
    be_deterministic("cpu")
    text = ""
    try:
        with Workers(options.workers) as workers:
            for request in options.forget:
                text += compare(request, options, workers)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


def compare(request: str, options: argparse.Namespace, workers: Workers) -> str:
    """One forget request: its table and the values that were found, printed and returned."""
    spec = TaskSpec(
        options.task,
        (request,),
        train_size=options.train_size,
        test_size=2000,
        data_dir=options.data_dir,
        network="strided_cnn",  # small and quick, and it learns wrong labels by heart
        recipe=(("learning_rate", 0.05), ("epochs", options.epochs), ("models_together", 8)),
    )
    task = load(spec)
    bank = ensure(task, options.originals + 1, options.models, workers)  # one more original, for the search

    originals, retrained = bank.originals.outputs(options.originals), bank.retrained.outputs(options.models)
    aim = float(originals.retain_accuracy.mean())
    results = [
        Result("original", accuracies(originals, task, aim)),
        Result("retrained", accuracies(retrained, task, aim)),
    ]
    notes = []
    for method in METHODS:
        fixed = {"stop": STOPS[request]} if method == "constrained" else {}
        settings = search(method, fixed, task, bank, options.originals, options.trials)
        results.append(measured(method, settings, task, bank, originals=options.originals, runs=options.models))
        notes.append(f"`{method}`: {', '.join(f'{name}={value}' for name, value in settings.items())}")
    text = "\n\n".join([f"**{request}**", as_markdown(results), *notes]) + "\n\n"
    print(text, flush=True)
    return text


# ----------------------------------------------------------------------------------------------------------------------
# What models know
# ----------------------------------------------------------------------------------------------------------------------


def accuracies(outputs: Outputs, task: Task, aim: float) -> dict[str, float]:
    """Mean percentages over the models by `COLUMNS`; `aim` is the original's retain accuracy, in [0, 1]."""
    given = task.labels("forget")  # (forget,)
    mislabelled = task.requests[0].labels is not None
    own = (given - 1) % len(task.classes) if mislabelled else given
    found = {
        "retain": outputs.retain_accuracy.mean(),
        "forget": outputs.accuracy("forget", own).mean(),
        "given": outputs.accuracy("forget", given).mean(),
        "validation": outputs.accuracy("validation", task.labels("validation")).mean(),
        "test": outputs.accuracy("test", task.labels("test")).mean(),
    }
    found["retain gap"] = abs(found["retain"] - aim)
    found["forget gap"] = abs(found["forget"] - found["validation"])
    return {name: 100 * float(value) for name, value in found.items()}


def run(
    method: str, settings: Settings, task: Task, originals: Pool, original: int, seed: int
) -> tuple[Outputs, float]:
    """What one run leaves, and the processor seconds that it took."""
    done = unlearn_once(method, settings, task, original_network(task, originals.state(original)), seed)
    return record_outputs(done.net, task), done.seconds


def measured(method: str, settings: Settings, task: Task, bank: Bank, originals: int, runs: int) -> Result:
    """The row of a method: `runs` runs from each original."""
    aim = float(bank.originals.outputs(originals).retain_accuracy.mean())
    parts, seconds = [], []
    for original in range(originals):
        done = [
            run(method, settings, task, bank.originals, original, derive_seed("grading", original, number))
            for number in range(runs)
        ]
        parts.append(Outputs.join([outputs for outputs, _ in done]))
        seconds += [spent for _, spent in done]
    truth = bank.retrained.outputs(runs)
    score = float(np.mean([quick_score(outputs, truth, task, METRICS["official"]) for outputs in parts]))
    share = float(np.mean(seconds)) / bank.retrain_seconds
    return Result(method, accuracies(Outputs.join(parts), task, aim), share, score)


# ----------------------------------------------------------------------------------------------------------------------
# The search
# ----------------------------------------------------------------------------------------------------------------------


def search(method: str, fixed: Settings, task: Task, bank: Bank, original: int, trials: int) -> Settings:
    """The best of `trials` candidates, published values included; each trial is told on standard error."""
    aim = float(bank.originals.outputs(original + 1).retain_accuracy[original])
    budget_seconds = BUDGET * bank.retrain_seconds
    sampler = optuna.samplers.RandomSampler(derive_seed("search", method) % 2**32)
    study = optuna.create_study(sampler=sampler)
    spec = GradingSpec(method, task.spec)
    candidates = [fixed | (propose(study.ask(), spec) if trial else {}) for trial in range(trials)]
    losses = []
    for settings in candidates:
        done = [
            run(method, settings, task, bank.originals, original, derive_seed("trial", seed))
            for seed in range(TUNING_RUNS)
        ]
        found = accuracies(Outputs.join([outputs for outputs, _ in done]), task, aim)
        seconds = float(np.mean([spent for _, spent in done]))
        gap = max(found["retain gap"], found["forget gap"])
        losses.append(gap if seconds <= budget_seconds and not math.isnan(gap) else math.inf)
        gaps = f"gaps {found['retain gap']:.1f} {found['forget gap']:.1f}"
        print(f"{method} {settings}: {gaps}, budget used {seconds / budget_seconds:.2f}", file=sys.stderr, flush=True)
    if min(losses) == math.inf:
        raise UserError(f"{method}: no candidate stayed within the budget; --trials takes more.")
    return candidates[losses.index(min(losses))]


def as_markdown(results: Sequence[Result]) -> str:
    """The table."""
    lines = ["| | " + " | ".join([*COLUMNS, "time", "score"]) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    for result in results:
        cells = [result.name, *(f"{result.values[name]:.1f}" for name in COLUMNS)]
        cells.append("" if result.time_share is None else f"{100 * result.time_share:.0f} %")
        cells.append("" if result.score is None else f"{result.score:.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
