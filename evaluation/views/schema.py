"""JSON schemas of what the kit writes, made from the classes of its records: `python main.py schema` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import docstring_parser
import msgspec

from evaluation.audits.audit import Audit
from evaluation.audits.record import AuditRecord
from evaluation.report import FORMAT, Report
from evaluation.sequence import SequenceReport

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def report_schema() -> dict[str, Any]:
    """What `report.json` and `sequence.json` hold, and `--json` prints, as a JSON schema (draft 2020-12).

    Every field has its explanation. An object that has other fields is no report.
    """
    schemas, definitions = _components(Report, SequenceReport)
    definitions["Report"]["properties"]["format"]["const"] = FORMAT
    either = {"anyOf": schemas}
    return {
        "$schema": DRAFT,
        "title": f"Report of a grading, format {FORMAT}; of several requests, one for each",
        "anyOf": [*schemas, {"type": "array", "items": either, "description": "of several methods: -m a,b --json"}],
        "$defs": definitions,
    }


def audit_schema(audit: Audit) -> dict[str, Any]:
    """What `audit-NAME.json` holds, and `audit NAME --json` prints, likewise."""
    (record, result), definitions = _components(AuditRecord, get_type_hints(audit.examine).get("return", Any))
    properties = definitions["AuditRecord"]["properties"]
    properties["audit"]["const"] = audit.name
    properties["result"] |= result
    return {"$schema": DRAFT, "title": f"{audit.name}: {audit.summary}", **record, "$defs": definitions}


def _components(*kinds: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas of some types, and of the records that they are made of, by name: explained, and closed."""
    schemas, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for record in {record for kind in kinds for record in _records(kind)}:
        definition = definitions[record.__name__]
        definition["additionalProperties"] = False
        for field, explanation in _explanations(record).items():
            definition["properties"][field] = {"description": explanation, **definition["properties"][field]}
    return list(schemas), definitions


def _records(kind: Any) -> Iterator[type]:
    """The dataclasses that a type is made of."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for field in get_type_hints(kind).values():
            yield from _records(field)
    for argument in get_args(kind):
        yield from _records(argument)


def _explanations(record: type) -> dict[str, str]:
    """The strings below the fields of a record, by the name of the field."""
    parsed = docstring_parser.parse_from_object(record)
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}
