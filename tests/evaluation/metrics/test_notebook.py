"""The public notebook's metric: against independent values, a slow restatement, and its special cases."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from data.errors import UserError
from evaluation import forgetting_quality
from evaluation.metrics.notebook import (
    notebook_confidence,
    notebook_epsilons,
    notebook_forgetting_quality,
    notebook_points,
)

Floats = NDArray[np.float64]

VECTORS = Path(__file__).parent / "vectors" / "notebook_metric.json"


def _notebook_cases() -> list[Any]:
    return [pytest.param(case, id=f"seed{case['seed']}") for case in json.loads(VECTORS.read_text())["cases"]]


@pytest.mark.parametrize("case", _notebook_cases())
def test_equals_an_independent_restatement(case: dict[str, Any]) -> None:
    """Every part counts: delta, the direction of the thresholds, the splits of the regression, the bins."""
    rng = np.random.default_rng(case["seed"])
    shape = (case["N"], case["S"])
    base = rng.normal(0, 3, case["S"])
    retrained = base + rng.normal(size=shape)
    unlearned = base + case["mu"] + case["k"] * rng.normal(size=shape)
    expected = [math.inf if epsilon is None else epsilon for epsilon in case["eps"]]
    np.testing.assert_allclose(notebook_epsilons(unlearned, retrained), expected, rtol=0, atol=1e-9)
    assert notebook_forgetting_quality(unlearned, retrained) == pytest.approx(case["F"], abs=1e-9)


def _slow_epsilon(unlearned: Floats, retrained: Floats) -> float:
    """Restate the notebook for one example, attack by attack."""
    confidences = np.concatenate([retrained, unlearned])
    truth = np.array([0] * len(retrained) + [1] * len(unlearned))
    attacks = []
    for threshold in confidences:
        guess = confidences > threshold
        attacks.append((np.mean(guess[truth == 0]), np.mean(~guess[truth == 1])))
    halves = []
    for train, test in StratifiedShuffleSplit(n_splits=2, random_state=0).split(confidences[:, None], truth):
        model = LogisticRegression().fit(confidences[train, None], truth[train])
        guess = model.predict(confidences[test, None]) == 1
        halves.append((np.mean(guess[truth[test] == 0]), np.mean(~guess[truth[test] == 1])))
    attacks.append((np.mean([half[0] for half in halves]), np.mean([half[1] for half in halves])))
    return max(0.0, *(_slow_epsilon_of_rates(*rates) for rates in attacks))


def _slow_epsilon_of_rates(false_positive: float, false_negative: float) -> float:
    if false_positive == 0 and false_negative == 0:
        return math.inf
    if false_positive == 0 or false_negative == 0:
        return 0.0
    sides = [
        math.log(0.99 - rate) - math.log(other)
        for rate, other in ((false_positive, false_negative), (false_negative, false_positive))
        if rate < 0.99
    ]
    return max(sides, default=math.inf)


@pytest.mark.parametrize("models", [6, 7, 16, 33])
@pytest.mark.parametrize("unit", [1e-6, 0.5])
def test_equals_a_slow_restatement(models: int, unit: float) -> None:
    """Also with ties (unit 0.5), where ">" and ">=" differ, and odd numbers of models."""
    rng = np.random.default_rng(models)
    retrained = np.round(rng.normal(size=(models, 8)) / unit) * unit
    unlearned = np.round(rng.normal(0.4, 1.3, size=(models, 8)) / unit) * unit
    expected = [_slow_epsilon(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    np.testing.assert_allclose(notebook_epsilons(unlearned, retrained), expected, rtol=0, atol=1e-12)


def test_the_regression_can_be_the_strongest_attack() -> None:
    """On interleaved groups the one-way thresholds see little; catches a regression that is left out."""
    rng = np.random.default_rng(1)
    retrained, unlearned = rng.normal(1, 1, size=(10, 40)), rng.normal(0, 1, size=(10, 40))
    with_regression = notebook_epsilons(unlearned, retrained)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.metrics.notebook._regression_rates", lambda u, r: np.zeros((2, 0)))
        thresholds_only = notebook_epsilons(unlearned, retrained)
    assert (with_regression >= thresholds_only).all()
    assert (with_regression > thresholds_only).any()


def test_special_cases() -> None:
    """Separated: infinite. Separated the other way round, or one constant: no attack counts, epsilon 0."""
    low = np.linspace(0, 1, 20)[:, None]
    constant = np.zeros((20, 1))
    assert notebook_epsilons(low + 2, low)[0] == np.inf
    assert notebook_forgetting_quality(low + 2, low) == 2**-12
    assert notebook_epsilons(constant, constant)[0] == 0.0
    assert notebook_forgetting_quality(constant, constant) == 1.0


def test_points() -> None:
    """13 buckets; the last is open and holds infinity."""
    starts = np.arange(13) / 2
    np.testing.assert_array_equal(notebook_points(starts), 0.5 ** np.arange(13))
    np.testing.assert_array_equal(notebook_points(np.nextafter(starts[1:], 0)), 0.5 ** np.arange(12))
    np.testing.assert_array_equal(notebook_points(np.array([6.4, 7.0, 50.0, np.inf])), [2**-12] * 4)


def test_the_scale_is_not_the_competitions() -> None:
    """Two equal distributions: about 0.9 here at N = 512, about 0.18 in the competition (module docstring)."""
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(size=(2, 512, 30))
    assert 0.8 < notebook_forgetting_quality(unlearned, retrained) < 0.97
    assert 0.15 < forgetting_quality(unlearned, retrained) < 0.22


def test_confidence_is_the_cross_entropy_against_the_own_prediction() -> None:
    """Against plain arithmetic; a large offset and a certain model must not overflow."""
    logits = np.random.default_rng(0).normal(size=(2, 3, 5))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(notebook_confidence(logits), -np.log(probabilities.max(-1)), atol=1e-12)
    np.testing.assert_allclose(notebook_confidence(logits + 1e4), notebook_confidence(logits), atol=1e-9)
    assert notebook_confidence(np.array([[1e5, 0.0]]))[0] == 0.0


def test_mistakes_are_refused() -> None:
    """NaN, other shapes, and too few models for the regression's held-out tenth."""
    fine = np.zeros((8, 2))
    broken = fine.copy()
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="unlearned model 3 in example 1"):
        notebook_epsilons(broken, fine)
    with pytest.raises(UserError, match="same shape"):
        notebook_epsilons(fine, fine[:, :1])
    with pytest.raises(UserError, match="at least 6 models"):
        notebook_epsilons(fine[:5], fine[:5])
    with pytest.raises(UserError, match="examples, classes"):
        notebook_confidence(np.zeros(3))
