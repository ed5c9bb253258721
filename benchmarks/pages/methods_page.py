"""One row per method, as a page: `python -m benchmarks.pages.methods_page --out docs/methods.md`.

All of a row comes from the method's file: the first line and the "Source:" paragraph of its docstring, its `guarantee`
and `published_figures`, and which of the loaders' examples a run on the digits reads.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Task, TaskSpec, load
from data.loaders import Batch, ExampleDataset, Sample, TensorLoader
from evaluation.catalogue.lookup import facts_of, registry
from methods import all_method_handlers

SETS = ("retain", "forget", "validation")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    task = load(TaskSpec("digits", train_size=100))
    lines = [HEAD.format(out=options.out)]
    for name in registry():
        cells = (idea(name), source(name), ", ".join(examples_used(name, task)) or "nothing")
        lines.append(f"| `{name}` | {' | '.join([*cells, guarantee(name), published(name)])} |")
    options.out.write_text("\n".join(lines) + "\n")
    print(f"written to {options.out}")


HEAD = """# The methods

Made by `python -m benchmarks.pages.methods_page --out {out}`. Figures of ours are on the
[leaderboard](leaderboard-digits.md).

- **idea**, **source**: from the docstring of the method's file.
- **uses**: the sets whose images a run was observed to read. (Many methods read the validation set only to decide when
  to stop, or for their notes.)
- **published**: figures of the authors or of papers that compare methods, on other data and by several protocols.
  Figures "on Kaggle" are scores like ours, on hidden data; a gap to retraining can't be compared with them.

| method | idea | source | uses | guarantee | published |
|---|---|---|---|---|---|"""


def idea(name: str) -> str:
    """The first line of the method's docstring."""
    return facts_of(name).summary.rstrip(".")


def source(name: str) -> str:
    """The first paper, discussion or code that the docstring names as its source, as a link."""
    text = " ".join(facts_of(name).docstring.split())
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


def guarantee(name: str) -> str:
    """What is proven of the method."""
    return facts_of(name).guarantee or "none"


def published(name: str) -> str:
    """What others have published of it; `docs/methods.md` says where to be careful."""
    return facts_of(name).published_figures or "-"


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


if __name__ == "__main__":
    main()
