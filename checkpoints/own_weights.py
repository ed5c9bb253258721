"""Weights that somebody has trained elsewhere, for the network of a task: read in the forms that people have.

That is a state_dict, saved by `torch.save` or as safetensors: by itself or inside a checkpoint, with the prefixes of
DataParallel, torch.compile and the like, in any precision, pruned by `torch.nn.utils.prune` or not. Nothing is
unpickled but tensors and plain values, so no code of the file runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from checkpoints.grouped import State
from checkpoints.networks import NETWORKS, build_network
from data.errors import UserError
from data.texts import printable
from data.weights import WeightsError, load_tensors

if TYPE_CHECKING:
    from data import Task

USUAL_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where a checkpoint has its weights; of several entries that fit, the first of these is meant."""
WRAPPERS = ("module", "_orig_mod", "_module")
"""What DataParallel (and AveragedModel), torch.compile and Opacus put between the names of modules."""
COUNTERS = ("n_averaged", "total_ops", "total_params")
"""Last parts of the names of what AveragedModel and thop add to weights."""
DEEPEST = 3
"""Entries within entries in which weights are looked for."""
NAMED = 3
"""Weights that a message names, of each kind."""


def read_weights(path: Path, task: Task, tell: Callable[[str], object] = lambda text: None) -> State:
    """The weights in a file, for `build_network(task)`, on the CPU and in that network's types.

    `tell` is called with a sentence for what had to be chosen.

    Raises:
        UserError: the file can't be read, or holds no weights, or those of another network, or NaN or infinite ones.
    """
    network = build_network(task)
    wanted = network.state_dict(keep_vars=True)
    try:
        candidates = list(_states_in(_content_of(path)))
        if not candidates:
            raise WeightsError("has no weights in it: save net.state_dict() with torch.save")
        fits = [(entry, _named_as(state, wanted)) for entry, state in candidates]
        differences = [_differences(state, wanted) for _, state in fits]
    except WeightsError as error:
        raise UserError(f"{path} {error}.") from error
    fitting = [fit for fit, difference in zip(fits, differences, strict=True) if difference.is_empty]
    if not fitting:
        best = min(range(len(fits)), key=lambda number: differences[number].in_all)
        raise UserError(f"{path} does not fit {task.network}: {differences[best]}.{_advice(candidates[best][1], task)}")
    if len(fitting) > 1:
        others = " and ".join(repr(entry) for entry, _ in fitting[1:])
        tell(f"{path}: the weights are those of its entry {fitting[0][0]!r}; {others} would fit, too.")
    state = {name: fitting[0][1][name].to(value.dtype) for name, value in wanted.items()}
    bad = next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)
    if bad is not None:
        raise UserError(f"{path} has NaN or infinite numbers in {bad}: take weights from before they diverged.")
    return state


# ----------------------------------------------------------------------------------------------------------------------
# From a file to what may be weights
# ----------------------------------------------------------------------------------------------------------------------


def _content_of(path: Path) -> Any:
    """What a file of `torch.save` or of safetensors holds. Raises `WeightsError` if it is neither."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    if path.suffix == ".safetensors":
        return _of_safetensors(data)
    try:
        return load_tensors(data, _values_beside_weights())
    except WeightsError as error:
        if error.reader:
            converts = f"torch.save({error.reader.format(repr(path.name))}.state_dict(), 'weights.pth') converts it"
            raise WeightsError(f"{error}; if you trust it, {converts}") from error
        if _is_safetensors(data):
            return _of_safetensors(data)
        raise


def _is_safetensors(data: bytes) -> bool:
    """Whether it begins as such a file: the length of a JSON object, eight bytes, and then that."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _of_safetensors(data: bytes) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"is not a whole safetensors file ({printable(str(error), 100)})") from error


def _values_beside_weights() -> list[Any]:
    """Types of plain values that checkpoints have beside weights: NumPy's, and the arguments of a script."""
    scalar, array = (value.__reduce__()[0] for value in (np.float64(0), np.zeros(1)))  # wherever NumPy has them
    kinds = {type(np.dtype(letter)) for letter in np.typecodes["AllInteger"] + "efd?"}
    functions = {"scalar": scalar, "_reconstruct": array}
    named = [(one, f"numpy.{core}.multiarray.{name}") for name, one in functions.items() for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, np.ndarray, *kinds, *named]


def _states_in(content: Any, entry: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Dicts of tensors in a content, with the names of their entries; those in usual entries first."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield entry or "weights", tensors
    usual = [name for name in USUAL_ENTRIES if name in content]
    for name in (*usual, *(name for name in content if name not in usual)):
        if isinstance(name, str):
            yield from _states_in(content[name], f"{entry}.{name}" if entry else name, depth + 1)


# ----------------------------------------------------------------------------------------------------------------------
# From names in the file to those of the network
# ----------------------------------------------------------------------------------------------------------------------


def _named_as(state: State, wanted: State) -> State:
    """The weights by the names that the network has for them, as far as that can be found out."""
    found = {name: value for name, value in state.items() if name.rpartition(".")[2] not in COUNTERS}
    found = _unpruned(found) if not found.keys() <= wanted.keys() else found
    for rename in (_without_wrappers, lambda state: _without_prefix(state, wanted)):
        if not wanted.keys() <= found.keys():
            renamed = rename(found)
            if len(renamed.keys() & wanted.keys()) > len(found.keys() & wanted.keys()):
                found = renamed
    return found | _left_out(found, wanted)


def _unpruned(state: State) -> State:
    """As `torch.nn.utils.prune.remove` leaves them: `weight_orig` times `weight_mask` is `weight`."""
    merged = dict(state)
    for name in state:
        plain = name.removesuffix("_orig")
        if plain != name and f"{plain}_mask" in state:
            merged[plain] = merged.pop(name) * merged.pop(f"{plain}_mask")
    return merged


def _without_wrappers(state: State) -> State:
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in state.items()}


def _without_prefix(state: State, wanted: State) -> State:
    """Without what stands before each wanted name, if it is the same for all; whatever lacks it belongs to others."""
    shortest = min(wanted, key=len)
    prefixes = sorted({name.removesuffix(shortest) for name in state if name.endswith(f".{shortest}")}, key=len)
    for prefix in prefixes:
        if {f"{prefix}{name}" for name in wanted} <= state.keys():
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _left_out(state: State, wanted: State) -> State:
    """What a file may leave out: counts of batches (PyTorch before 1.0), and the second name of a tied weight."""
    own = {id(wanted[name]): state[name] for name in state.keys() & wanted.keys()}
    missing = {name: value for name, value in wanted.items() if name not in state}
    counts = {name: torch.zeros_like(missing[name]) for name in missing if name.endswith("num_batches_tracked")}
    return counts | {name: own[id(value)] for name, value in missing.items() if id(value) in own}


# ----------------------------------------------------------------------------------------------------------------------
# What does not fit
# ----------------------------------------------------------------------------------------------------------------------


class Differences(NamedTuple):
    """How weights differ from those that a network has."""

    missing: list[str]
    additional: list[str]
    misshapen: list[str]
    """With both shapes."""

    @property
    def is_empty(self) -> bool:
        """Whether they fit."""
        return not any(self)

    @property
    def in_all(self) -> int:
        """How many weights do not fit."""
        return sum(map(len, self))

    def __str__(self) -> str:
        kinds = (
            ("missing: {}", self.missing),
            ("unknown: {}", self.additional),
            ("of another shape: {}", self.misshapen),
        )
        return "; ".join(words.format(_first_of(names)) for words, names in kinds if names)


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return printable(", ".join(names[:NAMED]), 300) + more


def _differences(state: State, wanted: State) -> Differences:
    """Raises `WeightsError` for tensors that are no plain numbers (quantised, sparse, complex, or without content)."""
    for name in state.keys() & wanted.keys():
        value = state[name]
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise WeightsError(f"has weights that are no plain numbers ({name}): save them as ordinary float32 tensors")
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    missing = [name for name in wanted if name not in state]
    return Differences(missing, [name for name in state if name not in wanted], shapes)


def _advice(state: State, task: Task) -> str:
    """A sentence about what these weights would fit; empty if that is not known."""
    named_alike = []
    for name in NETWORKS:
        try:
            wanted = build_network(replace(task, network=name)).state_dict()
        except (UserError, RuntimeError, ValueError):  # it is none for images of this size
            continue
        difference = _differences(_named_as(state, wanted), wanted)
        if difference.is_empty:
            return f" They fit --network {name}."
        if not difference.missing and not difference.additional:
            named_alike.append(name)
    if not named_alike:
        return ""
    _, *shape = task.train.images.shape
    images = " x ".join(map(str, shape))
    named = "" if task.network in named_alike else f" They are named as those of --network {named_alike[0]}."
    return f"{named} (The task has {len(task.classes)} classes and images of {images}.)"
