"""What is known of one model, and of how it was unlearned: `unlearned.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.audits.membership import Attack
from evaluation.metrics.accuracies import Accuracies

FORMAT = 1


@dataclass(frozen=True)
class Look:
    """What one model does with the images of a task."""

    accuracies: Accuracies
    """On the forget, retain, validation and test set; the forget set is all that is to be forgotten."""
    membership: dict[str, Attack] | None
    """Five membership attacks on it, by name (see `evaluation.audits.membership`); None if there are too few images."""


@dataclass(frozen=True)
class Step:
    """How one request was fulfilled."""

    request: str
    images: int
    """How many were to be forgotten."""
    seconds: float
    """Of the method's run."""
    drift: float
    """How far the weights have moved, see `drift_from`."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights."""

    name: str
    """Without the folder; of the bank's original, how it was chosen."""
    sha256: str | None
    """Of the file; None for an original of the bank."""


@dataclass(frozen=True)
class HandoverRecord:
    """What was unlearned, how, and what came of it."""

    format: int
    method: str
    settings: dict[str, Any]
    """Every hyper-parameter's value in force."""
    changed: dict[str, Any]
    """Those that the user set."""
    tuned_trials: int | None
    """Trials of the search whose values were used; None if none were."""
    code: str
    """Hash of the method's code."""
    task: str
    task_fingerprint: str
    network: str
    train_examples: int
    forget_examples: int
    weights_in: WeightsFile
    weights_out: WeightsFile
    seed: int | None
    """None: from the operating system, and kept by nobody."""
    steps: list[Step]
    """One for each request, in order."""
    before: Look
    after: Look
    certificate: str | None
    """The file with the certificate, beside this one; None if the method certifies nothing."""
    device: str
    versions: dict[str, str]
    created: str

    def to_json(self) -> str:
        """As `unlearned.json` holds it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
