"""Originals trained by DP-SGD: what they owe to any k examples is bounded before anybody asks to be forgotten.

The accountant is Google's dp-accounting, which is only needed here. "exact" is group privacy as it is; "code_compat"
leaves out a factor k of delta, as the published code does, whose deltas are therefore k times too small.

Source: Abadi et al. (arXiv 1607.00133) for DP-SGD; Dwork and Roth, "The Algorithmic Foundations of Differential
Privacy", theorem 2.2 and its version with delta, for groups; the code of arXiv 2506.06985 for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data.errors import UserError
from evaluation.certification.search import smallest

ACCOUNTINGS = ("exact", "code_compat")

ORDERS = tuple(dict.fromkeys(int(order) for order in np.geomspace(2, 4096, 80).round()))
"""Rényi orders to minimise over. Any set of orders gives a bound; with these, little is lost (some 0.2 %)."""


def record_budget(epsilon: float, delta: float, group: int, accounting: str = "exact") -> tuple[float, float]:
    """What each single example may have if a group of `group` examples (k) is to have epsilon and delta.

    `epsilon / k`, and `ln delta - ln k - (k - 1) epsilon / k` as the logarithm of the new delta, for k examples have
    `k exp((k - 1) e) d` where one has (e, d). Inverse: `group_budget`.

    Raises:
        ValueError: epsilon is not positive, delta is not between 0 and 1, the group is empty, the accounting
            unknown, or the new delta less than the smallest number.

    >>> "%.4f %.2e" % record_budget(50, 1e-5, 225), "%.4f %.2e" % record_budget(50, 1e-5, 225, "code_compat")
    ('0.2222 1.07e-29', '0.2222 2.41e-27')
    """
    factor = _group_factor(delta, group, accounting)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be a positive number, not {epsilon}.")
    one = epsilon / group
    left = math.exp(math.log(delta) - math.log(factor) - (group - 1) * one)
    if left == 0:
        raise ValueError(f"The delta of one example in {group} would be less than the smallest number.")
    return one, left


def group_budget(epsilon: float, delta: float, group: int, accounting: str = "exact") -> tuple[float, float]:
    """The epsilon and delta of a group of `group` examples (k) if a single one has (epsilon, delta).

    `k epsilon` and `k exp((k - 1) epsilon) delta`.

    Raises:
        ValueError: epsilon is negative; otherwise as `record_budget`.

    >>> "%.0f %.1e" % group_budget(*record_budget(50, 1e-5, 225), 225)
    '50 1.0e-05'
    """
    factor = _group_factor(delta, group, accounting)
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a number from 0, not {epsilon}.")
    logarithm = math.log(factor) + (group - 1) * epsilon + math.log(delta)
    return group * epsilon, min(1.0, math.exp(min(0.0, logarithm)))


def dp_sgd_epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    group: int = 1,
    accounting: str = "exact",
    orders: Sequence[float] = ORDERS,
) -> float:
    """The epsilon at `delta` of any `group` examples of an original that DP-SGD has trained.

    Args:
        noise_multiplier: standard deviation of the noise on the sum of a batch's gradients, in clipping norms.
        sampling_rate: probability of an example to be in a batch (Poisson sampling).
        steps: of training.

    Raises:
        ValueError: a number is out of its range, or epsilon would be more than some 690.
        UserError: dp-accounting is not installed.

    >>> round(dp_sgd_epsilon(1.1, 0.1, 20, 1e-5, orders=range(2, 30)), 2)
    3.51
    """
    factor = _group_factor(delta, group, accounting)
    accountant = _accountant(noise_multiplier, sampling_rate, steps, orders)

    def enough(epsilon: float) -> bool:
        one, left = record_budget(epsilon, delta, group, accounting)
        return float(accountant.get_epsilon(left)) <= one

    most = 700 + math.log(delta / factor)  # beyond it, what is left for one example is less than the smallest number
    if not enough(most):
        raise ValueError(f"So little noise leaves {group} examples without an epsilon of up to {most:.0f}.")
    return smallest(enough, low=1e-9, high=most, tolerance=1e-9)


def dp_sgd_noise_multiplier(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    group: int = 1,
    accounting: str = "exact",
    orders: Sequence[float] = ORDERS,
) -> float:
    """The noise multiplier to train an original with, so that any `group` examples have epsilon and delta.

    The inverse of `dp_sgd_epsilon`, from above, to 1 part in 10,000. It takes seconds.

    Raises:
        ValueError, UserError: as `dp_sgd_epsilon`.

    >>> round(dp_sgd_noise_multiplier(3.51, 1e-5, 0.1, 20, orders=range(2, 30)), 2)
    1.1
    """
    one, left = record_budget(epsilon, delta, group, accounting)

    def enough(noise: float) -> bool:
        return float(_accountant(noise, sampling_rate, steps, orders).get_epsilon(left)) <= one

    return smallest(enough, low=0.01, high=1e5, tolerance=1e-4)


def _accountant(noise_multiplier: float, sampling_rate: float, steps: int, orders: Sequence[float]):  # type: ignore[no-untyped-def]
    """dp-accounting's, which has composed the training."""
    if not (0 < noise_multiplier < math.inf and 0 < sampling_rate <= 1 and steps >= 1):
        raise ValueError(
            "noise_multiplier must be positive, sampling_rate from 0 to 1, and steps at least 1, not "
            f"{noise_multiplier}, {sampling_rate} and {steps}."
        )
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError as error:
        raise UserError("Accounting for DP-SGD needs a package: pip install dp-accounting.") from error
    event = dp_accounting.PoissonSampledDpEvent(sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    return rdp.RdpAccountant(list(orders)).compose(event, steps)


def _group_factor(delta: float, group: int, accounting: str) -> int:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, not {delta}.")
    if group < 1:
        raise ValueError(f"A group has at least one example, not {group}.")
    if accounting not in ACCOUNTINGS:
        raise ValueError(f"accounting is one of {', '.join(ACCOUNTINGS)}, not {accounting!r}.")
    return 1 if accounting == "code_compat" else group
