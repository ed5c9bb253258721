"""Loaders as the competition hands them to a method, but without per-sample work.

A batch is a dict: "image" float32 `(B, C, H, W)`, "image_id" list of str, "age_group" int64 `(B,)` (the class
label, by the name it had on Kaggle), and each metadata column (`person_id`, `age`): numbers as a tensor,
texts as a list. The data set lies on the compute device, and a batch is gathered from it by index.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from data.seeds import derive_seed
from data.task import Split, Task

Batch = dict[str, Any]


class Sample(dict[str, Any]):
    """One example, with the keys of a batch.

    "image" is a `(C, H, W)` tensor, every other value an int, float, bool or str, as from an ordinary data
    set. It is a type of its own so that `default_collate` can be told how to collate it (at the end of this
    module).
    """


class ExampleDataset(Dataset[Sample]):
    """Some examples of a split, copied, so that nothing done to them reaches the split.

    `dataset[i]` is a fresh `Sample`. `indices`, int64 `(n,)`, say which examples and in which order; None
    means all.
    """

    def __init__(self, split: Split, indices: np.ndarray | None = None) -> None:
        rows = np.arange(len(split)) if indices is None else np.asarray(indices, dtype=np.int64)
        self._images = _take(split.images, rows)  # (n, C, H, W)
        labels = split.labels.cpu().numpy()
        # What comes with an image, by its name in a batch, `(n,)` each: on the host, for samples ...
        self._columns = {
            name: _plain(column[rows])
            for name, column in {"image_id": split.image_ids, "age_group": labels, **split.columns}.items()
        }
        # ... and the numbers among it on the device too, for batches.
        self._numbers = {
            name: _on_device(column, self._images.device)
            for name, column in self._columns.items()
            if column.dtype.kind in "bif"
        }

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        """One example. Raises `IndexError` beyond the end, which also ends `for sample in dataset`."""
        row = range(len(self))[operator.index(index)]
        values = {name: column[row].item() for name, column in self._columns.items()}
        return Sample(image=self._images[row].clone(), **values)

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Several examples at once: PyTorch's `DataLoader` and `Subset` call this instead of `dataset[i]`."""
        if get_worker_info() is not None and self._images.device.type != "cpu":
            raise RuntimeError(f"The data set lies on {self._images.device}, out of reach of workers: num_workers=0.")
        rows = np.asarray(indices, dtype=np.int64)
        return Samples(self.batch(rows), {name: column[rows].tolist() for name, column in self._columns.items()})

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """A fresh batch of the examples at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        on_device = torch.from_numpy(rows).to(self._images.device)
        batch: Batch = {"image": self._images.index_select(0, on_device)}
        for name, column in self._columns.items():
            numbers = self._numbers.get(name)
            batch[name] = column[rows].tolist() if numbers is None else numbers.index_select(0, on_device)
        return batch


def _take(tensor: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    return tensor.index_select(0, torch.from_numpy(rows).to(tensor.device))


def _plain(column: np.ndarray) -> np.ndarray:
    """The column as `default_collate` would have it: bool, int64, float64, or str as it is."""
    wider: dict[str, type] = {"i": np.int64, "u": np.int64, "f": np.float64}
    return column.astype(wider.get(column.dtype.kind, column.dtype))


def _on_device(column: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(column)
    if device.type == "mps" and tensor.dtype == torch.float64:  # Apple's GPUs have no float64
        tensor = tensor.float()
    return tensor.to(device)


class Samples(Sequence[Sample]):
    """The samples of one batch, which is gathered as a whole and only cut into samples if somebody looks.

    `default_collate` looks once, at the first sample, to learn its type. Whoever looked before may have
    changed what they saw, so after a second look it is the samples that count, and no longer the batch.
    """

    def __init__(self, batch: Batch, columns: dict[str, list[Any]]) -> None:
        self.batch = batch
        self.looks = 0
        self._columns = columns
        self._seen: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.batch["image"])

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        self.looks += 1
        row = range(len(self))[index]
        if row not in self._seen:
            values = {name: column[row] for name, column in self._columns.items()}
            self._seen[row] = Sample(image=self.batch["image"][row], **values)
        return self._seen[row]


def collate(samples: Sequence[Sample], *, collate_fn_map: dict[Any, Callable[..., Any]] | None = None) -> Batch:
    """What `default_collate` does with samples: a batch, with all its tensors on the device of the images."""
    if isinstance(samples, Samples) and samples.looks <= 1:
        return samples.batch
    batch: Batch = {name: default_collate([sample[name] for sample in samples]) for name in samples[0]}
    image = batch.get("image")
    if not isinstance(image, torch.Tensor):
        return batch
    return {name: value.to(image.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


class TensorLoader(DataLoader[Sample]):
    """A `DataLoader` over an `ExampleDataset` whose batches are gathered by index, without worker processes.

    It yields what a plain `DataLoader(dataset, batch_size, shuffle, drop_last=..., generator=...)` yields
    over the same examples, in the same order, and draws the same numbers from the generator (tests compare
    the two). So a method's run can be repeated bit for bit in a notebook with plain loaders.
    """

    dataset: ExampleDataset

    def __init__(
        self,
        dataset: ExampleDataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, drop_last=drop_last, generator=generator)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a plain iterator is all that is needed
        # A plain loader draws a seed for its workers at this point, even when it has none.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        assert self.batch_sampler is not None  # there is one whenever batch_size is a number
        return (self.dataset.batch(indices) for indices in self.batch_sampler)


def run_datasets(task: Task) -> tuple[ExampleDataset, ExampleDataset, ExampleDataset]:
    """What the loaders of a run are over: fresh copies of the retain, forget and validation set."""
    retain = ExampleDataset(task.train, task.retain_indices)
    return retain, ExampleDataset(task.train, task.request_indices), ExampleDataset(task.validation)


def run_loaders(
    task: Task,
    seed: int,
    batch_size: int | None = None,
    datasets: tuple[ExampleDataset, ExampleDataset, ExampleDataset] | None = None,
) -> tuple[TensorLoader, TensorLoader, TensorLoader]:
    """The retain, forget and validation loader of one run of a method, all shuffled, on the task's device.

    Their batches are as large as those that the original was trained on, unless `batch_size` says otherwise.
    They are over fresh copies, or over `datasets` that nobody else uses: what a method does to its data never reaches
    another run, or the evaluation. Each has a generator of its own, seeded with `loader_seed`, so the order of one
    never depends on use of the others.
    """

    def loader(name: str, dataset: ExampleDataset) -> TensorLoader:
        generator = torch.Generator().manual_seed(loader_seed(seed, name))
        return TensorLoader(dataset, batch_size or task.recipe.batch_size, shuffle=True, generator=generator)

    retain, forget, validation = datasets or run_datasets(task)
    return loader("retain", retain), loader("forget", forget), loader("validation", validation)


def loader_seed(seed: int, name: str) -> int:
    """The seed of the loader `name` ("retain", "forget" or "validation") in the run with `seed`.

    It is a hash of both (see `derive_seed`), so that the three differ, and differ from those of other runs.
    """
    return derive_seed("loader", name, seed)


# PyTorch's way to teach `default_collate` a type: a plain DataLoader over our samples is then fast too.
default_collate_fn_map[Sample] = collate
