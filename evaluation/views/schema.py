"""The JSON schema of reports, made from the classes in `evaluation/report.py`: `python main.py schema` prints it."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import docstring_parser
import msgspec

from evaluation import report, sequence
from evaluation.metrics import accuracies, intervals, plausibility, score
from evaluation.report import FORMAT, Report
from evaluation.sequence import SequenceReport

MODULES = (report, sequence, accuracies, intervals, plausibility, score)
"""Where the classes of a report's records are."""


def report_schema() -> dict[str, Any]:
    """What `report.json` and `sequence.json` hold, and `--json` prints, as a JSON schema (draft 2020-12).

    Every field has its explanation. An object that has other fields is no report.
    """
    schemas, definitions = msgspec.json.schema_components([Report, SequenceReport], ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        definition["additionalProperties"] = False
        for field, explanation in _explanations(name).items():
            definition["properties"][field] = {"description": explanation, **definition["properties"][field]}
    definitions["Report"]["properties"]["format"]["const"] = FORMAT
    either = {"anyOf": list(schemas)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Report of a grading, format {FORMAT}; of several requests, one for each",
        "anyOf": [*schemas, {"type": "array", "items": either, "description": "of several methods: -m a,b --json"}],
        "$defs": definitions,
    }


def _explanations(name: str) -> dict[str, str]:
    """The strings below the fields of a record, by the name of the field."""
    classes = [getattr(module, name) for module in MODULES if is_dataclass(getattr(module, name, None))]
    if not classes:
        return {}
    parsed = docstring_parser.parse_from_object(classes[0])
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}
