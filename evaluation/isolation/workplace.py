"""What a method's process gets to see of a task: its training and validation sets, the network, and the request."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from data import Recipe, Request, Split, Task, TaskSpec
from evaluation.isolation.wire import Message

NUMBERS = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
"""Kinds of columns that travel as arrays, and as what: the types that a batch has. Texts travel as JSON."""


def to_message(task: Task, with_request: bool = True) -> Message:
    """The task without its test set, and without anything that tells of the bank, of other requests or of paths.

    Without the request, nothing is to be forgotten: a method that prepares something does not know what will be.
    """
    request, forget = task.request_indices, task.forget_indices
    if not with_request:
        request = forget = request[:0]
    tensors = {"request": torch.from_numpy(request), "forget": torch.from_numpy(forget)}
    texts: dict[str, dict[str, list[str]]] = {}
    for name in ("train", "validation"):
        split: Split = getattr(task, name)
        tensors |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
        texts[name] = {"image_ids": split.image_ids.tolist()}
        for column, values in split.columns.items():
            if values.dtype.kind in NUMBERS:
                tensors[f"{name}.column.{column}"] = torch.from_numpy(values.astype(NUMBERS[values.dtype.kind]))
            else:
                texts[name][f"column.{column}"] = values.tolist()
    facts = {
        "classes": list(task.classes),
        "network": task.network,
        "network_source": task.network_source,
        "recipe": asdict(task.recipe),
        "texts": texts,
        "columns": {name: list(getattr(task, name).columns) for name in ("train", "validation")},
    }
    return Message(facts, tensors)


def from_message(message: Message, device: str) -> Task:
    """The task as a method's process knows it; its test set is empty, its fingerprint that of nothing."""
    facts, tensors = message.facts, message.tensors

    def split(name: str) -> Split:
        texts = facts["texts"][name]
        columns = {}
        for column in facts["columns"][name]:
            numbers = tensors.get(f"{name}.column.{column}")
            columns[column] = np.array(texts[f"column.{column}"]) if numbers is None else numbers.numpy()
        images, labels = tensors[f"{name}.images"], tensors[f"{name}.labels"]
        return Split(images, labels, np.array(texts["image_ids"]), columns).to(device)

    train = split("train")
    request, forget = tensors["request"].numpy(), tensors["forget"].numpy()
    before = np.setdiff1d(forget, request)  # the images of earlier requests are no longer there to train on
    requests = (Request("", before), Request("", request)) if len(before) else (Request("", request),)
    nothing = Split(train.images[:0], train.labels[:0], np.array([], dtype=str))
    return Task(
        spec=TaskSpec(name="", step=len(requests) - 1),
        train=train,
        validation=split("validation"),
        test=nothing,
        classes=tuple(facts["classes"]),
        network=facts["network"],
        recipe=Recipe(**facts["recipe"]),
        requests=requests,
        data_sha256="",
        network_source=facts["network_source"],
    )
