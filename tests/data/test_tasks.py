"""What every task promises, and what `load` makes of a `TaskSpec`."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_downloads import write_files
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import data
from checkpoints.networks import NETWORKS
from data import Recipe, Split, Task, TaskSpec, UserError
from data.faces import FacesSize, make_faces
from data.folder import read_folder
from data.kaggle import write_layout
from data.loaders import ExampleDataset, TensorLoader, collate, run_loaders
from data.raw import content_digest
from data.splits import SplitRows
from data.tasks import Normalisation, _digest, override_recipe

REPOSITORY = Path(data.__file__).parents[1]


DOWNLOADS = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
MADE = ("folder", "kaggle", "faces")


@pytest.fixture(params=["digits", *MADE, *DOWNLOADS, *(f"{name} as downloaded" for name in DOWNLOADS)])
def task_spec(
    request: pytest.FixtureRequest, make_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TaskSpec:
    """Each task, from small files made for the test, and from a user's downloads where there are any."""
    name, _, real = request.param.partition(" ")
    if name == "digits":
        return TaskSpec("digits")
    if name == "folder":
        return TaskSpec("folder", data_dir=str(make_folder(train=20)))
    if name == "faces":
        return TaskSpec("faces")
    if name == "kaggle":
        write_layout(tmp_path, make_faces(FacesSize("tiny", subjects=60, images=(4, 8))), progress=False)
        return TaskSpec("kaggle", data_dir=str(tmp_path))
    folder = REPOSITORY / "data" / "cache" / name if real else tmp_path
    if not real:
        write_files(name, folder, monkeypatch)
    elif not (folder.is_dir() and any(folder.iterdir())):  # an interrupted download leaves it empty
        pytest.skip(f"there are no files in {folder}: they come with the first use of the task {name}")
    return TaskSpec(name, data_dir=str(folder))


def test_normalisation_of_cifar() -> None:
    """Means and deviations of the training images; published code has 0.2265 for the third mean of CIFAR-10."""
    cifar10, cifar100 = (data.all_tasks()[name].normalisation for name in ("cifar10", "cifar100"))
    assert cifar10 == Normalisation(255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    assert cifar100 == Normalisation(255, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


@pytest.mark.slow
def test_contract_of_every_task(task_spec: TaskSpec) -> None:
    """Types, shapes and ranges; ids unique, in order; splits disjoint; every class in training; a forget request."""
    task = data.load(task_spec)
    splits = (task.train, task.validation, task.test)
    is_raw = data.all_tasks()[task.name].normalisation.maximum == 1  # as the competition has its images
    for split in splits:
        assert len(split) > 0
        assert split.images.dtype == torch.float32
        assert split.images.shape == (len(split), *task.train.images.shape[1:])
        assert split.images.isfinite().all()
        assert split.images.abs().max() < (256 if is_raw else 10)
        assert split.labels.dtype == torch.int64
        assert split.labels.shape == split.image_ids.shape == (len(split),)
        assert split.labels.min() >= 0
        assert split.labels.max() < len(task.classes)
        assert list(split.columns) == list(task.train.columns)
        assert all(column.shape == (len(split),) for column in split.columns.values())
        assert split.image_ids.tolist() == sorted(split.image_ids)
    ids = np.concatenate([split.image_ids for split in splits])
    assert len(set(ids)) == len(ids)
    assert set(task.train.labels.tolist()) == set(range(len(task.classes)))
    assert len(set(task.classes)) == len(task.classes)
    assert task.train.images.std() > 0.3
    assert [request.text for request in task.requests] == [data.all_tasks()[task.name].forget]
    both = np.concatenate([task.request_indices, task.retain_indices])
    assert sorted(both) == task.all_indices.tolist()
    assert 0 < len(task.request_indices) < len(task.train)


def test_every_task_is_the_same_again(task_spec: TaskSpec) -> None:
    """A second load, now from the cache, gives the same tensors and fingerprint; a smaller training set does not."""
    one, other = data.load(task_spec), data.load(task_spec)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.test.labels, other.test.labels)
    assert one.validation.image_ids.tolist() == other.validation.image_ids.tolist()
    assert one.fingerprint == other.fingerprint
    smaller = data.load(replace(task_spec, train_size=len(one.classes), forget=("random:1",)))
    assert len(smaller.train) == len(one.classes) == len(set(smaller.train.labels.tolist()))
    assert smaller.data_sha256 != one.data_sha256
    assert smaller.fingerprint != one.fingerprint


def test_loaders_of_every_task(task_spec: TaskSpec) -> None:
    """The competition's dicts, whatever the task."""
    task = data.load(task_spec)
    for loader in run_loaders(task, seed=0, batch_size=16):
        batch = next(iter(loader))
        assert list(batch)[:3] == ["image", "image_id", "age_group"]
        assert batch["image"].dtype == torch.float32
        assert batch["image"].shape == (min(16, len(loader.dataset)), *task.train.images.shape[1:])
        assert batch["age_group"].dtype == torch.int64
        assert {type(name) for name in batch["image_id"]} == {str}


@pytest.mark.slow
@pytest.mark.usefixtures("empty_cache")
def test_bits_do_not_depend_on_where_images_come_from(task_spec: TaskSpec) -> None:
    """Decoded, or read from the cache; at hand, on a device, or gathered by a loader: equal strides and convolutions.

    The strides are those of a fresh tensor, in which every release has computed what came from the cache. Catches
    images that lie channels-last in the process that decodes them (grey ones may, and still count as contiguous).
    """
    first = data.load(task_spec)  # of an empty cache
    tasks = (first, data.load(task_spec), first.to("cpu"), data.load(task_spec, "cpu").to("cpu"))
    for task in tasks:
        assert_fresh(*(split.images for split in (task.train, task.validation, task.test)))
        assert_fresh(*(loader.dataset._images for loader in run_loaders(task, seed=0)))
    assert first.to("meta").train.images.stride() == first.train.images.stride()
    for rows in (np.array([3]), np.array([5, 0, 5]), np.arange(1, 8)):
        ways = [way for task in tasks for way in ways_to_gather(task.train, rows)]
        assert_fresh(*ways)
        assert_same_convolutions(ways)


def assert_fresh(*tensors: torch.Tensor) -> None:
    """They have the strides of a tensor of this shape that was just made."""
    assert [one.stride() for one in tensors] == [torch.empty(one.shape).stride() for one in tensors]


def ways_to_gather(split: Split, rows: np.ndarray) -> list[torch.Tensor]:
    """The images of these rows, by index and by whatever loaders do: `(rows, C, H, W)` each."""
    dataset, chosen = ExampleDataset(split), ExampleDataset(split, rows)
    plain = next(iter(DataLoader(chosen, len(rows))))
    seen = collate([dataset[row] for row in rows])  # somebody has looked at each of them
    tensors = TensorDataset(chosen.batch(range(len(rows)))["image"])
    return [
        split.images[torch.from_numpy(rows)],
        replace(split, images=split.images[rows]).images,
        dataset.batch(rows)["image"],
        next(iter(TensorLoader(chosen, len(rows))))["image"],
        plain["image"],
        seen["image"],
        next(iter(DataLoader(tensors, len(rows))))[0],
    ]


def assert_same_convolutions(images: list[torch.Tensor]) -> None:
    """Bit for bit, forward and backward, by a kernel as large as images allow."""
    torch.manual_seed(0)
    _, channels, height, width = images[0].shape
    layer = nn.Conv2d(channels, 8, min(3, height, width), padding=1)
    answers = []
    for batch in images:
        layer.zero_grad()
        answer = layer(batch)
        answer.square().sum().backward()
        answers.append((answer.detach(), layer.get_parameter("weight").grad))
    for one in answers[1:]:
        assert all(torch.equal(*pair) for pair in zip(one, answers[0], strict=True))


@pytest.mark.parametrize(
    "shape", [(5, 1, 8, 8), (1, 1, 8, 8), (1, 3, 8, 8), (5, 3, 1, 7), (5, 3, 7, 1), (5, 512, 1, 1)]
)
def test_a_split_lies_as_fresh_tensors_do(shape: tuple[int, ...]) -> None:
    """Whatever order its axes lie in, and wherever it begins: catches an axis of length 1 with a stride of its own.

    A matrix product of two rows that begin within a cache line has other bits, with MKL.
    """
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    views = [images]
    for order in itertools.permutations(range(4)):
        views.append(images.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse(order)))
    for begin in (1, 3, 8):
        views.append(torch.cat([torch.zeros(begin), images.flatten()])[begin:].view(shape))
    views.append(torch.stack([images, images], dim=4)[..., 0])
    assert len({view.stride() for view in views}) > 2
    splits = [Split(view, torch.zeros(shape[0], dtype=torch.int64), np.arange(shape[0]).astype(str)) for view in views]
    splits += [split.to("cpu") for split in splits]
    assert_fresh(*(split.images for split in splits))
    assert all(torch.equal(split.images, images) for split in splits)
    assert all(split.images.data_ptr() % 64 == 0 for split in splits)
    assert_same_convolutions([split.images for split in splits])
    assert splits[0].images is images, "what lies well is not copied"


def inverse(order: tuple[int, ...]) -> list[int]:
    """The permutation that takes this one back."""
    return [order.index(axis) for axis in range(len(order))]


def test_every_task_has_a_line_and_sound_defaults() -> None:
    """The registry: one line each, texts that name a known kind of request, the default task first."""
    tasks = data.all_tasks()
    assert list(tasks) == ["digits", *DOWNLOADS, *MADE]
    assert TaskSpec().name == "digits"
    for name, info in tasks.items():
        assert info.name == name
        assert 0 < len(info.summary) < 100
        assert "\n" not in info.summary
        assert info.forget.startswith(("random:", "class:", "group:", "where:", "file:"))
        for size in (info, *info.other_sizes):
            assert isinstance(size.recipe, Recipe)
            assert size.network in (None, *NETWORKS)


def test_digits_are_scikit_learns() -> None:
    """Pixels, labels and ids are those of the source, image by image, after undoing the normalisation."""
    from sklearn.datasets import load_digits

    source = load_digits()
    task = data.load(TaskSpec("digits", train_size=600))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [600, 300, 897]
    assert task.train.images.shape == (600, 1, 8, 8)
    for split in (task.train, task.validation, task.test):
        rows = [int(name.removeprefix("digits-")) for name in split.image_ids]
        pixels = ((split.images * 0.3760 + 0.3053) * 16).round()[:, 0]
        np.testing.assert_array_equal(pixels, source.images[rows])
        np.testing.assert_array_equal(split.labels, source.target[rows])
        counts = np.bincount(split.labels, minlength=10)
        expected = len(split) * np.bincount(source.target) / 1797
        assert abs(counts - expected).max() < 3
    assert abs(task.train.images.mean()) < 0.05
    assert abs(task.train.images.std() - 1) < 0.05


def test_more_digits_for_training_come_from_the_test_set() -> None:
    """The training set grows around the smaller one, the validation set stays, and 200 test images remain."""
    small, large = (data.load(TaskSpec("digits", train_size=size)) for size in (600, 1297))
    assert set(small.train.image_ids) < set(large.train.image_ids)
    assert small.validation.image_ids.tolist() == large.validation.image_ids.tolist()
    assert len(large.test) == 200
    with pytest.raises(UserError, match="choose 10 to 1297"):
        data.load(TaskSpec("digits", train_size=1298))


@pytest.mark.slow
def test_cached_digits_need_no_scikit_learn() -> None:
    """Worker processes load the default task without heavy imports; and `import data` does not import PyTorch."""
    data.load(TaskSpec("digits"))
    script = """
import sys
import data
print("torch" in sys.modules)
data.load(data.TaskSpec("digits"))
print([name for name in ("sklearn", "scipy", "pandas", "torchvision", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "[]"]


def load_digits(**changes: Any) -> Task:
    """The task digits, but for these fields of its spec."""
    return data.load(TaskSpec("digits", **changes))


def test_fingerprint_covers_what_decides_the_bank() -> None:
    """Each of these changes must give another bank; how a request is written must not."""
    tasks = [
        load_digits(),
        load_digits(network="allcnn"),
        load_digits(recipe=(("epochs", 7),)),
        load_digits(train_size=500),
        load_digits(forget=("random:7",)),
        load_digits(forget=("random:8",)),
        load_digits(forget=("random:7", "random:7")),
        load_digits(forget=("random:14",)),
    ]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    size = len(load_digits().train)
    assert load_digits(forget=("random:0.1",)).fingerprint == load_digits(forget=(f"random:{size // 10}",)).fingerprint


def test_data_digest_covers_which_image_is_in_which_split(make_folder: Any) -> None:
    """Splits of the same sizes that exchange two images are other data; so is another normalisation."""
    raw = read_folder(str(make_folder()))
    normalisation = Normalisation(255, (0.5,), (0.5,))
    rows = SplitRows(np.arange(30), np.arange(30, 36), np.arange(36, 48))
    exchanged = SplitRows(np.arange(1, 31), np.array([0, *range(31, 36)]), np.arange(36, 48))
    digests = [
        _digest(raw, normalisation, rows),
        _digest(raw, normalisation, exchanged),
        _digest(raw, replace(normalisation, mean=(0.4,)), rows),
    ]
    assert len(set(digests)) == 3
    contents = [
        content_digest(raw.pixels, raw.labels),
        content_digest(raw.pixels, raw.labels[::-1]),
        content_digest(raw.pixels.transpose(0, 1, 3, 2), raw.labels),
        content_digest(raw.pixels.reshape(len(raw.pixels), -1), raw.labels),
    ]
    assert len(set(contents)) == 4
    assert raw.content_sha256 == contents[0]
    assert _digest(raw, normalisation, rows) == digests[0]


def test_a_spec_overrides_the_defaults() -> None:
    """Network, recipe and requests of the spec are those of the task; everything else is the task's own."""
    task = load_digits(
        network="perceptron", recipe=(("learning_rate", "0.5"), ("epochs", 3)), forget=("class:3:5", "class:4:6")
    )
    default = data.all_tasks()["digits"]
    assert task.network == "perceptron"
    assert task.recipe == replace(default.recipe, learning_rate=0.5, epochs=3)
    assert [len(request.indices) for request in task.requests] == [5, 6]
    assert task.request_indices.tolist() == task.requests[0].indices.tolist()
    assert load_digits().network == default.network
    assert pickle.loads(pickle.dumps(task.spec)) == task.spec


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_task_on_the_gpu_is_the_same_task() -> None:
    """Same bits, same fingerprint: the arithmetic is done before the move."""
    there, here = data.load(TaskSpec("digits"), "cuda"), load_digits()
    assert there.train.images.device.type == "cuda"
    assert torch.equal(there.train.images.cpu(), here.train.images)
    assert there.fingerprint == here.fingerprint


@pytest.mark.parametrize(
    ("name", "given", "parsed"),
    [
        ("epochs", "12", 12),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("class_weights", "Yes", True),
        ("class_weights", False, False),
        ("optimizer", "adam", "adam"),
    ],
)
def test_recipe_values_as_texts_or_numbers(name: str, given: Any, parsed: Any) -> None:
    """A command line gives texts, a configuration file numbers; the recipe gets the field's own type."""
    value = getattr(override_recipe(Recipe(), ((name, given),)), name)
    assert value == parsed
    assert type(value) is type(getattr(Recipe(), name))


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("learning_rat", 0.1, "did you mean learning_rate"),
        ("lr", 0.1, "no recipe value 'lr'"),
        ("epochs", "many", "epochs must be a whole number, not 'many'"),
        ("epochs", 1.5, "whole number"),
        ("epochs", 0, "epochs must be greater than 0"),
        ("learning_rate", "nan", "must be a number"),
        ("learning_rate", float("inf"), "must be a number"),
        ("momentum", -1, "must not be negative"),
        ("class_weights", "maybe", "true or false"),
        ("optimizer", "sdg", "one of sgd, adam"),
    ],
)
def test_recipe_values_that_do_not_fit_are_refused(name: str, value: Any, word: str) -> None:
    """Unknown fields with the nearest names; unparsable, infinite, fractional and negative values."""
    with pytest.raises(UserError, match=word):
        load_digits(recipe=((name, value),))


def test_mistakes_in_a_spec_are_refused() -> None:
    """Wrong task, wrong size, files for a task without files."""
    with pytest.raises(UserError, match="did you mean cifar10 or cifar100"):
        data.load(TaskSpec("cifar"))
    with pytest.raises(UserError, match="less than one image a class"):
        load_digits(train_size=9)
    with pytest.raises(UserError, match="omit the data directory"):
        load_digits(data_dir="somewhere")
    with pytest.raises(UserError, match="Forget request 'class:10'"):
        load_digits(forget=("class:10",))
