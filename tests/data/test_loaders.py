"""The loaders against PyTorch's own, which are what a submission notebook uses."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler, Subset, default_collate

import data
from data import Split, TaskSpec
from data.loaders import ExampleDataset, Sample, TensorLoader, loader_seed, run_loaders

on_gpu = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))
on_each_device = pytest.mark.parametrize("device", ["cpu", on_gpu])

DIGITS = TaskSpec("digits", forget=("random:60",), train_size=600)
KEYS = ["image", "image_id", "age_group", "person_id", "age", "smiles", "camera"]


def make_split(count: int = 23, device: str = "cpu") -> Split:
    """Random images, with a metadata column of every type."""
    return Split(
        images=torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(0)).to(device),
        labels=(torch.arange(count) % 4).to(device),
        image_ids=np.array([f"image-{i:03d}" for i in range(count)]),
        columns={
            "person_id": np.arange(count, dtype=np.int32) // 3,
            "age": np.arange(count) / 3,
            "smiles": np.arange(count) % 2 == 0,
            "camera": np.array([f"camera {i % 5}" for i in range(count)]),
        },
    )


class OrdinaryDataset(Dataset[dict[str, Any]]):
    """What the competition's notebook has: a list of dicts, one by one."""

    def __init__(self, split: Split) -> None:
        self.examples = [
            {
                "image": split.images[i].cpu(),
                "image_id": str(split.image_ids[i]),
                "age_group": int(split.labels[i]),
                "person_id": int(split.columns["person_id"][i]),
                "age": float(split.columns["age"][i]),
                "smiles": bool(split.columns["smiles"][i]),
                "camera": str(split.columns["camera"][i]),
            }
            for i in range(len(split))
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


def assert_same_batch(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Same keys in the same order, same types, same values to the last bit."""
    assert list(one) == list(other) == KEYS
    for name in one:
        if isinstance(other[name], torch.Tensor):
            assert one[name].dtype == other[name].dtype
            assert torch.equal(one[name].cpu(), other[name].cpu())
        else:
            assert one[name] == other[name]
            assert {type(value) for value in one[name]} == {str}


@on_each_device
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_batches_are_those_of_a_plain_loader(device: str, shuffle: bool, drop_last: bool, batch_size: int) -> None:
    """Over several epochs the batches are equal and the generators stay in the same state after every batch.

    Catches a missing draw of the base seed, a permutation drawn too early, and a batch in another order.
    """
    split = make_split(device=device)
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    loader = TensorLoader(ExampleDataset(split), batch_size, shuffle, drop_last=drop_last, generator=ours)
    plain = DataLoader(OrdinaryDataset(split), batch_size, shuffle, drop_last=drop_last, generator=theirs)
    assert isinstance(loader, DataLoader)
    assert (len(loader), loader.batch_size, loader.drop_last) == (len(plain), batch_size, drop_last)
    for _ in range(3):
        count = 0
        for batch, expected in zip(loader, plain, strict=True):
            assert_same_batch(batch, expected)
            assert batch["image"].device.type == device
            assert torch.equal(ours.get_state(), theirs.get_state())
            count += 1
        assert torch.equal(ours.get_state(), theirs.get_state())
        assert count == len(loader)


def use_loader(loader: DataLoader[Any]) -> list[list[str]]:
    """The ways in which methods use a loader: in part, nested, zipped, one batch only, twice at once."""
    seen = [batch["image_id"] for batch in itertools.islice(loader, 2)]
    iter(loader)  # draws, even if nobody takes a batch
    seen.append(next(iter(loader))["image_id"])
    for first in itertools.islice(loader, 2):
        seen += [first["image_id"] + second["image_id"] for second in loader]
    seen += [one["image_id"] + other["image_id"] for one, other in zip(loader, loader, strict=True)]
    return seen


@pytest.mark.parametrize("own_generator", [True, False])
def test_every_way_of_iterating_draws_as_a_plain_loader_does(own_generator: bool) -> None:
    """Early breaks, nested and parallel iteration, with a generator or with PyTorch's global one."""
    split = make_split()
    seen = []
    pairs: list[tuple[Any, Any]] = [(TensorLoader, ExampleDataset(split)), (DataLoader, OrdinaryDataset(split))]
    for kind, dataset in pairs:
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(5) if own_generator else None
        loader = kind(dataset, batch_size=4, shuffle=True, generator=generator)
        seen.append((use_loader(loader), torch.rand(3).tolist()))
    assert seen[0] == seen[1]


@on_each_device
def test_an_example_is_as_from_an_ordinary_dataset(device: str) -> None:
    """Numbers are Python's own (they can be counted and used as keys), negative indices and iteration work."""
    split = make_split(device=device)
    dataset, ordinary = ExampleDataset(split), OrdinaryDataset(split)
    indices: list[Any] = [0, 5, -1, np.int64(3), torch.tensor(4)]
    for index in indices:
        sample, expected = dataset[index], ordinary[index]
        assert isinstance(sample, dict)
        assert list(sample) == KEYS
        assert torch.equal(sample["image"].cpu(), expected.pop("image"))
        assert {name: value for name, value in sample.items() if name != "image"} == expected
        assert {name: type(value) for name, value in sample.items() if name != "image"} == {
            name: type(value) for name, value in expected.items()
        }
    assert len(list(iter(dataset))) == len(dataset) == 23
    with pytest.raises(IndexError):
        dataset[23]


@on_each_device
def test_rewrapping_gives_the_batches_of_an_ordinary_dataset(device: str) -> None:
    """`DataLoader(loader.dataset)`, `Subset`, `ConcatDataset` and samplers, as competitors use them."""
    split = make_split(device=device)
    ours: Any = TensorLoader(ExampleDataset(split), 4, shuffle=True).dataset
    plain: Any = OrdinaryDataset(split)
    chosen = [20, 3, 3, 11, 0, 7]

    def loaders(dataset: Any) -> list[DataLoader[Any]]:
        generator = torch.Generator().manual_seed(1)
        return [
            DataLoader(dataset, batch_size=8, shuffle=True, generator=generator),
            DataLoader(Subset(dataset, chosen), batch_size=4),
            DataLoader(Subset(Subset(dataset, chosen), [5, 1, 2]), batch_size=2, drop_last=True),
            DataLoader(
                ConcatDataset([dataset, Subset(dataset, chosen)]), batch_size=7, shuffle=True, generator=generator
            ),
            DataLoader(
                dataset,
                sampler=RandomSampler(dataset, replacement=True, num_samples=30, generator=generator),
                batch_size=9,
            ),
            DataLoader(dataset, batch_sampler=[[1, 2], [0], [22, 5, 5]]),
        ]

    for one, other in zip(loaders(ours), loaders(plain), strict=True):
        for batch, expected in zip(one, other, strict=True):
            assert_same_batch(batch, expected)
            tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
            assert {tensor.device.type for tensor in tensors} == {device}


def test_a_rewrapped_loader_does_not_cut_batches_into_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes re-wrapping fast: for a batch of 8, one sample is made (to show its type), not 8."""
    made = []

    class CountedSample(Sample):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            made.append(self)

    monkeypatch.setattr(data.loaders, "Sample", CountedSample)
    for dataset in (ExampleDataset(make_split(24)), Subset(ExampleDataset(make_split(24)), range(24))):
        made.clear()
        assert sum(len(batch["image"]) for batch in DataLoader(dataset, batch_size=8)) == 24
        assert len(made) == 3


class Brighter(Subset[Any]):
    """A competitor's wrapper that changes samples on their way, in both methods that PyTorch may call."""

    def __getitem__(self, index: int) -> Any:
        return self._change(self.dataset[self.indices[index]])

    def __getitems__(self, indices: list[int]) -> Any:
        samples = super().__getitems__(indices)
        for sample in samples:
            self._change(sample)
        return samples

    @staticmethod
    def _change(sample: Any) -> Any:
        sample["image"] = sample["image"] + 100
        sample["weight"] = 0.5
        return sample


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_a_wrapper_changes_in_samples_is_in_the_batch(batch_size: int) -> None:
    """Catches a shortcut to the batch that was gathered before the samples were changed."""
    split = make_split()
    loader = DataLoader(Brighter(ExampleDataset(split), range(23)), batch_size=batch_size)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, split.images + 100)
    assert {batch["weight"].dtype for batch in loader} == {torch.float64}
    assert torch.equal(Brighter(ExampleDataset(split), range(23))[3]["image"], split.images[3] + 100)


def test_a_competitors_own_collate_function() -> None:
    """Samples of a batch behave as a list of dicts: iteration, length, index, slice; also within tuples."""
    split = make_split()
    dataset = ExampleDataset(split)

    def own(samples: Any) -> Any:
        images = torch.stack([sample["image"] for sample in samples])
        assert len(samples) == len(samples[:]) == len(images)
        assert samples[-1]["image_id"] == samples[len(samples) - 1]["image_id"]
        with pytest.raises(IndexError):
            samples[len(samples)]
        return images, torch.tensor([sample["age_group"] for sample in samples])

    images, labels = next(iter(DataLoader(dataset, batch_size=10, collate_fn=own)))
    assert torch.equal(images, split.images[:10])
    assert torch.equal(labels, split.labels[:10])
    pairs = default_collate([(dataset[i], i) for i in range(4)])
    assert torch.equal(pairs[0]["image"], split.images[:4])
    assert pairs[1].tolist() == [0, 1, 2, 3]


def test_worker_processes_on_the_cpu() -> None:
    """A re-wrapped loader with `num_workers` gives the same batches (there is no need, but notebooks do it)."""
    split = make_split()
    batches = list(DataLoader(ExampleDataset(split), batch_size=6, num_workers=1))
    for batch, expected in zip(batches, DataLoader(OrdinaryDataset(split), batch_size=6), strict=True):
        assert_same_batch(batch, expected)


def test_a_dataset_can_be_pickled() -> None:
    """As worker processes need it where processes are spawned."""
    dataset = ExampleDataset(make_split())
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5]["image"], dataset[5]["image"])


@on_each_device
def test_changes_to_a_batch_never_reach_the_data(device: str) -> None:
    """In-place changes to batches, samples and the samples of a batch leave data set and split as they were."""
    split = make_split(device=device)
    images, labels = split.images.clone(), split.labels.clone()
    dataset = ExampleDataset(split)
    loader = TensorLoader(dataset, 4, shuffle=True)
    for batch in [*loader, *DataLoader(dataset, batch_size=4), dataset[3], *dataset.__getitems__([1, 2])]:
        batch["image"].zero_()
        if isinstance(batch["age_group"], torch.Tensor):
            batch["age_group"].fill_(9)
            batch["person_id"].fill_(9)
            batch["camera"][0] = "changed"
    again = dataset.batch(range(23))
    assert torch.equal(again["image"], images)
    assert torch.equal(again["age_group"], labels)
    assert again["person_id"].tolist() == split.columns["person_id"].tolist()
    assert again["camera"] == split.columns["camera"].tolist()
    assert torch.equal(split.images, images)


@given(indices=st.lists(st.integers(0, 22), min_size=1, max_size=40).map(np.array))
def test_a_dataset_over_some_indices(indices: np.ndarray) -> None:
    """The examples at these indices in this order, also when one is there twice."""
    split = make_split()
    dataset = ExampleDataset(split, indices)
    assert dataset.batch(range(len(dataset)))["image_id"] == split.image_ids[indices].tolist()
    assert torch.equal(dataset.batch(range(len(dataset)))["image"], split.images[indices])


@on_each_device
def test_the_loaders_of_a_run(device: str) -> None:
    """Retain and forget divide the training set; all three are shuffled; the images are those of the task."""
    task = data.load(DIGITS, device)
    retain, forget, validation = run_loaders(task, seed=1, batch_size=64)
    assert (len(retain.dataset), len(forget.dataset), len(validation.dataset)) == (540, 60, 300)
    ids = [[name for batch in loader for name in batch["image_id"]] for loader in (retain, forget, validation)]
    assert sorted(ids[0] + ids[1]) == sorted(task.train.image_ids)
    assert sorted(ids[1]) == sorted(task.train.image_ids[task.request_indices])
    assert sorted(ids[2]) == sorted(task.validation.image_ids)
    assert all(names != sorted(names) for names in ids)
    position = {name: i for i, name in enumerate(task.train.image_ids)}
    for batch in retain:
        rows = [position[name] for name in batch["image_id"]]
        assert torch.equal(batch["image"], task.train.images[rows])
        assert torch.equal(batch["age_group"], task.train.labels[rows])


def test_the_batches_of_a_run_are_those_of_the_recipe() -> None:
    """An epoch of unlearning then has as many steps as one of training; somebody may ask for other batches."""
    task = data.load(replace(DIGITS, recipe=(("batch_size", 48),)))
    assert [next(iter(loader))["image"].shape[0] for loader in run_loaders(task, 1)] == [48, 48, 48]
    assert next(iter(run_loaders(task, 1, batch_size=20)[0]))["image"].shape[0] == 20


def test_the_order_of_a_run_depends_on_its_seed_alone() -> None:
    """Same seed, same order, whatever else has been drawn; another seed or loader, another order."""
    task = data.load(DIGITS)

    def first(seed: int, which: int) -> list[str]:
        names: list[str] = next(iter(run_loaders(task, seed)[which]))["image_id"]
        return names

    expected = first(1, 0)
    torch.manual_seed(99)
    retain, forget, _ = run_loaders(task, 1)
    list(forget)
    assert next(iter(retain))["image_id"] == expected
    assert first(2, 0) != expected
    assert len({loader_seed(seed, name) for seed in range(50) for name in ("retain", "forget", "validation")}) == 150


def test_loader_seeds_are_as_documented() -> None:
    """Notebooks derive the same seeds by themselves, so the rule must not change: these are its values."""
    assert loader_seed(0, "retain") == 420931657566255281
    assert loader_seed(511, "validation") == 5741904661035956150


def test_a_run_never_sees_what_another_did_to_its_data() -> None:
    """A method that reaches into its data set and overwrites it changes neither the task nor the next run."""
    task = data.load(DIGITS)
    before = [task.train.images.clone(), task.validation.images.clone()]
    for loader in run_loaders(task, 0):
        for tensor in vars(loader.dataset).values():
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
        assert not any(batch["image"].any() for batch in loader)
    assert torch.equal(task.train.images, before[0])
    assert torch.equal(task.validation.images, before[1])
    assert all(batch["image"].any() for loader in run_loaders(task, 0) for batch in loader)
