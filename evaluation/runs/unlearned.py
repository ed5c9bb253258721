"""What runs leave for the metrics, on disk and in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoints.grouped import State
from checkpoints.outputs import Outputs
from data.files import write_arrays


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What one or more runs left."""

    outputs: Outputs
    seconds: np.ndarray
    """Seconds of each run, float64 `(runs,)`."""
    peak_memory: np.ndarray
    """Bytes of each run, int64 `(runs,)`."""
    drift: np.ndarray
    """How far each run's weights are from the original's, see `drift_from`, float64 `(runs,)`."""

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, runs: slice) -> Unlearned:
        return Unlearned(self.outputs[runs], self.seconds[runs], self.peak_memory[runs], self.drift[runs])

    @staticmethod
    def join(parts: Sequence[Unlearned]) -> Unlearned:
        """The runs of all parts, in order."""
        return Unlearned(
            Outputs.join([part.outputs for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.peak_memory for part in parts]),
            np.concatenate([part.drift for part in parts]),
        )

    def save(self, path: Path) -> None:
        """Write an `.npz` file, whole or not at all."""
        own = {"seconds": self.seconds, "peak_memory": self.peak_memory, "drift": self.drift}
        write_arrays(path, {**self.outputs.arrays(), **own})

    @staticmethod
    def load(path: Path) -> Unlearned | None:
        """Read what `save` wrote; None if it is not there, or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            own = {name: arrays.pop(name) for name in ("seconds", "peak_memory", "drift")}
            return Unlearned(Outputs(**arrays), **own)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None


def drift_from(original: State, weights: State) -> float:
    """How far weights have moved: the L2 norm of the change of all floating point entries over that of the original."""
    names = [name for name, value in original.items() if value.is_floating_point()]
    moved = sum(float((weights[name].double() - original[name].double()).square().sum()) for name in names)
    return (moved / sum(float(original[name].double().square().sum()) for name in names)) ** 0.5
