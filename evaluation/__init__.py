"""Grading: running methods under a budget, the competition's metric, intervals, reports, leaderboard.

The metric is available by itself: `from evaluation import logit_scaled_confidence, epsilons, forgetting_quality`; and
so is what a grading has stored: `from evaluation import open_grading` (docs/your-data.md has an example).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.metrics.official import epsilons, forgetting_quality, logit_scaled_confidence

if TYPE_CHECKING:
    from evaluation.views.opening import open_grading

__all__ = ["epsilons", "forgetting_quality", "logit_scaled_confidence", "open_grading"]


def __getattr__(name: str) -> Any:
    """`open_grading`, which takes PyTorch and half of the kit to import, when it is asked for."""
    if name == "open_grading":
        from evaluation.views.opening import open_grading

        return open_grading
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
