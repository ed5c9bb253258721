"""On a pruned network every registered method keeps the mask, because the grader sees to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from checkpoints.networks import build_network
from checkpoints.pruning import prune_smallest
from data import Recipe, UserError
from evaluation.isolation.call import original_network, unlearn_once
from evaluation.isolation.structure import check_structure, fresh_network
from evaluation.runs.resolve import settings_in_force
from methods import all_method_handlers
from tests.methods.test_contract import make_task

SMALL = {"epochs": 2, "warm_up_steps": 1}
"""Values with which methods that have these hyper-parameters are quick; two epochs, so that momentum has an effect."""


@pytest.mark.parametrize("name", all_method_handlers())
def test_every_method_keeps_the_mask(name: str) -> None:
    """What is pruned is exactly 0 afterwards, and what is not has changed; no hook is left.

    Catches a mask that is not enforced in the end, one that freezes what is not pruned, and one that the grader forgets
    to take off. (Most methods fail the first without the grader: weights come back with the first step.)
    """
    task = make_task(train=60, forget=range(0, 40, 2))
    task = replace(task, recipe=Recipe(pruning="omp", sparsity=0.5))
    original = build_network(task, seed=0)
    mask = prune_smallest(original, 0.5)
    handler = all_method_handlers()[name]
    known = {key: value for key, value in SMALL.items() if key in handler.hyper_parameters()}
    settings = {**known, **handler.tried_with}
    before = {key: value.clone() for key, value in original.state_dict().items()}
    left = unlearn_once(name, settings, task, original_network(task, before), seed=1).net
    check_structure(build_network(task), left, name)
    state = fresh_network(task, left.state_dict(), name).state_dict()
    assert all(bool((state[key][pruned] == 0).all()) for key, pruned in mask.items())
    changed = [key for key, value in before.items() if not torch.equal(value, state[key])]
    assert bool(changed) != handler.leaves_original
    if any(key in mask for key in changed):
        revived = sum(int((state[key][~pruned] != 0).sum()) for key, pruned in mask.items())
        assert revived > 0.5 * sum(int((~pruned).sum()) for pruned in mask.values())


def test_a_method_computes_with_the_mask() -> None:
    """Not only in the end: while it fine-tunes, outputs are those of the masked network, so that training under the
    mask and masking afterwards differ. Catches an enforcement in the end alone."""
    task = make_task(train=60, forget=range(0, 40, 2))
    original = build_network(task, seed=0)
    prune_smallest(original, 0.5)
    states = []
    for recipe in (Recipe(), Recipe(pruning="omp", sparsity=0.5)):
        net, changed = original_network(task, original.state_dict()), replace(task, recipe=recipe)
        left = unlearn_once("finetune", {"epochs": 5, "learning_rate": 0.1}, changed, net, seed=1)
        states.append(left.net.state_dict())
    dense, pruned = states
    kept = pruned["0.weight"] != 0
    assert not torch.equal(dense["0.weight"][kept], pruned["0.weight"][kept])


@pytest.mark.parametrize("name", [name for name, handler in all_method_handlers().items() if handler.certifies])
def test_nothing_is_certified_with_a_mask_that_was_learned(name: str) -> None:
    """The mask stays in what is released, whatever noise is added; SynFlow's looks at no image, and may stay."""
    for pruning in ("omp", "imp"):
        with pytest.raises(UserError, match=f"can't certify networks pruned by {pruning}"):
            settings_in_force(name, {}, Recipe(pruning=pruning, sparsity=0.5))
    assert settings_in_force(name, {}, Recipe(pruning="synflow", sparsity=0.5))
