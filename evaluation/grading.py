"""Running a method K x N times: which runs are needed, which are done, and what they left."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pebble import ProcessExpired

from checkpoints.bank import Bank, Tell
from checkpoints.workers import Workers
from data import Task, TaskSpec, UserError
from data.files import write_atomically
from evaluation.report import results_folder
from evaluation.run import OVER_BUDGET, RunSettings, Unlearned, make_method, perform, run_path
from methods import all_method_handlers

PROTOCOLS = ("per-original", "full")
MIN_MODELS = {"official": 6, "notebook": 12}
"""The fewest models that a metric can grade: the ceiling compares two halves, and each must be enough for it."""


class GradingFailedError(UserError):
    """A run of the method failed, and so does its grading. The message names the run and its log."""


@dataclass(frozen=True)
class GradingSpec:
    """Everything that a user decides about a grading; `config.yaml` holds it.

    `protocol` "per-original" grades `models` runs from each of `originals` originals, each by itself, and
    averages. "full" grades one run from each of `models` originals (and `originals` does not count).
    """

    method: str
    task: TaskSpec = field(default_factory=TaskSpec)
    settings: tuple[tuple[str, Any], ...] = ()
    """Hyper-parameters that differ from the method's defaults."""
    originals: int = 2
    models: int = 64
    protocol: str = "per-original"
    metric: str = "official"
    seed: int = 0
    budget: float = 0.2
    """The most seconds a run may take, as a fraction of the measured seconds of retraining."""
    budget_seconds: float | None = None
    """The same in seconds; overrides `budget`."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(f"--protocol is one of {', '.join(PROTOCOLS)}, not {self.protocol!r}.")
        if self.metric not in MIN_MODELS:
            raise UserError(f"--metric is one of {', '.join(MIN_MODELS)}, not {self.metric!r}.")
        if self.originals < 1 or self.models < MIN_MODELS[self.metric]:
            fewest = MIN_MODELS[self.metric]
            raise UserError(f"A grading by the {self.metric} metric needs at least 1 original and {fewest} models.")
        for budget in (self.budget, self.budget_seconds):
            if budget is not None and not 0 < budget < math.inf:
                raise UserError(f"The budget must be greater than 0 and finite, not {budget}.")

    def runs(self) -> list[tuple[int, int]]:
        """The runs `(original, run)` of the grading, in the order of `outputs.npz`."""
        if self.protocol == "full":
            return [(original, 0) for original in range(self.models)]
        return [(original, run) for original in range(self.originals) for run in range(self.models)]

    @property
    def originals_needed(self) -> int:
        """How many originals the bank must have."""
        return self.models if self.protocol == "full" else self.originals

    @property
    def shape(self) -> tuple[int, int]:
        """(distributions to grade, models in each)."""
        return (1 if self.protocol == "full" else self.originals, self.models)

    def to_yaml(self) -> str:
        """As the text of a `config.yaml`."""
        values = asdict(self)
        values["settings"] = dict(self.settings)
        values["task"] = {**asdict(self.task), "recipe": dict(self.task.recipe), "forget": list(self.task.forget)}
        return yaml.safe_dump(values, sort_keys=False)

    def as_options(self) -> dict[str, Any]:
        """As values of the command line's options, by the name of the parameter."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        task = options.pop("task")
        options["set_"] = [f"{name}={value}" for name, value in options.pop("settings")]
        options["recipe"] = [f"{name}={value}" for name, value in task.recipe]
        options["forget"] = list(task.forget)
        options |= {name: getattr(task, name) for name in ("data_dir", "train_size", "test_size", "network")}
        return {**options, "task": task.name}

    @staticmethod
    def read(path: Path) -> GradingSpec:
        """From a `config.yaml`.

        Raises:
            UserError: the file can't be read, or is something else.
        """
        try:
            values = dict(yaml.safe_load(path.read_text()))
            task = dict(values.pop("task", {}))
            task["forget"] = tuple(task.get("forget", ()))
            task["recipe"] = tuple(dict(task.get("recipe") or {}).items())
            values["settings"] = tuple(dict(values.get("settings") or {}).items())
            return GradingSpec(task=TaskSpec(**task), **values)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}. Name a config.yaml from results/.") from error
        except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is not the config.yaml of a grading: {reason}.") from error


# ----------------------------------------------------------------------------------------------------------------------
# Which method, and where its results go
# ----------------------------------------------------------------------------------------------------------------------


def method_settings(spec: GradingSpec, task: Task) -> dict[str, Any]:
    """The hyper-parameters in force: the user's, else the task's recipe's if the method follows it, else the default.

    Raises:
        UserError: a hyper-parameter that the method does not have, or a value that it can't take.
    """
    handler = all_method_handlers()[spec.method]
    overrides = dict(spec.settings)
    if handler.follows_recipe:
        recipe = {name: value for name, value in asdict(task.recipe).items() if name in handler.hyper_parameters()}
        overrides = {**recipe, **overrides}
    try:
        return make_method(spec.method, overrides).settings()
    except ValueError as error:
        raise UserError(str(error)) from error


def run_identity(spec: GradingSpec, task: Task, device: str) -> str:
    """Hash of all that decides a run, apart from which original and which run it is.

    The source of the method is part of it: an edited method is another method.
    """
    source = inspect.getsource(inspect.getmodule(all_method_handlers()[spec.method]))  # type: ignore[arg-type]
    decided = [task.fingerprint, spec.method, method_settings(spec, task), source, spec.seed, device.split(":")[0]]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:12]


def grading_folder(spec: GradingSpec, task: Task, device: str) -> Path:
    """`results/<task>-<fingerprint>/<method>-<hash>/`."""
    decided = [run_identity(spec, task, device), spec.protocol, spec.shape]
    digest = hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:8]
    return results_folder() / f"{task.name}-{task.fingerprint}" / f"{spec.method}-{digest}"


# ----------------------------------------------------------------------------------------------------------------------
# The runs
# ----------------------------------------------------------------------------------------------------------------------


def unlearn(
    spec: GradingSpec,
    task: Task,
    bank: Bank,
    workers: Workers,
    tell: Tell = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Unlearned:
    """Run the method as often as the grading needs; runs that are on disk already are not repeated.

    Raises:
        GradingFailedError: a run raised, broke the contract or exceeded the budget. The others are kept.
    """
    folder = grading_folder(spec, task, workers.device)
    identity = run_identity(spec, task, workers.device)
    settings = RunSettings(
        task=spec.task,
        device=workers.device,
        method=spec.method,
        hyper_parameters=tuple(method_settings(spec, task).items()),
        seed=spec.seed,
        budget_seconds=budget_seconds(spec, bank),
        folder=folder,
    )
    with _locked(folder, tell):
        write_atomically(folder / "config.yaml", lambda beside: beside.write_text(spec.to_yaml()))
        write_atomically(folder / "run_identity", lambda beside: beside.write_text(identity))
        (folder / "failed.json").unlink(missing_ok=True)
        known = _known_runs(folder, identity)
        if settings.budget_seconds is not None:  # an earlier grading may have allowed more
            known = {key: run for key, run in known.items() if run.seconds[0] <= settings.budget_seconds}
        _work_off(settings, [key for key in spec.runs() if key not in known], len(spec.runs()), workers, on_progress)
        for key in spec.runs():
            if key not in known:
                known[key] = _read_run(folder, key)
        unlearned = Unlearned.join([known[key] for key in spec.runs()])
        unlearned.save(folder / "outputs.npz")
        for path in (folder / "runs").glob("*.npz"):
            path.unlink()
    return unlearned


def budget_seconds(spec: GradingSpec, bank: Bank) -> float | None:
    """Seconds after which a run is killed; None for a method that is exempt."""
    if all_method_handlers()[spec.method].exempt_from_budget:
        return None
    return spec.budget_seconds or spec.budget * bank.retrain_seconds


def _known_runs(folder: Path, identity: str) -> dict[tuple[int, int], Unlearned]:
    """Runs with this identity that are on disk: in this folder, or in that of a grading with other numbers."""
    known: dict[tuple[int, int], Unlearned] = {}
    for config in sorted(folder.parent.glob("*/config.yaml")):
        mark = config.with_name("run_identity")
        if not mark.is_file() or mark.read_text() != identity:
            continue
        try:
            keys = GradingSpec.read(config).runs()
        except UserError:  # damaged, and that of another grading: this one's has just been written
            continue
        together = Unlearned.load(config.with_name("outputs.npz"))
        if together is not None and len(together) == len(keys):
            known |= {key: together[number : number + 1] for number, key in enumerate(keys)}
            continue
        for key in keys:
            alone = Unlearned.load(run_path(config.parent, *key, ".npz"))
            if alone is not None:
                known[key] = alone
    return known


def _read_run(folder: Path, key: tuple[int, int]) -> Unlearned:
    run = Unlearned.load(run_path(folder, *key, ".npz"))
    assert run is not None, f"run {key} was reported as finished, but left no outputs in {folder}"
    return run


def _work_off(
    settings: RunSettings,
    keys: list[tuple[int, int]],
    total: int,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> None:
    """Have the workers do the runs `keys`; the first that fails ends the grading."""
    before = total - len(keys)
    pending = {workers.submit(perform, settings, *key): key for key in keys}
    try:
        while pending:
            on_progress(total - len(pending), total)
            done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                key = pending.pop(future)
                complaint = _complaint(future, settings)
                if complaint is not None:
                    _fail(settings, key, complaint, finished=total - len(pending) - 1 - before)
        on_progress(total, total)
    finally:
        for future in pending:
            future.cancel()


def _complaint(future: Future[str | None], settings: RunSettings) -> str | None:
    """What went wrong in a run, in words; None if nothing did."""
    try:
        return future.result()
    except ProcessExpired as death:
        if death.exitcode in OVER_BUDGET:
            return f"it exceeded the budget of {settings.budget_seconds:.3g} seconds and was killed"
        return f"its process died with exit code {death.exitcode} (-9 often means: out of memory)"


def _fail(settings: RunSettings, key: tuple[int, int], complaint: str, finished: int) -> None:
    log = run_path(settings.folder, *key, ".log")
    message = f"{settings.method} failed in run {key[1]} from original {key[0]}: {complaint.rstrip('.')}."
    record = {"method": settings.method, "original": key[0], "run": key[1], "complaint": complaint}
    write_atomically(settings.folder / "failed.json", lambda beside: beside.write_text(json.dumps(record, indent=1)))
    raise GradingFailedError(f"{message} Its log: {log}. The {finished} runs that finished are kept.")


@contextmanager
def _locked(folder: Path, tell: Tell) -> Iterator[None]:
    """Hold a grading's folder alone, waiting for another process that works on the same grading."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        tell("another process works on this grading: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
