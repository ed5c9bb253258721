from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data import UserError
from data.cache import cache_dir, cached
from data.raw import RawData, content_digest

REPOSITORY = Path(data.__file__).parents[1]


def small_raw() -> RawData:
    """Six images, with metadata, a gap in it, and names beyond ASCII."""
    random = np.random.RandomState(0)
    pixels, labels = random.randint(0, 256, (6, 1, 3, 3)).astype(np.uint8), np.array([0, 1, 0, 1, 0, 1])
    return RawData(
        pixels=pixels,
        labels=labels,
        image_ids=np.array([f"image-{i}" for i in range(6)]),
        parts=np.repeat(["train", "test"], 3),
        classes=("häßlich", "b"),
        content_sha256=content_digest(pixels, labels),
        columns={"age": np.array([1.5, np.nan, 2, 3, 4, 5]), "camera/type": np.array(["", *"abcde"])},
    )


def assert_same(one: RawData, other: RawData) -> None:
    """Every field equal, types of arrays included."""
    for name in ("pixels", "labels", "image_ids", "parts"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    assert (one.classes, one.content_sha256) == (other.classes, other.content_sha256)
    assert list(one.columns) == list(other.columns)
    for name in one.columns:
        np.testing.assert_array_equal(one.columns[name], other.columns[name])


class CountedBuild:
    """`small_raw`, which counts how often it was asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> RawData:
        self.count += 1
        return small_raw()


def test_what_is_read_back_is_what_was_built(empty_cache: Path) -> None:
    """Every field survives the file, and the second call does not build."""
    build = CountedBuild()
    assert_same(cached("some", "key", build), small_raw())
    assert_same(cached("some", "key", build), small_raw())
    assert build.count == 1


def test_another_key_builds_again(empty_cache: Path) -> None:
    """The key decides: data made from other files must not be taken for these, nor pile up beside them."""
    build = CountedBuild()
    for key in ("one", "two", "two", "one"):
        cached("some", key, build)
    assert build.count == 3
    assert [file.name for file in empty_cache.glob("*.npz")] == ["some.npz"]


@pytest.mark.slow
def test_any_damaged_byte_is_noticed_or_harmless(empty_cache: Path) -> None:
    """With every 13th byte of the file flipped in turn, what comes back is always the true data."""
    build = CountedBuild()
    cached("some", "key", build)
    file = empty_cache / "some.npz"
    good = file.read_bytes()
    positions = range(0, len(good), 13)
    for position in positions:
        file.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        assert_same(cached("some", "key", build), small_raw())
    assert build.count > len(positions) / 2  # the others hit fields that nobody reads, such as a time of day


@pytest.mark.parametrize("length", [0, 1, 100, 2000])
def test_a_truncated_file_is_rebuilt_with_a_warning(
    empty_cache: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    """A file cut short is named in a warning and replaced by a whole one."""
    cached("some", "key", small_raw)
    file = empty_cache / "some.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    with caplog.at_level(logging.WARNING):
        assert_same(cached("some", "key", small_raw), small_raw())
    assert "some.npz is damaged" in caplog.text
    assert len(file.read_bytes()) == len(whole)


_BUILDER = """
import os, sys, time
from pathlib import Path
from data.cache import cached
sys.path.insert(0, "tests/data")
from test_cache import small_raw

def build():
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return small_raw()

cached("shared", "key", build)
print("done", flush=True)
"""


def _start_builder(log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _BUILDER, str(log), str(seconds)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_build_once(empty_cache: Path, tmp_path: Path) -> None:
    """The second waits for the first and reads its file: catches a missing lock, or no second look inside it."""
    log = tmp_path / "log"
    processes = [_start_builder(log, 0.5) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_killed_builder_leaves_nothing_in_the_way(empty_cache: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a build: the next process gets the lock and builds."""
    killed = _start_builder(tmp_path / "log", 60)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "building\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert_same(cached("shared", "key", small_raw), small_raw())


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the environment variable that helps."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNLEARNING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="UNLEARNING_CACHE"):
        cached("some", "key", small_raw)


def test_the_cache_is_in_the_repository_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, generated files go to the ignored folder `data/cache`."""
    monkeypatch.delenv("UNLEARNING_CACHE")
    assert cache_dir() == REPOSITORY / "data" / "cache"
