"""The search for a method's hyper-parameters: `python main.py tune`.

Published values are for another network and other data. So that methods are compared, and not the luck of their
defaults, each may be tuned, by the same number of trials. A trial runs the method with other values and scores what it
leaves, against models (`TaskSpec.role` "tuning") and with seeds that no grading uses. It stops early if it looks
hopeless after a few runs. Values are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011,
"Algorithms for Hyper-Parameter Optimization"), trials stopped by its successive halving (Li et al., arXiv 1810.05934).

A score looks at the forget set, and values that were chosen by it would void a certificate. So would values that were
chosen by what an original becomes, which has seen the forget set. Trials of a method that certifies therefore start
from retrained models, and are worth their validation accuracy: nothing in them has seen what is to be forgotten.

The same arguments give the same trials, whatever the number of workers and however often the search is interrupted:
each trial's sampler has a seed of its own, and nothing else but the finished trials is looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.bank import Bank, Foresee, ensure
from checkpoints.outputs import Outputs
from checkpoints.workers import Workers
from data import Task, UserError
from data.files import locked
from data.seeds import derive_seed
from evaluation.catalogue.declared import complaint_of_entry
from evaluation.catalogue.lookup import facts_of
from evaluation.certification.finishing import SEARCHED
from evaluation.console import Console
from evaluation.grading import load_with_one_request, tell_remarks
from evaluation.metrics import METRICS
from evaluation.metrics.intervals import ceiling
from evaluation.metrics.score import population, quick_score
from evaluation.report import results_folder
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import GradingFailedError, GradingLostError, RunFailedError, unlearn
from evaluation.runs.resolve import Grading, resolve
from evaluation.spec import GradingSpec
from evaluation.tuned import tuned_path, write_tuned
from methods.BaseMethod import Between, OneOf

if TYPE_CHECKING:
    import optuna

FEWEST_RUNS = 8
"""A trial is looked at after so many runs for the first time, then after twice as many, and so on."""

RANDOM_TRIALS = 10
"""Trials at random before the sampler begins to learn from them: Optuna's default."""

NUMBERS = re.compile(r"\d[\d.]*(e[+-]?\d+)?")

BUDGET_MARGIN = 0.8
"""A trial may take this share of the budget: what just fits here must not be too slow in the grading."""


@dataclass(frozen=True)
class TuningResult:
    """What a search came to. Scores are those of `models` runs from one original, on the models for tuning.

    For a method that certifies they are validation accuracies.
    """

    method: str
    settings: dict[str, Any]
    """The best values found of the hyper-parameters in the method's search space, and those that the user set."""
    score: float
    published_score: float
    """That of the published values, which are the first trial; 0 if they failed, or exceeded the budget."""
    trials: int
    stopped_early: int
    failed: int
    """Trials in which a run failed or exceeded the budget; their score is 0."""
    path: Path
    """The file that the values were written to."""
    why_failed: str = ""
    """What most of the trials that failed did wrong, in a line; empty if none did."""


def can_be_tuned(method: str) -> bool:
    """Whether the method has a search space."""
    return bool(facts_of(method).search_space)


def check_trials(trials: int) -> None:
    """Raise `UserError` if a search by so many trials is none."""
    if trials < 1:
        raise UserError(f"--trials must be at least 1, not {trials}.")


def tune(spec: GradingSpec, trials: int, workers: Workers, console: Console) -> TuningResult:
    """Search for the values of `spec.method` with the best score on one problem; see `search`."""
    return search([spec], trials, tuned_path(spec.task), workers, console, for_same_request=True)


def search(
    specs: Sequence[GradingSpec],
    trials: int,
    path: Path,
    workers: Workers,
    console: Console,
    for_same_request: bool = False,
) -> TuningResult:
    """Search for the values of a method with the best mean score, in `trials` trials, those of earlier calls included.

    Each of the `specs` is a problem that all values are tried on; they differ in their task alone. Every finished trial
    is on disk. `spec.models` is the number of runs of a trial that is not stopped early. What is found is written to
    `path`. `for_same_request`: it is for the very forget set of the one problem. Other forget sets may be in what the
    retrained models of these problems were trained on.

    Raises:
        UserError: the method has no search space, or one that makes no sense, or `trials` is less than 1; or workers
            were lost again and again.
    """
    check_trials(trials)
    if not _space(specs[0]):
        rest = " but for what --set fixes" if specs[0].settings else ""
        raise UserError(f"{specs[0].method} has nothing to tune: its class has no search_space{rest}.")
    gradings = [_published(_for_tuning(spec), workers.device) for spec in specs]
    tell_remarks(gradings, console)
    foresee: Foresee | None = foreseer(gradings, workers, console, banks=len(gradings), times=trials)
    problems = []
    for grading in gradings:
        with console.progress("bank for tuning", "models") as on_progress:
            bank = ensure(grading.task, 1, grading.spec.models, workers, console.tell, on_progress, foresee)
        problems.append(_Problem(grading, bank))
        foresee = None  # told once, of all
    method, folder = specs[0].method, _study_folder(gradings)
    waiting = f"another process tunes {method} on this task: waiting for it"
    with locked(folder / "lock", lambda: console.tell(waiting)), console.progress(method, "trials") as on_progress:
        study = _open_study(folder)
        while (done := _finished(study)) < trials:
            on_progress(done, trials)
            _one_trial(study, problems, workers)
        on_progress(trials, trials)
        return _conclude(study, problems, trials, path, for_same_request)


@dataclass(frozen=True)
class _Problem:
    """What values are tried on: the grading with the published ones, and the models that judge it."""

    published: Grading
    bank: Bank


def _published(spec: GradingSpec, device: str) -> Grading:
    grading = resolve(spec, load_with_one_request(spec.task), device)
    _check_first_trial(grading)
    return grading


def _for_tuning(spec: GradingSpec) -> GradingSpec:
    """The grading that a trial is: other models, other seeds, one original, a tighter budget."""
    certifies = facts_of(spec.method).certifies
    return replace(
        spec,
        task=replace(spec.task, role="tuning"),
        originals=1,
        tuned=None,
        seed=derive_seed("tuning from retrained models" if certifies else "tuning", spec.seed),
        budget=spec.budget * BUDGET_MARGIN,
        budget_seconds=spec.budget_seconds and spec.budget_seconds * BUDGET_MARGIN,
    )


def _check_first_trial(published: Grading) -> None:
    """The published values are the first trial. Those that follow from the recipe may be others than the defaults.

    Raises:
        UserError: one of them is not in the search space.
    """
    spec = published.spec
    for name, range_ in _space(spec).items():
        value = published.settings[name]
        parameter = replace(published.method.hyper_parameters[name], default=value)
        if complaint_of_entry(range_, parameter) is not None:
            raise UserError(
                f"{spec.method}: {name} is {value!r}, as in the recipe, which is not in its search space, {range_!r}: "
                f"--set {name}={value!r} keeps it."
            )


def _study_folder(gradings: Sequence[Grading]) -> Path:
    """Where the trials are kept; another for everything that would make other trials."""
    spec, task = gradings[0].spec, gradings[0].task
    space = {name: [type(range_).__name__, asdict(range_)] for name, range_ in _space(spec).items()}
    decided: list[Any] = [grading.identity for grading in gradings]
    decided += [spec.models, spec.budget, spec.budget_seconds, space]
    decided += ["validation accuracy, from retrained models"] * gradings[0].method.certifies
    digest = hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:8]
    return results_folder() / f"{task.name}-{task.fingerprint}" / f"tuning-{spec.method}-{digest}"


# ----------------------------------------------------------------------------------------------------------------------
# Trials
# ----------------------------------------------------------------------------------------------------------------------


def _open_study(folder: Path) -> optuna.Study:
    """The search as it is on disk. Trials that were interrupted don't count, and are done again."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _mend_journal(folder / "trials.journal")
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "trials.journal"))),
        study_name="tuning",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FEWEST_RUNS, reduction_factor=2),
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _mend_journal(path: Path) -> None:
    """Undo what a killed search has left unfinished; nobody else works on it, as we hold the lock of its folder.

    That is Optuna's own lock, for which it would wait half a minute, and a last line that is not whole, after which it
    reads nothing any more.
    """
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        leftover.unlink()
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _finished(study: optuna.Study) -> int:
    """Trials that came to an end, be it an early one."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _one_trial(study: optuna.Study, problems: Sequence[_Problem], workers: Workers) -> None:
    """Propose values, run the method with them, and note how good they are; the published ones first."""
    import optuna

    published = problems[0].published
    spec = published.spec
    number = _finished(study)
    study.sampler = optuna.samplers.TPESampler(
        seed=derive_seed("trial", spec.seed, number) % 2**32, n_startup_trials=RANDOM_TRIALS
    )
    if number == 0:
        study.enqueue_trial({name: published.settings[name] for name in _space(spec)}, skip_if_exists=False)
    trial = study.ask()
    values = {**dict(spec.settings), **propose(trial, spec)}
    try:
        score = _score_of_trial(trial, tuple(values.items()), problems, workers)
    except GradingLostError:  # that is no answer: the trial is done again by the next call
        raise
    except GradingFailedError as error:
        trial.set_user_attr("complaint", str(error))
        if isinstance(error.__cause__, RunFailedError):
            trial.set_user_attr("reason", error.__cause__.complaint)
        score = 0.0
    if score is None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, score)


def _space(spec: GradingSpec) -> dict[str, Between | OneOf]:
    """The method's search space, without the hyper-parameters that the user set."""
    space = facts_of(spec.method).search_space
    return {name: range_ for name, range_ in space.items() if name not in dict(spec.settings)}


def propose(trial: optuna.Trial, spec: GradingSpec) -> dict[str, Any]:
    """Values for the hyper-parameters to search."""
    known = facts_of(spec.method).hyper_parameters
    values: dict[str, Any] = {}
    for name, range_ in _space(spec).items():
        if isinstance(range_, OneOf):
            values[name] = trial.suggest_categorical(name, range_.choices)
        elif known[name].type is int:
            values[name] = trial.suggest_int(name, int(range_.low), int(range_.high), log=range_.log)
        else:
            values[name] = _rounded(trial.suggest_float(name, range_.low, range_.high, log=range_.log))
    return values


def _rounded(value: Any) -> Any:
    """Three digits of a number are enough, and can be read; anything else is left as it is."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _score_of_trial(
    trial: optuna.Trial, settings: tuple[tuple[str, Any], ...], problems: Sequence[_Problem], workers: Workers
) -> float | None:
    """The mean score after all runs; None if the trial is stopped before. Its files are removed in the end."""
    folders: list[Path] = []
    models = problems[0].published.spec.models
    try:
        for runs in _looks(models):
            score = statistics.fmean(_worth_of_runs(one, settings, runs, folders, workers) for one in problems)
            trial.report(score, step=runs)
            if runs < models and trial.should_prune():
                return None
        return score
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _worth_of_runs(
    problem: _Problem, settings: tuple[tuple[str, Any], ...], runs: int, folders: list[Path], workers: Workers
) -> float:
    """What `runs` runs with these settings are worth; their folder is added to `folders`."""
    published = problem.published
    spec = replace(published.spec, settings=settings, models=runs)
    part = resolve(spec, published.task, workers.device)
    folders.append(part.folder)
    start = "retrained" if published.method.certifies else "original"
    unlearned = unlearn(part, problem.bank, workers, start=start)
    return _worth(spec, published.task, unlearned.outputs, problem.bank.retrained.outputs(runs))


def _worth(spec: GradingSpec, task: Task, unlearned: Outputs, retrained: Outputs) -> float:
    """What the search maximises: the score, or, for a method that certifies, the mean validation accuracy."""
    if facts_of(spec.method).certifies:
        return float(unlearned.accuracy("validation", task.labels("validation")).mean())
    return quick_score(unlearned, retrained, task, METRICS[spec.metric])


def _looks(runs: int) -> list[int]:
    """After how many runs a trial of `runs` is looked at.

    >>> _looks(32), _looks(40), _looks(6)
    ([8, 16, 32], [8, 16, 32, 40], [6])
    """
    looks = []
    look = FEWEST_RUNS
    while look < runs:
        looks.append(look)
        look *= 2
    return [*looks, runs]


# ----------------------------------------------------------------------------------------------------------------------
# The end
# ----------------------------------------------------------------------------------------------------------------------


def _ceiling(problem: _Problem) -> float:
    """The score of retrained models against each other."""
    spec, task = problem.published.spec, problem.published.task
    metric = METRICS[spec.metric]
    truth = population(problem.bank.retrained.outputs(spec.models), task, metric)
    return ceiling(truth, metric.forgetting_quality).score.value


def _most_frequent(reasons: list[str]) -> str:
    """The reason that occurs most often, the first of several; "" if there is none.

    The same with other numbers, of seconds for instance, is the same reason.
    """
    kinds = [NUMBERS.sub("0", reason) for reason in reasons]
    return reasons[kinds.index(Counter(kinds).most_common(1)[0][0])] if reasons else ""


def _chosen_on(grading: Grading, for_same_request: bool) -> str:
    """What a certificate may say of values that were found: `SEARCHED` if nothing that was used saw the forget set.

    What is prepared is prepared for an original, which did.
    """
    return SEARCHED if for_same_request and not grading.method.has_prepare else "retain"


def _conclude(
    study: optuna.Study, problems: Sequence[_Problem], trials: int, path: Path, for_same_request: bool
) -> TuningResult:
    """Write down the best values among the first `trials` trials, in the file `path`."""
    published = problems[0].published
    spec = published.spec
    ended = [trial for trial in study.get_trials() if trial.state.name in ("COMPLETE", "PRUNED")][:trials]
    complete = [trial for trial in ended if trial.state.name == "COMPLETE"]
    scores = [trial.value or 0.0 for trial in complete]
    best = complete[scores.index(max(scores))]
    outcome = TuningResult(
        method=spec.method,
        settings={
            **{name: published.settings[name] for name, _ in spec.settings},
            **{name: _rounded(value) for name, value in best.params.items()},
            **({"constants_chosen_on": _chosen_on(published, for_same_request)} if published.method.certifies else {}),
        },
        score=max(scores),
        # The first trial is the published values; with nobody to compare it with, it is never stopped early.
        published_score=scores[0],
        trials=trials,
        stopped_early=len(ended) - len(complete),
        failed=sum("complaint" in trial.user_attrs for trial in complete),
        path=path,
        why_failed=_most_frequent([one.user_attrs["reason"] for one in complete if "reason" in one.user_attrs]),
    )
    entry: dict[str, Any] = {
        "settings": outcome.settings,
        "trials": trials,
        "runs": spec.models,
        "score": round(outcome.score, 6),
        "published_score": round(outcome.published_score, 6),
        "code": published.method.code_hash,
    }
    if METRICS[spec.metric].ceiling_bounds and not published.method.certifies:
        entry["ceiling"] = round(statistics.fmean(map(_ceiling, problems)), 6)
    write_tuned(outcome.path, spec.method, entry)
    return outcome
