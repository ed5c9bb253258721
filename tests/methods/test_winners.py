"""The competition's leading solutions: what each step computes, resets and reads, and what it does to digits."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Task
from data.loaders import run_loaders
from data.task import Request
from methods import all_method_handlers
from methods.Amnesiacs import Amnesiacs
from methods.BaseMethod import BaseMethod
from methods.Fanchuan import Fanchuan
from methods.Finetune import Finetune
from methods.Forget import Forget
from methods.Kookmin import Kookmin
from methods.MyMethod import MyMethod
from methods.NoisyFinetune import NoisyFinetune
from methods.Sebastian import Sebastian
from methods.Seif import Seif
from methods.Sun import Sun
from methods.Transpose import Transpose, transpose_kernels
from tests.methods.trained_digits import (
    accuracy,
    assert_close,
    gradients,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    unlearn_each,
)
from tests.methods.trained_digits import unlearn as unlearn_in_batches

ALL = 1000
"""A batch size that takes a whole set: then a step does not depend on the order of images."""
STILL = {"learning_rate": 0.0}
"""At rate 0 only what is done to weights directly remains (and the statistics of batch normalisation)."""


def unlearn(method: BaseMethod, original: nn.Module, task: Task, seed: int = 1) -> nn.Module:
    """A copy of the original after a run of the method, with each set in one batch."""
    return unlearn_in_batches(method, original, task, seed, batch_size=ALL)


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """The names of the parameters that differ."""
    theirs = dict(after.named_parameters())
    return {name for name, weight in before.named_parameters() if not torch.equal(weight, theirs[name])}


def images_seen(method: BaseMethod, original: nn.Module, task: Task, batch_size: int = ALL) -> list[torch.Tensor]:
    """The batches that the network saw in train mode."""
    network = copy.deepcopy(original)
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if module.training:
            seen.append(inputs[0].clone())

    network.register_forward_pre_hook(look)
    seed_everything(1)
    method.run(network, *run_loaders(task, 1, batch_size))
    return seen


def keys(images: torch.Tensor) -> set[bytes]:
    """Images as what can be compared in sets."""
    return {image.numpy().tobytes() for image in images}


# ----------------------------------------------------------------------------------------------------------------------
# All of them
# ----------------------------------------------------------------------------------------------------------------------

COSINE = [0.5 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3)]
SCHEDULES = [
    (Kookmin(), [1e-3 / 3, 2e-3 / 3, 1e-3, 2e-3 / 3, 1e-3 / 3]),
    (Kookmin(epochs=1), [1e-3]),
    (Kookmin(epochs=2), [1e-3, 5e-4]),
    (Kookmin(epochs=4), [5e-4, 1e-3, 2e-3 / 3, 1e-3 / 3]),
    (MyMethod(epochs=3), [1e-3 * factor for factor in COSINE]),
    (NoisyFinetune(epochs=3), [NoisyFinetune.learning_rate * factor for factor in COSINE]),
    (Finetune(epochs=3, cosine=True), [1e-2 * factor for factor in COSINE]),
    (Seif(), [3.5e-4 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]),
    (Sebastian(), [5e-4] * 4),
    (Amnesiacs(), [9e-4] * 3 + [1e-3 * factor for factor in COSINE]),
    (Sun(), [2e-4] * 8 + [1e-3]),
    (Forget(), [1e-3, 1e-3, 5e-4, 1e-3, 5e-4]),
    (Forget(cycles="2,1,1,1", rates="5e-4,1e-3,1e-3,1e-3,1e-3"), [5e-4] + [1e-3] * 4),
    (Transpose(), [1e-3 * factor for factor in COSINE]),
    (Fanchuan(epochs=2), [5e-3, 3e-4, 4e-3, (3e-4 + 1e-6) / 2, 4e-3]),
]
"""Method, and its published step size for each epoch: the facts, not the code, are where these are from."""


@pytest.mark.parametrize(("method", "expected"), SCHEDULES, ids=lambda value: type(value).__name__)
def test_published_schedule(
    method: BaseMethod, expected: list[float], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step size of every step, with one batch an epoch: the number of epochs, the cosine's length and its restarts.

    Catches a schedule that is stepped too often or too seldom, and defaults other than the published.
    """
    rates = []
    step = torch.optim.SGD.step

    def spy(optimizer: torch.optim.SGD, *args: Any) -> Any:
        assert optimizer.param_groups[0]["momentum"] == 0.9
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    unlearn(method, original, task)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(("method", "expected"), SCHEDULES[:-1], ids=lambda value: type(value).__name__)
def test_a_schedule_is_by_epoch(
    method: BaseMethod, expected: list[float], original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three batches an epoch, step sizes follow each other as with one. Catches one that is stepped by batch.

    (Not of fanchuan, which decides by itself how many images a batch has.)
    """
    rates: list[float] = []
    step = torch.optim.SGD.step

    def spy(optimizer: torch.optim.SGD, *args: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    network = copy.deepcopy(original)
    seed_everything(1)
    if hasattr(method, "batch_size"):
        method = type(method)(**{**method.settings(), "batch_size": 60})
    method.run(network, *run_loaders(task, 1, 60))
    one_of_each = [rate for rate, before in zip(rates, [None, *rates], strict=False) if rate != before]
    published = [rate for rate, before in zip(expected, [None, *expected], strict=False) if rate != before]
    assert one_of_each == pytest.approx(published)
    assert len(rates) > 1.5 * len(expected), "there are several batches"


class Unreadable:
    """A loader that must not be read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"The method read {name} of a loader that it has no use for.")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("The method read a loader that it has no use for.")


READS = {
    "kookmin": "rf",
    "seif": "r",
    "sebastian": "r",
    "amnesiacs": "rv",
    "sun": "r",
    "forget": "r",
    "fanchuan": "rf",
    "finetune": "r",
    "l1_sparse": "r",
    "cf_k": "r",
    "eu_k": "r",
    "gradient_ascent": "f",
    "random_label": "rf",
}
"""What a method may read: the retain, the forget, the validation set."""


@pytest.mark.parametrize("name", READS)
def test_reads_only_its_sets(name: str, original: nn.Module, task: Task) -> None:
    """The others are not touched. Catches `forget` distilling on the forget set, and a warm-up on the retain set."""
    loaders: list[Any] = [
        loader if letter in READS[name] else Unreadable()
        for letter, loader in zip("rfv", run_loaders(task, 1), strict=True)
    ]
    all_method_handlers()[name]().run(copy.deepcopy(original), *loaders)


# ----------------------------------------------------------------------------------------------------------------------
# fanchuan
# ----------------------------------------------------------------------------------------------------------------------

FANCHUAN_STILL = {"uniform_rate": 0.0, "forget_rate": 0.0, "final_forget_rate": 0.0, "retain_rate": 0.0}


def test_fanchuan_distance_to_uniform() -> None:
    """KL(uniform || p) = -ln K - mean ln p; the other way ln K - entropy. Catches exchanged sides."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    p = F.softmax(logits, dim=1)
    torch.testing.assert_close(Fanchuan().distance_to_uniform(logits), -math.log(4) - p.log().mean())
    entropy = -(p * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(Fanchuan(reverse_kl=True).distance_to_uniform(logits), math.log(4) - entropy)
    assert Fanchuan().distance_to_uniform(torch.ones(3, 5)) == pytest.approx(0)


def test_fanchuan_contrast() -> None:
    """-log softmax over the retain batch, every pair alike. Catches a softmax over the forget batch, and 1 / t lost."""
    generator = torch.Generator().manual_seed(0)
    forgotten, kept = torch.randn(3, 4, generator=generator), torch.randn(5, 4, generator=generator)
    terms = []
    for one in forgotten.tolist():
        similarity = [sum(a * b for a, b in zip(one, other, strict=True)) / 1.15 for other in kept.tolist()]
        total = math.log(sum(map(math.exp, similarity)))
        terms += [total - value for value in similarity]
    assert Fanchuan().contrast(forgotten, kept) == pytest.approx(sum(terms) / 15)


def test_fanchuan_first_stage(original: nn.Module, task: Task) -> None:
    """One step down the distance to uniform on the forget set, without weight decay. Catches ascent."""
    network = copy.deepcopy(original).train()
    down = gradients(network, -F.log_softmax(network(part(task, "forget")[0]), dim=1).mean())
    left = unlearn(Fanchuan(epochs=0, uniform_rate=0.01), original, task)
    assert_close(moves(original, left), [-0.01 * step for step in down])


@pytest.mark.parametrize("ascend", [False, True])
def test_fanchuan_forget_round(original: nn.Module, task: Task, ascend: bool) -> None:
    """Only forget logits have a gradient; the loss goes down, unless asked. Catches retain logits that move too."""
    network = copy.deepcopy(original).train()
    forgotten, kept = network(part(task, "forget")[0]), network(part(task, "retain")[0]).detach()
    down = gradients(network, -F.log_softmax(forgotten @ kept.T / 1.15, dim=1).mean())
    options = {**FANCHUAN_STILL, "forget_rate": 0.01, "retain_batch_size": ALL, "ascend": ascend}
    left = unlearn(Fanchuan(epochs=1, **options), original, task)
    assert_close(moves(original, left), [(0.01 if ascend else -0.01) * step for step in down])


def test_fanchuan_retain_round(original: nn.Module, task: Task) -> None:
    """Cross-entropy with a weight decay of 0.01, in batches of 256. Catches the decay of another stage."""
    network = copy.deepcopy(original).train()
    images, labels = part(task, "retain")
    down = gradients(network, F.cross_entropy(network(images), labels))
    expected = [-(step + 0.01 * weight.detach()) for step, weight in zip(down, original.parameters(), strict=True)]
    left = unlearn(Fanchuan(epochs=1, **{**FANCHUAN_STILL, "retain_rate": 1.0}), original, task)
    assert_close(moves(original, left), expected)


def test_fanchuan_forget_rate_ends_at_its_minimum(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cosine is stepped by forget batch, over all rounds. Catches steps by epoch, and a length in epochs."""
    made = []

    class Spy(torch.optim.lr_scheduler.CosineAnnealingLR):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(torch.optim.lr_scheduler, "CosineAnnealingLR", Spy)
    unlearn_in_batches(Fanchuan(epochs=3, retain_batch_size=32), original, task, batch_size=10)
    (schedule,) = made
    assert schedule.last_epoch == schedule.T_max == 9  # three batches of 10 to forget, three rounds
    assert schedule.get_last_lr() == pytest.approx([1e-6])


# ----------------------------------------------------------------------------------------------------------------------
# kookmin
# ----------------------------------------------------------------------------------------------------------------------

CONVOLUTIONS = ("0.weight", "3.weight", "6.weight")


@pytest.fixture(scope="module")
def little_retained(task: Task) -> Task:
    """The same digits, but 140 to forget and 60 to retain: then kookmin's random subset is the whole retain set."""
    return replace(task, requests=(Request("by hand", np.arange(140)),))


@pytest.mark.parametrize("globally", [False, True])
def test_kookmin_renews_the_smallest(original: nn.Module, little_retained: Task, globally: bool) -> None:
    """Exactly 30 % of each layer (or of all), those with the smallest |gradient of CE_r - CE_f| in eval mode.

    Catches the largest instead, a sum of the two losses, train mode, the head and batch normalisation renewed, and
    one rule in place of the other.
    """
    terms = []
    for which in ("retain", "forget"):
        images, labels = part(little_retained, which)
        terms.append(F.cross_entropy(original(images), labels))
    weights = dict(original.named_parameters())
    up = torch.autograd.grad(terms[0] - terms[1], [weights[name] for name in CONVOLUTIONS])
    sizes = {name: gradient.abs() for name, gradient in zip(CONVOLUTIONS, up, strict=True)}

    left = unlearn(Kookmin(epochs=1, globally=globally, **STILL), original, little_retained)
    assert changed(original, left) == set(CONVOLUTIONS)
    renewed = {name: left.get_parameter(name) != weights[name] for name in CONVOLUTIONS}
    groups = [CONVOLUTIONS] if globally else [(name,) for name in CONVOLUTIONS]
    for group in groups:
        size = torch.cat([sizes[name].flatten() for name in group])
        mask = torch.cat([renewed[name].flatten() for name in group])
        assert mask.sum() == int(0.3 * len(mask))
        assert size[mask].max() <= size[~mask].min() * 1.001  # rounding: batches are added in another order
    if globally:
        assert len({round(float(mask.float().mean()), 2) for mask in renewed.values()}) > 1


def test_kookmin_draws_from_he_normal(original: nn.Module, little_retained: Task) -> None:
    """By fan out. Catches PyTorch's default, and fan in."""
    left = unlearn(Kookmin(epochs=1, share=1.0, **STILL), original, little_retained)
    weight = left.get_parameter("3.weight")  # 8 channels in, 16 out
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.06)


def test_kookmin_slows_what_is_kept(original: nn.Module, little_retained: Task) -> None:
    """Gradients times 0.1 for kept weights of the convolutions, 1 for all others. Catches the two exchanged."""
    options = {"epochs": 1, "weight_decay": 0.0}
    renewed = unlearn(Kookmin(learning_rate=0.0, **options), original, little_retained)
    left = unlearn(Kookmin(learning_rate=0.5, **options), original, little_retained)
    network = copy.deepcopy(renewed).train()
    images, labels = part(little_retained, "retain")
    down = gradients(network, F.cross_entropy(network(images), labels))
    expected = []
    for (name, before), after, step in zip(original.named_parameters(), renewed.parameters(), down, strict=True):
        slow = (before == after) if name in CONVOLUTIONS else torch.zeros_like(step, dtype=torch.bool)
        expected.append(-0.5 * torch.where(slow, 0.1 * step, step))
    assert_close(moves(renewed, left), expected)


def test_kookmin_subset_is_as_large_as_the_forget_set(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 retained images of 170, then the 30 forgotten ones. Catches all of the retain set, and the sets exchanged."""
    seen: list[torch.Tensor] = []
    network = copy.deepcopy(original)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    layers = [part.weight for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    Kookmin._gradients(network, layers, *run_loaders(task, 1)[:2])
    assert [len(images) for images in seen] == [30, 30]
    assert keys(seen[0]) < keys(part(task, "retain")[0])
    assert keys(seen[1]) == keys(part(task, "forget")[0])


def test_noisy_finetune_adds_noise(original: nn.Module, task: Task) -> None:
    """Of the same size on each weight of the first layer, and on no other. Catches noise in proportion to a weight."""
    quiet = {"epochs": 1, "learning_rate": 0.0}
    left = [unlearn(NoisyFinetune(noise=0.3, **quiet), original, task, seed) for seed in range(30)]
    name = "0.weight"
    noise = torch.stack([one.get_parameter(name).detach() - original.get_parameter(name).detach() for one in left])
    deviations = noise.flatten(1).std(dim=0)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.1)
    assert float(deviations.min()) > 0.15
    assert float(deviations.max()) < 0.5
    others = [key for key, _ in original.named_parameters() if key != name]
    assert all(torch.equal(original.get_parameter(key), left[0].get_parameter(key)) for key in others)


def test_kookmin_subset_is_random(original: nn.Module, task: Task) -> None:
    """Two seeds renew different weights, though not all are different. Catches the first images, or all of them."""
    masks = []
    for seed in (1, 2):
        left = unlearn(Kookmin(epochs=1, **STILL), original, task, seed)
        masks.append(left.get_parameter("6.weight") != original.get_parameter("6.weight"))
    assert 0.1 < float((masks[0] & masks[1]).sum() / masks[0].sum()) < 0.999


def test_kookmin_without_convolutions(task: Task) -> None:
    """The hidden linear layer takes their part. Catches a network that is merely fine-tuned, and a renewed head."""
    mlp = replace(task, network="mlp")
    original = build_network(mlp, seed=0).eval()
    assert changed(original, unlearn(Kookmin(epochs=1, **STILL), original, mlp)) == {"1.weight"}


# ----------------------------------------------------------------------------------------------------------------------
# seif
# ----------------------------------------------------------------------------------------------------------------------


def test_seif_noise_is_on_the_first_convolution(original: nn.Module, task: Task) -> None:
    """Of deviation 0.6; "all" is all but the head. Catches noise on everything, as descriptions have it."""
    left = unlearn(Seif(**STILL), original, task)
    assert changed(original, left) == {"0.weight"}
    noise = left.get_parameter("0.weight") - original.get_parameter("0.weight")
    assert float(noise.detach().std()) == pytest.approx(0.6, rel=0.25)
    assert abs(float(noise.detach().mean())) < 0.3
    assert changed(original, unlearn(Seif(noisy_layers="all", **STILL), original, task)) == set(CONVOLUTIONS)
    with pytest.raises(ValueError, match="noisy_layers is first or all, not 'conv'"):
        unlearn(Seif(noisy_layers="conv"), original, task)


def test_seif_late_noise_is_before_the_last_epoch(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.6, three epochs, 0.005, one epoch. Catches late noise at the very end, or before every epoch."""
    events: list[Any] = []
    perturb, cross_entropy = Seif._perturb, F.cross_entropy

    def spy_perturb(weights: list[torch.Tensor], deviation: float) -> None:
        events.append(deviation)
        perturb(weights, deviation)

    def spy_loss(*args: Any, **options: Any) -> torch.Tensor:
        events.append("step")
        return cross_entropy(*args, **options)

    monkeypatch.setattr(Seif, "_perturb", staticmethod(spy_perturb))
    monkeypatch.setattr(F, "cross_entropy", spy_loss)
    unlearn(Seif(), original, task)
    assert events == [0.6, "step", "step", "step", 0.005, "step"]
    events.clear()
    unlearn(Seif(epochs=1), original, task)
    assert events == [0.6, "step"]


@pytest.mark.parametrize("variant", ["published", "per_image", "balanced"])
def test_seif_loss(original: nn.Module, task: Task, variant: str) -> None:
    """Mean loss times mean weight, 1 for class 0 and 0.05 for others; or a weighted mean; or scikit-learn's balance.

    Catches the published form and the described one exchanged: their gradients are not parallel.
    """
    images, labels = part(task, "retain")
    weights = torch.where(labels == 0, 1.0, 0.05)
    options: dict[str, Any] = {"epochs": 1, "noise": 0.0, "weight_decay": 0.0, "learning_rate": 1.0}
    if variant == "balanced":
        counts = torch.bincount(labels, minlength=10)
        weights = (len(labels) / (10 * counts))[labels]
    network = copy.deepcopy(original).train()
    losses = F.cross_entropy(network(images), labels, reduction="none")
    wanted = (losses * weights).sum() / weights.sum() if variant == "per_image" else losses.mean() * weights.mean()
    if variant != "published":
        options[variant] = True
    left = unlearn(Seif(**options), original, task)
    assert_close(moves(original, left), [-step for step in gradients(network, wanted)])


# ----------------------------------------------------------------------------------------------------------------------
# sebastian
# ----------------------------------------------------------------------------------------------------------------------

PRUNED = (*CONVOLUTIONS, "11.weight", "11.bias")


@pytest.mark.parametrize("share", [0.99, 0.5])
def test_sebastian_prunes_globally(original: nn.Module, task: Task, share: float) -> None:
    """The smallest of all weights and biases together; batch normalisation stays, and pruned biases are 0.

    Catches pruning in each layer, the largest instead of the smallest, and biases that are drawn.
    """
    options = {"epochs": 0.0, "half_precision": False, **STILL}
    left = unlearn(Sebastian(share=share, **options), original, task)
    before = {name: original.get_parameter(name).detach() for name in PRUNED}
    after = {name: left.get_parameter(name).detach() for name in PRUNED}
    assert changed(original, left) <= set(PRUNED)
    sizes = torch.cat([weight.abs().flatten() for weight in before.values()])
    limit = sizes.sort().values[round(share * len(sizes)) - 1]
    drawn = []
    for name, weight in before.items():
        pruned = weight.abs() <= limit
        assert torch.equal(after[name] != weight, pruned), name
        if weight.dim() > 1:
            drawn.append(after[name][pruned].abs() * weight[0].numel() ** 0.5)
        else:
            assert not after[name][pruned].any()
    assert 0.95 < float(torch.cat(drawn).max()) <= 1 + 1e-6  # of a thousand or more, uniform up to 1 over the root
    shares = {round(float((weight.abs() <= limit).float().mean()), 2) for weight in before.values()}
    assert len(shares) > 1


def test_sebastian_loss(original: nn.Module, task: Task) -> None:
    """Cross-entropy weighted by count^-0.1, plus the squared difference of entropies to the original in eval mode.

    Catches entropies of one network twice, weights that grow with the count, and a teacher that is pruned as well.
    """
    options = {"epochs": 0.0, "half_precision": False, "share": 0.5, "weight_decay": 0.0, "entropy_weight": 2.0}
    renewed = unlearn(Sebastian(**options, **STILL), original, task)
    left = unlearn(Sebastian(**options, learning_rate=0.1), original, task)
    images, labels = part(task, "retain")
    network = copy.deepcopy(renewed).train()
    logits = network(images)
    p, q = (F.softmax(values, dim=1).clamp(min=1e-30) for values in (original(images).detach(), logits))
    entropies = [-(each * each.log()).sum(dim=1) for each in (p, q)]
    weights = torch.bincount(labels, minlength=10).float()[labels] ** -0.1
    losses = F.cross_entropy(logits, labels, reduction="none")
    wanted = (weights * losses).sum() / weights.sum() + 2 * ((entropies[0] - entropies[1]) ** 2).mean()
    assert_close(moves(renewed, left), [-0.1 * step for step in gradients(network, wanted)])


def test_sebastian_counts_steps(original: nn.Module, task: Task) -> None:
    """int(3.2 * 6) + 1 = 20 batches of 32, which go on into a fourth epoch. Catches whole epochs."""
    seen = images_seen(Sebastian(), original, task, batch_size=32)
    assert len(seen) == 20
    assert keys(torch.cat(seen[18:])) < keys(part(task, "retain")[0])


@pytest.mark.parametrize("half", [False, True])
def test_sebastian_rounds_to_half_precision(original: nn.Module, task: Task, half: bool) -> None:
    """All parameters are float16 numbers afterwards. Catches a cast that is lost, or one of the network for good."""
    left = unlearn(Sebastian(half_precision=half), original, task)
    assert all(weight.dtype == torch.float32 for weight in left.parameters())
    assert all(torch.equal(weight, weight.half().float()) for weight in left.parameters()) == half
    statistics = [buffer for buffer in left.buffers() if buffer.is_floating_point()]
    assert not all(torch.equal(one, one.half().float()) for one in statistics)
    rounded = unlearn(Sebastian(half_precision=half, half_statistics=True), original, task)
    statistics = [buffer for buffer in rounded.buffers() if buffer.is_floating_point()]
    assert all(torch.equal(one, one.half().float()) for one in statistics) == half


# ----------------------------------------------------------------------------------------------------------------------
# amnesiacs
# ----------------------------------------------------------------------------------------------------------------------


def test_amnesiacs_resets_the_two_ends(original: nn.Module, task: Task) -> None:
    """First convolution and head, nothing else. Catches a reset of all layers, or of the head alone."""
    left = unlearn(Amnesiacs(warm_up_rate=0.0, **STILL), original, task)
    assert changed(original, left) == {"0.weight", "11.weight", "11.bias"}


def test_amnesiacs_warms_up_on_the_validation_set(original: nn.Module, task: Task) -> None:
    """Three epochs of it, then three of the retain set; the forget set is never seen. Catches any other order."""
    retain, validation = (keys(part(task, which)[0]) for which in ("retain", "validation"))
    seen = [keys(batch) for batch in images_seen(Amnesiacs(), original, task)]
    assert seen == [validation] * 3 + [retain] * 3
    images, labels = part(task, "validation")
    method = Amnesiacs(warm_up_epochs=1, epochs=1, warm_up_classes="0,1")
    assert keys(images_seen(method, original, task)[0]) == keys(images[labels <= 1])


@pytest.mark.parametrize("stage", ["warm-up", "retain", "symmetric"])
def test_amnesiacs_losses(original: nn.Module, task: Task, stage: str) -> None:
    """KL(original || network) at temperature 5, no factor 25; then CE + KL + soft CE, or CE + KL both ways.

    Catches the sides exchanged, a temperature on the labels' term, and a teacher that was reset as well.
    """
    warm_up = stage == "warm-up"
    options: dict[str, Any] = {"weight_decay": 0.0, "warm_up_epochs": int(warm_up), "epochs": int(not warm_up)}
    options["symmetric"] = stage == "symmetric"
    reset = unlearn(Amnesiacs(**options, warm_up_rate=0.0, learning_rate=0.0), original, task)
    left = unlearn(Amnesiacs(**options, warm_up_rate=0.1, learning_rate=0.1), original, task)
    images, labels = part(task, "validation" if warm_up else "retain")
    network = copy.deepcopy(reset).train()
    logits = network(images)
    p, q = (F.softmax(values / 5, dim=1) for values in (original(images).detach(), logits))
    wanted = (p * (p.log() - q.log())).sum(dim=1).mean()
    if not warm_up:
        second = (q * (q.log() - p.log())) if stage == "symmetric" else -p * q.log()
        wanted = F.cross_entropy(logits, labels) + wanted + second.sum(dim=1).mean()
    assert_close(moves(reset, left), [-0.1 * step for step in gradients(network, wanted)])


# ----------------------------------------------------------------------------------------------------------------------
# sun
# ----------------------------------------------------------------------------------------------------------------------


def test_sun_resets_the_head(original: nn.Module, task: Task) -> None:
    """And nothing else. Catches a reset of all."""
    assert changed(original, unlearn(Sun(noise=0.0, **STILL), original, task)) == {"11.weight", "11.bias"}


def test_sun_trains_what_it_chose(original: nn.Module, task: Task) -> None:
    """In the first epoch: batch normalisation and as many other tensors as asked, unless `whole_first`.

    Catches a first epoch of everything, which the write-up describes and the code has not, and a frozen normalisation.
    """
    options = {"epochs": 2, "final_factors": "0", "tensors": 2}
    reset = unlearn(Sun(**options, **STILL), original, task)
    left = changed(reset, unlearn(Sun(**options), original, task))
    normalising = {f"{place}.{name}" for place in (1, 4, 7) for name in ("weight", "bias")}
    assert normalising < left
    assert len(left - normalising) == 2
    whole = changed(reset, unlearn(Sun(**options, whole_first=True), original, task))
    assert whole == {name for name, _ in original.named_parameters()}


@pytest.mark.parametrize("again", [False, True])
def test_sun_noise(task: Task, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Four noisy epochs, each with 6 of the 9 tensors chosen; as published, those that are chosen for the first time.

    Catches noise in the first or in final epochs, on batch normalisation (also a shortcut's), and noise twice.
    """
    resnet = replace(task, network="resnet18_3x3")
    network = build_network(resnet, seed=0)
    names = {id(weight): name for name, weight in network.named_parameters()}
    normalising = {
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)
    } | {f"{name}.bias" for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    noisy: list[list[str]] = []
    trained_names: list[set[str]] = []
    make = torch.optim.SGD

    def spy(weights: Any, **options: Any) -> torch.optim.SGD:
        trained_names.append({names[id(weight)] for weight in weights})
        return make(weights, **options)

    monkeypatch.setattr(torch.optim, "SGD", spy)
    monkeypatch.setattr(Sun, "_perturb", lambda _, weights: noisy.append([names[id(weight)] for weight in weights]))
    retain, *others = run_loaders(replace(resnet, requests=(Request("by hand", np.arange(192)),)), 1)
    seed_everything(1)
    Sun(noise_again=again).run(network, retain, *others)

    chosen = [trained - normalising for trained in trained_names[:5]]
    assert [len(each) for each in chosen] == [9] * 5
    assert all(normalising < trained for trained in trained_names)
    assert [len(trained) for trained in trained_names[5:]] == [len(names)] * 4
    assert len(noisy) == 4
    for epoch, each in enumerate(noisy, start=1):
        before = set().union(*chosen[:epoch])
        assert set(each) <= chosen[epoch]
        if again:
            assert len(each) == 6
        else:
            assert not set(each) & before
            assert len(each) >= len(chosen[epoch] - before) - 3
    assert any(noisy)


def test_sun_noise_deviation(original: nn.Module, task: Task) -> None:
    """Deviation 0.04 on every weight of a chosen tensor. Catches a share of the weight, and noise in one place only."""
    options = {"epochs": 3, "final_factors": "0", "noise_again": True, "noisy_share": 1.0, **STILL}
    reset = unlearn(Sun(**options, noise=0.0), original, task)
    left = unlearn(Sun(**options), original, task)
    noise = (left.get_parameter("6.weight") - reset.get_parameter("6.weight")).detach()
    assert float(noise.std()) == pytest.approx(0.04, rel=0.05)


def test_sun_adds_no_noise_to_small_networks(original: nn.Module, task: Task) -> None:
    """With 9 tensors or fewer all are chosen in the first epoch: what the docstring warns of."""
    reset = unlearn(Sun(noise=0.0, **STILL), original, task)
    assert changed(reset, unlearn(Sun(noise=5.0, **STILL), original, task)) == set()
    assert changed(reset, unlearn(Sun(noise=5.0, noise_again=True, **STILL), original, task)) == set(PRUNED)


# ----------------------------------------------------------------------------------------------------------------------
# forget
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "options", "count"),
    [
        ("resnet18", {}, 17),
        ("resnet18", {"keep_shortcuts": False}, 20),
        ("resnet18", {"keep_classifier": False}, 18),
        ("all_cnn", {}, 8),
        ("small_cnn", {}, 3),
        ("mlp", {}, 1),
    ],
)
def test_forget_pool(architecture: str, options: dict[str, bool], count: int, task: Task) -> None:
    """Neither head nor projection shortcuts, unless asked. Catches a filter by names that only a ResNet has."""
    network = build_network(replace(task, network=architecture), seed=0)
    pool = Forget(**options).pool(network)
    assert len(pool) == count
    head = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    assert (head in pool) == (not options.get("keep_classifier", True))


def test_forget_resets_random_layers(original: nn.Module, task: Task) -> None:
    """As many as drawn, others each time; never the head. Catches the same layers in every run, and draws of all."""
    chosen = set()
    for seed in range(8):
        left = changed(original, unlearn(Forget(cycles="1", layers=1, **STILL), original, task, seed))
        assert len(left) == 1
        chosen |= left
    assert chosen == set(CONVOLUTIONS)
    method = Forget(cycles="1", layers=3, **STILL)
    many = [changed(original, unlearn(method, original, task, seed)) for seed in range(8)]
    assert {len(left) for left in many} >= {2, 3}  # three draws with replacement from three layers


def test_forget_element_wise(original: nn.Module, task: Task) -> None:
    """With `share`, that share of the weights of every layer. Catches whole layers, and a share that is kept."""
    left = unlearn(Forget(cycles="1", share=0.3, **STILL), original, task)
    assert changed(original, left) == set(CONVOLUTIONS)
    renewed = left.get_parameter("6.weight") != original.get_parameter("6.weight")
    assert float(renewed.float().mean()) == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("kind", ["mse", "l1", "ce"])
def test_forget_loss(original: nn.Module, task: Task, kind: str) -> None:
    """The logits' squared difference from the original's in eval mode, on the retain set.

    Catches the labels' loss in its place, and a teacher that is reset as well (its loss would be near 0).
    """
    options = {"cycles": "1", "noise": 0.0, "weight_decay": 0.0, "loss": kind}
    reset = unlearn(Forget(**options, **STILL), original, task)
    left = unlearn(Forget(**options, learning_rate=0.01), original, task)
    images, labels = part(task, "retain")
    network = copy.deepcopy(reset).train()
    logits, wanted = network(images), original(images).detach()
    losses = {
        "mse": ((logits - wanted) ** 2).mean(),
        "l1": (logits - wanted).abs().mean(),
        "ce": F.cross_entropy(logits, labels),
    }
    assert_close(moves(reset, left), [-0.01 * step for step in gradients(network, losses[kind])])


def test_forget_teacher_sees_what_the_student_sees(
    original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same noisy images. Catches a teacher on clean images."""
    shown: list[tuple[nn.Module, torch.Tensor]] = []
    forward = nn.Sequential.forward

    def look(net: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
        shown.append((net, images.clone()))
        return forward(net, images)

    monkeypatch.setattr(nn.Sequential, "forward", look)
    unlearn(Forget(cycles="1", noise=0.5), original, task)
    (student, learned), (teacher, taught) = shown[:2]
    assert student is not teacher
    assert torch.equal(learned, taught)
    assert keys(learned).isdisjoint(keys(part(task, "retain")[0]))


def test_forget_adds_noise_to_images(original: nn.Module, task: Task) -> None:
    """Of the given deviation, new in every epoch. Catches noise that is left out, piles up, or is drawn once."""
    first, second, third = images_seen(Forget(cycles="3", noise=0.5), original, task)
    images = part(task, "retain")[0]
    assert float(first.std()) == pytest.approx(math.sqrt(float(images.var()) + 0.25), rel=0.02)
    assert float(third.std()) == pytest.approx(float(first.std()), rel=0.02)
    assert not keys(first) & keys(second)


def test_forget_selects_by_fisher_information(original: nn.Module, task: Task) -> None:
    """The same layer in every run: the one of the largest mean squared gradient of the forget loss, in eval mode.

    Catches a choice at random, by the retain set, and by the sum over weights, which favours large layers.
    """
    network = copy.deepcopy(original).eval()
    images, labels = part(task, "forget")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    steps = torch.autograd.grad(F.cross_entropy(network(images), labels), [layer.weight for layer in convolutions])
    expected = CONVOLUTIONS[int(torch.stack([step.square().mean() for step in steps]).argmax())]
    method = Forget(cycles="1", layers=1, select="fisher", **STILL)
    assert all(changed(original, unlearn(method, original, task, seed)) == {expected} for seed in range(4))


def test_forget_turns_images_upside_down(original: nn.Module, task: Task) -> None:
    """About half of them, height alone. Catches whole batches that are turned, and a mirror image."""
    images = part(task, "retain")[0]
    (seen,) = images_seen(Forget(cycles="1", noise=0.0, augment="flip"), original, task)
    as_they_are, upside_down = keys(images), keys(images.flip(2))
    assert keys(seen) <= as_they_are | upside_down
    assert 0.3 < len(keys(seen) - as_they_are) / len(images) < 0.7


def test_forget_crops_and_blanks(original: nn.Module, task: Task) -> None:
    """Other images in each epoch, of the same size, and emptier. Catches a crop that is drawn once."""
    images = part(task, "retain")[0]
    first, second = images_seen(Forget(cycles="2", noise=0.0, augment="crop"), original, task)
    assert first.shape == second.shape == images.shape
    assert len(keys(first) & keys(images)) < len(images) / 2
    assert keys(first) != keys(second)
    assert (first == 0).sum() > (images == 0).sum()


def test_forget_crops_are_shifted_images() -> None:
    """By up to 4 pixels each way, whatever the size: what is not blank comes from the image. Catches swapped sides."""
    images = torch.rand(2, 1, 12, 20) + 1
    padded = F.pad(images, (4, 4, 4, 4))
    for _ in range(40):
        seen = Forget(augment="crop")._augmented(images)
        assert seen.shape == images.shape
        places = [(down, right) for down in range(9) for right in range(9)]
        windows = [padded[:, :, down : down + 12, right : right + 20] for down, right in places]
        (window,) = [window for window in windows if torch.equal(window[seen != 0], seen[seen != 0])]
        blanked = (window != 0) & (seen == 0)
        assert int(blanked[0].sum()) <= 12 // 4 * (20 // 4)
        assert torch.equal(blanked[0], blanked[1])


def test_forget_refuses(original: nn.Module, task: Task) -> None:
    """Options that cannot be meant, by name."""
    with pytest.raises(ValueError, match="loss is one of mse, l1, ce, not 'kl'"):
        unlearn(Forget(loss="kl"), original, task)
    with pytest.raises(ValueError, match="augment is one of none, flip, crop, not 'blur'"):
        unlearn(Forget(augment="blur"), original, task)
    with pytest.raises(ValueError, match="rates has 2 numbers, but cycles has 5 epochs"):
        unlearn(Forget(rates="1e-3,1e-3"), original, task)


# ----------------------------------------------------------------------------------------------------------------------
# transpose
# ----------------------------------------------------------------------------------------------------------------------


def test_transpose_twice_is_nothing(original: nn.Module, task: Task) -> None:
    """Once is height and width exchanged, in convolutions only; twice is the identity, bit for bit.

    Catches exchanged channels, a flip, and a transposition of the linear layer.
    """
    network = copy.deepcopy(original)
    transpose_kernels(network)
    assert changed(original, network) == set(CONVOLUTIONS)
    for name in CONVOLUTIONS:
        assert torch.equal(network.get_parameter(name), original.get_parameter(name).permute(0, 1, 3, 2))
    left = unlearn(Transpose(pseudo_label_share=0.0, **STILL), original, task)
    assert changed(network, left) == set()
    transpose_kernels(network)
    assert changed(original, network) == set()


def test_transpose_tosses_a_coin_in_each_run(original: nn.Module, task: Task) -> None:
    """About half of the runs are of one kind, half of the other. Catches one kind for all, or a coin without seed."""
    kinds = [
        bool(changed(original, unlearn(Transpose(epochs=1, **STILL), original, task, seed=seed))) for seed in range(40)
    ]
    assert 10 <= sum(kinds) <= 28
    assert Transpose().pseudo_label_share == 266 / 512
    assert not changed(original, unlearn(Transpose(pseudo_label_share=1.0, **STILL), original, task))


def test_transpose_expects_mistakes(original: nn.Module, task: Task) -> None:
    """As many as the validation error says, the least sure ones, as the most probable other class.

    Catches the true label taught again, the surest images, and an error measured on the forget set (it is 0).
    """
    _, forget, validation = run_loaders(task, 1)
    found, labels = Transpose.expected_mistakes(original, forget, validation)
    images, true = part(task, "forget")
    p = F.softmax(original(images), dim=1).detach()
    count = round((1 - accuracy(original, task, "validation")) * 30)
    assert len(found) == len(labels) == count > 0
    place = {image.numpy().tobytes(): index for index, image in enumerate(images)}
    rows = [place[image.numpy().tobytes()] for image in found]
    confidence = p[torch.arange(30), true]
    assert sorted(rows) == sorted(confidence.argsort()[:count].tolist())
    for row, label in zip(rows, labels.tolist(), strict=True):
        assert label != true[row]
        assert p[row, label] == p[row, torch.arange(10) != true[row]].max()


def test_transpose_teaches_mistakes_beside_the_retain_set(original: nn.Module, task: Task) -> None:
    """Each once an epoch, and nothing else of the forget set; the other kind of run sees none of it."""
    _, forget, validation = run_loaders(task, 1)
    mistakes = keys(Transpose.expected_mistakes(original, forget, validation)[0])
    retain = keys(part(task, "retain")[0])
    seen = images_seen(Transpose(pseudo_label_share=1.0, epochs=2), original, task, batch_size=64)
    assert keys(torch.cat(seen[:3])) == keys(torch.cat(seen[3:])) == retain | mistakes
    assert sum(map(len, seen)) == 2 * (len(retain) + len(mistakes))
    seen = images_seen(Transpose(pseudo_label_share=0.0, epochs=1), original, task, batch_size=64)
    assert keys(torch.cat(seen)) == retain


# ----------------------------------------------------------------------------------------------------------------------
# Effects
# ----------------------------------------------------------------------------------------------------------------------

EFFECTS = [
    (Fanchuan(uniform_rate=0.01, forget_rate=0.003, retain_rate=0.01, retain_batch_size=16), 0.9, 1),
    (Kookmin(learning_rate=0.02), 0.9, 1),
    (Seif(learning_rate=0.05, light_weight=1.0), 0.85, 1),
    (Sebastian(learning_rate=0.01, share=0.5), 0.8, 4),
    (Amnesiacs(learning_rate=0.05, warm_up_rate=0.05), 0.85, 1),
    (Sun(learning_rate=0.02, final_factors="1,1,1,0.2", noise_again=True, tensors=2), 0.9, 1),
    (Forget(learning_rate=0.01, layers=1), 0.65, 4),
    (Transpose(learning_rate=0.02, pseudo_label_share=0.0), 0.85, 1),
    (Transpose(learning_rate=0.02, pseudo_label_share=1.0), 0.95, 1),
]
"""Method, the retain accuracy that it keeps at least, in batches of 8, and the networks over which that is a mean.

Of most, runs differ by so little that one will do.
"""


@pytest.mark.parametrize(("method", "kept", "networks"), EFFECTS, ids=lambda value: type(value).__name__)
def test_forgets_and_keeps(
    method: BaseMethod, kept: float, networks: int, originals: list[nn.Module], task: Task
) -> None:
    """The forget loss rises from nearly 0 towards that of unseen images, and the retain set is still known.

    Catches a method that does nothing, learns the forget set again, or destroys the network.
    """
    originals = originals[:networks]
    left = unlearn_each(lambda: method, originals, task, batch_size=8)
    forget_loss = mean_loss(left, task, "forget")
    assert forget_loss > 10 * mean_loss(originals, task, "forget")
    assert forget_loss > 1.1 * mean_loss(left, task, "retain")
    assert mean_accuracy(left, task, "retain") >= kept
    assert mean_loss(left, task, "validation") < 1.5
