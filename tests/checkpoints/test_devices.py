"""What a report says of the machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
import torch

from checkpoints.devices import choose_devices, describe_device
from data import UserError


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


def test_several_devices_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With commas between them; of one kind, as results of a processor and a GPU differ."""
    assert choose_devices("cpu") == ["cpu"]
    assert choose_devices("cpu, cpu") == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_devices("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert choose_devices("auto,cuda:1") == ["cuda", "cuda:1"]
    for text, complaint in {
        "cpu,cuda:0": "of one kind",
        "cuda:0,": "with commas between them",
        ",": "with commas between them",
        "": "with commas between them",
        "cuda:0,gpu": "--device gpu is not available here",
    }.items():
        with pytest.raises(UserError, match=complaint):
            choose_devices(text)
