"""Adversarial unlearning of a class on dense and pruned networks: `python -m benchmarks.published.adversarial_class`.

The target for discriminative adversarial unlearning (Sharma et al., arXiv 2402.06864), on dense and on pruned networks:
less than 5 % accuracy on the forgotten class, with a test accuracy on the remaining classes at most 4 points below the
original's. Where images are forgotten at random, the attacker should fall to chance. One row per network and model:
percentages, means over runs. "time" is relative to the time of retraining.

    --task folder --data-dir DIR       your own images, `train/<class>/` and `test/<class>/`, instead of `mnist`
    --forget class:3                   or random:0.1, where forgotten and unseen images are of the same kind
    --sparsity 0 0.9                   fraction of the weights that `--pruning` sets to 0; 0 is the dense network
    --set name=value                   hyper-parameters of `adversarial` that replace those chosen here
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from checkpoints.bank import ensure
from checkpoints.outputs import Outputs, record_outputs
from checkpoints.server import start_server
from checkpoints.workers import Workers, be_deterministic
from data import Task, TaskSpec, UserError, load
from data.seeds import derive_seed
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.runs.prepared import prepared_for
from evaluation.runs.resolve import settings_in_force
from evaluation.runs.settings import outside_gradings

FOUND_GOOD = {
    "epochs": 5,
    "stop_step": 150,
    "learning_rate": 0.05,
    "repair_learning_rate": 0.01,
    "through_sensitivity": False,
    "pairs": 32,
    "batch_size": 64,
    "attacker_learning_rate": 0.003,
    "pretrain_steps": 300,
}
"""By trial on 4,000 images of MNIST; published ones are for a ResNet-18 on 45,000 images."""
COLUMNS = ("forget", "retain", "test", "attacker before", "attacker after", "time")


def main() -> None:
    """Train, unlearn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", choices=("mnist", "folder"))
    parser.add_argument("--data-dir", help="for --task folder")
    parser.add_argument("--network", default="strided_cnn")
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=24, help="of the original and the retrained model")
    parser.add_argument("--forget", default="class:3")
    parser.add_argument("--pruning", default="omp", choices=("omp", "imp", "synflow"))
    parser.add_argument("--sparsity", type=float, nargs="+", default=(0.0, 0.9))
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="name=value", dest="settings")
    options = parser.parse_args()
    start_server()
    be_deterministic("cpu")
    print("| | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|", flush=True)
    try:
        for sparsity in options.sparsity:
            compare(sparsity, options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def compare(sparsity: float, options: argparse.Namespace) -> None:
    """The rows of one network: the original, the retrained model, and what unlearning leaves of the original."""
    pruned = (("pruning", options.pruning), ("sparsity", sparsity)) if sparsity else ()
    spec = TaskSpec(
        options.task,
        (options.forget,),
        train_size=options.train_size,
        test_size=2000,
        data_dir=options.data_dir,
        network=options.network,
        recipe=(("learning_rate", 0.05), ("epochs", options.epochs), *pruned),
    )
    task = load(spec)
    with Workers(1) as workers:
        bank = ensure(task, 1, 1, workers)
    name = f"{100 * sparsity:.0f} % pruned" if sparsity else "dense"
    print_row(f"{name}: original", accuracies(bank.originals.outputs(1), task))
    print_row(f"{name}: retrained", accuracies(bank.retrained.outputs(1), task))

    chosen = FOUND_GOOD | dict(text.partition("=")[::2] for text in options.settings)
    settings = settings_in_force("adversarial", chosen, task.recipe)
    with open(os.devnull, "wb") as nothing:
        run_settings = outside_gradings(task.spec, "adversarial", settings)
        prepared = prepared_for(run_settings, task, 0, nothing.fileno())
    done = [
        unlearn_once(
            "adversarial",
            settings,
            task,
            original_network(task, bank.originals.state(0)),
            derive_seed("adversarial", run),
            prepared=prepared,
        )
        for run in range(options.runs)
    ]
    found = accuracies(Outputs.join([record_outputs(one.net, task) for one in done]), task)
    for when in ("before", "after"):
        found[f"attacker {when}"] = 100 * float(np.mean([one.notes[f"attacker_accuracy_{when}"] for one in done]))
    found["time"] = 100 * float(np.mean([one.seconds for one in done])) / bank.retrain_seconds
    print_row(f"{name}: `adversarial`", found)


def accuracies(outputs: Outputs, task: Task) -> dict[str, float]:
    """Mean percentages over models; "test" is over the classes of which the retain set has some."""
    labels = task.test.labels.numpy()
    stays = np.isin(labels, task.train.labels[task.retain_indices].numpy())  # (test,)
    right = outputs.test.argmax(axis=2) == labels  # (models, test)
    given = task.labels("forget")
    found = {
        "forget": outputs.accuracy("forget", given).mean(),
        "retain": outputs.retain_accuracy.mean(),
        "test": right[:, stays].mean(),
    }
    return {name: 100 * float(value) for name, value in found.items()}


def print_row(name: str, found: dict[str, float]) -> None:
    """A row of the table; what a row does not have stays empty."""
    cells = [f"{found[column]:.1f}" if column in found else "" for column in COLUMNS]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
