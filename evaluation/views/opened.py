"""A stored grading as arrays and tables, for figures of one's own: nothing is run, and all that is read is verified.

`opening.py` makes it of a folder; docs/your-data.md has an example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.outputs import Outputs
from data.errors import unknown_name
from evaluation.metrics import METRICS
from evaluation.report import Report
from evaluation.runs.stored import Stored

if TYPE_CHECKING:
    import pandas as pd

NO_ORIGINAL = -1
"""In a table: the number of the original of a retrained model, which has none."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a part, in the order of its logits."""

    image_ids: np.ndarray
    """str `(n,)`."""
    labels: np.ndarray
    """The class that each is scored as, int64 `(n,)`: a position in `OpenedGrading.classes`."""
    indices: np.ndarray | None
    """Of forget and retain: which training images these are, int64 `(n,)`, as in `report.grading.forget_indices`."""
    metadata: dict[str, np.ndarray]
    """What the task knows of each besides its class, `(n,)` each, by the name of the column."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class OpenedGrading:
    """What a grading has stored.

    Each `Outputs` has logits by the name of the part, float32 `(models, images, classes)`: `.forget`, `.validation`,
    `.test`, and `.retain`, of at most 2,000 retained images (None where an early version recorded it); and
    `.retain_accuracy`, float64 `(models,)`, of the whole retain set.

    K originals with N runs each are K pools of runs, and each is scored against the N retrained models by itself. By
    the protocol "full" there is one pool, with one run from each of N originals.
    """

    folder: Path
    """Where it lies."""
    report: Report
    """As `report.json` has it."""
    classes: tuple[str, ...]
    """The names of the classes, in the order of the logits."""
    images: dict[str, Images]
    """By the name of the part: "forget", "validation", "test", and "retain" if its logits are there."""
    unlearned: tuple[Outputs, ...]
    """The pools of runs: of N models each."""
    retrained: Outputs
    """N models that never saw the forget set: what each pool is compared with."""
    originals: Outputs
    """The models that were unlearned. (Of a zip, whose original is not known, one of the bank in its place.)"""
    epsilons: np.ndarray
    """Of each pool and forget image, as the report has them, float64 `(pools, forget)`; inf: infinite."""
    stored: Stored
    """All that was read: the task, the outputs of all pools as one, and seconds, memory and drift of the runs."""

    # ------------------------------------------------------------------------------------------------------------------
    # Tables
    # ------------------------------------------------------------------------------------------------------------------

    def example_table(self, part: str = "forget") -> pd.DataFrame:
        """A row for each image of a part; as many for each pool of runs.

        Columns: `original` (the number of the pool), `image_id`, `label`, `class`; the mean `confidence` (see
        `confidence_table`) of this pool's runs, `unlearned`, of the models that they began with, `before`, and of the
        `retrained` ones. Of forget and retain, `index`; of forget, `request` (which one, counted from 0) and `epsilon`.
        Then the task's metadata by their names; one whose name is among these is `metadata.NAME`.

        Raises:
            UserError: there is no such part.
        """
        import pandas as pd

        images = self._part(part)
        columns: dict[str, Any] = {
            "image_id": images.image_ids,
            "label": images.labels,
            "class": np.array(self.classes)[images.labels],
            "retrained": self._confidences(self.retrained, part).mean(axis=0),
        }
        if images.indices is not None:
            columns["index"] = images.indices
        if part == "forget":
            columns["request"] = self._requests()
        tables = []
        for number, (runs, begun) in enumerate(zip(self.unlearned, self._before(), strict=True)):
            own = {"original": number, **columns}
            own["unlearned"] = self._confidences(runs, part).mean(axis=0)
            own["before"] = self._confidences(begun, part).mean(axis=0)
            if part == "forget":
                own["epsilon"] = self.epsilons[number]
            more = {f"metadata.{name}" if name in own else name: values for name, values in images.metadata.items()}
            tables.append(pd.DataFrame({**own, **more}))
        return pd.concat(tables, ignore_index=True)

    def confidence_table(self, part: str = "forget") -> pd.DataFrame:
        """A row for each model and image of a part.

        Columns: `kind`, `original` and `model` (see `model_table`), `image_id`, `label`, and `confidence`, which is
        what the report's metric looks at: by the official one log p - log(1 - p), p being the probability of the label.

        Raises:
            UserError: there is no such part.
        """
        import pandas as pd

        images = self._part(part)
        tables = []
        for kind, originals, models, outputs in self._models():
            columns = {
                "kind": kind,
                "original": np.repeat(originals, len(images)),
                "model": np.repeat(models, len(images)),
                "image_id": np.tile(images.image_ids, len(models)),
                "label": np.tile(images.labels, len(models)),
                "confidence": self._confidences(outputs, part).reshape(-1),  # (models * images,)
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def model_table(self) -> pd.DataFrame:
        """A row for each model.

        Columns: `kind` ("original", "retrained" or "unlearned"); `original`, the number of the original that it is, or
        was made from (-1 for retrained ones); `model`, the number of the run from that original, or of the model in the
        bank; `retain_accuracy` and those of the other parts, in [0, 1]; of runs, their `seconds`, `peak_memory_bytes`
        and `drift` (see the report). What is not known is NaN.
        """
        import pandas as pd

        tables = []
        for kind, originals, models, outputs in self._models():
            columns = {"kind": kind, "original": originals, "model": models, "retain_accuracy": outputs.retain_accuracy}
            for part in ("forget", "validation", "test"):
                columns[f"{part}_accuracy"] = outputs.accuracy(part, self.images[part].labels)
            tables.append(pd.DataFrame({**columns, **self._cost(kind)}))
        return pd.concat(tables, ignore_index=True)

    # ------------------------------------------------------------------------------------------------------------------
    # What tables are made of
    # ------------------------------------------------------------------------------------------------------------------

    def _part(self, part: str) -> Images:
        if part not in self.images:
            raise unknown_name("part", part, self.images)
        return self.images[part]

    def _confidences(self, outputs: Outputs, part: str) -> np.ndarray:
        """What the report's metric makes of logits, float64 `(models, images)`."""
        metric = METRICS[self.report.grading.metric]
        return metric.confidence(getattr(outputs, part), self.images[part].labels)

    def _models(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, Outputs]]:
        """Each kind of models with the numbers of original and model, int64 `(models,)` each, and the outputs."""
        originals, retrained = np.arange(len(self.originals)), np.arange(len(self.retrained))
        yield "original", originals, originals, self.originals
        yield "retrained", np.full_like(retrained, NO_ORIGINAL), retrained, self.retrained
        runs = np.array(self.stored.spec.runs())  # (runs, 2)
        yield "unlearned", runs[:, 0], runs[:, 1], self.stored.unlearned.outputs

    def _before(self) -> list[Outputs]:
        """The originals that each pool of runs began with."""
        if self.report.grading.protocol == "full":
            return [self.originals]
        return [self.originals[number : number + 1] for number in range(len(self.unlearned))]

    def _cost(self, kind: str) -> dict[str, Any]:
        """What runs took, by column; NaN where that is not known."""
        runs = self.stored.unlearned
        columns = {"seconds": runs.seconds, "peak_memory_bytes": runs.peak_memory, "drift": runs.drift}
        known = kind == "unlearned" and self.report.method.submission is None
        return {name: values if known else np.nan for name, values in columns.items()}

    def _requests(self) -> np.ndarray:
        """Which request each forget image belongs to, int64 `(forget,)`."""
        task = self.stored.task
        numbers = np.zeros(len(task.forget_indices), dtype=np.int64)
        for number, request in enumerate(task.arrived):
            numbers[np.isin(task.forget_indices, request.indices)] = number
        return numbers
