"""`python main.py unlearn`: from a user's weights to unlearned ones, and a record of what was done.

    unlearned.pth                 a state_dict (or unlearned.safetensors, by the name that was asked for)
    unlearned.json                see `HandoverRecord`; written last
    unlearned-certificate.json    if the method certifies
    unlearned.log                 what the method printed, if anything

The method runs as in a grading, in a process of its own. But its seed comes from the operating system, and is kept by
nobody, so that noise which hides the original can't be taken off again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from torch import Tensor

from checkpoints.devices import describe_device, versions
from checkpoints.grouped import State
from checkpoints.own_weights import read_weights
from checkpoints.workers import Workers
from data import Task, UserError, load
from data.files import sha256_of, shown, write_atomically, write_tensors
from data.seeds import derive_seed
from evaluation.certification.finishing import Circumstances, chosen_for, finish
from evaluation.certification.mechanisms import mechanisms
from evaluation.console import Console
from evaluation.grading import remarks_on, tell_remarks
from evaluation.handover.look import look_at, warn_of_chance
from evaluation.handover.record import FORMAT, HandoverRecord, Step, WeightsFile
from evaluation.isolation.handle import CallFailedError
from evaluation.isolation.structure import fresh_network
from evaluation.metrics.metric import Floats
from evaluation.report import results_folder
from evaluation.runs.foresight import ensure_original
from evaluation.runs.notes import CERTIFICATE, SEEN
from evaluation.runs.one import Finished, log_file, told_in, unlearn
from evaluation.runs.prepared import prepare_for
from evaluation.runs.resolve import Grading, resolve
from evaluation.runs.unlearned import drift_from
from evaluation.spec import GradingSpec

ORIGINAL = "original 0 of the bank"
SMALL_SEEDS = (
    "The noise comes from PyTorch's generator. On a CPU that has 2^32 starts: who knows the original can try them all."
)
"""`at::mt19937` takes 32 bits of a seed, whatever its length."""


@dataclass(frozen=True)
class Order:
    """What a user wants unlearned."""

    spec: GradingSpec
    """Method, task and hyper-parameters; the rest does not count."""
    weights: Path | None
    """None: original 0 of the bank."""
    seed: int | None
    """None: from the operating system."""
    out: Path | None
    """None: in the folder of results."""


def hand_over(order: Order, workers: Workers, console: Console) -> tuple[HandoverRecord, Path]:
    """Unlearn the weights, request after request, and write what came of it; the record, and the file of weights.

    Raises:
        UserError: the task, the weights or a setting is wrong; the method failed; or a file is in the way.
    """
    spec = order.spec
    task = load(spec.task, workers.device)
    tasks = [replace(task, spec=replace(task.spec, step=step)) for step in range(len(task.requests))]
    gradings = [resolve(replace(spec, task=one.spec), one, workers.device) for one in tasks]
    last = gradings[-1]
    out = order.out or results_folder() / f"{last.task.name}-{last.task.fingerprint}" / spec.method / "unlearned.pth"
    _check_place(out, order.weights)
    tell_remarks(gradings[:1], console)
    start, weights_in = _start(order, tasks[0], workers, console)
    before = look_at(last.task, start)
    warn_of_chance(before, last.task, weights_in.name, console)
    with console.waiting(f"{spec.method} unlearns"), log_file(out.with_suffix(".log")) as log:
        left, steps, done = _fulfil(gradings, start, order.seed, log)
    for remark in remarks_on(last.method, _drifts(steps)):
        console.tell(remark)
    _write_weights(out, left)
    weights_out = WeightsFile(out.name, sha256_of(out))
    certificate = _certify(order, gradings, done, out, weights_out, console)
    record = HandoverRecord(
        format=FORMAT,
        method=spec.method,
        settings=last.settings,
        changed={name: last.settings[name] for name, _ in spec.settings},
        tuned_trials=spec.tuned.trials if spec.tuned else None,
        code=last.method.code_hash,
        task=task.name,
        task_fingerprint=last.task.fingerprint,
        network=task.network,
        train_examples=len(task.train),
        forget_examples=len(last.task.forget_indices),
        weights_in=weights_in,
        weights_out=weights_out,
        seed=order.seed,
        steps=steps,
        before=before,
        after=look_at(last.task, left),
        certificate=certificate,
        device=describe_device(workers.device),
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    write_atomically(record_path(out), lambda beside: beside.write_text(record.to_json(), encoding="utf-8"))
    return record, out


def record_path(out: Path) -> Path:
    """Where the record of a file of weights is."""
    return out.with_suffix(".json")


def _check_place(out: Path, weights: Path | None) -> None:
    """Refuse to write over anything but what this command has written before."""
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(f"--out {out}: name a file that ends in .pth, .pt or .safetensors.")
    if not out.exists():
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it, like {out / 'unlearned.pth'}.")
    if weights is not None and weights.exists() and out.samefile(weights):
        raise UserError(f"--out {out} is the file of --weights: name another, so that the original is kept.")
    try:
        known = json.loads(record_path(out).read_text(encoding="utf-8"))["weights_out"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known != sha256_of(out):
        raise UserError(f"{out} exists, and was not written by this command: name another file, or remove it.")


def _start(order: Order, task: Task, workers: Workers, console: Console) -> tuple[State, WeightsFile]:
    """The weights to begin with, and what the record says of them."""
    if order.weights is not None:
        weights = read_weights(order.weights, task, console.tell)
        return weights, WeightsFile(order.weights.name, sha256_of(order.weights))
    bank = ensure_original(task, workers, console)
    return bank.originals.state(0), WeightsFile(ORIGINAL, None)


def _fulfil(
    gradings: Sequence[Grading], start: State, seed: int | None, log: int
) -> tuple[State, list[Step], Finished]:
    """Call the method for one request after another; the weights in the end, the steps, and the last run."""
    method = gradings[0].spec.method
    weights, memory, steps = start, dict[str, Tensor](), list[Step]()
    try:
        prepared = prepare_for(gradings[0].run_settings, gradings[0].task, start, _seed(seed, "prepare"), log)
        for number, grading in enumerate(gradings):
            settings = grading.run_settings
            done = unlearn(
                settings, grading.task, weights, _seed(seed, number), log, memory=memory, prepared=prepared.tensors
            )
            with told_in(log):
                network = fresh_network(grading.task, done.weights, method)
            left = {name: value.cpu() for name, value in network.state_dict().items()}
            request = grading.task.arrived[-1]
            steps.append(Step(request.text, len(request.indices), done.seconds, drift_from(weights, left)))
            weights, memory = left, done.memory
    except CallFailedError as error:
        raise UserError(f"{method} failed: {error.complaint.rstrip('.')}.") from error
    return weights, steps, done


def _seed(chosen: int | None, part: int | str) -> int:
    return secrets.randbits(63) if chosen is None else derive_seed("unlearn", chosen, part)


def _drifts(steps: Sequence[Step]) -> Floats:
    return np.array([step.drift for step in steps])


def _write_weights(path: Path, weights: State) -> None:
    if path.suffix != ".safetensors":
        write_tensors(path, weights)
        return
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in weights.items()})
    write_atomically(path, lambda beside: beside.write_bytes(content))


def _certify(
    order: Order,
    gradings: Sequence[Grading],
    done: Finished,
    out: Path,
    weights: WeightsFile,
    console: Console,
) -> str | None:
    """Write the certificate of what the method claims, if it claims something; the name of the file."""
    path, method = out.with_name(f"{out.stem}-certificate.json"), order.spec.method
    path.unlink(missing_ok=True)  # that of an earlier call
    notes = json.loads(done.notes) if done.notes else None
    claimed = notes.get(CERTIFICATE) if isinstance(notes, dict) else None
    if not claimed or method not in mechanisms():
        return None
    if len(gradings) > 1:
        console.tell(f"{method}: no certificate is written, since it would be of the last request alone.")
        return None
    facts = gradings[0].method
    circumstances = Circumstances(
        method,
        facts.code_sha256,
        seed="operating system" if order.seed is None else "user",
        chosen=chosen_for(gradings[0]),
        forget_set=SEEN[done.read_forget_set],
        weights=str(weights.sha256),
        original_has_public_seed=order.weights is None,
    )
    certificate = finish(claimed, circumstances)
    if order.seed is None:
        certificate = replace(certificate, assumptions=(*certificate.assumptions, SMALL_SEEDS))
    certificate.write(path)
    console.tell(f"{method}: python main.py certify {shown(path)} --weights {shown(out)} recomputes what it certifies")
    return path.name
