"""Seconds per epoch of our loaders against a plain `DataLoader`, over the same examples.

    python -m benchmarks.speed.loader_speed [--task digits] [--batch-size 64] [--epochs 20] [--device cpu]

An epoch moves every batch to the device and does nothing else. Three loaders take turns:

- plain: a `DataLoader` over an ordinary data set, one dict per example in memory, as in the competition's notebook;
- ours, re-wrapped: a plain `DataLoader` over `loader.dataset`, as methods make it to change the batch size;
- ours: the `TensorLoader` that a method is given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

import data
from data.loaders import Batch, ExampleDataset, TensorLoader


class OrdinaryDataset(Dataset[dict[str, Any]]):
    """The examples of a split as a list of dicts on the CPU."""

    def __init__(self, split: data.Split) -> None:
        columns = {name: column.tolist() for name, column in split.columns.items()}
        names = ("image", "image_id", "age_group", *columns)
        rows = zip(split.images.cpu(), split.image_ids.tolist(), split.labels.tolist(), *columns.values(), strict=True)
        self.examples = [dict(zip(names, row, strict=True)) for row in rows]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


def epoch_seconds(loader: Iterable[Batch], device: torch.device) -> float:
    """Seconds to take every batch of the loader to the device."""
    start = time.perf_counter()
    for batch in loader:
        batch["image"].to(device)
        batch["age_group"].to(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print, the three loaders side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    train = data.load(data.TaskSpec(args.task, data_dir=args.data_dir), device).train
    dataset = ExampleDataset(train)
    loaders: dict[str, DataLoader[Any]] = {
        "plain": DataLoader(OrdinaryDataset(train), args.batch_size, shuffle=True),
        "ours, re-wrapped": DataLoader(dataset, args.batch_size, shuffle=True),
        "ours": TensorLoader(dataset, args.batch_size, shuffle=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(args.epochs + 1):  # taking turns, so that a busy machine is unfair to nobody
        for name, loader in loaders.items():
            seconds[name].append(epoch_seconds(loader, device))
    median = {name: sorted(times[1:])[args.epochs // 2] for name, times in seconds.items()}  # the first warms up
    print(f"{args.task}: {len(train)} images {tuple(train.images.shape[1:])}, batches of {args.batch_size}, {device}")
    for name, value in median.items():
        print(f"{name:18s} {value * 1000:9.2f} ms per epoch   {median['plain'] / value:6.1f} x plain")


if __name__ == "__main__":
    main()
