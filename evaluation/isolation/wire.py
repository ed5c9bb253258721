"""Messages between a trusted process and a method's: JSON and raw arrays. Nothing that is read is unpickled or run.

A message is a length (8 bytes), that many bytes of JSON, which say what follows, and the arrays one after another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
"""What the numbers of an array may be, by the name that a message has for it."""

LENGTH = 8
"""Bytes of the length at the beginning."""
MOST_JSON = 64 << 20
"""Bytes of JSON that a message may have: the notes of a run are in it, and the names of images."""
MOST_ARRAYS = 1 << 16
"""Arrays that a message may have."""


class WireError(Exception):
    """What arrived is no message: it breaks off, or says something impossible about itself."""


class Source(Protocol):
    """What a message can be read from: a raw file, or bytes in memory."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill the buffer, or a part of it; the number of bytes, 0 at the end."""


@dataclass(frozen=True, eq=False)
class Message:
    """Facts, which JSON can hold, and tensors by name."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def pieces(self) -> list[memoryview]:
        """The bytes of the message, in pieces that are to be written one after another."""
        arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        described = [
            [name, str(array.dtype).removeprefix("torch."), list(array.shape)] for name, array in arrays.items()
        ]
        head = json.dumps({"facts": dict(self.facts), "tensors": described}).encode()
        contents = [_memory_of(array) for array in arrays.values() if array.numel()]
        return [memoryview(len(head).to_bytes(LENGTH, "big")), memoryview(head), *contents]

    @staticmethod
    def read(source: Source, most: int | None = None) -> Message:
        """Read what `pieces` made; the tensors are fresh ones on the CPU.

        `most` is how many bytes the arrays may have together.

        Raises:
            WireError: it is not a message, or larger.
        """
        length = int.from_bytes(read_exactly(source, LENGTH), "big")
        if length > MOST_JSON:
            raise WireError(f"a message with {length} bytes of JSON, and {MOST_JSON} are allowed")
        try:
            head = json.loads(read_exactly(source, length))
            if len(head["tensors"]) > MOST_ARRAYS:
                raise WireError(f"a message with {len(head['tensors'])} arrays, and {MOST_ARRAYS} are allowed")
            facts, described = head["facts"], [_checked(*entry) for entry in head["tensors"]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WireError(f"a message that does not say what is in it ({type(error).__name__})") from error
        if not isinstance(facts, dict):
            raise WireError("a message without facts")
        size = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in described)
        if most is not None and size > most:
            raise WireError(f"a message with {size} bytes of arrays, and {most} are allowed")
        return Message(facts, {name: _read_tensor(source, dtype, shape) for name, dtype, shape in described})


def read_exactly(source: Source, count: int) -> bytearray:
    """The next `count` bytes. Raises `WireError` if there are fewer."""
    content = bytearray(count)
    _fill(source, memoryview(content))
    return content


def _read_tensor(source: Source, dtype: torch.dtype, shape: list[int]) -> Tensor:
    try:
        tensor = torch.empty(shape, dtype=dtype)  # memory of PyTorch's own: aligned as any fresh tensor
    except (RuntimeError, TypeError) as error:  # a size beyond 64 bits, beside one of 0
        raise WireError("a message with an array of an impossible shape") from error
    if tensor.numel():
        _fill(source, _memory_of(tensor))
    return tensor


def _fill(source: Source, buffer: memoryview) -> None:
    while buffer:
        count = source.readinto(buffer)
        if not count:
            raise WireError("a message that breaks off")
        buffer = buffer[count:]


def _memory_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, as bytes."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]  # it is one


def _checked(name: object, dtype: object, shape: object) -> tuple[str, torch.dtype, list[int]]:
    """An entry of the table of arrays. Raises `ValueError` or `KeyError` if it is none."""
    if not (isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list)):
        raise ValueError("not a name, a type and a shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("not a shape")
    return name, DTYPES[dtype], shape
