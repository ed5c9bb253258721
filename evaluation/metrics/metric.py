"""What a metric is: from logits to a confidence for each example, to epsilons, to F; and the facts about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A way to tell unlearned from retrained models, and what to know of its numbers."""

    name: str
    """As `--metric` has it."""
    confidence: Callable[[np.ndarray, np.ndarray], Floats]
    """Logits `(models, examples, classes)` and labels `(examples,)` to `(models, examples)`."""
    epsilons: Callable[[Floats, Floats], Floats]
    """Unlearned and retrained confidences `(models, examples)` to `(examples,)`."""
    forgetting_quality: Callable[[Floats, Floats], float]
    """The same to F, in [0, 1]."""
    fewest_models: int
    """The fewest models N that it can grade: the ceiling compares two halves, and each must be enough for it."""
    competition_models: int | None = None
    """How many models the competition had, where F of fewer flatters; None where that is not asked."""
    ceiling_bounds: bool = True
    """Whether a method that is as good as retraining reaches the ceiling, so that shares of it mean something."""
    beware: str | None = None
    """What the user should know before comparing its numbers, in a few sentences; shown by every command."""
