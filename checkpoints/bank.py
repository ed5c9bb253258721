"""The bank: original and retrained models on disk, trained on first use, checked on every use.

Models are trained in groups with fixed boundaries (`group_bounds`), and a group's bits do not depend on what else is
trained or when: a bank that grew, or was killed and resumed, equals one made in one go. `pool.py` says what lies where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from checkpoints.devices import describe_device
from checkpoints.jobs import record_group, remark_on_way, time_retraining, time_training, train_group
from checkpoints.outputs import OUTPUTS_FORMAT, SCORED, Outputs
from checkpoints.pool import Pool, Tell
from checkpoints.queue import answers_of, work_off
from checkpoints.workers import Workers
from data.arrays import digest_of
from data.files import sha256_of, write_atomically

if TYPE_CHECKING:
    from data import Task


SHORT = 60.0
"""Seconds of training that are not worth a closer look beforehand."""

Foresee = Callable[[float, float], None]
"""Called before any model is trained, with the seconds that all of them are expected to take, and that one takes alone.
It may raise an error, so that nothing is begun."""


@dataclass(frozen=True)
class Bank:
    """The models that a grading compares: `originals` to start from, `retrained` as the truth."""

    originals: Pool
    retrained: Pool
    retrain_seconds: float
    """Seconds that one retrained model takes on this device, alone, in an ordinary training loop."""

    def fingerprint(self, originals: Outputs, retrained: Outputs) -> str:
        """Hash of weights and outputs of the first models of each pool, of which these are the outputs.

        Of the outputs, what scores depend on: that has been recorded by all versions.
        """
        digest = hashlib.sha256()
        for pool, outputs in ((self.originals, originals), (self.retrained, retrained)):
            manifest = pool.manifest()
            for model in range(len(outputs)):
                digest.update(manifest.get(pool.model_path(model).name, {}).get("sha256", "").encode())
            digest.update(digest_of({name: getattr(outputs, name) for name in SCORED}))
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _Piece:
    """One group that needs work, and the job that does it."""

    pool: Pool
    start: int
    stop: int
    job: Callable[..., dict[str, Any]]

    def submit(self, workers: Workers) -> Future[dict[str, Any]]:
        return workers.submit(self.job, self.pool.task.spec, workers.device, self.pool.kind, self.start, self.stop)


def ensure(
    task: Task,
    originals: int,
    retrained: int,
    workers: Workers,
    tell: Tell = lambda text: None,
    on_progress: Callable[[float, int], None] = lambda done, total: None,
    foresee: Foresee | None = None,
) -> Bank:
    """The bank of `task` with at least this many models; those that are missing or damaged are trained now.

    Args:
        originals: models on all training data, K.
        retrained: models on the retain set, N.
        tell: called with a line for the user, about damaged files for example.
        on_progress: called several times a second with the models done, and the models to do in all.
        foresee: called once before models are trained, or if none is to be trained.
    """
    pool_of_originals, pool_of_retrained = Pool(task, "original"), Pool(task, "retrained")
    wanted = {pool_of_originals: originals, pool_of_retrained: retrained}
    with ExitStack() as locks:
        for pool in sorted(wanted, key=lambda pool: pool.fingerprint):  # one order for all: no deadlock
            locks.enter_context(pool.locked(tell))
        pieces = [piece for pool, models in wanted.items() for piece in _missing(pool, models, tell)]
        pieces.sort(key=lambda piece: piece.start - piece.stop)  # the longest first
        _tell_of_groups(pieces, workers, tell)
        seconds = _retrain_seconds(pool_of_retrained, workers)
        if foresee is not None:
            foresee(_training_seconds(pieces, seconds, workers), seconds)
        _make(pieces, workers, on_progress)
    return Bank(pool_of_originals, pool_of_retrained, seconds)


def _missing(pool: Pool, models: int, tell: Tell) -> list[_Piece]:
    """The groups of a pool that have to be trained, or only to be recorded for this task."""
    manifest = pool.manifest()
    if not manifest and pool.manifest_path.exists():
        tell(f"{pool.manifest_path} is damaged: making the {pool.kind} models again")
    if not manifest:
        return [_Piece(pool, start, stop, train_group) for start, stop in pool.bounds(models)]

    def is_whole(path: Path) -> bool:
        if path.name not in manifest:
            return False
        whole = path.is_file() and sha256_of(path) == manifest[path.name]["sha256"]
        if not whole:
            tell(f"{path} is damaged or gone: making it again")
        return whole

    pieces = []
    for start, stop in pool.bounds(models):
        if not all(list(map(is_whole, map(pool.model_path, range(start, stop))))):
            pieces.append(_Piece(pool, start, stop, train_group))
        elif not is_whole(pool.outputs_path(start)) or _is_of_early_version(manifest, pool.outputs_path(start)):
            pieces.append(_Piece(pool, start, stop, record_group))
    return pieces


def _is_of_early_version(manifest: dict[str, Any], outputs: Path) -> bool:
    """Whether outputs lack something that is recorded now."""
    return manifest[outputs.name].get("format") != OUTPUTS_FORMAT


def _tell_of_groups(pieces: list[_Piece], workers: Workers, tell: Tell) -> None:
    """Say how models are trained, if it is not as grouped networks; it may take longer then."""
    groups = [piece for piece in pieces if piece.job is train_group]
    if not groups:
        return
    task, largest = groups[0].pool.task, max(piece.stop - piece.start for piece in groups)
    (remark,) = answers_of(workers, lambda pool: pool.submit(remark_on_way, task.spec, pool.device, largest))
    if remark is not None:
        tell(remark)


def _training_seconds(pieces: list[_Piece], alone: float, workers: Workers) -> float:
    """Seconds that training is expected to take; `alone` are those of one model by itself.

    Together, models take less. That is measured where it matters.
    """
    groups = [piece for piece in pieces if piece.job is train_group]
    if not groups:
        return 0.0
    models, at_once = sum(piece.stop - piece.start for piece in groups), min(workers.count, len(groups))
    if models * alone / at_once < SHORT:
        return models * alone / at_once
    spec, one = groups[0].pool.task.spec, groups[0]  # of the largest
    about = one.pool.kind, one.start, one.stop
    each = mean(answers_of(workers, lambda pool: pool.submit(time_training, spec, pool.device, *about), at_once))
    return models * min(each, alone) / at_once


def _make(pieces: list[_Piece], workers: Workers, on_progress: Callable[[float, int], None]) -> None:
    """Do the pieces in the workers; each is noted in its pool's manifest as soon as it is done."""
    if not pieces:  # then there is no progress to show either
        return
    before = workers.progress
    total = sum(piece.stop - piece.start for piece in pieces)

    def note(piece: _Piece, future: Future[dict[str, Any]]) -> bool:
        piece.pool.add_to_manifest(future.result())
        return False

    work_off(
        pieces, workers.pools, _Piece.submit, note, lambda _: on_progress(workers.progress - before, total), ahead=2
    )
    on_progress(total, total)


def _retrain_seconds(retrained: Pool, workers: Workers) -> float:
    """Seconds of retraining on this device: measured once, then kept beside the retrained models.

    By all workers at once, as runs are done, and the mean: where they share a GPU or the halves of a core, one alone
    would be quicker, and the budget that is a share of this too short.
    """
    path = retrained.folder / "retrain_seconds.json"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    (device,) = answers_of(workers, lambda pool: pool.submit(describe_device, pool.device))
    if device not in known:
        spec = retrained.task.spec
        known[device] = mean(
            answers_of(workers, lambda pool: pool.submit(time_retraining, spec, pool.device), workers.count)
        )
        write_atomically(path, lambda beside: beside.write_text(json.dumps(known)))
    return known[device]
