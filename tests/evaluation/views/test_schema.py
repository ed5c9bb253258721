"""The schema of reports: complete, explained, and what stored reports are valid by."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from evaluation.report import Report
from evaluation.sequence import SequenceReport
from evaluation.views.schema import report_schema

MakeReport = Callable[..., Report]


def test_every_field_is_explained() -> None:
    """Catches a field without a string below it, and a record whose module is not looked into."""
    definitions = report_schema()["$defs"]
    assert {"Report", "SequenceReport", "Scores", "Accuracies", "Estimate", "Cost"} <= definitions.keys()
    unexplained = [
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, about in definition["properties"].items()
        if not about.get("description")
    ]
    assert unexplained == []


def test_reports_are_valid(make_report: MakeReport) -> None:
    """One of a request, one of several, and what is printed of several methods."""
    report = make_report()
    for found in (report, SequenceReport([report, report], report)):
        document = json.loads(json.dumps(found.to_dict()))
        jsonschema.validate(document, report_schema())
        jsonschema.validate([document, document], report_schema())


@pytest.mark.parametrize(
    ("room", "change"),
    [
        (None, {"surprise": 1}),
        ("scores", {"surprise": 1}),
        ("grading", {"models": "many"}),
        ("cost", {"retrain_seconds": None}),
        (None, {"format": 3}),
    ],
)
def test_what_is_wrong_is_not(room: str | None, change: dict[str, Any], make_report: MakeReport) -> None:
    """Nor is it read back. Catches a schema that allows anything, and a reader that is laxer than the schema."""
    record = json.loads(make_report().to_json())
    (record if room is None else record[room]).update(change)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, report_schema())
    with pytest.raises(ValueError, match=r"surprise|models|retrain_seconds|format"):
        Report.from_json(json.dumps(record))
