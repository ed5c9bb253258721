"""The metrics, a file each, and what is computed with any of them: score, intervals, accuracies.

To add one: a file with a `METRIC` that has its facts (see `metric.Metric`), and its entry here.
"""

from __future__ import annotations

from evaluation.metrics import notebook, official
from evaluation.metrics.metric import Metric

METRICS: dict[str, Metric] = {metric.name: metric for metric in (official.METRIC, notebook.METRIC)}
"""Every metric by its name; the first is the default."""

DEFAULT_METRIC = next(iter(METRICS))
