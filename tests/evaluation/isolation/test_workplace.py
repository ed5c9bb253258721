"""What a method's process gets to see of a task."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from checkpoints.networks import build_network
from data import Task, TaskSpec, load
from data.loaders import run_loaders
from evaluation.isolation.wire import Message
from evaluation.isolation.workplace import from_message, to_message

SPECS = {
    "digits": TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 2),)),
    "second of two requests": TaskSpec("digits", forget=("class:3", "random:5"), train_size=60, step=1),
    "columns": TaskSpec("faces", forget=("random:6",), train_size=60),
}


def sent(task: Task) -> Task:
    """The task at the other end."""
    return from_message(Message.read(io.BytesIO(b"".join(to_message(task).pieces()))), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("which", SPECS)
def test_loaders_and_network_are_equal(which: str) -> None:
    """Every batch of every loader, with its metadata, and the network.

    Catches a column that is lost or of another type, and images of an earlier request in the retain set.
    """
    task = load(SPECS[which])
    there = sent(task)
    for mine, theirs in zip(run_loaders(task, 7), run_loaders(there, 7), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
                assert same, name
                assert type(value) is type(other[name])
    mine_state, their_state = build_network(task, 3).state_dict(), build_network(there, 3).state_dict()
    assert all(torch.equal(value, their_state[name]) for name, value in mine_state.items())
    assert there.train.images.stride() == task.train.images.stride()
    np.testing.assert_array_equal(there.all_indices, task.all_indices)


@pytest.mark.parametrize("which", SPECS)
def test_nothing_else_is_sent(which: str) -> None:
    """No test image, no path, no seed, no words of other requests. Catches a task that is sent whole."""
    task = load(SPECS[which])
    content = b"".join(bytes(piece) for piece in to_message(task).pieces())
    for image in task.test.images[:20]:
        if not (task.train.images == image).flatten(1).all(1).any() and image.std() > 0.1:
            assert image.contiguous().numpy().tobytes() not in content
    assert len(sent(task).test) == 0
    for text in (task.fingerprint, task.data_sha256, *(request.text for request in task.requests)):
        assert text.encode() not in content
