"""What an audit came to, with the grading that it looked at: as JSON, and as rows for a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from evaluation import texts
from evaluation.metrics.quantities import AtLeastOne, Name, Text
from evaluation.report import Protocol


@dataclass(frozen=True)
class AuditRecord:
    """What `audit-NAME.json` holds, and `audit NAME --json` prints."""

    audit: Name
    """Name of the audit."""
    method: Name
    """Name of the method in the registry."""
    settings: dict[str, Any]
    """Every hyper-parameter's value."""
    code: Text
    """Hash of the method's code, which tells its versions apart."""
    task: Name
    """Name of the task."""
    network: Name
    """Name of the architecture."""
    forget: list[Text]
    """The forget requests, as the user put them."""
    protocol: Protocol
    """"per-original" or "full"."""
    models: AtLeastOne
    """N: runs per original, and retrained models, of the grading; the audit may look at fewer."""
    originals: AtLeastOne
    """K: originals of the grading."""
    seed: int
    """Of the grading."""
    task_fingerprint: Text
    """Hash of data, splits, network, recipe and forget requests, as in reports."""
    options: dict[str, Any]
    """All options of the audit, with the values that were used."""
    result: Any
    """What it came to."""

    def to_json(self) -> str:
        """As the text of the file."""
        return json.dumps(asdict(self), indent=1, default=_plain) + "\n"


CONTEXT = tuple(field.name for field in fields(AuditRecord) if field.name != "result")
"""The columns that the CSV of every audit begins with."""


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python, for JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)


def as_csv(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """For a spreadsheet, unrounded: `record` is what the JSON of an audit holds, `rows` are those of its result.

    Each row begins with what the record says of the grading, in columns that are called as in `leaderboard --csv`, if
    they are there, too. Lists and mappings are JSON.
    """
    context = {name: record[name] for name in CONTEXT}
    return texts.as_csv([{**context, **row} for row in rows])
