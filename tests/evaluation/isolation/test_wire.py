"""Messages between processes: what is sent arrives, and what arrives from a stranger is refused or read, never run."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.isolation.wire import DTYPES, LENGTH, Message, WireError


def as_bytes(message: Message) -> bytes:
    """All its pieces."""
    return b"".join(message.pieces())


def with_head(head: object, rest: bytes = b"") -> bytes:
    """A message whose JSON is `head`."""
    text = json.dumps(head).encode()
    return len(text).to_bytes(LENGTH, "big") + text + rest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_what_is_sent_arrives(dtype: str, shape: tuple[int, ...]) -> None:
    """Of every type and shape, bit for bit, in fresh memory that is aligned. Catches a type that has no name."""
    sent = (torch.randn(shape) * 10).to(DTYPES[dtype])
    others = {"transposed": torch.arange(6).reshape(2, 3).T, "every second": torch.arange(6)[::2]}
    facts = {"name": "ä", "values": [1, 0.1, None, {"a": True}]}
    read = Message.read(io.BytesIO(as_bytes(Message(facts, {"sent": sent, **others}))))
    assert read.facts == facts
    assert list(read.tensors) == ["sent", *others]
    for name, value in {"sent": sent, **others}.items():
        assert read.tensors[name].dtype == value.dtype
        assert torch.equal(read.tensors[name], value)
        assert read.tensors[name].is_contiguous()
    assert read.tensors["sent"].data_ptr() % 64 == 0


def test_several_follow_each_other() -> None:
    """A message ends where it ends. Catches one that reads ahead."""
    source = io.BytesIO(b"".join(as_bytes(Message({"n": n}, {"n": torch.tensor(n)})) for n in range(3)))
    assert [int(Message.read(source).tensors["n"]) for _ in range(3)] == [0, 1, 2]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "half a length": lambda: b"\0\0\0",
    "a huge length": lambda: b"\xff" * LENGTH,
    "no JSON": lambda: (3).to_bytes(LENGTH, "big") + b"\xff\xfe{",
    "deep JSON": lambda: (200_000).to_bytes(LENGTH, "big") + b"[" * 200_000,
    "a list": lambda: with_head([]),
    "a number": lambda: with_head(7),
    "no tensors": lambda: with_head({"facts": {}}),
    "facts that are a list": lambda: with_head({"facts": [], "tensors": []}),
    "tensors that are a number": lambda: with_head({"facts": {}, "tensors": 3}),
    "an entry that is short": lambda: with_head({"facts": {}, "tensors": [["a", "float32"]]}),
    "a type that is none": lambda: with_head({"facts": {}, "tensors": [["a", "object", [1]]]}),
    "a type that is a list": lambda: with_head({"facts": {}, "tensors": [["a", ["float32"], [1]]]}),
    "a name that is a number": lambda: with_head({"facts": {}, "tensors": [[1, "float32", [1]]]}),
    "a negative size": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [-1]]]}),
    "two negative sizes": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [-2, -2]]]}, bytes(16)),
    "a size that is true": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [True]]]}, bytes(4)),
    "a size that is 1.0": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [1.0]]]}, bytes(4)),
    "a terabyte": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [1 << 38]]]}),
    "a product that overflows": lambda: with_head({"facts": {}, "tensors": [["a", "uint8", [1 << 62, 1 << 62]]]}),
    "arrays that break off": lambda: with_head({"facts": {}, "tensors": [["a", "float32", [3]]]}, bytes(8)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_message_is_refused(what: str) -> None:
    """By an error of ours, before memory is taken for what it says of itself."""
    content = HOSTILE[what]()
    with pytest.raises(WireError):
        Message.read(io.BytesIO(content), most=len(content))


@given(st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Whatever is changed in a message. Catches an exception that is not foreseen."""
    content = bytearray(as_bytes(Message({"notes": "[1, 2]"}, {"weights/0": torch.randn(3, 2), "n": torch.tensor(1)})))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        Message.read(io.BytesIO(bytes(content)), most=len(content))
