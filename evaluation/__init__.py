"""Grading: running methods under a budget, the competition's metric, intervals, reports, leaderboard.

The metric is available by itself: `from evaluation import logit_scaled_confidence, epsilons, forgetting_quality`.
"""

from __future__ import annotations

from evaluation.metrics.official import epsilons, forgetting_quality, logit_scaled_confidence

__all__ = ["epsilons", "forgetting_quality", "logit_scaled_confidence"]
