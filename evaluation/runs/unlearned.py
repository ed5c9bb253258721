"""What runs leave for the metrics, on disk and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoints.grouped import State
from checkpoints.outputs import Outputs
from checkpoints.pool import Tell
from data.arrays import ArrayError, read_sealed, write_sealed


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
        """Write an `.npz` file, whole or not at all, with a checksum in it."""
        own = {name: getattr(self, name) for name in _OWN}
        write_sealed(path, {**self.outputs.arrays(), **own})

    @staticmethod
    def load(path: Path, tell: Tell = lambda text: None) -> Unlearned | None:
        """Read what `save` wrote; None if it is not there, or is not what was written, which `tell` is told.

        Whoever can write the file can write its checksum, too: it finds accidents, not lies (docs/trust.md).
        """
        try:
            arrays = read_sealed(path)
            own = {name: arrays.pop(name) for name in _OWN}
            return _checked(Unlearned(Outputs(**arrays), **own))
        except FileNotFoundError:
            return None
        except (OSError, ArrayError, KeyError, TypeError) as error:
            reason = _REASONS.get(type(error), getattr(error, "strerror", None) or str(error))
            tell(f"{path} is damaged, or was changed after it was written ({reason}): its runs are not used")
            return None


_OWN = ("seconds", "peak_memory", "drift")
_REASONS = {KeyError: "an array is missing", TypeError: "it has another array"}


def _checked(unlearned: Unlearned) -> Unlearned:
    """The same, if its arrays are such as runs leave; `ArrayError` if not."""
    outputs, runs = unlearned.outputs.arrays(), len(unlearned.outputs.retain_accuracy)
    for name, array in {**outputs, **{name: getattr(unlearned, name) for name in _OWN}}.items():
        wanted = 3 if name in ("forget", "validation", "test", "retain") else 1
        if array.dtype.kind not in "fi" or array.ndim != wanted or len(array) != runs:
            raise ArrayError(f"{name} is not of {runs} runs")
    if len({array.shape[2] for array in outputs.values() if array.ndim == 3}) > 1:
        raise ArrayError("its logits are of different numbers of classes")
    return unlearned


def drift_from(original: State, weights: State) -> float:
    """How far weights have moved: the L2 norm of the change of all floating point entries over that of the original."""
    names = [name for name, value in original.items() if value.is_floating_point()]
    moved = sum(float((weights[name].double() - original[name].double()).square().sum()) for name in names)
    return (moved / sum(float(original[name].double().square().sum()) for name in names)) ** 0.5
