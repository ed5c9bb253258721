"""Are the results still the same, bit for bit? `python -m benchmarks.checks.same_bits --against REVISION`.

The same small commands run in this working tree and in a temporary checkout of another revision (by default the last
tag), each with folders of its own: gradings of ten methods of different kinds, a zip of checkpoints, a search for
hyper-parameters, a sweep, two requests one after another. Then all that does not depend on the clock is compared: the
weights and outputs of the bank, the outputs of the runs, the facts in the reports, the notes of the runs, the trials of
the search, the table of the sweep. Exit code 1 if anything differs. About four minutes on two cores.

Folders are matched by job, task and method, because the hash in their names changes with a method's source. Reports of
earlier formats are read as this version reads them, and compared record by record.

Each tree decodes the digits before anything else: up to release 3c5b284, the process that did so got them with other
strides than all later ones, and so other bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console as Screen
from rich.table import Table

from evaluation.console import Console
from evaluation.report import Report

ROOT = Path(__file__).parent.parent.parent

Found = dict[str, dict[str, str]]
"""What a tree's jobs have left: by a row of the table, values by name, each as a text that is equal if the bits are."""

# ----------------------------------------------------------------------------------------------------------------------
# What is done
# ----------------------------------------------------------------------------------------------------------------------

METHODS = (
    *("my_method", "noisy_finetune", "scrub", "fisher", "ssd", "salun"),
    "constrained",  # notes a history
    "retrain",  # exempt from the budget
)
MODELS = 8
SIZE = ("--task", "digits", "--train-size", "60", "--test-size", "100", "--recipe", "epochs=40")
"""A small task. Its forget request is `FORGET`, but for the sequence."""
FORGET = ("--forget", "random:12")
GRADING = ("--models", str(MODELS), "--budget-seconds", "60")
SWEEP = {
    "title": "same bits",
    "figure": "budget",
    "values": [1, 2],
    "seeds": 2,
    "task": {
        "name": "digits",
        "train_size": 60,
        "test_size": 100,
        "forget": "random:12",
        "recipe": {"epochs": 40},
    },
    "curves": [
        {"name": "fine-tuning", "method": "finetune", "grid": {"learning_rate": [0.01, 0.1]}},
        {"name": "noisy", "method": "noisy_finetune", "settings": {"noise": 0.1}},
    ],
}


@dataclass(frozen=True)
class Tree:
    """A checkout of the kit, and the folder for all that its jobs leave."""

    root: Path
    folder: Path

    @property
    def bank(self) -> Path:
        """Where its bank is."""
        return self.folder / "bank"

    def results(self, job: str) -> Path:
        """Where a job's results are."""
        return self.folder / "results" / job

    def run(self, job: str, *arguments: str) -> None:
        """`python main.py ARGUMENTS`. Ends the check if the command fails."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {f"UNLEARNING_{name.upper()}": str(self.folder / name) for name in ("bank", "cache", "tuned")}
        environment["UNLEARNING_RESULTS"] = str(self.results(job))
        command = [sys.executable, "main.py", *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"in {self.root}: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def decode(tree: Tree) -> None:
    """Fill the cache, so that all later processes read the digits from it."""
    tree.run("decode", "show", "--task", "digits", "--out", str(tree.folder / "digits.png"))


def grade_methods(tree: Tree) -> None:
    """Grade the methods, each from two originals."""
    tree.run("grade", "-m", ",".join(METHODS), *SIZE, *FORGET, *GRADING, "--originals", "2", "-q", "--json")


def grade_certified(tree: Tree) -> None:
    """Grade a method that certifies, with the accounting that was its default in 0.1.0."""
    method = ("-m", "certified_gradient_clipping", "--set", "accounting=exact")
    tree.run("certified", *method, *SIZE, *FORGET, *GRADING, "--originals", "2", "-q", "--json")


def grade_prepared(tree: Tree) -> None:
    """Grade a method that prepares something for each original; as it is slow, less of it."""
    few = ("--models", "6", "--originals", "1", "--set", "pretrain_steps=30", "--set", "warm_up_steps=5")
    tree.run("prepared", "-m", "adversarial", *SIZE, *FORGET, "--budget-seconds", "60", *few, "-q", "--json")


def grade_zip(tree: Tree) -> None:
    """Grade a zip of checkpoints: the retrained models, with some noise, so that there is something to be told."""
    path = tree.folder / "submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, state in enumerate(retrained_weights(tree)):
            noisy = with_noise(state, seed=number)
            checkpoint = zipfile.ZipInfo(f"unlearned_checkpoint_{number}.pth")  # with a fixed date: the hash counts
            with archive.open(checkpoint, "w") as file:
                torch.save(noisy, file)
    tree.run("zip", "grade", str(path), *SIZE, *FORGET, "--models", str(MODELS), "-q", "--json")


def retrained_weights(tree: Tree) -> list[dict[str, torch.Tensor]]:
    """The weights of the retrained models of the gradings, the only ones in the bank so far."""
    manifests = tree.bank.glob("*/manifest.json")
    (folder,) = [path.parent for path in manifests if json.loads(path.read_text())["kind"] == "retrained"]
    paths = sorted(folder.glob("model-*.pt"))[:MODELS]
    return [torch.load(path, map_location="cpu", weights_only=True) for path in paths]


def with_noise(state: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights, moved a little; integers as they are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.02 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }


def tune(tree: Tree) -> None:
    """Search for hyper-parameters; the values found are not used by later jobs."""
    tree.run("tune", "tune", "-m", "ssd,noisy_finetune", "--trials", "3", *SIZE, *FORGET, *GRADING, "-q")


def sweep(tree: Tree) -> None:
    """Make a figure of two curves."""
    file = tree.folder / "small.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    tree.run("sweep", "sweep", str(file), "--devices", "cpu", "-q")


def sequence(tree: Tree) -> None:
    """Two requests, one after another, and both at once."""
    requests = ("--forget", "class:3", "--forget", "random:0.1")
    tree.run("sequence", "-m", "my_method,scrub", *SIZE, *requests, *GRADING, "--originals", "1", "-q", "--json")


GRADINGS = (grade_methods, grade_certified, grade_prepared, grade_zip)
JOBS: tuple[Callable[[Tree], None], ...] = (decode, *GRADINGS, sequence, sweep, tune)

# ----------------------------------------------------------------------------------------------------------------------
# What is compared
# ----------------------------------------------------------------------------------------------------------------------

ARRAYS = ("forget", "validation", "test", "retain_accuracy", "drift")
"""Of outputs.npz. Its seconds and memory differ from run to run; other arrays are younger than the other revision."""

OF_THE_CLOCK = ("cost", "provenance")
"""Records of a report that differ from run to run."""
SINCE_0_1_0 = ("plausibility", "remarks")
"""Those that reports of 0.1.0 lack."""
SCORES_SINCE_0_1_0 = ("overlap", "overlap_by_original", "as_of")
"""Numbers that its scores lack."""

CLOCK = re.compile(r"seconds|datetime|created|worker_id|watched|assumptions")
"""Keys in notes and trials whose values differ from run to run; and in those of certified methods, what is no result:
what the grader has seen of a run, which 0.1.0 did not note, and sentences."""

HASH = re.compile(r"-[0-9a-f]{8,12}(?=-|\.|$)")
"""In the names of folders and files: of a method's source and settings, or of a zip."""


def found_by(tree: Tree) -> Found:
    """All that can be compared."""
    found: Found = {}
    for row, name, value in (*in_bank(tree.bank), *in_gradings(tree), *in_tuning(tree), *in_sweep(tree)):
        known = found.setdefault(row, {})
        if name in known:
            sys.exit(f"{row} has {name} twice in {tree.root}: tell them apart in benchmarks/checks/same_bits.py.")
        known[name] = value
    return found


def in_bank(bank: Path) -> Iterator[tuple[str, str, str]]:
    """Weights, recorded outputs and what methods have prepared. Pools have the hash of all that decides them."""
    for path in sorted(bank.glob("*/*")):
        name = f"{path.parent.name}/{path.name}"
        if path.name.startswith("outputs-"):
            yield from (("bank: outputs", f"{name} {array}", value) for array, value in arrays_in(path).items())
        elif path.name.startswith("model-"):
            yield from (("bank: weights", f"{name} {key}", value) for key, value in tensors_in(path).items())
        elif path.name.startswith("prepared-") and path.suffix == ".pt":
            name = HASH.sub("", path.name)
            yield from (("bank: prepared", f"{path.parent.name}/{name} {k}", v) for k, v in tensors_in(path).items())


def in_gradings(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Outputs, facts and notes of each graded method."""
    for job in ("grade", "certified", "prepared", "zip", "sequence"):
        for path in sorted(tree.results(job).glob("*/*/report.json")):
            folder = path.parent
            task, method = folder.parent.name, HASH.sub("", folder.name)
            for array, value in arrays_in(folder / "outputs.npz").items():
                yield f"{job}: {method}, outputs", f"{task} {array}", value
            for name, value in facts_of(path.read_text()).items():
                yield f"{job}: {method}, report", f"{task} {name}", value
            for notes in sorted(folder.glob("runs/*.json")):  # a certificate.json has more in it since 0.1.0
                name = str(notes.relative_to(folder))
                yield f"{job}: {method}, notes", f"{task} {name}", timeless(json.loads(notes.read_text()))


def in_tuning(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Every step of the search, and what it wrote for later gradings."""
    for path in sorted(tree.results("tune").glob("*/tuning-*/trials.journal")):
        for number, line in enumerate(path.read_text().splitlines()):
            yield "tune: trials", f"{HASH.sub('', path.parent.name)} {number}", timeless(json.loads(line))
    for path in sorted((tree.folder / "tuned").glob("*.yaml")):
        yield "tune: values", HASH.sub("", path.name), timeless(yaml.safe_load(path.read_text()))


def in_sweep(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Results of single runs, and the table."""
    for path in sorted(tree.results("sweep").glob("sweeps/*/runs/*.json")):
        run = json.loads(path.read_text())
        yield "sweep: runs", f"{run['method']} {run['settings']} {run['seed']}", timeless(run)
    for path in sorted(tree.results("sweep").glob("sweeps/*/table.json")):
        table = json.loads(path.read_text())
        yield from (("sweep: table", name, timeless(table[name])) for name in ("points", "originals", "failures"))


def arrays_in(path: Path) -> dict[str, str]:
    """Digests of the arrays of an `.npz` file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: digest(file[name]) for name in ARRAYS if name in file}


def tensors_in(path: Path) -> dict[str, str]:
    """Digests of the tensors of a file, those in its dicts too."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return {".".join(keys): digest(value.numpy()) for keys, value in leaves(content) if isinstance(value, torch.Tensor)}


def digest(array: np.ndarray) -> str:
    """A hash of type, shape and bits."""
    kind = f"{array.dtype.str} {array.shape} "
    return kind + hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def timeless(value: Any) -> str:
    """A JSON document as text, without what the clock has a part in."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(entry) for key, entry in value.items() if not CLOCK.search(str(key))}
        return [cleaned(entry) for entry in value] if isinstance(value, list) else value

    return json.dumps(cleaned(value), sort_keys=True)


def leaves(document: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values in nested dicts, with the keys that lead to them; the dicts inside come before what is in them."""
    if keys:
        yield keys, document
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from leaves(value, (*keys, str(key)))


def facts_of(text: str) -> dict[str, str]:
    """What a report holds, by the keys that lead there in a report of this version, which reads all formats."""
    left_out = (*OF_THE_CLOCK, *SINCE_0_1_0)
    records = {name: value for name, value in Report.from_json(text).to_dict().items() if name not in left_out}
    del records["grading"]["bank_fingerprint"]  # defined anew since 0.1.0; what it is a hash of is compared by itself
    records["method"].pop("code", None)  # reports of 0.1.0 lack it
    for scores in (records["scores"], records["scores"]["floor"], records["scores"]["ceiling"]):
        for name in SCORES_SINCE_0_1_0:
            scores.pop(name, None)
    return {
        ".".join(keys): json.dumps(value, sort_keys=True)
        for keys, value in leaves(records)
        if not isinstance(value, Mapping)
    }


# ----------------------------------------------------------------------------------------------------------------------
# The comparison
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    values: int
    different: tuple[str, ...]
    """The names of the values that differ, or that only one tree has, or that a report has not in one place."""


def compare(this: Found, that: Found) -> list[Row]:
    """All that either has."""
    rows = []
    for what in dict.fromkeys([*this, *that]):
        here, there = this.get(what, {}), that.get(what, {})
        names = list(dict.fromkeys([*here, *there]))
        different = tuple(name for name in names if here.get(name) != there.get(name))
        rows.append(Row(what, len(names), different))
    return rows


def as_table(rows: Sequence[Row], revision: str) -> Table:
    """What was compared, and how it went."""
    table = Table("what", "values", f"against {revision}", box=None, pad_edge=False)
    for row in rows:
        verdict = "equal"
        if row.different:
            verdict = f"[red]{len(row.different)} differ:[/] {'; '.join(row.different[:3])}"
        table.add_row(row.what, str(row.values), verdict)
    return table


def last_release() -> str:
    """The newest tag; where there is none, what this branch has in common with `origin/main`, else its last commit."""
    for command in (["describe", "--tags", "--abbrev=0"], ["merge-base", "HEAD", "origin/main"]):
        answer = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        if answer.returncode == 0:
            return answer.stdout.strip()
    return "HEAD"


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision, in a folder that is gone afterwards."""
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*git, "add", "--detach", str(folder), revision], capture_output=True, text=True)
    if added.returncode != 0:
        sys.exit(f"git has no revision {revision!r}: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> int:
    """Run everything twice, and print the table."""
    parser = argparse.ArgumentParser(description="Compare results with those of another revision, bit for bit.")
    parser.add_argument("--against", metavar="REVISION", help="tag, branch or commit; default: the last tag")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what the jobs leave, in a new folder")
    arguments = parser.parse_args()
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"{arguments.keep} is there already: its results would be taken for new ones")
    revision = arguments.against or last_release()
    with tempfile.TemporaryDirectory() as temporary, checkout(revision, Path(temporary) / "checkout") as other:
        folder = arguments.keep.resolve() if arguments.keep else Path(temporary)
        trees = [Tree(ROOT, folder / "this"), Tree(other, folder / "that")]
        with Console().progress("same bits", "jobs") as on_progress:
            steps = [(job, tree) for job in JOBS for tree in trees]
            for number, (job, tree) in enumerate(steps):
                on_progress(number, len(steps))
                tree.folder.mkdir(parents=True, exist_ok=True)
                job(tree)
            on_progress(len(steps), len(steps))
        rows = compare(*map(found_by, trees))
    Screen(highlight=False, soft_wrap=True).print(as_table(rows, revision))
    values, different = sum(row.values for row in rows), sum(len(row.different) for row in rows)
    print(f"\n{values} values compared, {different} differ" if different else f"\n{values} values compared, all equal")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
