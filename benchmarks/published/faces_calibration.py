"""How well does `faces` represent the hidden data? `python -m benchmarks.published.faces_calibration [--size mini]`.

Prints what is known of the competition's models and scores beside the simulator's figures. Spearman's correlation
between the two scores, over all entries of which both are known, says how well a local score predicts the hidden one.
Bank and results are kept where `main.py` keeps them, so a second call is quick.

With few models, the score is too high for a method whose confidences are shifted by a part of the retrained models'
spread (at a shift of one standard deviation F is 0.06 with 32 models and 0.016 with Kaggle's 512). So each score is
also shown as of 512 models: that many are drawn from normal distributions with the mean and spread that each forget
example's confidence has over the models.

`forget` resets 30 % of the layers in a cycle, see `benchmarks.published.published_orders`, whose ablations are among
the entries.

Sources: M, the organisers' description of the metric (2023); JB, project page of the team Forget; LP, submissions of
the team Air Liquide (luispintoc/machine-unlearning); W2 to W9, the write-ups on Kaggle by rank at the close.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.published.published_orders import COMPARISONS, ONE_CYCLE, Settings, grading_spec
from checkpoints.devices import choose_device
from checkpoints.pool import Pool
from checkpoints.server import start_server
from checkpoints.workers import Workers, default_workers, load_task
from data import TaskSpec, UserError
from evaluation.catalogue.lookup import all_facts
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.metrics import official
from evaluation.report import Report
from evaluation.runs.resolve import resolve
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec

KAGGLE_MODELS = 512


@dataclass(frozen=True)
class Entry:
    """A submission whose Kaggle score is known, or at least bounded (`relation` is then ">" or "<")."""

    method: str
    score: float
    board: str
    source: str
    settings: Settings = ()
    relation: str = "="

    def __str__(self) -> str:
        return f"{self.method} {', '.join(f'{name}={value}' for name, value in self.settings)}".strip()


def _finetune(learning_rate: float, batch_size: int, epochs: int, score: float) -> Entry:
    """A row of LP's grid: the starter method with other hyper-parameters, its cosine among them."""
    chosen = (("epochs", str(epochs)), ("learning_rate", f"{learning_rate:g}"))
    if batch_size == 64:  # that of the loaders
        return Entry("my_method", score, "public", "LP", chosen)
    return Entry("finetune", score, "public", "LP", (*chosen, ("batch_size", str(batch_size)), ("cosine", "true")))


def _ablations() -> tuple[Entry, ...]:
    """The variants of `forget` whose scores its authors published."""
    sides = [side for row in COMPARISONS for side in (row.better, row.worse) if side.method == "forget"]
    return tuple(Entry("forget", side.published, "public", "JB", side.settings) for side in dict.fromkeys(sides))


# Ablations that are no side of a comparison there.
_OTHER_ABLATIONS = (
    (0.0633, (("loss", "ce"), ("noise", "0.05"))),
    (0.0591, (("loss", "ce"), ("noise", "0.15"))),
    (0.0486, (("loss", "ce"), ("noise", "0"), ("select", "fisher"))),
    (0.0251, (("loss", "ce"), ("noise", "0"), ("augment", "flip"))),
    (0.00001, (("loss", "ce"), ("noise", "0"), ("augment", "crop"))),
    (0.0656, (("loss", "mse"), ("noise", "0.1"), ("layers", "20%"))),
)

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
    *_ablations(),
    *(Entry("forget", score, "public", "JB", (*ONE_CYCLE.items(), *settings)) for score, settings in _OTHER_ABLATIONS),
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
    specs = {entry: grading_spec(entry.method, entry.settings, task, options) for entry in runnable(entries)}
    device = choose_device(options.device)
    with Workers(default_workers(device), device) as workers:
        graded = list(grade_methods(list(specs.values()), workers, Console()))
    for result in graded:
        if isinstance(result, UserError):
            print(f"failed: {result}")
    reports = {entry: report for entry, report in zip(specs, graded, strict=True) if isinstance(report, Report)}
    scores = {entry: (report, score_of_many(report, specs[entry], device)) for entry, report in reports.items()}
    starter = next((entry for entry in reports if str(entry) == "my_method"), None)
    if starter is not None:
        print_calibration(*scores[starter], specs[starter], device)
    print_scores(scores)


def runnable(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries whose method and hyper-parameters exist; the others are skipped with a line."""
    known = all_facts()
    for entry in entries:
        if entry.method not in known:
            print(f"skipped: {entry} (there is no method {entry.method} yet)")
        elif not {name for name, _ in entry.settings} <= set(known[entry.method].hyper_parameters):
            print(f"skipped: {entry} (the method has no such hyper-parameters)")
        else:
            yield entry


def print_calibration(report: Report, of_many: float, spec: GradingSpec, device: str) -> None:
    """What is known of the competition's models, and the same of ours, from the grading of the starter method.

    `of_many` is its `score_of_many`.
    """
    unlearned, retrained = (values.std(axis=-2).mean() for values in confidences(spec, device))
    original = report.retrained.test * report.scores.floor.test_ratio
    rows = [
        ("original: training accuracy", "0.990 (M)", report.retrained.retain * report.scores.floor.retain_ratio),
        ("original: test accuracy", "0.964 (M)", original),
        ("retrained: test accuracy", "unknown", report.retrained.test),
        ("retrained: forget accuracy", "unknown", report.retrained.forget),
        ("ceiling", "0.15 to 0.22", report.scores.ceiling.score.value),
        ("doing nothing", "0", report.scores.floor.score.value),
        ("starter fine-tune", "0.046 to 0.061 (JB, LP)", report.scores.score.value),
        (
            "starter fine-tune, share of the ceiling",
            "0.25 to 0.40",
            report.scores.share_of_ceiling,
        ),
        ("starter fine-tune, as of 512 models", "0.046 to 0.061 (JB, LP)", of_many),
        ("spread of its forget confidences", "unknown", unlearned),
        ("spread of retraining", "unknown", retrained),
    ]
    made = report.provenance
    print(f"\n{report.described_conditions}; {made.seconds:.0f} s on {made.device}, {made.workers} workers")
    print(f"{'':42}{'hidden data':>26}{'faces':>10}")
    for name, published, ours in rows:
        print(f"{name:42}{published:>26}{ours:10.4f}")


def confidences(spec: GradingSpec, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Confidences in the forget examples: unlearned `(originals, models, examples)`, retrained `(models, examples)`."""
    task = load_task(spec.task, "cpu")
    labels = task.train.labels[task.request_indices].numpy()
    stored = Unlearned.load(resolve(spec, task, device).folder / "outputs.npz")
    assert stored is not None, "the grading has just written it"
    unlearned = official.logit_scaled_confidence(stored.outputs.forget, labels)  # (originals * models, examples)
    retrained = official.logit_scaled_confidence(Pool(task, "retrained").outputs(spec.models).forget, labels)
    return unlearned.reshape(spec.originals, spec.models, -1), retrained


def score_of_many(report: Report, spec: GradingSpec, device: str) -> float:
    """The score that `KAGGLE_MODELS` models would have if confidences were normal; the mean over originals."""
    unlearned, retrained = confidences(spec, device)
    random = np.random.default_rng(0)

    def drawn(values: np.ndarray) -> np.ndarray:
        noise = random.standard_normal((KAGGLE_MODELS, values.shape[1]))
        return values.mean(axis=0) + noise * values.std(axis=0, ddof=1)

    qualities = [official.forgetting_quality(drawn(of_one), drawn(retrained)) for of_one in unlearned]
    return float(np.mean(qualities)) * report.scores.retain_ratio * report.scores.test_ratio


def print_scores(scores: dict[Entry, tuple[Report, float]]) -> None:
    """Our scores beside Kaggle's, best on Kaggle first, and the correlations; `scores`: ours, and as of 512 models."""
    from scipy.stats import spearmanr

    width = max(len(str(entry)) for entry in scores) + 1
    print(f"\n{'':{width}}{'Kaggle':>8}  {'board':8}{'faces':>8}{'of ceiling':>12}{'as of 512':>11}   source")
    for entry, (report, of_many) in sorted(scores.items(), key=lambda pair: -pair[0].score):
        published = f"{entry.relation if entry.relation != '=' else ''}{entry.score:.4f}"
        ours = f"{report.scores.score.value:8.4f}{report.scores.share_of_ceiling:12.2f}{of_many:11.4f}"
        print(f"{entry!s:{width}}{published:>8}  {entry.board:8}{ours}   {entry.source}")
    both = {entry: (report.scores.score.value, of_many) for entry, (report, of_many) in scores.items()}
    exact = [(entry.score, *ours) for entry, ours in both.items() if entry.relation == "="]
    if len(exact) < 3:
        print("\nThree scores are needed for a correlation.")
        return
    kaggle, ours, of_many = np.array(exact).T
    print(
        f"\nSpearman's correlation over the {len(exact)} entries with a known score: "
        f"{spearmanr(kaggle, ours)[0]:.2f}; as of 512 models: {spearmanr(kaggle, of_many)[0]:.2f}"
    )


if __name__ == "__main__":
    main()
