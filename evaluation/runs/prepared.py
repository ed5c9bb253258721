"""What methods prepare once for each original, before there is a request to forget: made on first use, then kept.

It lies beside the originals of the bank, so that all requests and gradings share it:

    prepared-<method>-<hash>-00000.pt    tensors by name, and the seconds that they took
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.devices import compute_seconds
from checkpoints.networks import build_network
from checkpoints.pool import Pool
from checkpoints.workers import be_deterministic, seed_everything
from data import Split, Task
from data.files import locked, read_tensors, write_tensors
from data.loaders import ExampleDataset, TensorLoader, loader_seed
from data.seeds import derive_seed
from methods import all_method_handlers
from methods.BaseMethod import BaseMethod


def prepares(method: str) -> bool:
    """Whether a method has something to prepare."""
    return all_method_handlers()[method].prepare is not BaseMethod.prepare


def prepared_for(method: str, settings: Mapping[str, Any], task: Task, original: int, device: str) -> dict[str, Tensor]:
    """What the method has prepared for an original: read, or made now. Nothing for a method that does not prepare."""
    if not prepares(method):
        return {}
    path = prepared_path(method, settings, task, original, device)
    content = read_tensors(path)
    if content is None:  # it is not there, or damaged
        with locked(path.with_suffix(".lock")):
            content = read_tensors(path)
            if content is None:  # nobody else has made it meanwhile
                _prepare(path, method, settings, task, original, device)
                content = read_tensors(path)
    tensors: dict[str, Tensor] = content["tensors"]
    return tensors


def prepared_seconds(method: str, settings: Mapping[str, Any], task: Task, device: str) -> float | None:
    """Seconds that preparing took for an original, mean over those that are there; None if it is not done."""
    if not prepares(method):
        return None
    pattern = prepared_path(method, settings, task, 0, device).name.replace("-00000.", "-*.")
    found = [read_tensors(path) for path in Pool(task, "original").folder.glob(pattern)]
    seconds = [content["seconds"] for content in found if content is not None]
    return sum(seconds) / len(seconds) if seconds else None


def prepared_path(method: str, settings: Mapping[str, Any], task: Task, original: int, device: str) -> Path:
    """The file for an original. The source of the method is part of its name: an edited method is another method."""
    handler = all_method_handlers()[method]
    source = inspect.getsource(inspect.getmodule(handler))  # type: ignore[arg-type]
    used = {name: settings[name] for name in handler.prepares_with or settings}
    digest = hashlib.sha256(json.dumps([source, used, device.split(":")[0]], sort_keys=True).encode()).hexdigest()[:12]
    return Pool(task, "original").folder / f"prepared-{method}-{digest}-{original:05d}.pt"


def _prepare(path: Path, method: str, settings: Mapping[str, Any], task: Task, original: int, device: str) -> None:
    pool = Pool(task, "original")
    net = build_network(task)
    net.load_state_dict(pool.state(original))
    net = net.to(device).eval()
    seed = derive_seed("prepare", pool.seed(original))

    def loader(name: str, split: Split) -> TensorLoader:
        generator = torch.Generator().manual_seed(loader_seed(seed, name))
        return TensorLoader(ExampleDataset(split), 64, shuffle=True, generator=generator)

    loaders = loader("train", task.train), loader("validation", task.validation)
    be_deterministic(device)
    seed_everything(seed)
    began = compute_seconds(device)
    tensors = all_method_handlers()[method](**settings).prepare(net, *loaders)
    seconds = compute_seconds(device) - began
    content = {"tensors": {name: value.cpu() for name, value in tensors.items()}, "seconds": seconds}
    write_tensors(path, content)
