"""The mechanisms that certificates rest on: how epsilon follows from constants, and what voids it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from evaluation.certification import dp_sgd, hockey_stick, renyi

Value = float | int | str | list[float]
"""What a constant can be."""


# ----------------------------------------------------------------------------------------------------------------------
# What voids a certificate
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What a certificate must say of its run, and why."""

    allowed: tuple[Value, ...]
    otherwise: str
    """The sentence for any other value."""
    first: Mapping[Value, str] = field(default_factory=lambda: MappingProxyType({}))
    """What is said before that sentence, by value; for "" if the certificate does not say."""


CONDITIONS = {
    "noisy_phase_reads": Condition(
        ("retain set",), "The noisy phase must read the retain set and nothing else: any other image leaves traces."
    ),
    "noisy_phase_momentum": Condition(
        (0,), "Momentum carries the start from step to step beside the weights, where no noise hides it."
    ),
    "batch_norm_statistics": Condition(
        ("none", "reset"), "Running statistics of batch normalisation that were not reset have seen the forget set."
    ),
    "start": Condition(("projected",), "The start was not brought into the ball, so that the noise may be too little."),
    "constants_chosen_on": Condition(
        ("published", "user", "retrained"),
        "Constants that were chosen by looking at the forget set, or at models that saw it, tell about it.",
    ),
    "seed": Condition(
        ("operating system",),
        "Whoever knows the seed can compute the noise, and subtract it.",
        {
            "public": "seed: public; for grading only.",
            "user": "seed: user; for experiments only.",
            "": "seed: public; for grading only, as it does not say otherwise.",
        },
    ),
    "forget_set": Condition(
        ("not read",), "A run that reads the forget set has traces of it, whatever its noise was to hide."
    ),
}
"""By the name that a certificate has for it. What the kit finds out, not the method, overrules what a method says."""


# ----------------------------------------------------------------------------------------------------------------------
# Several models from one original
# ----------------------------------------------------------------------------------------------------------------------

Together = Callable[[Mapping[str, Any], float, float, int], tuple[float, float]]
"""Of the constants, epsilon, delta, and a number of models: the epsilon and delta of all of them as one."""


def once(constants: Mapping[str, Any], epsilon: float, delta: float, models: int) -> tuple[float, float]:
    """Whatever is made of one thing that is certified costs nothing more."""
    return epsilon, delta


def repeated(constants: Mapping[str, Any], epsilon: float, delta: float, models: int) -> tuple[float, float]:
    """Each model costs its epsilon and its delta: `n epsilon` and `n delta`, which always holds.

    Source: Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", theorem 3.16.
    """
    return models * epsilon, min(1.0, models * delta)


def of_gaussians(ratio: Callable[[Mapping[str, Any]], float]) -> Together:
    """Of a mechanism that is no easier to see through than two Gaussians, `ratio` of the constants deviations apart.

    n models are `sqrt(n)` times as far apart. Source: Dong, Roth and Su, "Gaussian Differential Privacy" (arXiv
    1905.02383), section 3.
    """

    def together(constants: Mapping[str, Any], epsilon: float, delta: float, models: int) -> tuple[float, float]:
        return hockey_stick.gaussian_epsilon(1.0, delta, math.sqrt(models) * ratio(constants)), delta

    return together


# ----------------------------------------------------------------------------------------------------------------------
# The mechanisms
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mechanism:
    """How the epsilon of a certificate follows from its constants."""

    constants: dict[str, type]
    """Names and types (float, int, or list for a list of numbers)."""
    conditions: tuple[str, ...]
    """What the method says of its run."""
    accountings: tuple[str, ...]
    """The first is the one by which any certificate is recomputed."""
    epsilon: Callable[[dict[str, Any], float, str], float]
    """Of the constants, delta and the accounting."""
    together: Together
    found: tuple[str, ...] = ("seed", "forget_set")
    """What the kit finds out: conditions that a finished certificate has, too."""
    noise_of_original: bool = False
    """Whether what hides the forget set is the noise of the original's training, not that of the run."""


def _gradient_clipping(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return renyi.clipping_epsilon(delta=delta, accounting=accounting, **constants)


def _clipping_ratio(constants: Mapping[str, Any]) -> float:
    return math.sqrt(2 * renyi.clipping_rho(**constants))


def _model_clipping(constants: dict[str, Any], delta: float, accounting: str) -> float:
    names = ("model_clip", "gradient_clip", "learning_rate", "weight_decay")
    radius = hockey_stick.model_clipping_radius(*(constants[name] for name in names))
    others = {name: value for name, value in constants.items() if name not in names}
    return hockey_stick.model_clipping_epsilon(radius=radius, delta=delta, **others)


def _output_perturbation(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return hockey_stick.gaussian_epsilon(constants["noise"], delta, 2 * constants["initial_clip"], accounting)


def _perturbation_ratio(constants: Mapping[str, Any]) -> float:
    return float(2 * constants["initial_clip"] / constants["noise"])


def _dp_sgd(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return dp_sgd.dp_sgd_epsilon(delta=delta, accounting=accounting, **constants)


def _nothing_is_left(constants: dict[str, Any], delta: float, accounting: str) -> float:
    return 0.0


_ALWAYS = ("batch_norm_statistics", "constants_chosen_on")
_OF_NOISY_STEPS = ("noisy_phase_reads", "noisy_phase_momentum", "batch_norm_statistics", "start", "constants_chosen_on")

MECHANISMS = {
    "gradient_clipping": Mechanism(
        {"initial_clip": float, "gradient_clip": float, "learning_rate": float, "weight_decay": float, "noise": list},
        _OF_NOISY_STEPS,
        renyi.ACCOUNTINGS,
        _gradient_clipping,
        of_gaussians(_clipping_ratio),
    ),
    "model_clipping": Mechanism(
        {
            "initial_clip": float, "initial_noise": float, "model_clip": float, "gradient_clip": float,
            "learning_rate": float, "weight_decay": float, "steps": int, "noise": float,
        },
        _OF_NOISY_STEPS,
        ("exact",),
        _model_clipping,
        repeated,
    ),
    "output_perturbation": Mechanism(
        {"initial_clip": float, "noise": float},
        ("start", *_ALWAYS),
        hockey_stick.ACCOUNTINGS,
        _output_perturbation,
        of_gaussians(_perturbation_ratio),
    ),
    "dp_sgd": Mechanism(
        {"noise_multiplier": float, "sampling_rate": float, "steps": int, "group": int},
        _ALWAYS,
        dp_sgd.ACCOUNTINGS,
        _dp_sgd,
        once,
        noise_of_original=True,
    ),
    "retraining": Mechanism(
        {}, _ALWAYS, ("exact",), _nothing_is_left, once, found=("forget_set",)  # a seed that is known tells nothing
    ),
}  # fmt: skip
"""By the name that a method has for it, as its `mechanism`."""


def mechanisms() -> dict[str, Mechanism]:
    """The mechanisms of the registered methods whose certificates can be recomputed, by the name of the method."""
    from evaluation.catalogue.lookup import all_facts  # here, because that imports PyTorch

    used = {name: facts.mechanism for name, facts in all_facts().items()}
    return {name: MECHANISMS[mechanism] for name, mechanism in used.items() if mechanism in MECHANISMS}


def mechanism_name(mechanism: Mechanism) -> str:
    """The name of one among the `MECHANISMS`."""
    return next(name for name, one in MECHANISMS.items() if one is mechanism)
