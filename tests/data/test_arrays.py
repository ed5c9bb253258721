"""Arrays in files of somebody else: read as they were written, or refused in a sentence, without filling memory."""

from __future__ import annotations

import io
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy

from data.arrays import SEAL, ArrayError, digest_of, read_array, read_arrays, read_sealed, write_sealed
from data.files import write_arrays

MOST = 1 << 20
NUMBERS = {"logits": np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), "seconds": np.array([0.5, np.nan])}


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A `.npy` file with any header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + content


def header(descr: str = "'<i8'", shape: str = "(3,)", order: str = "False") -> str:
    """What a `.npy` file says at its beginning."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


def saved(array: np.ndarray) -> bytes:
    """As `numpy.save` has it, pickles and all."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


THREE = np.arange(3).tobytes()
HOSTILE = {
    "nothing": b"",
    "text": b"1, 2, 3\n",
    "the beginning alone": b"\x93NUMPY",
    "terabytes": npy(header(shape="(1099511627776,)"), THREE),
    "terabytes of nothing": npy(header(shape="(0, 1099511627776)")),
    "10^400": npy(header(shape=f"({10**400},)"), THREE),
    "10^400 times nothing": npy(header(shape=f"(0, {10**400})")),
    "less than nothing": npy(header(shape="(-3,)"), THREE),
    "twice less than nothing": npy(header(shape="(-1, -3)"), THREE),
    "true for a length": npy(header(shape="(True, 3)"), THREE),
    "many dimensions": npy(header(shape=f"({'1, ' * 60})"), THREE[:8]),
    "wide numbers": npy(header(descr="'<U1000000000'"), THREE),
    "numbers of no width": npy(header(descr="'<U0'")),
    "objects": saved(np.array([{}, 3], dtype=object)),
    "objects in records": npy(header(descr="[('a', '|O')]"), THREE),
    "an unknown type": npy(header(descr="'<q99'"), THREE),
    "a type of lists": npy(header(descr="[[[['a']]]]"), THREE),
    "cut off": saved(np.arange(100))[:-1],
    "more than it says": saved(np.arange(100)) + b"\x00",
    "a deep header": npy("(" * 5000),
    "a header of signs": npy("-" * 9000 + "1"),
    "no header": npy("3"),
    "code for a header": npy("__import__('os').system('touch canary')"),
    "another version": npy(header(), THREE, b"\x09\x00"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_array_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file, and as a part of an `.npz`. Catches a header that is believed: memory for terabytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "several.npz", "w") as archive:
        archive.writestr("a.npy", content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArrayError):
        read_array(tmp_path / "one.npy", MOST)
    with pytest.raises(ArrayError):
        read_arrays(tmp_path / "several.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert not (tmp_path / "canary").exists()


def compressed(path: Path) -> None:
    """A few bytes that become a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as part:
        part.write(npy(header(descr="'|u1'", shape="(100000000,)")))
        for _ in range(100):
            part.write(bytes(1_000_000))


def twice(path: Path) -> None:
    """Two arrays of one name."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", saved(np.array([1])))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", saved(np.array([2])))


def flipped(path: Path) -> None:
    """One bit of a number."""
    write_sealed(path, NUMBERS)
    content = bytearray(path.read_bytes())
    content[content.index(NUMBERS["logits"].tobytes()) + 5] ^= 1
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    """So says a bit of the directory."""
    write_sealed(path, NUMBERS)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


BROKEN: dict[str, Callable[[Path], object]] = {
    "compressed": compressed,
    "an array twice": twice,
    "a bit": flipped,
    "encrypted": encrypted,
    "no zip": lambda path: path.write_bytes(b"PK\x03\x04"),
    "an array alone": lambda path: path.write_bytes(saved(np.arange(3))),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_what_are_no_arrays_is_refused(make: Callable[[Path], object], tmp_path: Path) -> None:
    """Zips that are no `.npz` of ours, and what is no file."""
    make(tmp_path / "file")
    with pytest.raises(ArrayError):
        read_sealed(tmp_path / "file")


def test_size_is_limited(tmp_path: Path) -> None:
    """A sparse file takes no room on disk, and would in memory."""
    (tmp_path / "file").write_bytes(npy(header(shape=f"({1 << 36},)"), THREE))
    os.truncate(tmp_path / "file", 1 << 40)
    with pytest.raises(ArrayError, match="more than 1,048,576 bytes"):
        read_array(tmp_path / "file", MOST)


@given(array=st_numpy.arrays(st_numpy.scalar_dtypes(), st_numpy.array_shapes(min_dims=0, min_side=0, max_side=4)))
@settings(max_examples=50)
def test_arrays_are_read_as_numpy_reads_them(array: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Values, shape, type, and that they can be changed; of any type without objects, whatever the order in memory."""
    path = tmp_path_factory.mktemp("arrays") / "file"
    for one in (array, array.T):
        path.write_bytes(saved(one))
        found = read_array(path, MOST)
        expected = np.load(io.BytesIO(saved(one)))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert found.flags.writeable


def test_sealed_arrays_survive(tmp_path: Path) -> None:
    """They are what was written, without the seal; and a file of early versions, which has none, is read."""
    for write in (write_sealed, write_arrays):
        write(tmp_path / "file", NUMBERS)
        found = read_sealed(tmp_path / "file")
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in NUMBERS.items()
        }
        assert found["logits"].shape == (2, 3, 4)
    with np.load(tmp_path / "file") as arrays:
        assert SEAL not in arrays


def changed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers with another array."""
    return {**NUMBERS, name: array}


@pytest.mark.parametrize(
    "arrays",
    [
        changed("logits", NUMBERS["logits"] + 1e-6),
        changed("logits", NUMBERS["logits"].reshape(2, 4, 3)),
        changed("logits", NUMBERS["logits"].view(np.int32)),
        changed("more", np.zeros(1)),
        {"logits": NUMBERS["logits"]},
        {"logits": NUMBERS["logits"], "Seconds": NUMBERS["seconds"]},
    ],
)
def test_a_seal_is_broken_by_any_change(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Of a value, shape, type, name; by a file that is a valid `.npz` with the seal of the former."""
    write_sealed(tmp_path / "file", NUMBERS)
    seal = read_arrays(tmp_path / "file")[SEAL]
    write_arrays(tmp_path / "file", {**arrays, SEAL: seal})
    with pytest.raises(ArrayError, match="not the ones that were written"):
        read_sealed(tmp_path / "file")
    write_arrays(tmp_path / "file", {**dict(reversed(NUMBERS.items())), SEAL: seal})  # the order is no change
    assert digest_of(read_sealed(tmp_path / "file")) == digest_of(NUMBERS)
