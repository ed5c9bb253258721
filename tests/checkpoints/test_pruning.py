"""Pruned banks: masks against slow ways to find them, both trainers against each other, and masks that last."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import checkpoints.jobs
from checkpoints.jobs import train_group
from checkpoints.networks import NETWORKS, build_network
from checkpoints.pool import Pool
from checkpoints.pruning import (
    PrunedTrainer,
    Round,
    epochs_in_all,
    prunable,
    prune_smallest,
    pruned_steps,
    pruned_weights,
    rounds,
    synflow,
    zero,
    zero_before_forward,
)
from checkpoints.training import GroupTrainer, train_one
from data import Recipe, Task, TaskSpec, UserError, load
from data.tasks import override_recipe
from tests.checkpoints.test_grouped import make_task

KINDS = ("omp", "imp", "synflow")
SPARSITY = 0.6


def pruned_task(kind: str, network: str = "small_cnn", **recipe: Any) -> Task:
    """A small task of random images; three epochs, the rounds of which begin at epoch 1."""
    settings = {"epochs": 3, "rewind_epoch": 1, "pruning": kind, "sparsity": SPARSITY, **recipe}
    return make_task(network, **settings)


def trained(task: Task, seeds: list[int]) -> PrunedTrainer:
    """A trainer that is done."""
    trainer = PrunedTrainer(task, task.retain_indices, seeds)
    while not trainer.finished:
        trainer.train_epoch()
    return trainer


def share_of_zeros(state: dict[str, torch.Tensor], network: nn.Module) -> float:
    """Of the prunable weights."""
    weights = [state[f"{name}.weight"] for name in prunable(network)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


# ----------------------------------------------------------------------------------------------------------------------
# The recipe
# ----------------------------------------------------------------------------------------------------------------------


def test_rounds_of_each_kind() -> None:
    """Catches rounds that train from the beginning, a last round beyond the sparsity, and one round too many."""
    recipe = Recipe(epochs=5, rewind_epoch=2, pruning="omp", sparsity=0.9)
    assert rounds(recipe) == [Round(0, range(5)), Round(0.9, range(2, 5))]
    assert rounds(replace(recipe, pruning="synflow")) == [Round(0.9, range(5))]
    assert rounds(Recipe(epochs=5)) == [Round(0, range(5))]
    imp = rounds(replace(recipe, pruning="imp"))
    assert [one.epochs for one in imp] == [range(5)] + [range(2, 5)] * 11
    kept = [1 - one.sparsity for one in imp]
    assert kept[:11] == pytest.approx([0.8**number for number in range(11)])
    assert 0.8 * kept[10] < kept[11] == pytest.approx(0.1)
    assert epochs_in_all(replace(recipe, pruning="imp")) == 5 + 11 * 3
    assert len(rounds(replace(recipe, pruning="imp", sparsity=0.2))) == 2
    assert len(rounds(replace(recipe, pruning="imp", sparsity=1 - 0.8**3))) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 0.5}, "pruning=omp"),
        ({"pruning": "omp"}, "between 0 and 1"),
        ({"pruning": "omp", "sparsity": 1.0}, "between 0 and 1"),
        ({"pruning": "magic", "sparsity": 0.5}, "one of none, omp, imp, synflow"),
        ({"pruning": "imp", "sparsity": 0.5, "rewind_epoch": 60}, "rewind_epoch"),
        ({"pruning": "omp", "sparsity": 0.5, "rewind_epoch": -1}, "rewind_epoch"),
    ],
)
def test_mistakes_are_refused(values: dict[str, Any], message: str) -> None:
    """Also half of what it takes: a sparsity without a kind would silently make a dense bank."""
    with pytest.raises(UserError, match=message):
        override_recipe(Recipe(), tuple(values.items()))


def test_fingerprints_tell_pruned_from_dense() -> None:
    """Each kind, sparsity and rewinding makes other models; a dense bank has the fingerprint of before there was any.

    Catches a field that is left out, and one that makes every bank of before be trained again.
    """
    pruned: dict[str, Any] = {"pruning": "omp", "sparsity": 0.5}
    recipes: list[dict[str, Any]] = [
        {},
        pruned,
        {**pruned, "sparsity": 0.6},
        {**pruned, "rewind_epoch": 3},
        {**pruned, "pruning": "imp"},
    ]
    recipes.append({**pruned, "pruning": "synflow"})
    tasks = [load(TaskSpec("digits", recipe=tuple(recipe.items()))) for recipe in recipes]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert len({task.training_fingerprint(task.all_indices) for task in tasks}) == len(tasks)
    assert not {"pruning", "sparsity", "rewind_epoch"} & tasks[0].recipe.described().keys()
    assert load(TaskSpec("digits", recipe=(("rewind_epoch", 5),))).fingerprint == tasks[0].fingerprint
    synflow_again = load(TaskSpec("digits", recipe=(*recipes[-1].items(), ("rewind_epoch", 5))))
    assert synflow_again.fingerprint == tasks[-1].fingerprint, "it does not go back"


# ----------------------------------------------------------------------------------------------------------------------
# Masks
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_cnn", "strided_cnn", "all_cnn", "mlp"])
def test_smallest_weights_of_all_layers_together(name: str) -> None:
    """Against a sort of all magnitudes. Catches shares of each layer, the largest, pruned biases or normalisation, and
    a classifier that goes where there are convolutions."""
    torch.manual_seed(0)
    network = NETWORKS[name](3, 16, 5)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    kinds = nn.Linear if name == "mlp" else nn.Conv2d
    names = [key for key, module in network.named_modules() if isinstance(module, kinds)]
    assert list(prunable(network)) == names
    magnitudes = torch.cat([before[f"{key}.weight"].abs().flatten() for key in names])
    count = round(0.7 * len(magnitudes))
    limit = magnitudes.sort().values[count]
    mask = prune_smallest(network, 0.7)
    assert sum(int(value.sum()) for value in mask.values()) == count
    assert mask.keys() == {f"{key}.weight" for key in names}
    after = network.state_dict()
    assert after.keys() == before.keys(), "none of PyTorch's masks is left"
    for key, value in before.items():
        if key in mask:
            assert bool((value.abs()[mask[key]] <= limit).all())  # some may be equal
            assert bool((value.abs()[~mask[key]] >= limit).all())
            assert torch.equal(after[key], value.masked_fill(mask[key], 0))
        else:
            assert torch.equal(after[key], value)
    assert all(torch.equal(mask[key], found) for key, found in pruned_weights(network).items())


def test_what_is_pruned_stays_pruned() -> None:
    """A second round takes from what is left: zeros are the smallest. Catches a mask that lets weights return."""
    torch.manual_seed(0)
    network = NETWORKS["small_cnn"](1, 8, 10)
    first = prune_smallest(network, 0.3)
    second = prune_smallest(network, 0.5)
    assert all(bool((second[name] | ~first[name]).all()) for name in first)
    assert share_of_zeros(network.state_dict(), network) == pytest.approx(0.5, abs=1e-3)


def test_synaptic_flow_by_hand() -> None:
    """Of a linear network, the flow through a weight is the sum over paths of products of magnitudes: layer by layer,
    what comes in, times the weight, times what goes out. In one step, the least flow goes first.

    Catches a sign that is kept, a product left out, and a gradient in place of gradient times weight.
    """
    torch.manual_seed(0)
    layers = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)
    network = nn.Sequential(nn.Flatten(), *layers)
    one, two = (layer.weight.detach().double().abs() for layer in layers)
    flows = torch.cat([(one * two.sum(0)[:, None]).flatten(), (two * one.sum(1)).flatten()])
    pruned_first = int(flows.argmin())
    mask = synflow(network, sparsity=1 / 18, image_shape=(1, 2, 2))
    assert torch.cat([value.flatten() for value in mask.values()]).nonzero().flatten().tolist() == [pruned_first]


@pytest.mark.parametrize("name", ["small_cnn", "strided_cnn"])
def test_synaptic_flow_never_prunes_a_whole_layer(name: str) -> None:
    """At 98 % its layers all still have weights; that is what the many steps are for. The network itself is left alone.

    Catches a single step (of which layers vanish), and signs or float32 overflow that make flows meaningless.
    """
    torch.manual_seed(0)
    network = NETWORKS[name](1, 8, 10)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    mask = synflow(network, 0.98, (1, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    total = sum(value.numel() for value in mask.values())
    assert sum(int(value.sum()) for value in mask.values()) == round(0.98 * total)
    assert not any(bool(value.all()) for value in mask.values())


def test_the_hook_reaches_copies_and_leaves_backward_alone() -> None:
    """A network keeps its mask through steps of an optimiser, two forward passes before one backward, and copying.

    Catches a hook bound to one network, and a write that PyTorch takes for a change of what it has saved.
    """
    torch.manual_seed(0)
    network = NETWORKS["small_cnn"](1, 8, 10)
    mask = prune_smallest(network, 0.5)
    hook = network.register_forward_pre_hook(partial(zero_before_forward, mask))
    twin = copy.deepcopy(network)
    hook.remove()
    images = torch.randn(6, 1, 8, 8)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        (twin(images).sum() + twin(images).square().sum()).backward()
        optimizer.step()
    assert not all(torch.equal(value == 0, mask[name]) for name, value in twin.named_parameters() if name in mask)
    twin(images)
    for name, value in twin.named_parameters():
        if name in mask:
            assert torch.equal(value == 0, mask[name])
    for value in network.parameters():
        value.data.fill_(1)
    network(images)
    assert not any(bool((value == 0).any()) for value in network.parameters()), "this one has its hook no more"
    zero(network, mask)
    assert all(torch.equal(value == 0, mask[name]) for name, value in network.named_parameters() if name in mask)


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("network", "recipe"), [("small_cnn", {}), ("mlp", {"optimizer": "adam", "learning_rate": 1e-3})], ids=str
)
def test_the_batched_trainer_makes_the_models_of_the_plain_loop(
    kind: str, network: str, recipe: dict[str, Any]
) -> None:
    """That one leaves the masks to PyTorch, which computes with weight times mask, and never sees other models.

    Catches a mask of another model, weights that come back through momentum or decay, an optimiser that is carried
    over from round to round, a learning rate that is not rewound, and weights that go back to another epoch.
    """
    task = pruned_task(kind, network, **recipe)
    trainer = trained(task, [5, 6])
    for seed, state in zip((5, 6), trainer.states(), strict=True):
        for plain in pruned_steps(task, task.retain_indices, seed):  # noqa: B007
            pass
        expected = plain.state_dict()
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-10)
        assert share_of_zeros(state, plain) == pytest.approx(SPARSITY, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_each_model_finds_a_mask_of_its_own(kind: str) -> None:
    """From its own weights, and (but for SynFlow, which needs none) from its own images alone.

    Catches one mask for a group, or an original's mask for the retrained models.
    """
    task = pruned_task(kind)
    one, other = (pruned_weights(network_of(task, state)) for state in trained(task, [1, 2]).states())
    assert any(not torch.equal(one[name], other[name]) for name in one)
    elsewhere = PrunedTrainer(task, task.all_indices, [1])
    while not elsewhere.finished:
        elsewhere.train_epoch()
    third = pruned_weights(network_of(task, elsewhere.states()[0]))
    assert any(not torch.equal(one[name], third[name]) for name in one) == (kind != "synflow")


def network_of(task: Task, state: dict[str, torch.Tensor]) -> nn.Module:
    """A network with these weights."""
    network = build_network(task)
    network.load_state_dict(state)
    return network


def test_one_shot_prunes_what_is_small_after_dense_training() -> None:
    """The mask is that of the dense model of the same seed, and the weights are not its own. Catches a mask found at
    the initial weights or after rewinding, and one that is applied without training again."""
    task = pruned_task("omp", epochs=2)
    plain = replace(task, recipe=replace(task.recipe, pruning="none", sparsity=0.0))
    dense = train_one(plain, task.retain_indices, 3)
    weights = {name: value.clone() for name, value in dense.state_dict().items()}
    mask = prune_smallest(dense, SPARSITY)
    (state,) = trained(task, [3]).states()
    for name, pruned in mask.items():
        assert torch.equal(state[name] == 0, pruned)
        assert not torch.allclose(state[name][~pruned], weights[name][~pruned])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_restore_bit_for_bit(kind: str) -> None:
    """At every epoch of every round. Catches a mask, the early weights or the number of the round that is forgotten."""
    task = pruned_task(kind)
    straight = trained(task, [1, 2]).states()
    for stop in range(epochs_in_all(task.recipe)):
        first, second = (PrunedTrainer(task, task.retain_indices, [1, 2]) for _ in range(2))
        for _ in range(stop):
            first.train_epoch()
        second.restore(first.snapshot())
        while not second.finished:
            second.train_epoch()
        for one, other in zip(straight, second.states(), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one), stop


# ----------------------------------------------------------------------------------------------------------------------
# In the bank
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_the_bank_is_pruned(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored weights are exactly 0 where they are pruned; the manifest says how; an interrupted group goes on, bit for
    bit, from what the disk has kept."""
    recipe = (("epochs", 3), ("pruning", kind), ("sparsity", SPARSITY), ("rewind_epoch", 1))
    spec = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=recipe)
    digests = []
    for folder, interrupted in (("whole", False), ("resumed", True)):
        monkeypatch.setenv("UNLEARNING_BANK", str(tmp_path / folder))
        if interrupted:
            with monkeypatch.context() as patch:
                patch.setattr(GroupTrainer, "train_epoch", interrupt_after(GroupTrainer.train_epoch, 2))
                with pytest.raises(KeyboardInterrupt):
                    train_group(spec, "cpu", "retrained", 0, 2, snapshot_seconds=0.0)
            assert list((tmp_path / folder).glob("*/snapshot-*.pt"))
        records = train_group(spec, "cpu", "retrained", 0, 2)
        digests.append({name: record["sha256"] for name, record in records.items()})
        pool = Pool(load(spec), "retrained")
        pool.add_to_manifest(records)
        manifest = json.loads(pool.manifest_path.read_text())
        assert (manifest["recipe"]["pruning"], manifest["recipe"]["sparsity"]) == (kind, SPARSITY)
        for model in range(2):
            assert share_of_zeros(pool.state(model), build_network(load(spec))) == pytest.approx(SPARSITY, abs=1e-3)
    assert digests[0] == digests[1]


def interrupt_after(train_epoch: Any, epochs: int) -> Any:
    """`train_epoch`, but Ctrl-C instead of one more than so many."""
    done = 0

    def counted(trainer: GroupTrainer) -> None:
        nonlocal done
        if done == epochs:
            raise KeyboardInterrupt
        done += 1
        train_epoch(trainer)

    return counted


def test_retraining_takes_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once a step: 3 epochs, then 2 of each round. Catches the time of a dense model."""
    ticks = 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal ticks
        while True:
            ticks += 1
            yield

    recipe = (("epochs", 3), ("pruning", "imp"), ("sparsity", 0.36), ("rewind_epoch", 1))
    spec = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=recipe)
    monkeypatch.setattr(checkpoints.jobs, "pruned_steps", counted)
    monkeypatch.setattr(checkpoints.jobs, "compute_seconds", lambda device: float(ticks))
    assert checkpoints.jobs.time_retraining(spec, "cpu") == 3 + 2 * 2
