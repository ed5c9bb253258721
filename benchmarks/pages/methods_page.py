"""One row per method, as a page: `python -m benchmarks.pages.methods_page --out docs/methods.md`.

Idea and source are the first line and the "Source:" paragraph of a method's docstring. What a method uses is observed:
which of the loaders' examples a run on the digits reads. Our figure is the best score among the reports of `--task`
with `--models` runs (see `benchmarks.pages.leaderboards`), so grade first. What can't be derived stands here: what a
method guarantees, and what has been published about it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Task, TaskSpec, load
from data.loaders import Batch, ExampleDataset, Sample, TensorLoader
from evaluation.report import Report, results_folder
from evaluation.views.leaderboard import read_reports
from methods import all_method_handlers

SETS = ("retain", "forget", "validation")

CERTIFIED = "(epsilon, delta), `certificate.json`"
GUARANTEES = {
    "retrain": "exact: the definition",
    "certified_retrain": "exact (epsilon = 0)",
    "certified_gradient_clipping": CERTIFIED,
    "certified_model_clipping": CERTIFIED,
    "certified_output_perturbation": CERTIFIED,
    "certified_dp_sgd": f"{CERTIFIED}, if DP-SGD trained the original",
    "linear_filtration": "exact filter of the last layer; features keep what they know",
    "ftsu": "bound on the distance to retraining, of the linearised network only",
}
"""What is proven about a method; nothing is proven about the others."""

GAP = "mean gap to retraining of four measures, {} points (CIFAR-10, ResNet-18, 10 %)"
PUBLISHED = {
    "my_method": "0.046 to 0.061 on Kaggle",
    "fanchuan": "0.091 on Kaggle (public)",
    "kookmin": "over 0.0885 on Kaggle (private, by rank)",
    "seif": "0.092 (public), 0.0885 (private) on Kaggle",
    "sebastian": "0.0932 (public), 0.0863 (private) on Kaggle",
    "transpose": "0.0785 on Kaggle (private)",
    "amnesiacs": "0.0838 (public), 0.0722 (private) on Kaggle",
    "sun": "under 0.0783 on Kaggle (private, by rank)",
    "forget": "0.0939 on Kaggle (public, mean)",
    "finetune": f"0.0002 to 0.049 on Kaggle (a grid); {GAP.format('3.78')}",
    "gradient_ascent": GAP.format("4.12"),
    "neg_grad": "0.0001 on Kaggle",
    "random_label": GAP.format("7.15"),
    "l1_sparse": GAP.format("2.26"),
    "salun": GAP.format("1.15"),
    "influence": GAP.format("4.06"),
    "boundary_expand": GAP.format("2.76"),
    "boundary_shrink": GAP.format("2.67"),
    "delete": "forget accuracy 0.00 % (CIFAR-10, a class)",
    "scrub": "test 77.3 %, forget 2.0 % (CIFAR-100, a class)",
    "scar": "test 72.9 %, forget 2.0 % (CIFAR-100, a class)",
    "constrained": "retain 97.7, forget 68.9, validation 64.8 % top-5 (CIFAR-100, 10 %)",
    "certified_gradient_clipping": "validation 70.3, 74.8, 80.3 % after 1, 2, 6 epochs (MNIST)",
    "certified_model_clipping": "validation 70.0, 76.6, 80.2 % after 1, 2, 6 epochs (MNIST)",
    "certified_output_perturbation": "validation 57.3, 71.7, 78.3 % after 1, 2, 6 epochs (MNIST)",
    "certified_retrain": "validation 67.8, 74.1, 79.9 % after 1, 2, 6 epochs (MNIST)",
    "certified_dp_sgd": "validation 63.8, 68.8, 87.2 % after 1, 2, 50 epochs (CIFAR-10 features, epsilon 50)",
    "adversarial": "retain 96.7, forget 0.6, test 91.3 % (CIFAR-10, a class)",
    "ftsu": "test 96.1 to 95.5, backdoor 94.4 to 10.1 % (MNIST)",
}
"""Figures of the methods' authors, or of papers that compare them; `docs/methods.md` says how to read them."""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    task = load(TaskSpec("digits", train_size=100))
    known = [report for report in read_reports(results_folder()) if report.task == options.task]
    reports = [report for report in known if report.models == options.models and report.submission is None]
    lines = [HEAD.format(task=options.task, models=options.models, out=options.out)]
    for name in all_method_handlers():
        cells = (idea(name), source(name), ", ".join(examples_used(name, task)) or "nothing")
        figures = (GUARANTEES.get(name, "none"), PUBLISHED.get(name, "-"), best(name, reports))
        lines.append(f"| `{name}` | {' | '.join([*cells, *figures])} |")
    options.out.write_text("\n".join(lines) + "\n")
    print(f"written to {options.out}")


HEAD = """# The methods

Made by `python -m benchmarks.pages.methods_page --task {task} --models {models} --out {out}`.

- **idea**, **source**: from the docstring of the method's file.
- **uses**: the sets whose images a run was observed to read. (Many methods read the validation set only to decide when
  to stop, or for their notes.)
- **published**: figures of the authors or of papers that compare methods, on other data and by several protocols.
  Figures "on Kaggle" are scores like ours, on hidden data; a gap to retraining can't be compared with them.
- **here**: the best score on {task}, N = {models}, and its share of the ceiling, with published or tuned values. The
  leaderboard has the intervals.

| method | idea | source | uses | guarantee | published | here |
|---|---|---|---|---|---|---|"""


def idea(name: str) -> str:
    """The first line of the method's docstring."""
    return inspect.cleandoc(all_method_handlers()[name].__doc__ or "").split("\n")[0].rstrip(".")


def source(name: str) -> str:
    """The first paper, discussion or code that the docstring names as its source, as a link."""
    text = " ".join(inspect.cleandoc(all_method_handlers()[name].__doc__ or "").split())
    after = text.partition("Source:")[2]
    links = {
        r"arXiv (\d{4}\.\d{4,5})": "[arXiv {0}](https://arxiv.org/abs/{0})",
        r"Kaggle discussion (\d+)": "[Kaggle {0}](https://www.kaggle.com/c/neurips-2023-machine-unlearning/discussion/{0})",
        r"github\.com/([\w-]+/[\w-]+)": "[{0}](https://github.com/{0})",
    }
    found = [(match.start(), link.format(match[1])) for p, link in links.items() if (match := re.search(p, after))]
    if found:
        return min(found)[1]
    return "starter notebook of the competition" if "starter notebook" in after else "-"


class WatchedDataset(ExampleDataset):
    """Notes whether anybody reads an example."""

    read = False

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """See `ExampleDataset`."""
        self.read = True
        return super().__getitem__(index)

    def batch(self, indices: object) -> Batch:
        """See `ExampleDataset`."""
        self.read = True
        return super().batch(indices)  # type: ignore[arg-type]


def examples_used(name: str, task: Task) -> list[str]:
    """Which of the three sets runs of the method with published values read examples of."""
    parts = ((task.train, task.retain_indices), (task.train, task.request_indices), (task.validation, None))
    datasets = [WatchedDataset(split, indices) for split, indices in parts]
    for seed in range(4):  # a method may toss a coin what to do
        seed_everything(seed)
        net = build_network(task, seed).eval()
        all_method_handlers()[name]().run(net, *(TensorLoader(dataset, 64, shuffle=True) for dataset in datasets))
    return [which for which, dataset in zip(SETS, datasets, strict=True) if dataset.read]


def best(name: str, reports: list[Report]) -> str:
    """The best score of the method, and which values it had."""
    own = max((report for report in reports if report.method == name), key=lambda r: r.score, default=None)
    if own is None:
        return "-"
    return f"{own.score:.4f}, {own.percent_of_ceiling(' %')} ({own.values})"


if __name__ == "__main__":
    main()
