"""Tensors in files that somebody else may have written: read without unpickling, and what is wrong is said in words.

What PyTorch says of a file that it won't read names its own functions, in colours, and advises to unpickle it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Collection, Sequence
from typing import Any

from data.texts import printable

SAVERS = {
    "module.": "torch.nn.DataParallel (or AveragedModel)",
    "_orig_mod.": "torch.compile",
    "_module.": "Opacus",
}
"""Who puts this before the name of each weight. (Any other common beginning is told of, too.)"""

_OF_TENSORS = ("collections", "torch", "torch._utils", "torch._tensor", "torch.nn.parameter", "torch.storage")
"""Where a file of tensors alone has its names from."""


class WeightsError(ValueError):
    """The file holds no such tensors; the message says what it is instead, as what follows "the file ...".

    `reader` is the call that reads it for who trusts it, with "{}" for the file, where that gives a network; else "".
    """

    def __init__(self, message: str, reader: str = "") -> None:
        super().__init__(message)
        self.reader = reader


def load_tensors(data: bytes, beside: Sequence[Any] = ()) -> Any:
    """What `torch.save` has written, if it is made of tensors, numbers, texts, lists and dicts; on the CPU.

    `beside` are types of values that may stand beside them, as `torch.serialization.safe_globals` takes them. Raises
    `WeightsError` for anything else, for a damaged file, and for one whose parts are larger than it is.
    """
    import torch

    _check_container(data)
    try:
        with torch.serialization.safe_globals(list(beside)):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of a file that somebody else wrote: whatever pickle, zipfile or PyTorch stumble over
        raise _what_it_is(data) from error


def _check_container(data: bytes) -> None:
    """A `.pth` is a zip itself; PyTorch stores what is in it, so compressed parts are a trick."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise WeightsError("is not a file of torch.save (PyTorch 1.6 or later)") from error
    if any(part.filename.endswith(".npy") for part in parts):
        raise WeightsError("is a file of numpy.savez: save tensors, with torch.save")
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise WeightsError("is a TorchScript module: save its state_dict() with torch.save", "torch.jit.load({})")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > len(data):
        raise WeightsError("has compressed parts, which torch.save does not make")


def _what_it_is(data: bytes) -> WeightsError:
    """The error for a file that PyTorch does not read as tensors alone."""
    damaged = WeightsError("can't be read as weights alone, without running code; it may be damaged")
    names: list[str] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.namelist()
            pickled = next((part for part in parts if part.endswith("data.pkl")), None)
            if pickled is None:
                return WeightsError("is a zip, but not one of torch.save")
            for operation, argument, _ in pickletools.genops(archive.read(pickled)):
                if operation.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
    except Exception:  # a damaged pickle or zip: what is known by then has to do
        return damaged
    foreign = [name for name in names if name.rpartition(".")[0] not in _OF_TENSORS]
    if not foreign:
        return damaged
    if any(name.startswith("numpy.") for name in foreign):
        return WeightsError(
            "holds NumPy arrays, which can't be read without running code: save tensors (torch.from_numpy(array))"
        )
    return WeightsError(
        f"holds a pickled object ({printable(foreign[0], 60)}), which can't be read without running code: save "
        "net.state_dict(), not the network or anything around it",
        reader="torch.load({}, weights_only=False)",
    )


def as_state(content: Any) -> dict[Any, Any]:
    """The content of a file, if it is a state_dict: names and tensors. Raises `WeightsError` if it isn't."""
    import torch

    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    advice = "save net.state_dict(), not the network or anything around it"
    inside = [str(name) for name, value in content.items() if _is_state(value)] if isinstance(content, dict) else []
    if inside:
        raise WeightsError(f"is not a state_dict, but has one in its entry {printable(repr(inside[0]), 60)}: {advice}")
    raise WeightsError(f"is not a state_dict: {advice}")


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, dict) and bool(value) and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )


def check_names(found: Collection[str], wanted: Collection[str]) -> None:
    """Raise `WeightsError` unless the weights `found` in a file are those that are `wanted`, by their names."""
    if set(found) == set(wanted):
        return
    prefix = _prefix(found, wanted)
    if prefix:
        saver = f", as {SAVERS[prefix]} saves them" if prefix in SAVERS else ""
        how = (
            f"net.{prefix.removesuffix('.')}.state_dict()" if prefix in SAVERS else "the state_dict() of what is inside"
        )
        raise WeightsError(f"has {printable(repr(prefix), 60)} before the name of each weight{saver}: save {how}")
    odd = sorted(set(map(str, found)) ^ set(wanted))
    raise WeightsError(f"is of another network: {printable(', '.join(odd[:3]), 200)} is missing or not known")


def _prefix(found: Collection[str], wanted: Collection[str]) -> str | None:
    """What stands before the wanted names; whoever puts it there may add a counter of his own."""
    if len(found) < len(wanted) or not all(isinstance(name, str) for name in found):
        return None
    short, long = min(wanted, key=len), sorted(found, key=len)
    prefix = next((name.removesuffix(short) for name in long if name.endswith(f".{short}")), None)
    return prefix if prefix and {f"{prefix}{name}" for name in wanted} <= set(found) else None
