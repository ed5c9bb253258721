"""Originals trained by DP-SGD: each step is the formula's, and the bank keeps them as it keeps all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import checkpoints.jobs
import checkpoints.networks
from checkpoints.dp_sgd import DELTA, PrivateModel, PrivateTrainer, accounting, private_steps, steps_per_epoch
from checkpoints.networks import build_network
from checkpoints.pool import Pool
from checkpoints.training import learning_rate
from data import Recipe, Task, TaskSpec, UserError, load
from data.seeds import derive_seed
from evaluation.certification.dp_sgd import dp_sgd_epsilon
from tests.checkpoints.test_bank import InThisProcess, build, digests

PRIVATE = (("optimizer", "dp_sgd"), ("noise_multiplier", 1.0), ("batch_size", 15), ("epochs", 3))
TINY = TaskSpec("digits", forget=("random:12",), train_size=60, network="mlp", recipe=PRIVATE)
"""4 steps a pass, of 15 images on average."""


@pytest.fixture(scope="module")
def task() -> Task:
    """60 digits and 385 weights."""
    return load(TINY)


def small_convolutional(channels: int, size: int, classes: int) -> nn.Module:
    """A convolution without batch normalisation, and a classifier."""
    layers = [nn.Conv2d(channels, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(3 * ((size + 1) // 2) ** 2, classes))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ----------------------------------------------------------------------------------------------------------------------
# A step
# ----------------------------------------------------------------------------------------------------------------------


def by_hand(task: Task, indices: np.ndarray, seed: int) -> nn.Module:
    """Slow and obvious: one image after another is in the batch or not, has a gradient, and gets it clipped."""
    recipe = task.recipe
    images, labels = task.train.images[indices], task.train.labels[indices]
    network = build_network(task, seed)
    weights = list(network.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    batches = torch.Generator().manual_seed(derive_seed("batches", seed))
    noise = torch.Generator().manual_seed(derive_seed("noise", seed))
    rate = 1 / steps_per_epoch(recipe, len(indices))
    for step in range(recipe.epochs * steps_per_epoch(recipe, len(indices))):
        total = [torch.zeros_like(weight) for weight in weights]
        inside = torch.rand(len(indices), generator=batches) < rate
        for image, label in zip(images[inside], labels[inside], strict=True):
            gradient = torch.autograd.grad(F.cross_entropy(network(image[None]), label[None]), weights)
            norm = float(torch.cat([part.flatten() for part in gradient]).norm())
            for sum_, part in zip(total, gradient, strict=True):
                sum_ += part * min(1.0, recipe.record_clip / norm)
        for weight, moving, sum_ in zip(weights, velocity, total, strict=True):
            deviation = recipe.noise_multiplier * recipe.record_clip
            noisy = sum_ + torch.normal(0, deviation, weight.shape, generator=noise)
            moving.mul_(recipe.momentum).add_(noisy / (rate * len(indices)) + recipe.weight_decay * weight.detach())
            weight.data -= learning_rate(recipe, step // steps_per_epoch(recipe, len(indices))) * moving
    return network


@pytest.mark.parametrize("clip", [0.05, 0.5, 50.0])
def test_steps_are_those_of_the_formula(clip: float, task: Task) -> None:
    """Clipping of each image's own gradient (all, some, none are longer), noise on the sum, the average batch size.

    Catches clipping of the batch's gradient, division by the batch at hand, noise that is not scaled by the clip.
    """
    recipe = replace(task.recipe, record_clip=clip, weight_decay=0.1)
    changed = replace(task, recipe=recipe)
    trainer = PrivateTrainer(changed, task.retain_indices, [7])
    while not trainer.finished:
        trainer.train_epoch()
    expected = by_hand(changed, task.retain_indices, 7).state_dict()
    assert len(task.retain_indices) == 48
    for name, value in trainer.states()[0].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_batches_are_poisson_samples(task: Task) -> None:
    """Sizes vary as in independent draws: mean n q, variance n q (1 - q). Catches shuffled batches of one size."""
    images, labels = task.train.images, task.train.labels
    recipe = replace(task.recipe, noise_multiplier=1.0)
    model = PrivateModel(recipe, build_network(task, 0), images, labels, seed=3)
    batches = [batch for _ in range(500) for batch in model._batches()]
    sizes = torch.tensor([len(batch) for batch in batches]).double()  # (2000,)
    assert len(batches) == 500 * 4
    assert float(sizes.mean()) == pytest.approx(15, abs=4 * (60 * 0.25 * 0.75 / 2000) ** 0.5)
    assert float(sizes.var()) == pytest.approx(60 * 0.25 * 0.75, rel=0.15)
    counts = torch.bincount(torch.cat(batches), minlength=60).double() / 2000
    assert float((counts - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_empty_batches_get_noise_like_all_others(task: Task) -> None:
    """Of two images in batches of one, a quarter are empty. Catches a mean over nothing, and a step left out."""
    recipe = replace(task.recipe, batch_size=1, epochs=8)
    changed = replace(task, recipe=recipe)
    trainer = PrivateTrainer(changed, np.array([3, 4]), [5])
    generator = torch.Generator().manual_seed(derive_seed("batches", 5))
    sizes = [int((torch.rand(2, generator=generator) < 0.5).sum()) for _ in range(16)]
    assert 0 in sizes
    while not trainer.finished:
        trainer.train_epoch()
    expected = by_hand(changed, np.array([3, 4]), 5).state_dict()
    for name, value in trainer.states()[0].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_convolutions_can_be_trained(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """By the same formula; and the outputs of the models, which are recorded together, are their own."""
    monkeypatch.setitem(checkpoints.networks.NETWORKS, "small_convolutional", small_convolutional)
    changed = replace(task, network="small_convolutional")
    trainer = PrivateTrainer(changed, task.retain_indices, [1, 2])
    while not trainer.finished:
        trainer.train_epoch()
    for seed, state in zip((1, 2), trainer.states(), strict=True):
        expected = by_hand(changed, task.retain_indices, seed)
        for name, value in state.items():
            torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-3, atol=1e-5)
    images = task.test.images[:7]
    together = trainer.network(images.expand(2, *images.shape))  # (models, images, classes)
    for logits, state in zip(together, trainer.states(), strict=True):
        alone = build_network(changed)
        alone.load_state_dict(state)
        torch.testing.assert_close(logits, alone(images))


# ----------------------------------------------------------------------------------------------------------------------
# Seeds and interruptions
# ----------------------------------------------------------------------------------------------------------------------


def test_a_model_is_a_function_of_its_seed(task: Task) -> None:
    """Alone or beside others, by steps or by epochs, whatever the global generator says."""
    trainer = PrivateTrainer(task, task.all_indices, [1, 2])
    while not trainer.finished:
        trainer.train_epoch()
    first, second = trainer.states()
    assert not equal(first, second)
    torch.manual_seed(99)
    alone = PrivateTrainer(task, task.all_indices, [2])
    while not alone.finished:
        alone.train_epoch()
    assert equal(alone.states()[0], second)
    *_, last = private_steps(task, task.all_indices, 1)
    assert equal(last.state_dict(), first)


def test_goes_on_from_a_snapshot(task: Task) -> None:
    """Weights, momentum, noise and batches: after any epoch, another trainer ends with the same bits."""
    whole = PrivateTrainer(task, task.all_indices, [1, 2])
    ended = []
    while not whole.finished:
        resumed = PrivateTrainer(task, task.all_indices, [1, 2])
        resumed.restore(_copied(whole.snapshot()))
        while not resumed.finished:
            resumed.train_epoch()
        ended.append(resumed.states())
        whole.train_epoch()
    for states in ended:
        assert all(map(equal, states, whole.states()))


def _copied(value: Any) -> Any:
    """Apart from what goes on being trained."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def test_the_bank_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two of three epochs: the snapshot is found, one epoch is left, and no bit differs."""
    build(tmp_path / "whole", TINY, 1, 2)
    epochs = 0
    train_epoch = PrivateTrainer.train_epoch

    def stopping(self: PrivateTrainer) -> None:
        nonlocal epochs
        if epochs == 2:
            raise KeyboardInterrupt
        epochs += 1
        train_epoch(self)

    monkeypatch.setattr(PrivateTrainer, "train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "stopped", TINY, 1, 2, snapshot_seconds=0.0)
    assert len(list((tmp_path / "stopped").glob("*/snapshot-*.pt"))) == 1
    epochs = -100
    build(tmp_path / "stopped", TINY, 1, 2)
    assert epochs == -100 + 1 + 3  # what was left of the first group, and all of the second
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert list((tmp_path / "stopped").glob("*/snapshot-*.pt")) == []


# ----------------------------------------------------------------------------------------------------------------------
# In the bank
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InThisProcess]:
    """Two originals and two retrained models, and the jobs they took."""
    folder = tmp_path_factory.mktemp("private")
    _, workers, told = build(folder, TINY, 2, 2)
    assert told == []
    return folder, workers


@pytest.fixture
def in_bank(bank: tuple[Path, InThisProcess], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Pool]:
    """Its pools."""
    monkeypatch.setenv("UNLEARNING_BANK", str(bank[0]))
    return lambda kind: Pool(load(TINY), kind)


def test_weights_fit_the_plain_network(in_bank: Callable[[str], Pool]) -> None:
    """Without the names that a wrapped network's weights have; outputs are those of the weights."""
    pool = in_bank("original")
    network = build_network(pool.task)
    assert pool.state(0).keys() == network.state_dict().keys()
    network.load_state_dict(pool.state(1))
    with torch.no_grad():
        logits = network.eval()(pool.task.test.images)
    np.testing.assert_allclose(pool.outputs(2).test[1], logits.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "examples", "steps"), [("original", 60, 12), ("retrained", 48, 12)])
def test_the_manifest_has_the_accounting(kind: str, examples: int, steps: int, in_bank: Callable[[str], Pool]) -> None:
    """What epsilon of one image follows from, and epsilon as certificates compute it; of the images that were seen."""
    for name, record in in_bank(kind).manifest().items():
        if name.startswith("model"):
            found = record["accounting"]
            assert (found["noise_multiplier"], found["record_clip"], found["delta"]) == (1.0, 0.5, DELTA)
            assert (found["sampling_rate"], found["steps"]) == (0.25, steps)
            assert found["epsilon"] == pytest.approx(dp_sgd_epsilon(1.0, 0.25, steps, DELTA), rel=0.01)
    assert accounting(replace(load(TINY).recipe, batch_size=10), examples)["sampling_rate"] == 1 / -(-examples // 10)


def test_other_recipes_have_no_accounting(tmp_path: Path) -> None:
    """Catches an epsilon for what was trained without noise."""
    build(tmp_path, replace(TINY, recipe=(("epochs", 1),)), 1, 2)
    for path in tmp_path.glob("*/manifest.json"):
        assert all("accounting" not in record for record in json.loads(path.read_text())["files"].values())


def test_the_time_of_retraining_is_that_of_private_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 steps, a tick each. Catches a budget that is measured with plain steps, which are several times as fast."""
    ticks = 0

    def counted(*arguments: Any) -> Any:
        nonlocal ticks
        for network in private_steps(*arguments, **{}):
            ticks += 1
            yield network

    monkeypatch.setattr(checkpoints.jobs, "private_steps", lambda task, indices, seed: counted(task, indices, seed))
    monkeypatch.setattr(checkpoints.jobs, "compute_seconds", lambda device: float(ticks))
    assert checkpoints.jobs.time_retraining(TINY, "cpu") == 12


# ----------------------------------------------------------------------------------------------------------------------
# The recipe
# ----------------------------------------------------------------------------------------------------------------------


def test_recipes_without_it_keep_their_fingerprints() -> None:
    """What is hashed is what it was before these fields were there, so that nobody's bank is trained again."""
    described = Recipe(learning_rate=0.05).described()
    assert described.keys() & {"noise_multiplier", "record_clip"} == set()
    assert described == {name: asdict(Recipe(learning_rate=0.05))[name] for name in described}
    plain, clip = load(replace(TINY, recipe=())), load(replace(TINY, recipe=(("record_clip", 2.0),)))
    assert plain.fingerprint == clip.fingerprint


def test_fingerprints_depend_on_noise_and_clip() -> None:
    """Catches two originals with different guarantees under one name."""
    others = [(), (("noise_multiplier", 2.0),), (("record_clip", 1.0),)]
    assert len({load(replace(TINY, recipe=(*PRIVATE, *other))).fingerprint for other in others}) == 3


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"optimizer": "dp_sgd"}, "needs a noise_multiplier greater than 0"),
        ({"optimizer": "dp_sgd", "noise_multiplier": -1}, "needs a noise_multiplier greater than 0"),
        ({"optimizer": "dp_sgd", "noise_multiplier": 1, "record_clip": 0}, "needs a record_clip greater than 0"),
        ({"optimizer": "dp_sgd", "noise_multiplier": 1, "class_weights": True}, "can't have class_weights"),
        ({"noise_multiplier": 1}, "noise_multiplier is for optimizer=dp_sgd"),
        ({"optimizer": "dpsgd"}, "must be one of sgd, adam, dp_sgd"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe: dict[str, Any], sentence: str) -> None:
    """With a sentence, before anything is trained."""
    with pytest.raises(UserError, match=sentence):
        load(replace(TINY, recipe=tuple(recipe.items())))


@pytest.mark.parametrize("network", ["small_cnn", "resnet18"])
def test_batch_normalisation_is_refused(network: str) -> None:
    """It mixes images before their gradients are clipped: no network can be built, and so none trained."""
    with pytest.raises(UserError, match=rf"^{network} has batch normalisation.*mlp\.$"):
        build_network(load(replace(TINY, network=network)))
