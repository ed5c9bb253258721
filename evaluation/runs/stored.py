"""What a grading has stored, read back: outputs of its runs, and of the models in the bank that they are compared with.

Nothing is run, and nothing is believed that has been changed since it was written (docs/trust.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoints.outputs import Outputs
from checkpoints.pool import Pool
from data import Task, UserError, load
from evaluation.report import Report, read_report
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec

LARGER, MARGIN = 2, 1 << 14
"""Times, and bytes a run beyond that, that outputs which are read from disk may be larger than the bank's are."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A finished grading, as it lies in its folder and in the bank."""

    folder: Path
    spec: GradingSpec
    report: Report
    """One of its reports, by whatever metric."""
    task: Task
    pools: tuple[Pool, Pool]
    """Of the originals, and of the retrained models."""
    originals: Outputs
    """Of K models."""
    retrained: Outputs
    """Of N models."""
    unlearned: Unlearned
    """Of all runs, in the order of `spec.runs()`."""

    @property
    def by_original(self) -> list[Outputs]:
        """The runs that are scored by themselves: those of each original; by the protocol "full", all."""
        count, models = self.spec.shape
        return [self.unlearned.outputs[k * models : (k + 1) * models] for k in range(count)]


def read_stored(folder: Path) -> Stored:
    """Read the grading in a folder, which may be somebody else's; the bank is the one that is here.

    Raises:
        UserError: the folder does not hold a finished grading, its outputs are not what was written, or its bank is
            gone.
    """
    config, path = folder / "config.yaml", folder / "outputs.npz"
    if not config.is_file():
        raise UserError(f"{folder} is not the folder of a grading: it has no config.yaml.")
    spec = GradingSpec.read(config)
    files = sorted(folder.glob("report*.json"))
    if not (files and path.exists()):
        raise UserError(f"{folder} is not finished: {spec.command(config)} goes on with it.")
    report = next((report for report in map(read_report, files) if report), None)
    if report is None:
        raise UserError(f"{files[0]} is not a report that can be read: {spec.command(config)} makes it again.")
    if report.method.name != spec.method:
        raise UserError(f"{folder} has the report of {report.method.name}, and {spec.method} in its config.yaml.")
    task = load(spec.task)
    pools = Pool(task, "original"), Pool(task, "retrained")
    if not (pools[0].is_complete(spec.originals_needed) and pools[1].is_complete(spec.models)):
        raise UserError(f"The models it was compared with are gone: {spec.command(config)} makes them again.")
    originals, retrained = pools[0].outputs(spec.originals_needed), pools[1].outputs(spec.models)
    unlearned = _runs(path, spec, config, retrained)
    return Stored(folder, spec, report, task, pools, originals, retrained, unlearned)


def _runs(path: Path, spec: GradingSpec, config: Path, retrained: Outputs) -> Unlearned:
    """What the runs of a grading have left, if it is what they can have left: as many models, with logits like those.

    Raises:
        UserError: it is not.
    """
    again = f"{spec.command(config)} makes it again."
    runs = math.prod(spec.shape)
    a_model = sum(array.nbytes for array in retrained.arrays().values()) // len(retrained)
    if path.stat().st_size > LARGER * runs * (a_model + MARGIN):
        raise UserError(f"{path} is larger than the outputs of {runs} runs can be: {again}")
    reasons: list[str] = []
    unlearned = Unlearned.load(path, reasons.append)
    if unlearned is None:
        raise UserError(f"{reasons[0] if reasons else f'{path} is gone'}; {again}")
    arrays = unlearned.outputs.arrays()
    wanted = {name: (runs, *array.shape[1:]) for name, array in retrained.arrays().items() if name in arrays}
    for name, array in arrays.items():
        if name in wanted and array.shape != wanted[name]:
            raise UserError(
                f"{path} does not fit its config.yaml: {name} is {array.shape}, not {wanted[name]}. {again}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path} has {name} that are NaN or infinite: it can't be scored.")
    return unlearned
