"""From what a user asks to what follows from it, once for each grading: settings, identity, folder, run settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data import Recipe, Task, UserError
from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.lookup import facts_of, refused_by_constructor
from evaluation.report import results_folder
from evaluation.runs.settings import RunSettings
from evaluation.spec import GradingSpec

LEARNED_MASKS = ("omp", "imp")
"""Kinds of pruning that look at training images to decide what is pruned."""


@dataclass(frozen=True, eq=False)
class Grading:
    """One method on one loaded task and one device, with everything that follows from the question."""

    spec: GradingSpec
    task: Task
    device: str
    settings: dict[str, Any]
    """Every hyper-parameter's value in force, by name."""
    identity: str
    """Hash of all that decides a run, apart from which original and which run it is."""
    folder: Path
    """`results/<task>-<fingerprint>/<method>-<hash>/`."""
    previous: Path | None
    """The folder of the grading of the request before this one, if there is one."""

    @property
    def method(self) -> MethodFacts:
        """What is known of the method."""
        return facts_of(self.spec.method)

    @property
    def run_settings(self) -> RunSettings:
        """What its runs share, without a budget."""
        return RunSettings(
            task=self.spec.task,
            device=self.device,
            method=self.spec.method,
            hyper_parameters=self.settings,
            seed=self.spec.seed,
            folder=self.folder,
            previous=self.previous,
        )


def resolve(spec: GradingSpec, task: Task, device: str, previous: Grading | None = None) -> Grading:
    """Settle all that follows from `spec`, whose task is given as loaded.

    `previous` is the grading of the request before, where several arrive one after another: runs go on from its runs.

    Raises:
        UserError: a hyper-parameter that the method does not have, a value that it can't take, or a network that it
            can't be used on.
    """
    tuned = dict(spec.tuned.settings) if spec.tuned else {}
    settings = settings_in_force(spec.method, {**tuned, **dict(spec.settings)}, task.recipe)
    identity = _run_identity(spec, task, settings, device)
    digest = _digest([identity, spec.protocol, spec.shape])[:8]
    folder = results_folder() / f"{task.name}-{task.fingerprint}" / f"{spec.method}-{digest}"
    return Grading(spec, task, device, settings, identity, folder, previous.folder if previous else None)


def settings_in_force(method: str, overrides: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The hyper-parameters in force: the user's, else the task's recipe's if the method follows it, else the default.

    Raises:
        UserError: the method's file can't be used; a hyper-parameter that it does not have, or a value that it can't
            take.
    """
    facts = facts_of(method)
    followed: dict[str, Any] = {}
    if facts.follows_recipe:
        followed = {name: value for name, value in asdict(recipe).items() if name in facts.hyper_parameters}
    try:
        values = facts.values_in_force({**followed, **overrides})
    except ValueError as error:
        raise UserError(str(error)) from error
    if complaint := refused_by_constructor(facts, values):
        raise UserError(complaint)
    if facts.certifies and recipe.pruning in LEARNED_MASKS:
        raise UserError(
            f"{method} can't certify networks pruned by {recipe.pruning}: their mask stays, and was learned from all "
            "training images, those to be forgotten too. recipe: pruning=synflow looks at none."
        )
    for name, value in followed.items() if facts.recipe_is_binding else ():
        if values[name] != value:
            raise UserError(f"{method}: {name} is that of the original, {value}; --recipe {name}= trains another.")
    return values


def _run_identity(spec: GradingSpec, task: Task, settings: Mapping[str, Any], device: str) -> str:
    """The code of the method is part of it, in whatever files it is: an edited method is another method."""
    kind = device.split(":")[0]
    return _digest([task.fingerprint, spec.method, settings, facts_of(spec.method).code, spec.seed, kind])[:12]


def _digest(decided: list[Any]) -> str:
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()
