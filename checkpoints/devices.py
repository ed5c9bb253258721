"""Devices and clocks: what a computation ran on, and how long it took."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch

from data.errors import UserError


def choose_device(device: str) -> str:
    """The device that "auto" stands for, or the one that was named.

    Raises:
        UserError: it is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UserError(f"--device {device} is not available here; use cpu, or auto.")
    return device


def choose_devices(devices: str) -> list[str]:
    """The devices that share the work, of a text like "cuda:0,cuda:1".

    Raises:
        UserError: one is not there, or they are of several kinds, whose results differ.
    """
    names = [name.strip() for name in devices.split(",")]
    if not all(names):
        raise UserError(f"--device {devices}: name devices with commas between them, like cuda:0,cuda:1.")
    chosen = [choose_device(name) for name in names]
    if len({device.partition(":")[0] for device in chosen}) > 1:
        raise UserError(f"--device {devices}: devices that share the work must be of one kind, like cuda:0,cuda:1.")
    return chosen


def compute_seconds(device: str) -> float:
    """A clock for computations on `device`, in seconds; only differences mean something.

    On the CPU it is the processor time of this process and of its child processes that have ended, so that whatever
    else the machine does, and waiting for it, does not count. On a GPU it is the wall clock, read when the device has
    done all that it was told.
    """
    if device == "cpu":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime
    torch.cuda.synchronize(device)
    return time.perf_counter()


def describe_device(device: str) -> str:
    """The model of the GPU or of the processor; of the latter only the architecture where the model is not told."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({_processor_model() or platform.machine()})"


def _processor_model() -> str | None:
    """What Linux says of an x86 processor; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0].replace("(R)", "").replace("(TM)", "") if models else None


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
