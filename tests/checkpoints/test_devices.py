"""What a report says of the machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from checkpoints.devices import describe_device


@pytest.mark.parametrize(
    ("told", "described"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7: 2 GHz\nmodel name\t: B\n", "cpu (Intel Core i7: 2 GHz)"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", f"cpu ({platform.machine()})"),
        (None, f"cpu ({platform.machine()})"),
    ],
    ids=["x86", "ARM", "no Linux"],
)
def test_the_processor(told: str | None, described: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model where Linux tells it, else the architecture. Catches two machines that share a measured time."""

    def read(path: Path) -> str:
        if told is None:
            raise FileNotFoundError(path)
        return told

    monkeypatch.setattr(Path, "read_text", read)
    assert describe_device("cpu") == described


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not asked for")
def test_this_processor() -> None:
    """One line, short enough for a sentence."""
    assert 6 < len(describe_device("cpu")) < 80
