"""What every metric in the registry keeps to: whoever adds one gets these tests."""

from __future__ import annotations

import numpy as np
import pytest

from data import UserError
from evaluation.metrics import DEFAULT_METRIC, METRICS
from evaluation.metrics.intervals import Population, ceiling, estimate_grades
from evaluation.metrics.metric import Floats, Metric
from evaluation.spec import GradingSpec

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
EXAMPLES, CLASSES = 7, 10


def make_logits(models: int, seed: int, surer: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(models, examples, classes)` of models that are `surer` of the true class, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(EXAMPLES) % CLASSES
    logits = rng.normal(size=(models, EXAMPLES, CLASSES)).astype(np.float32)
    logits[:, np.arange(EXAMPLES), labels] += np.float32(2 + surer)
    return logits, labels


def make_pool(metric: Metric, models: int, seed: int, surer: float = 0.0) -> Floats:
    """Confidences `(models, examples)`."""
    return metric.confidence(*make_logits(models, seed, surer))


def test_names_and_default() -> None:
    """A metric is found under its own name; the competition's is the default."""
    assert all(metric.name == name for name, metric in METRICS.items())
    assert DEFAULT_METRIC == "official"


@every_metric
def test_what_it_tells_is_a_sentence(metric: Metric) -> None:
    """Which stands alone on a terminal; and what bounds nothing has to be told."""
    assert metric.beware is None or (len(metric.beware) > 20 and metric.beware.endswith("."))
    assert metric.ceiling_bounds or metric.beware


@every_metric
def test_confidences(metric: Metric) -> None:
    """One finite float64 for each model and example, from that model and example alone; logits are left as they are."""
    logits, labels = make_logits(5, seed=0)
    kept = logits.copy()
    confidences = metric.confidence(logits, labels)
    assert confidences.shape == (5, EXAMPLES)
    assert confidences.dtype == np.float64
    assert np.isfinite(confidences).all()
    np.testing.assert_array_equal(logits, kept)
    np.testing.assert_array_equal(metric.confidence(logits[2:3, 1:4], labels[1:4]), confidences[2:3, 1:4])


@every_metric
@pytest.mark.parametrize("more", [0, 1, 30])
def test_epsilons_and_quality(metric: Metric, more: int) -> None:
    """An epsilon for each example, from that example alone; F in [0, 1]; the same pools give the same bits.

    From half of the fewest models on, which is what the ceiling compares.
    """
    models = metric.fewest_models // 2 + more
    unlearned, retrained = make_pool(metric, models, 0, surer=1.0), make_pool(metric, models, 1)
    epsilons = metric.epsilons(unlearned, retrained)
    assert epsilons.shape == (EXAMPLES,)
    assert (epsilons >= 0).all()
    np.testing.assert_allclose(metric.epsilons(unlearned[:, 2:5], retrained[:, 2:5]), epsilons[2:5])
    quality = metric.forgetting_quality(unlearned, retrained)
    assert 0 <= quality <= 1
    assert metric.forgetting_quality(unlearned.copy(), retrained.copy()) == quality


@every_metric
def test_models_that_differ_get_less(metric: Metric) -> None:
    """Than models of the same distribution: on a mean over pools, and clearly."""
    alike, apart = [], []
    for seed in range(5):
        retrained = make_pool(metric, 32, seed)
        alike.append(metric.forgetting_quality(make_pool(metric, 32, 100 + seed), retrained))
        apart.append(metric.forgetting_quality(make_pool(metric, 32, 200 + seed, surer=6.0), retrained))
    assert np.mean(apart) < 0.5 * np.mean(alike)


@every_metric
def test_intervals_and_the_ceiling_can_be_had(metric: Metric) -> None:
    """With the fewest models that a grading takes; with fewer, the grading is refused in a sentence."""
    models = metric.fewest_models
    pools = [
        Population(make_pool(metric, models, seed), np.full(models, 0.9), np.full(models, 0.8)) for seed in (0, 1, 2)
    ]
    grades = estimate_grades(pools[:2], pools[2], metric.forgetting_quality, replicates=5)
    assert grades.score.low <= grades.score.value <= grades.score.high
    assert 0 <= ceiling(pools[2], metric.forgetting_quality, splits=3).score.value <= 1.5
    GradingSpec("my_method", metric=metric.name, models=models)
    with pytest.raises(UserError, match=f"The {metric.name} metric needs at least {models} models"):
        GradingSpec("my_method", metric=metric.name, models=models - 1)
