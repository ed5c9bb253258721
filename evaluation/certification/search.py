"""Solving for the noise, or for epsilon, on the safe side."""

from __future__ import annotations

import math
from collections.abc import Callable


def smallest(
    holds: Callable[[float], bool], low: float = 1e-300, high: float = 1e300, tolerance: float = 1e-12
) -> float:
    """The smallest number from `low` to `high` for which `holds`, which is false below it and true above.

    Found by bisection, of orders of magnitude. The answer is never too small: it does hold, and exceeds the smallest
    such number by at most the fraction `tolerance`.

    Raises:
        ValueError: it does not hold even for `high`.

    >>> smallest(lambda x: x * x >= 2) ** 2 >= 2, round(smallest(lambda x: x * x >= 2), 9)
    (True, 1.414213562)
    """
    if holds(low):
        return low
    if not holds(high):
        raise ValueError(f"No number up to {high:g} is large enough.")
    while high > low * (1 + tolerance):
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:  # neighbouring numbers
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
