"""How many models a second does the bank train, compared with an ordinary loop? `python -m benchmarks.speed.bank_speed`

Side by side on the task `digits`, with its own recipe:

- plain loop: one model after another, `DataLoader(dataset, batch_size=64, shuffle=True)` over an ordinary map-style
  data set, in one process with all cores. This is what a competitor's script does.
- plain loop, one process per core: the same, with as many models at once as there are cores, one thread each.
- the bank: groups of 16 models as one network (`checkpoints/grouped.py`), one process per core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from checkpoints.bank import ensure
from checkpoints.networks import build_network
from checkpoints.pool import Pool
from checkpoints.training import learning_rate, make_optimizer
from checkpoints.workers import Workers, default_workers, load_task
from data import Task, TaskSpec, load

PLAIN_MODELS = 4
BANK_MODELS = 48


def train_plainly(task: Task, seed: int) -> None:
    """Train one retrained model as a script would."""
    indices = torch.as_tensor(task.retain_indices)
    dataset = TensorDataset(task.train.images[indices], task.train.labels[indices])
    loader = DataLoader(dataset, batch_size=task.recipe.batch_size, shuffle=True)
    network = build_network(task, seed)
    optimizer = make_optimizer(task.recipe, network)
    network.train()
    for epoch in range(task.recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task.recipe, epoch)
        for images, labels in loader:
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def job(spec: TaskSpec, seed: int) -> None:
    """`train_plainly` in a worker."""
    train_plainly(load_task(spec, "cpu"), seed)


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    spec = TaskSpec("digits")
    task = load(spec)
    cores = default_workers("cpu")

    train_plainly(task, seed=0)  # PyTorch loads parts of itself on the first steps
    began = time.perf_counter()
    for seed in range(PLAIN_MODELS):
        train_plainly(task, seed)
    plain = PLAIN_MODELS / (time.perf_counter() - began)

    with Workers(cores) as workers:
        for future in [workers.submit(job, spec, 0) for _ in range(cores)]:
            future.result()
        began = time.perf_counter()
        for future in [workers.submit(job, spec, seed) for seed in range(PLAIN_MODELS)]:
            future.result()
        parallel = PLAIN_MODELS / (time.perf_counter() - began)

        with tempfile.TemporaryDirectory() as folder:
            os.environ["UNLEARNING_BANK"] = folder
            began = time.perf_counter()
            ensure(task, originals=1, retrained=BANK_MODELS, workers=workers)
            seconds = time.perf_counter() - began
            trained = sum(stop - start for start, stop in Pool(task, "retrained").bounds(BANK_MODELS)) + 2

    print(f"digits: {len(task.retain_indices)} images, {task.recipe.epochs} epochs, {cores} cores")
    for name, rate in (
        ("plain DataLoader loop", plain),
        ("plain loop, one process per core", parallel),
        ("the bank, outputs recorded, files written", trained / seconds),
    ):
        print(f"{name:<42} {rate:6.2f} models/s  {1 / rate:6.2f} s per model  {rate / plain:5.1f} x")


if __name__ == "__main__":
    main()
