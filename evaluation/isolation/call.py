"""Calling a method's `run` or `prepare`: what happens in its own process, and in nobody else's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from checkpoints.devices import compute_seconds
from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.pruning import pruned_weights, zero, zero_before_forward
from checkpoints.workers import be_deterministic, seed_everything
from data import Task
from data.loaders import ExampleDataset, TensorLoader, loader_seed, run_datasets, run_loaders
from evaluation.isolation.watched import WatchedDataset
from methods import all_method_handlers
from methods.BaseMethod import BaseMethod
from methods.registry import Place, find_class

Datasets = tuple[ExampleDataset, ExampleDataset, ExampleDataset]


class Unlearning(NamedTuple):
    """What one call of a method's `run` came to."""

    net: nn.Module
    seconds: float
    """Of `compute_seconds`, by the clock of the process that the method ran in."""
    notes: Any
    """The method's `notes`; None if it has left none."""
    memory: dict[str, Tensor]
    """The method's `memory`: what it keeps for the next request, on the CPU."""
    read_forget_set: bool | None = None
    """Whether it read an example of the forget set; None if nobody watched: the method does not certify."""


def unlearn_once(
    method: str | Place,
    hyper_parameters: Mapping[str, Any],
    task: Task,
    net: nn.Module,
    seed: int,
    memory: Mapping[str, Tensor] = MappingProxyType({}),
    prepared: Mapping[str, Tensor] = MappingProxyType({}),
    datasets: Datasets | None = None,
) -> Unlearning:
    """Call the method's `run` on `net`, in this process, whatever that does to it.

    Args:
        method: its registered name; or where it is, if it is none of the kit's.
        net: see `original_network`; it is changed.
        seed: of all global generators, and of the order of the batches.
        memory: what the method has left for itself after the request before.
        prepared: what it has prepared for the original.
        datasets: `run_datasets(task)`, if they are there already.
    """
    device = str(task.train.images.device)
    reset_globals(seed, device)
    handler = make_method(method, hyper_parameters)
    if memory:
        handler.memory = {name: value.to(device, copy=True) for name, value in memory.items()}
    if prepared:
        handler.prepared = {name: value.to(device, copy=True) for name, value in prepared.items()}
    retain, forget, validation = datasets or run_datasets(task)
    watched = WatchedDataset(forget) if handler.certifies else None
    loaders = run_loaders(task, seed, datasets=(retain, forget if watched is None else watched, validation))
    try:
        with _kept_pruned(net, task):
            began = compute_seconds(device)
            handler.run(net, *loaders)
            seconds = compute_seconds(device) - began
    finally:  # where no process is made for each run, the next one is another's
        reset_globals(seed, device)
    kept = {name: value.cpu() for name, value in getattr(handler, "memory", {}).items()}
    read = None if watched is None else watched.was_read
    return Unlearning(net, seconds, getattr(handler, "notes", None), kept, read)


def prepare_once(
    method: str | Place, hyper_parameters: Mapping[str, Any], task: Task, net: nn.Module, seed: int
) -> dict[str, Tensor]:
    """Call the method's `prepare` for the original `net`: what it returns, on the CPU."""

    def loader(name: str) -> TensorLoader:
        generator = torch.Generator().manual_seed(loader_seed(seed, name))
        return TensorLoader(ExampleDataset(getattr(task, name)), 64, shuffle=True, generator=generator)

    be_deterministic(str(task.train.images.device))
    loaders = loader("train"), loader("validation")
    seed_everything(seed)
    tensors = make_method(method, hyper_parameters).prepare(net, *loaders)
    return {name: value.cpu() for name, value in tensors.items()}


def original_network(task: Task, weights: State) -> nn.Module:
    """A network with these weights as a method gets it: on the task's device, in eval mode.

    On Kaggle, all calls but the first get the network in eval mode.
    """
    net = build_network(task)
    net.load_state_dict(weights)
    return net.to(task.train.images.device).eval()


def make_method(method: str | Place, hyper_parameters: Mapping[str, Any]) -> BaseMethod:
    """A method with these hyper-parameters: see `unlearn_once`."""
    handler = find_class(method) if isinstance(method, Place) else all_method_handlers()[method]
    return handler(**hyper_parameters)


def reset_globals(seed: int, device: str) -> None:
    """Seed all global generators and undo what an earlier run may have changed in PyTorch."""
    be_deterministic(device)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    seed_everything(seed)


@contextlib.contextmanager
def _kept_pruned(net: nn.Module, task: Task) -> Iterator[None]:
    """Whatever a method does to a network of a pruned bank, what is pruned is 0 whenever it computes, and in the end.

    That holds for copies of the network that the method makes, too, and costs a method nothing in a dense bank.
    """
    if task.recipe.pruning == "none":
        yield
        return
    mask = pruned_weights(net)
    hook = net.register_forward_pre_hook(partial(zero_before_forward, mask))
    try:
        yield
    finally:
        hook.remove()
    zero(net, mask)


def warm_up(task: Task, datasets: Datasets) -> None:
    """Compute once what any method computes: gradients of batches of all sizes, and steps of the usual optimisers.

    PyTorch loads parts of itself, and makes code for shapes that it has not seen, the first time. Done before a process
    is forked for a run, that is no run's cost.
    """
    net = build_network(task).to(task.train.images.device)
    sizes = {len(dataset) % task.recipe.batch_size for dataset in datasets} | {task.recipe.batch_size}
    for size in sorted(sizes - {0, 1}):  # batch normalisation can't train on one image
        batch = datasets[0].batch([index % len(datasets[0]) for index in range(size)])
        for make in (partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam):
            optimizer = make(net.train().parameters(), lr=1e-3)
            nn.functional.cross_entropy(net(batch["image"]), batch["age_group"]).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            net.eval()(batch["image"])
