"""Results on the suite digits, for tests of what is shown. Not a test by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.suites.result import HeldOut, SuiteResult
from evaluation.suites.suite import read_suite

DIGITS = read_suite("digits")


def a_result(method: str, shares: Sequence[float], rule: Any = "published", **changes: Any) -> SuiteResult:
    """A result on the suite digits, with these shares for all held-out gradings in turn."""
    parts = [
        HeldOut(problem.kind, problem.request, shares[place % len(shares)], 0.5, 1.0, 0.9, 0.1)
        for place, problem in enumerate(DIGITS.held_out)
    ]
    values = {
        "method": method,
        "rule": rule,
        "trials": 30 if rule == "tuned" else None,
        "settings": {"epochs": 1} if rule == "tuned" else {},
        "exempt_from_budget": False,
        "code": "aaa",
        "bank": "bbb",
        "models": 32,
        "held_out": tuple(parts),
        "on_tuning_part": 0.4 if rule == "tuned" else None,
        "seconds": 1.0,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return SuiteResult(**{**values, **changes})


RESULTS = [
    a_result("weak", [0.1, 0.11, 0.12]),
    a_result("strong", [0.5, 0.51, 0.52], "tuned"),
    a_result("strong", [0.05]),
    a_result("perfect", [1.0], exempt_from_budget=True),
    a_result("alone", [0.3, 0.31], "self-tuned"),
]
