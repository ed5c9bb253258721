"""Methods that move classes: boundary_shrink, boundary_expand, unsir, linear_filtration and scar."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import NETWORKS
from checkpoints.workers import seed_everything
from data import Recipe, Split, Task, TaskSpec, load
from data.loaders import run_loaders
from data.task import Request
from methods.BoundaryExpand import BoundaryExpand
from methods.BoundaryShrink import BoundaryShrink, _curvature
from methods.LinearFiltration import LinearFiltration
from methods.Scar import Scar, _distances, _forward
from methods.Unsir import Unsir
from tests.methods.trained_digits import (
    accuracy,
    assert_close,
    gradients,
    loss,
    mean_accuracy,
    mean_loss,
    moves,
    part,
    same,
    unlearn,
    unlearn_each,
)

# ----------------------------------------------------------------------------------------------------------------------
# boundary_shrink
# ----------------------------------------------------------------------------------------------------------------------


def neighbours(original: nn.Module, images: torch.Tensor, labels: torch.Tensor, bound: float) -> torch.Tensor:
    """The logits after a step of `bound` times the range of pixels, away from the label."""
    moved = images.clone().requires_grad_()
    # The gradient of each image is found alone: that of a mean has the same signs.
    (gradient,) = torch.autograd.grad(F.cross_entropy(original(moved), labels, reduction="sum"), moved)
    low, high = float(images.min()), float(images.max())
    with torch.no_grad():
        return original((images + bound * (high - low) * gradient.sign()).clamp(low, high))


@pytest.mark.parametrize("other_class", [False, True])
@pytest.mark.parametrize("freeze_bn", [False, True])
def test_boundary_shrink_step(original: nn.Module, task: Task, other_class: bool, freeze_bn: bool) -> None:
    """One step down the cross-entropy with the class that the original sees across the boundary.

    Catches a step towards the label, a bound in units of normalised pixels, the true class as a target where another
    is asked for, and neighbours of the network in place of the original's.
    """
    images, labels = part(task, "forget")
    logits = neighbours(original, images, labels, bound=0.1)
    assert 0 < int((logits.argmax(dim=1) == labels).sum()) < 30, "some get across, some don't"
    if other_class:
        logits[torch.arange(30), labels] = -torch.inf
    student = copy.deepcopy(original).train(not freeze_bn)
    value = F.cross_entropy(student(images), logits.argmax(dim=1))
    method = BoundaryShrink(epochs=1, learning_rate=0.01, bound=0.1, other_class=other_class, freeze_bn=freeze_bn)
    assert_close(moves(original, unlearn(method, original, task)), [-0.01 * step for step in gradients(student, value)])


def test_boundary_shrink_other_class_is_another(original: nn.Module, task: Task) -> None:
    """No target is the true class, however short the step. Catches an option that changes nothing."""
    images, labels = part(task, "forget")
    low, high = images.amin().view(1, 1, 1), images.amax().view(1, 1, 1)
    for other_class, share in ((True, 0.0), (False, 1.0)):
        method = BoundaryShrink(bound=1e-4, other_class=other_class)
        nearest, weights = method._nearest(original, method._moved(original, images, labels, low, high), labels)
        assert torch.equal(weights, torch.ones(30))
        assert float((nearest == labels).double().mean()) == share


def test_boundary_shrink_reweights(original: nn.Module, task: Task) -> None:
    """An image counts 3 sigmoid(5 (second - first - 0.5)), of the original's probabilities. Catches first - second."""
    images, labels = part(task, "forget")
    with torch.no_grad():
        best = original(images).softmax(dim=1).sort(dim=1, descending=True).values
    _, weights = BoundaryShrink(reweight=True)._nearest(original, images, labels)
    torch.testing.assert_close(weights, 3 / (1 + torch.exp(-5 * (best[:, 1] - best[:, 0] - 0.5))))
    student = copy.deepcopy(original).train()
    logits = neighbours(original, images, labels, bound=0.1)
    sure = logits.softmax(dim=1).sort(dim=1, descending=True).values
    counts = 3 * torch.sigmoid(5 * (sure[:, 1] - sure[:, 0] - 0.5))
    value = (counts * F.cross_entropy(student(images), logits.argmax(dim=1), reduction="none")).mean()
    left = unlearn(BoundaryShrink(epochs=1, learning_rate=0.01, reweight=True), original, task)
    assert_close(moves(original, left), [-0.01 * step for step in gradients(student, value)])


def test_boundary_shrink_curvature(original: nn.Module, task: Task) -> None:
    """|g(x + z) - g(x)| of each image, written out; its change counts, so that none is no loss at all.

    Catches z of norm 1, one direction for all images, and a curvature that the network can't be trained on.
    """
    images, labels = part(task, "forget")

    def gradient(places: torch.Tensor) -> torch.Tensor:
        places = places.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(original(places), labels), places)[0]

    signs = gradient(images).sign()
    ahead = torch.stack([image + 0.9 * one / one.norm() for image, one in zip(images, signs, strict=True)])
    expected = torch.stack([one.norm() for one in gradient(ahead) - gradient(images)])
    torch.testing.assert_close(_curvature(original, images, labels).detach(), expected, rtol=1e-3, atol=1e-6)
    options: dict[str, Any] = {"epochs": 3, "learning_rate": 0.001, "freeze_bn": True}
    plain, held = (unlearn(BoundaryShrink(curvature=weight, **options), original, task) for weight in (0.0, 100.0))
    changes = [float((_curvature(net, images, labels).detach() - expected).norm()) for net in (plain, held)]
    assert changes[1] < changes[0]
    options["epochs"] = 1  # a step from the original, whose curvature is its own: nothing has changed yet
    plain, held = (unlearn(BoundaryShrink(curvature=weight, **options), original, task) for weight in (0.0, 100.0))
    assert_close(moves(original, held), moves(original, plain))


def test_boundary_shrink_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are taken for their neighbours; nothing tells the network to keep the rest, of which much is left."""
    options: dict[str, Any] = {"learning_rate": 0.001, "other_class": True, "freeze_bn": True}
    left = unlearn_each(lambda: BoundaryShrink(**options), originals, one_class)
    assert mean_accuracy(left, one_class, "forget") < 0.3
    assert mean_accuracy(left, one_class, "retain") > 0.4
    assert mean_loss(left, one_class, "validation") > mean_loss(originals, one_class, "validation")


# ----------------------------------------------------------------------------------------------------------------------
# boundary_expand
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["small_cnn", "all_cnn", "mlp"])
def test_boundary_expand_step(network: str, task: Task) -> None:
    """One step down the cross-entropy of class 10 of 0 to 10; the outputs, and the parameters, are the ones there were.

    Catches known bug B7 (the shadow class left in the network), a label within the classes, and new parameters, of
    which an optimizer or a caller that holds the old ones would not know.
    """
    torch.manual_seed(0)
    before = NETWORKS[network](1, 8, 10)
    net = copy.deepcopy(before).eval()
    owned = [id(weight) for weight in net.parameters()]
    names = {name: value.shape for name, value in net.state_dict().items()}
    torch.manual_seed(5)
    left = unlearn_in_place(BoundaryExpand(epochs=1, learning_rate=0.01, initial_deviation=0.0), net, task)
    assert [id(weight) for weight in left.parameters()] == owned
    assert {name: value.shape for name, value in left.state_dict().items()} == names

    images, _ = part(task, "forget")
    student = copy.deepcopy(before).train()
    logits = student(images)  # a shadow class of weights 0 has the logit 0
    shadow = torch.zeros(len(images), 1)
    value = F.cross_entropy(torch.cat([logits, shadow], dim=1), torch.full((len(images),), 10))
    assert_close(moves(before, left), [-0.01 * step for step in gradients(student, value)])


def unlearn_in_place(method: Any, network: nn.Module, task: Task) -> nn.Module:
    """The network itself after a run, not a copy."""
    method.run(network, *run_loaders(task, 1))
    return network


def test_boundary_expand_draws_the_shadow(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """As asked for, or as a new layer is drawn, its bias too. Catches a deviation that is ignored."""
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []
    sgd = torch.optim.SGD

    def look(parameters: Any, **options: Any) -> torch.optim.SGD:
        weights = list(parameters)
        drawn.append((weights[-2][-1].detach().clone(), weights[-1][-1].detach().clone()))
        return sgd(weights, **options)

    monkeypatch.setattr(torch.optim, "SGD", look)
    original = NETWORKS["small_cnn"](1, 8, 10).eval()
    for deviation in (0.0, 0.5, -1.0):
        for seed in range(20):
            unlearn(BoundaryExpand(epochs=0, initial_deviation=deviation), original, task, seed)
    weights, biases = (torch.stack(values).view(3, 20, -1) for values in zip(*drawn, strict=True))
    assert torch.all(weights[0] == 0)
    assert float(weights[1].std()) == pytest.approx(0.5, rel=0.15)
    assert float(weights[2].abs().max()) <= 0.25 == 16**-0.5
    assert float(weights[2].std()) == pytest.approx(0.25 / 3**0.5, rel=0.1)
    assert torch.all(biases[:2] == 0)
    assert float(biases[2].std()) > 0.05


def test_boundary_expand_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are no longer fours; nothing tells the network to keep the rest, of which much is left."""
    left = unlearn_each(lambda: BoundaryExpand(learning_rate=5e-5, freeze_bn=True), originals, one_class)
    assert mean_loss(left, one_class, "forget") > 10 * mean_loss(originals, one_class, "forget")
    assert mean_accuracy(left, one_class, "forget") < 0.2
    assert mean_accuracy(left, one_class, "retain") > 0.6
    assert mean_loss(left, one_class, "validation") > mean_loss(originals, one_class, "validation")


# ----------------------------------------------------------------------------------------------------------------------
# unsir
# ----------------------------------------------------------------------------------------------------------------------


Stage = tuple[torch.Tensor, torch.Tensor]


def stages(method: Unsir, original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """Images and labels that the method would impair and repair on."""
    seen: list[Stage] = []
    monkeypatch.setattr(Unsir, "_train", lambda self, net, images, labels, rate, epochs: seen.append((images, labels)))
    unlearn(method, original, task)
    return seen


def test_unsir_data(original: nn.Module, one_class: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is labelled with its class and comes in copies; of each retained class there are a few images.

    Catches known bug B8 (label 0 whatever the class), as many noise images as channels, forgotten images kept, and
    images and labels from two passes over a loader that shuffles.
    """
    method = Unsir(noise_images=7, noise_copies=3, retain_images=5, noise_steps=1)
    (impair, impair_labels), (repair, repair_labels) = stages(method, original, one_class, monkeypatch)
    assert len(impair) == len(impair_labels) == 7 * 3 + 9 * 5
    assert impair_labels[:21].tolist() == [4] * 21
    assert len(impair[:21].flatten(1).unique(dim=0)) == 7
    assert torch.bincount(repair_labels, minlength=10).tolist() == [5, 5, 5, 5, 0, 5, 5, 5, 5, 5]
    assert torch.equal(impair[21:], repair)
    assert torch.equal(impair_labels[21:], repair_labels)
    assert torch.equal(original(repair).argmax(dim=1), repair_labels), "it knows them by heart"


def test_unsir_mixed_forget_set(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class has as many noise images as forgotten ones, each labelled with it."""
    method = Unsir(noise_images=256, noise_copies=2, noise_steps=1)
    (_, labels), _ = stages(method, original, task, monkeypatch)
    assert torch.bincount(labels[:60]).tolist() == (2 * torch.bincount(part(task, "forget")[1])).tolist()


def test_unsir_noise_is_wrong_for_its_class(original: nn.Module, task: Task) -> None:
    """Steps raise the cross-entropy, and a penalty keeps the noise small. Catches the wrong sign of either."""
    images, labels = part(task, "forget")

    def learned(steps: int, penalty: float) -> tuple[float, float]:
        torch.manual_seed(0)
        noise = Unsir(noise_steps=steps, penalty=penalty)._learn_noise(copy.deepcopy(original), images, labels)
        with torch.no_grad():
            error = F.cross_entropy(original(noise), labels)
        return float(error), float(noise.square().sum(dim=(1, 2, 3)).mean())

    assert learned(40, penalty=0.0)[0] > learned(0, penalty=0.0)[0] + 1
    assert learned(40, penalty=0.0)[1] > learned(0, penalty=0.0)[1]
    assert learned(40, penalty=10.0)[1] < 0.1 * learned(0, penalty=0.0)[1]


def test_unsir_leaves_gradients_of_the_network_alone(original: nn.Module, task: Task) -> None:
    """While noise is learned the network stands still, statistics included. Catches train mode, as published."""
    network = copy.deepcopy(original)
    Unsir()._learn_noise(network, *part(task, "forget"))
    assert same(network, original)
    assert all(weight.grad is None for weight in network.parameters())


def test_unsir_can_learn_in_train_mode(original: nn.Module, task: Task) -> None:
    """As published: the noise gets into the statistics of batch normalisation; weights stand still all the same."""
    network = copy.deepcopy(original)
    Unsir(learn_in_train_mode=True)._learn_noise(network, *part(task, "forget"))
    assert all(torch.equal(*pair) for pair in zip(original.parameters(), network.parameters(), strict=True))
    assert not torch.equal(original.get_buffer("1.running_mean"), network.get_buffer("1.running_mean"))


def test_unsir_rates(original: nn.Module, one_class: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, impairing and repairing have their own, impairing is one epoch. Catches rates that are exchanged."""
    trained: list[tuple[float, int]] = []
    monkeypatch.setattr(Unsir, "_train", lambda self, net, x, y, rate, epochs: trained.append((rate, epochs)))
    unlearn(Unsir(impair_rate=0.5, repair_rate=0.25, repair_epochs=3, noise_steps=1), original, one_class)
    assert trained == [(0.5, 1), (0.25, 3)]
    images, labels = part(one_class, "forget")
    short, long = (
        Unsir(noise_rate=rate, noise_steps=5)._learn_noise(copy.deepcopy(original), images, labels)
        for rate in (1e-9, 0.1)
        if torch.manual_seed(0)
    )
    assert 0.05 < float((long - short).abs().mean()) <= 0.5, "five steps of Adam, of at most 0.1"


def test_unsir_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are lost, the rest is repaired."""
    left = unlearn_each(lambda: Unsir(batch_size=64, repair_epochs=4), originals, one_class)
    assert mean_accuracy(left, one_class, "forget") < 0.6
    assert mean_accuracy(left, one_class, "retain") > 0.8
    assert mean_loss(left, one_class, "validation") > mean_loss(originals, one_class, "validation")


# ----------------------------------------------------------------------------------------------------------------------
# linear_filtration
# ----------------------------------------------------------------------------------------------------------------------


def small_task(forget: Any, classes: int = 4) -> tuple[nn.Module, Task]:
    """Random images in float64, the class of image i being i % classes, and a random network with enough features."""
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        labels = torch.arange(examples) % classes
        images = torch.randn(examples, 1, 2, 4, generator=generator, dtype=torch.float64)
        images[:, 0, 0] += 2 * F.one_hot(labels, 4)
        return Split(images, labels, np.arange(examples).astype(str))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes)).double().eval()
    request = Request("by hand", np.array(forget))
    names = tuple("abcd"[:classes])
    return network, Task(TaskSpec(), split(40), split(24), split(8), names, "mlp", Recipe(), (request,), "random")


def mean_logits(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Column c is the mean of the logits of class c."""
    with torch.no_grad():
        logits = network(images)
    return torch.stack([logits[labels == label].mean(dim=0) for label in range(4)], dim=1)


@pytest.mark.parametrize("mode", ["normalization", "zeroing", "naive"])
def test_linear_filtration_reaches_what_is_wanted(mode: str) -> None:
    """F A = B to 1e-8: measured on the network that it leaves, the mean logits are B.

    Catches a filter from the wrong side (A^-1 B), a bias that is not filtered, and means that are not by class.
    """
    network, task = small_task(range(1, 40, 4))  # class 1
    means = mean_logits(network, task.train.images, task.train.labels)
    kept = [0, 2, 3]
    wanted = means.clone()
    if mode == "normalization":
        wanted[kept, 1] += means[kept][:, kept].mean() - means[kept, 1].mean()
    if mode == "zeroing":
        wanted[kept, 1] = 0
    wanted[1] = wanted[kept].min(dim=0).values
    left = unlearn(LinearFiltration(mode=mode), network, task)
    found = mean_logits(left, task.train.images, task.train.labels)
    assert float((found - wanted).abs().max()) < 1e-8
    assert float((means - wanted).abs().max()) > 0.01


def test_linear_filtration_is_absorbed_by_the_head() -> None:
    """The network's logits are F times the original's, F being the same for all images; features are untouched."""
    network, task = small_task(range(1, 40, 4))
    left = unlearn(LinearFiltration(), network, task)
    images = task.test.images
    with torch.no_grad():
        before, after = network(task.train.images), left(task.train.images)
        filtration = torch.linalg.lstsq(before, after).solution.T
        torch.testing.assert_close(left(images), network(images) @ filtration.T)
    assert torch.equal(left.state_dict()["1.weight"], network.state_dict()["1.weight"])


def test_linear_filtration_randomization() -> None:
    """The removed class's mean logits are standard normal and other in every run; the others stay."""
    network, task = small_task(range(1, 40, 4))
    means = mean_logits(network, task.train.images, task.train.labels)
    found = [
        mean_logits(unlearn(LinearFiltration(mode="randomization"), network, task, seed), *both(task))
        for seed in range(60)
    ]
    drawn = torch.stack([each[[0, 2, 3], 1] for each in found])  # (60, 3)
    assert abs(float(drawn.std()) - 1) < 0.25
    assert abs(float(drawn.mean())) < 0.3
    for each in found:
        torch.testing.assert_close(each[[0, 2, 3]][:, [0, 2, 3]], means[[0, 2, 3]][:, [0, 2, 3]])


def both(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images and labels."""
    return task.train.images, task.train.labels


def test_linear_filtration_of_a_mixed_forget_set() -> None:
    """Unlimited, the forget set's mean logits become the validation set's; limited, F - I has the norm allowed.

    Catches A_f A_v^-1, and a limit that shortens every change or none.
    """
    network, task = small_task([*range(0, 8), 13, 18, 23])
    forgotten = task.train.images[task.request_indices], task.train.labels[task.request_indices]
    unseen = mean_logits(network, task.validation.images, task.validation.labels)
    left = unlearn(LinearFiltration(largest_change=1e9), network, task)
    assert float((mean_logits(left, *forgotten) - unseen).abs().max()) < 1e-8
    assert float((mean_logits(network, *forgotten) - unseen).abs().max()) > 0.01

    assert same(unlearn(LinearFiltration(largest_change=0.0), network, task), network)
    limited = unlearn(LinearFiltration(largest_change=0.1), network, task)
    with torch.no_grad():
        filtration = torch.linalg.lstsq(network(task.train.images), limited(task.train.images)).solution.T
    norm = torch.linalg.matrix_norm(filtration - torch.eye(4, dtype=torch.float64), ord=2)
    assert abs(float(norm) - 0.1) < 1e-8


def test_linear_filtration_ridge_shrinks_the_change() -> None:
    """The larger the ridge, the closer F is to I; a tiny one gives the inverse. Catches a ridge pulling F to 0."""
    means = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sizes = [float(LinearFiltration(ridge=ridge)._filter(means, wanted).norm()) for ridge in (1e-12, 1.0, 1e9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 1e-6
    exact = LinearFiltration()._filter(means, wanted)
    torch.testing.assert_close((torch.eye(4, dtype=torch.float64) + exact) @ means, wanted, rtol=0, atol=1e-8)


def test_linear_filtration_refuses(original: nn.Module, task: Task) -> None:
    """An unknown mode is said by name, even where the forget set does not need one; and a task without a rest."""
    with pytest.raises(ValueError, match="mode is normalization, randomization, zeroing or naive, not 'drop'"):
        unlearn(LinearFiltration(mode="drop"), original, task)
    with pytest.raises(ValueError, match="needs a class to retain"):
        LinearFiltration()._wanted(torch.eye(3, dtype=torch.float64), torch.tensor([True, True, True]))


def test_linear_filtration_effect(originals: list[nn.Module], one_class: Task) -> None:
    """Fours are hardly answered any more, and the rest is nearly as good as before."""
    left = unlearn_each(LinearFiltration, originals, one_class)
    assert mean_accuracy(left, one_class, "forget") < 0.2
    assert mean_accuracy(left, one_class, "retain") > 0.85
    assert mean_loss(left, one_class, "validation") > mean_loss(originals, one_class, "validation")


# ----------------------------------------------------------------------------------------------------------------------
# scar
# ----------------------------------------------------------------------------------------------------------------------


def test_scar_features(original: nn.Module, task: Task) -> None:
    """Roots of what the last layer gets; no hook stays. Catches features after the layer, or not transformed."""
    images, _ = part(task, "forget")
    logits, features = _forward(original, images)
    torch.testing.assert_close(features**2 - 1e-6, original[:-1](images))  # type: ignore[index]
    torch.testing.assert_close(logits, original(images))
    assert not any(module._forward_pre_hooks for module in original.modules())


def test_scar_clusters() -> None:
    """Mean and inverse of a class's covariance, shrunk twice and scaled to a correlation matrix, written out.

    Catches a single shrinking, a covariance of all classes together, and a diagonal that is not 1.
    """
    features = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 2
    means, inverses = Scar(gamma=3.0)._clusters(features, labels, classes=3)
    for label in (0, 1):
        chosen = features[labels == label].double().numpy()
        covariance = np.cov(chosen.T)
        for _ in range(2):
            off = ~np.eye(3, dtype=bool)
            covariance = covariance + 3 * np.eye(3) * covariance.diagonal().mean() + 3 * off * covariance[off].mean()
        scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
        np.testing.assert_allclose(inverses[label].numpy(), np.linalg.inv(covariance / scale), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(means[label].numpy(), chosen.mean(axis=0), rtol=1e-5)
    assert bool(means[2].isnan().all()), "nothing is known of a class without images"


def test_scar_distances() -> None:
    """With unit matrices: squared, of vectors of norm 1; infinite to the own class, and to one without images."""
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [torch.nan, torch.nan]])
    inverses = torch.eye(2).repeat(4, 1, 1)
    inverses[3] = torch.nan
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    found = _distances(features, torch.tensor([0, 2]), means, inverses)
    near = (1 - 0.5**0.5) ** 2 + 0.5
    torch.testing.assert_close(found, torch.tensor([[torch.inf, 2, near, torch.inf], [2, 0, torch.inf, torch.inf]]))
    (gradient,) = torch.autograd.grad(found[found.isfinite()].sum(), features)
    assert bool(gradient.isfinite().all())


@pytest.mark.usefixtures("sgd_for_adam")
def test_scar_step(original: nn.Module, task: Task) -> None:
    """One step down lambda_1 d + lambda_2 KL(original || network), the nearest class of each image taken out.

    Catches KL's sides exchanged, either weight ignored, the distance to all classes, and weights for classes that
    are known well.
    """
    net = copy.deepcopy(original)
    images, labels = part(task, "retain")
    with torch.no_grad():
        means, inverses = Scar()._clusters(_forward(net, images)[1], labels, 10)
    forgotten, own = part(task, "forget")
    surrogates, _ = part(task, "validation")
    net.train()
    shift = F.normalize(_forward(net, forgotten)[1], dim=1)[:, None] - F.normalize(means, dim=1)
    distances = torch.einsum("bkd,kde,bke->bk", shift, inverses, shift)
    others = [
        min(value for k, value in enumerate(row) if k != label) for row, label in zip(distances, own, strict=True)
    ]
    with torch.no_grad():
        wanted = F.softmax(original(surrogates), dim=1)
    chosen = torch.arange(len(surrogates))  # as many surrogates as there are
    learned = F.log_softmax(net(surrogates[chosen]), dim=1)
    divergence = (wanted * (wanted.log() - learned)).sum(dim=1).mean()
    expected = [-0.01 * step for step in gradients(net, 2 * torch.stack(others).mean() + 3 * divergence)]
    method = Scar(
        epochs=1, steps_per_batch=1, learning_rate=0.01, lambda_1=2.0, lambda_2=3.0, surrogate_batch_size=9999
    )
    assert_close(moves(original, unlearn(method, original, task)), expected)


@pytest.mark.slow
def test_scar_steps(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """`steps_per_batch` for each batch of the forget set in each epoch: 6 * 30 of Adam by default, as published."""
    steps = []
    step = torch.optim.Adam.step

    def spy(optimizer: torch.optim.Adam, *args: Any) -> Any:
        steps.append(1)
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    never = {"learning_rate": 0.0}
    for settings, count in (({}, 180), ({"epochs": 2, "steps_per_batch": 3, "batch_size": 16}, 12)):
        steps.clear()
        unlearn(Scar(**never, **settings), original, task)
        assert len(steps) == count


def test_scar_fixes_the_nearest_class(original: nn.Module, one_class: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step an image keeps its target, though another class gets nearer; else it does not."""
    chosen: list[torch.Tensor] = []
    gather = torch.Tensor.gather
    generator = torch.Generator().manual_seed(0)

    def look(values: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
        chosen.append(index[:, 0].clone())
        return gather(values, dim, index)

    def by_chance(features: torch.Tensor, own: torch.Tensor, *clusters: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(own), 10, generator=generator) + 0 * features.sum(dim=1, keepdim=True)

    monkeypatch.setattr(torch.Tensor, "gather", look)
    monkeypatch.setattr("methods.Scar._distances", by_chance)
    # So that images can be told by their places.
    monkeypatch.setattr(torch, "randperm", lambda count, **options: torch.arange(count))
    for fixed in (True, False):
        chosen.clear()
        unlearn(Scar(fix_nearest=fixed, epochs=3, epochs_before_stop=9), original, one_class)
        assert len(chosen) == 18
        later = torch.stack(chosen[1:])  # (steps, images)
        assert bool((later == chosen[0]).all()) == fixed


def test_scar_counts_classes_that_are_forgotten_less(original: nn.Module, task: Task) -> None:
    """Where no whole class goes, and its forget accuracy is under 0.8; for whole classes never."""
    net = copy.deepcopy(original)
    _, labels = part(task, "forget")
    with torch.no_grad():
        net.get_parameter("11.bias")[int(labels[0])] = -100  # one class is not told any more
    one, other = (unlearn(Scar(epochs=1, weight_under_80=weight), net, task) for weight in (1.0, 0.0))
    assert not same(one, other)
    known = (
        unlearn(Scar(epochs=1, steps_per_batch=1, weight_under_80=weight), original, task) for weight in (1.0, 0.0)
    )
    assert same(*known), "all of them are known"


def test_scar_forgets_by_surrogates(original: nn.Module, one_class: Task, task: Task) -> None:
    """ "Self-forget": without an image of the forget set. Catches images of another class that are moved."""
    method = Scar(self_forget=True, epochs=5, learning_rate=0.005)
    left = unlearn(method, original, one_class)
    assert accuracy(left, one_class, "forget") < accuracy(original, one_class, "forget")
    removed = torch.arange(10) == 4
    *_, taken = Scar._surrogates(copy.deepcopy(original), run_loaders(one_class, 1)[2], removed)
    assert set(taken.labels.tolist()) == {4}
    with torch.no_grad():
        assert torch.all(original(taken.images).argmax(dim=1) == 4)
    with pytest.raises(ValueError, match="self_forget needs surrogates"):
        unlearn(Scar(self_forget=True), original, task)


def test_scar_surrogates_of_a_removed_class(original: nn.Module, one_class: Task) -> None:
    """Images taken for it are left out, and its probability is the smallest. Catches a teacher that still knows it."""
    removed = torch.arange(10) == 4
    images, answers, _ = Scar._surrogates(copy.deepcopy(original), run_loaders(one_class, 1)[2], removed)
    with torch.no_grad():
        assert not bool((original(images).argmax(dim=1) == 4).any())
    assert 200 < len(images) < 300
    assert bool((answers[:, 4] <= answers.min(dim=1).values).all())
    torch.testing.assert_close(answers.exp().sum(dim=1), torch.ones(len(images)))


def test_scar_distils(original: nn.Module, task: Task) -> None:
    """With distillation the answers on the validation set stay nearer. Catches a loss without it."""
    images, _ = part(task, "validation")
    distances = []
    for lambda_2 in (0.0, 5.0):
        left = unlearn(Scar(epochs=5, learning_rate=0.003, lambda_2=lambda_2), original, task)
        with torch.no_grad():
            learned, wanted = (F.log_softmax(network(images), dim=1) for network in (left, original))
        distances.append(float(F.kl_div(learned, wanted, reduction="batchmean", log_target=True)))
    assert distances[1] < 0.5 * distances[0]


def test_scar_stops(original: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step from the third epoch on after which the forget accuracy is below the target: .985 here.

    The target is the original's validation accuracy less 0.015. Catches a stop at 0.01, which is for whole classes, a
    look after epochs alone, one before the third epoch, and none.
    """
    target = accuracy(original, task, "validation") - 0.015
    settings: dict[str, Any] = {"learning_rate": 0.01, "lambda_2": 0.1, "batch_size": 16, "steps_per_batch": 3}
    after: list[float] = []
    step = torch.optim.Adam.step
    network = copy.deepcopy(original)

    def spy(optimizer: torch.optim.Adam, *args: Any) -> Any:
        done = step(optimizer, *args)
        mode = network.training
        after.append(accuracy(network.eval(), task, "forget"))
        network.train(mode)
        return done

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    seed_everything(1)
    Scar(**settings).run(network, *run_loaders(task, 1))
    assert min(after[:12]) < target, "it would have been enough earlier"
    assert len(after) > 12
    assert all(value >= target for value in after[12:-1])
    assert after[-1] < target
    assert not network.training


@pytest.mark.slow
@pytest.mark.parametrize(("freeze_bn", "most"), [(False, 0.2), (True, 0.05)])
def test_scar_forgets_a_class_with_published_values(freeze_bn: bool, most: float) -> None:
    """Of the digits as they are graded: few fours are told, and of others' test images 5 in 100 less at most.

    As published, some originals keep a sixth of the fours (0.07 over 8 of them). Catches a twelfth of the steps, which
    leaves them all.
    """
    task = load(TaskSpec("digits", forget=("class:4",)))
    originals = [trained_on(task, seed) for seed in range(3)]
    left = unlearn_each(lambda: Scar(freeze_bn=freeze_bn), originals, task)
    assert mean_accuracy(left, task, "forget") <= most
    others = task.test.labels != 4

    def kept(networks: list[nn.Module]) -> float:
        with torch.no_grad():
            hits = [(net(task.test.images).argmax(dim=1) == task.test.labels)[others] for net in networks]
        return float(torch.stack(hits).double().mean())

    assert kept(left) > kept(originals) - 0.05


def trained_on(task: Task, seed: int) -> nn.Module:
    """A network that knows the training set of a task."""
    network = NETWORKS[task.network](1, 8, 10)
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for rows in (rows for _ in range(40) for rows in torch.randperm(len(task.train)).split(50)):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(task.train.images[rows]), task.train.labels[rows]).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize(("surrogate", "learning_rate"), [("validation", 0.005), ("forget", 0.0005)])
def test_scar_effect(original: nn.Module, one_class: Task, surrogate: str, learning_rate: float) -> None:
    """Fours go to their neighbours, and the rest is held."""
    left = unlearn(Scar(epochs=30, learning_rate=learning_rate, surrogate=surrogate), original, one_class)
    assert accuracy(left, one_class, "forget") < 0.5
    assert accuracy(left, one_class, "retain") > 0.8
    assert loss(left, one_class, "validation") > loss(original, one_class, "validation")


def test_scar_effect_on_a_mixed_forget_set(original: nn.Module, task: Task) -> None:
    """Forget loss up, retain accuracy held."""
    left = unlearn(Scar(epochs=30, learning_rate=0.003), original, task)
    assert loss(left, task, "forget") > 3 * loss(original, task, "forget")
    assert accuracy(left, task, "retain") > 0.9


def test_scar_unknown_surrogate(original: nn.Module, task: Task) -> None:
    """A typing error must not be taken for the default."""
    with pytest.raises(ValueError, match="surrogate is validation or forget, not 'imagenet'"):
        unlearn(Scar(surrogate="imagenet"), original, task)


@pytest.mark.parametrize(
    "method", [Unsir(noise_steps=2), Scar(epochs=2), BoundaryExpand(), BoundaryShrink(batch_size=8)]
)
def test_same_seed_same_bits(method: Any, original: nn.Module, task: Task) -> None:
    """The same seed gives the same bits, another seed others."""
    first, again, other = (unlearn(method, original, task, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
