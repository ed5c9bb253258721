"""Putting an audit to a method: from what a grading stored, which is graded first if it has not been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.bank import Bank, ensure
from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.workers import Workers
from data.files import write_atomically
from evaluation.audits.audit import Audit, Evidence, Result
from evaluation.audits.record import AuditRecord
from evaluation.console import Console
from evaluation.grading import load_with_one_request, tell_remarks
from evaluation.runs.foresight import foreseer
from evaluation.runs.many import unlearn
from evaluation.runs.one import load_weights
from evaluation.runs.resolve import Grading, resolve
from evaluation.runs.settings import run_path
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec


def audit_grading(
    audit: Audit, spec: GradingSpec, options: Mapping[str, Any], workers: Workers, console: Console
) -> tuple[Result, Path]:
    """Put an audit to the runs of a grading; the result, and the file in the grading's folder that has it.

    Runs and models that are stored are used as they are; the others are made now, as the grading would make them, but
    without a budget.

    Raises:
        UserError: an option, the task or a hyper-parameter is wrong; or a run failed.
    """
    values = audit.values_in_force(options)
    task = load_with_one_request(spec.task)
    grading = resolve(spec, task, workers.device)
    tell_remarks([grading], console)
    build_network(task)  # if there is no such network, now is the time to say so
    foresee = foreseer([], workers, console)
    with console.progress("bank", "models") as on_progress:
        bank = ensure(task, spec.originals_needed, spec.models, workers, console.tell, on_progress, foresee)
    with console.progress(spec.method, "runs") as on_progress:
        unlearned = unlearn(
            grading, bank, workers, console.tell, on_progress, for_audit=True, keep_weights=audit.needs_weights
        )
    with console.waiting(f"{spec.method}: {audit.name}"):
        result = audit.examine(_evidence(grading, bank, unlearned, audit.needs_weights), **values)
    path = grading.folder / f"audit-{audit.name}.json"
    text = _record(audit, values, grading, result).to_json()
    write_atomically(path, lambda beside: beside.write_text(text))
    return result, path


def _record(audit: Audit, options: dict[str, Any], grading: Grading, result: Result) -> AuditRecord:
    spec, task = grading.spec, grading.task
    return AuditRecord(
        audit=audit.name,
        method=spec.method,
        settings=grading.settings,
        code=grading.method.code_hash,
        task=task.name,
        network=task.network,
        forget=[request.text for request in task.arrived],
        protocol=spec.protocol,
        models=spec.models,
        originals=spec.originals_needed,
        seed=spec.seed,
        task_fingerprint=task.fingerprint,
        options=options,
        result=result,
    )


def _evidence(grading: Grading, bank: Bank, unlearned: Unlearned, with_weights: bool) -> Evidence:
    spec = grading.spec
    count, models = spec.shape

    def unlearned_weights(original: int, run: int) -> State:
        weights, _ = load_weights(run_path(grading.folder, original, run, ".pt"))
        return weights

    return Evidence(
        method=spec.method,
        task=grading.task,
        originals=bank.originals.outputs(spec.originals_needed),
        retrained=bank.retrained.outputs(models),
        unlearned=[unlearned.outputs[k * models : (k + 1) * models] for k in range(count)],
        original_weights=bank.originals.state,
        retrained_weights=bank.retrained.state,
        unlearned_weights=unlearned_weights if with_weights else None,
    )
