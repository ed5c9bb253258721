"""How well does `faces` stand in for the hidden data? `python -m benchmarks.faces_calibration [--size mini]`.

Prints what is known of the competition's models and scores beside what the simulator gives, and Spearman's correlation
between the two scores of every entry of which both are known: the number that says how well a local score predicts the
hidden one. Bank and results are kept where `main.py` keeps them, so a second call is quick.

Sources: M, the organisers' description of the metric (2023); JB, project page of the team Forget; LP, submissions of
the team Air Liquide (luispintoc/machine-unlearning); W2 to W9, the write-ups on Kaggle by rank at the close.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from checkpoints.pool import Pool
from checkpoints.workers import Workers, default_workers, start_server
from data import TaskSpec, UserError, load
from evaluation import metric, pipeline
from evaluation.console import Console
from evaluation.report import Report
from evaluation.run import Unlearned
from evaluation.spec import GradingSpec, grading_folder
from methods import all_method_handlers

Settings = dict[str, float | int]


@dataclass(frozen=True)
class Entry:
    """A submission whose Kaggle score is known, or at least bounded (`relation` is then ">" or "<")."""

    method: str
    score: float
    board: str
    source: str
    settings: tuple[tuple[str, float | int], ...] = ()
    relation: str = "="

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self.settings)
        return f"{self.method} {values}".strip()


def _finetune(learning_rate: float, batch_size: int, epochs: int, score: float) -> Entry:
    """A row of LP's grid: the starter method with other hyper-parameters."""
    chosen: Settings = {"epochs": epochs, "learning_rate": learning_rate}
    if batch_size == 64:  # that of the loaders
        return Entry("my_method", score, "public", "LP", tuple(chosen.items()))
    return Entry("finetune", score, "public", "LP", (*chosen.items(), ("batch_size", batch_size)))


ENTRIES = (
    Entry("fanchuan", 0.091, "public", "W2"),
    Entry("kookmin", 0.0885, "private", "W3, by rank", relation=">"),
    Entry("seif", 0.092, "public", "W4, mean"),
    Entry("sebastian", 0.0932, "public", "W5"),
    Entry("transpose", 0.0785, "private", "W6, half of a mixture"),
    Entry("amnesiacs", 0.0838, "public", "W7"),
    Entry("sun", 0.0783, "private", "W8, by rank", relation="<"),
    Entry("forget", 0.0939, "public", "W9, mean"),
    Entry("neg_grad", 0.0001, "public", "JB"),
    Entry("my_method", 0.0464, "public", "JB"),
    _finetune(5e-4, 32, 1, 0.049),
    _finetune(2e-3, 64, 1, 0.038),
    _finetune(5e-4, 64, 1, 0.030),
    _finetune(1e-3, 64, 3, 0.005),
    _finetune(1e-3, 64, 4, 0.009),
    _finetune(1e-2, 64, 2, 0.0234),
    _finetune(1e-2, 64, 4, 0.019),
    _finetune(0.1, 64, 4, 0.032),
    _finetune(0.2, 64, 4, 0.0254),
    _finetune(0.05, 512, 5, 0.034),
    _finetune(0.05, 1024, 6, 0.0372),
    _finetune(0.1, 512, 5, 0.022),
    _finetune(0.01, 512, 5, 0.012),
    _finetune(0.01, 256, 5, 0.026),
    _finetune(0.001, 256, 5, 0.0005),
    _finetune(0.001, 1024, 5, 0.0002),
    _finetune(0.1, 1024, 4, 0.0004),
)


def main() -> None:
    """Grade every entry, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--originals", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget", type=float, default=0.4, help="more than a grading's 0.2: timings vary")
    parser.add_argument("--only", help="a,b: only the entries of these methods")
    options = parser.parse_args()
    start_server()
    task = TaskSpec("faces", size=options.size)
    entries = [entry for entry in ENTRIES if not options.only or entry.method in options.only.split(",")]
    specs = {
        entry: GradingSpec(entry.method, task, entry.settings, options.originals, options.models, budget=options.budget)
        for entry in runnable(entries)
    }
    device = pipeline.choose_device(options.device)
    with Workers(default_workers(device), device) as workers:
        graded = list(pipeline.grade(list(specs.values()), workers, Console()))
    for result in graded:
        if isinstance(result, UserError):
            print(f"failed: {result}")
    reports = {entry: report for entry, report in zip(specs, graded, strict=True) if isinstance(report, Report)}
    starter = next((entry for entry in reports if str(entry) == "my_method"), None)
    if starter is not None:
        print_calibration(reports[starter], specs[starter], device)
    print_scores(reports)


def runnable(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries whose method and hyper-parameters exist; the others are skipped with a line."""
    known = all_method_handlers()
    for entry in entries:
        if entry.method not in known:
            print(f"skipped: {entry} (there is no method {entry.method} yet)")
        elif not {name for name, _ in entry.settings} <= set(known[entry.method].hyper_parameters()):
            print(f"skipped: {entry} (the method has no such hyper-parameters)")
        else:
            yield entry


def print_calibration(report: Report, spec: GradingSpec, device: str) -> None:
    """What is known of the competition's models, and the same of ours, from the grading of the starter method."""
    unlearned, retrained = spreads(spec, device)
    original = report.test_accuracy_retrained * report.floor.test_ratio
    rows = [
        ("original: training accuracy", "0.990 (M)", report.retain_accuracy_retrained * report.floor.retain_ratio),
        ("original: test accuracy", "0.964 (M)", original),
        ("retrained: test accuracy", "unknown", report.test_accuracy_retrained),
        ("retrained: forget accuracy", "unknown", report.forget_accuracy_retrained),
        ("ceiling", "0.15 to 0.22", report.ceiling.score),
        ("doing nothing", "0", report.floor.score),
        ("starter fine-tune", "0.046 to 0.061 (JB, LP)", report.score),
        ("starter fine-tune, share of the ceiling", "0.25 to 0.40", report.score / report.ceiling.score),
        ("spread of its forget confidences", "unknown", unlearned),
        ("spread of retraining", "unknown", retrained),
    ]
    print(f"\n{report.described_conditions}; {report.seconds:.0f} s on {report.device}, {report.workers} workers")
    print(f"{'':42}{'hidden data':>26}{'faces':>10}")
    for name, published, ours in rows:
        print(f"{name:42}{published:>26}{ours:10.4f}")


def spreads(spec: GradingSpec, device: str) -> tuple[float, float]:
    """Standard deviation over models of the confidence in a forget example, averaged: unlearned and retrained."""
    task = load(spec.task)
    labels = task.train.labels[task.forget_indices].numpy()
    stored = Unlearned.load(grading_folder(spec, task, device) / "outputs.npz")
    assert stored is not None, "the grading has just written it"
    unlearned = metric.logit_scaled_confidence(stored.outputs.forget, labels)  # (originals * models, forget)
    of_each = unlearned.reshape(spec.originals, spec.models, -1).std(axis=1)
    retrained = metric.logit_scaled_confidence(Pool(task, "retrained").outputs(spec.models).forget, labels)
    return float(of_each.mean()), float(retrained.std(axis=0).mean())


def print_scores(reports: dict[Entry, Report]) -> None:
    """Our score beside Kaggle's, best on Kaggle first, and the correlation of the two."""
    from scipy.stats import spearmanr

    print(f"\n{'':56}{'Kaggle':>10}  {'board':8}{'faces':>8}{'of ceiling':>12}   source")
    for entry, report in sorted(reports.items(), key=lambda pair: -pair[0].score):
        published = f"{entry.relation if entry.relation != '=' else ''}{entry.score:.4f}"
        ours = f"{report.score:8.4f}{report.score / report.ceiling.score:12.2f}"
        print(f"{entry!s:56}{published:>10}  {entry.board:8}{ours}   {entry.source}")
    exact = [(entry.score, report.score) for entry, report in reports.items() if entry.relation == "="]
    if len(exact) < 3:
        print("\nThree scores are needed for a correlation.")
        return
    kaggle, ours = np.array(exact).T
    print(
        f"\nSpearman's correlation over the {len(exact)} entries with a known score: {spearmanr(kaggle, ours)[0]:.2f}"
    )


if __name__ == "__main__":
    main()
