"""Every hyper-parameter of every method changes what a run leaves: none is read and ignored.

With its default, or where it only counts together with others, with those of `TOGETHER`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Recipe, Split, Task, TaskSpec
from data.loaders import run_loaders
from data.task import Request
from methods import all_method_handlers
from methods.BaseMethod import HyperParameter, OneOf

METHODS = all_method_handlers()
BATCH = 16

LATE = {"learning_rate": 1.0, "epochs": 12}
SEARCH = {"lambda_": 0.5, "kappa": 0.0}
WHOLE = {"forget": "class"}
LONG = {"largest_drop": 1.0, "rounds": 8}
PASSES = {"largest_drop": 1.0, "epochs": 8}
ANY = 1e9  # of a gap that is tolerated: it decides nothing
NOISY = {"epochs": 6, "tensors": 2, "noise": 0.1}
FAR = {"epochs": 3, "learning_rate": 0.03}

TOGETHER: dict[str, dict[str, dict[str, Any]]] = {
    "sun": {
        **dict.fromkeys(("tensors", "noisy_share", "noise", "whole_first"), NOISY),
        "noise_again": {"epochs": 8, "tensors": 4},
    },
    "gradient_ascent": {"stop_at_chance": LATE},
    "neg_grad": {"capped": LATE},
    "salun": {"from_epoch": {"mode": "soft"}},
    "constrained": {
        "alpha": {"solver": "augmented_lagrange"},
        "refine_multiplier": {"refine_epochs": 3},
        "tolerance": {"stop": "refining", "epochs": 12, "learning_rate": 0.3},
    },
    "perturbed_sign": {
        "published_sign": SEARCH,
        "other_class": {**SEARCH, "steps": 1, "limit": 0.01},
        "compose_epochs": {"compose": True},
        "compose_learning_rate": {"compose": True},
    },
    "adversarial": {
        "stop_step": WHOLE,
        "repair_learning_rate": {**WHOLE, "stop_step": 1},
        "filter_validation": WHOLE,
    },
    "linear_filtration": {"mode": WHOLE},
    "duck": {"retain_batches": {"batch_size": 8}},
    "certified_model_clipping": {"initial_clip": {"fresh_start": False, "model_clip": 10.0}},
    "progressive_saliency": {
        **dict.fromkeys(("last_share", "once"), LONG),
        "accuracy_gap": {**LONG, "attack_gap": ANY},
        "attack_gap": {**LONG, "accuracy_gap": ANY},
    },
    "ams": {"accuracy_gap": {**PASSES, "attack_gap": ANY}, "attack_gap": {**PASSES, "accuracy_gap": ANY}},
    "hirs": {"stop": {"epochs": 6}},
    "retrain": {"class_weights": WHOLE},
    "scar": {
        "self_forget": WHOLE,
        "fix_nearest": FAR,
        "weight_under_80": FAR,
        "epochs_before_stop": {**FAR, **WHOLE, "epochs": 4},
    },
}
"""By method and hyper-parameter: settings with which it counts. `forget` is the request, if not some of each class."""
CERTIFICATE = "the certificate, see test_certified.py"
SEQUENCES = "runs after several requests, see test_ams.py"
ELSEWHERE: dict[str, dict[str, str]] = {
    "adversarial": {"pretrain_steps": "what is prepared, see test_adversarial.py"},
    "ams": dict.fromkeys(("beta", "union", "recalibrate"), SEQUENCES),
    "certified_dp_sgd": dict.fromkeys(("epsilon", "delta", "noise_multiplier", "epochs", "batch_size"), CERTIFICATE),
    "forget": {"keep_shortcuts": "ResNets, see test_winners.py"},
    "ftsu": {"norm_iterations": "a bound in the notes, see test_ftsu.py"},
    "progressive_saliency": {"seconds": "a limit of time"},
}
"""By method and hyper-parameter: what it changes, if not the weights that a run leaves."""


@cache
def small_task(forget: str) -> Task:
    """60 random images of four classes, of which "some" or the first "class" are to be forgotten: 3 batches remain."""
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        images = torch.rand(examples, 1, 8, 8, generator=generator)
        return Split(images, torch.arange(examples) % 4, np.arange(examples).astype(str))

    rows = np.arange(0, 60, 5) if forget == "some" else np.arange(0, 60, 4)
    request = Request("by hand", rows)
    return Task(TaskSpec(), split(60), split(20), split(20), tuple("abcd"), "small_cnn", Recipe(), (request,), "random")


@cache
def trained(forget: str) -> nn.Module:
    """A network that knows the images by heart."""
    task = small_task(forget)
    network = build_network(task, seed=0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(task.train.images), task.train.labels).backward()
        optimizer.step()
    return network.eval()


@cache
def left(name: str, forget: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, torch.Tensor]:
    """The weights after a run, as they would be after any other with these settings."""
    task = small_task(forget)
    network = build_network(task, seed=0)
    network.load_state_dict(trained(forget).state_dict())
    loaders = run_loaders(task, 1, BATCH)
    seed_everything(1)
    METHODS[name](**dict(settings)).run(network.eval(), *loaders)
    return network.state_dict()


def other_values(name: str, parameter: HyperParameter) -> Iterator[Any]:
    """Values that are not the default: those that are searched, and for a number larger and smaller ones."""
    space = METHODS[name].search_space.get(parameter.name)
    values: list[Any] = list(space.choices) if isinstance(space, OneOf) else []
    if parameter.type is bool:
        values.append(not parameter.default)
    elif parameter.type in (int, float):
        values += [parameter.type(value) for value in (parameter.default / 2, 8, parameter.default * 2, 1, 0.01, -1)]
    yield from (value for value in dict.fromkeys(values) if value != parameter.default)


def counts(name: str, parameter: HyperParameter) -> bool:
    """Whether some other value changes the weights that a run leaves."""
    handler = METHODS[name]
    epochs = {"epochs": 2} if "epochs" in handler.hyper_parameters() else {}
    given = {**epochs, **handler.tried_with, **TOGETHER.get(name, {}).get(parameter.name, {})}
    forget = given.pop("forget", "some")
    before = left(name, forget, tuple(given.items()))
    for value in other_values(name, parameter):
        if value == given.get(parameter.name):
            continue
        with suppress(ValueError, RuntimeError, IndexError):  # it has no such value
            after = left(name, forget, tuple({**given, parameter.name: value}.items()))
            if any(not torch.equal(before[key], after[key]) for key in before):
                return True
    return False


PARAMETERS = [
    (name, parameter)
    for name in METHODS
    for parameter in METHODS[name].hyper_parameters().values()
    if any(True for _ in other_values(name, parameter)) and parameter.name not in ELSEWHERE.get(name, {})
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=[f"{name}-{one.name}" for name, one in PARAMETERS])
def test_it_counts(name: str, parameter: HyperParameter) -> None:
    """Catches one that nobody reads, and one whose default is written where it should be read."""
    assert counts(name, parameter), f"{name}: {parameter.name}"


COUNTS = [
    (name, parameter)
    for name in METHODS
    for parameter in METHODS[name].hyper_parameters().values()
    if parameter.type is int and parameter.default > 0
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameter"), COUNTS, ids=[f"{name}-{one.name}" for name, one in COUNTS])
def test_none_is_a_result_or_a_sentence(name: str, parameter: HyperParameter) -> None:
    """0 of whatever is counted: finite weights, or a `ValueError`. Catches a division by zero."""
    epochs = {"epochs": 2} if "epochs" in METHODS[name].hyper_parameters() else {}
    settings = {**epochs, **METHODS[name].tried_with, parameter.name: 0}
    complaint = ""
    try:
        weights = left(name, "some", tuple(settings.items()))
    except ValueError as error:
        complaint, weights = str(error), {}
    assert "\n" not in complaint
    assert complaint[-1:] in ("", "."), "a sentence of ours: PyTorch's have no full stop"
    assert all(bool(value.isfinite().all()) for value in weights.values())


NO_VALUES: dict[str, dict[str, tuple[float, ...]]] = {
    "amun": {"radius": (0.0, -1.0)},
    "duck": {"temperature": (0.0, -2.0), "retain_batches": (-1,)},
    "undo": {"alpha": (-0.1, 1.1)},
    "ft_prune": {"share": (-0.1, 1.1)},
    "salun": {"threshold": (-0.1, 1.1)},
    "lotus": {"retain_fraction": (-0.1, 1.1)},
    "datamodel_matching": {"surrogate_images": (-1,)},
    "finetune": {"epochs": (-1,)},
}
"""By method and hyper-parameter: numbers of its type that mean nothing."""


@pytest.mark.parametrize("name", NO_VALUES)
def test_what_means_nothing_is_refused(name: str) -> None:
    """With a sentence that names it. Catches a search that never ends, a slice from the end, and PyTorch's words."""
    for key, values in NO_VALUES[name].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{key} (is from|must be) .*, not {value}\.$"):
                left(name, "some", ((key, value),))
