"""What every audit in the registry keeps to: whoever adds one gets these tests."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.table import Table

from checkpoints.networks import build_network
from checkpoints.outputs import record_outputs
from checkpoints.workers import Workers
from data import TaskSpec, UserError
from evaluation.audits import AUDITS
from evaluation.audits.audit import Audit, Evidence
from evaluation.audits.examination import audit_grading
from evaluation.audits.membership import examine as membership_of
from evaluation.audits.record import CONTEXT, as_csv
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.runs.settings import run_path
from evaluation.spec import GradingSpec
from evaluation.views.schema import audit_schema
from methods.BaseMethod import PLAIN_TYPES

every_audit = pytest.mark.parametrize("audit", AUDITS.values(), ids=AUDITS)
QUIET = Console(quiet=True)
TASK = TaskSpec("digits", forget=("random:12",), train_size=60, test_size=60, recipe=(("epochs", 2),))
SPEC = GradingSpec("my_method", TASK, originals=2, models=6, budget_seconds=60.0)


def test_names() -> None:
    """An audit is found under its own name, which a file can have."""
    assert all(audit.name == name and name.isidentifier() for name, audit in AUDITS.items())


@every_audit
def test_facts(audit: Audit) -> None:
    """A line on what it asks; options of plain types, with a default."""
    assert 20 < len(audit.summary) < 120
    assert "\n" not in audit.summary
    assert all(isinstance(default, PLAIN_TYPES) for default in audit.options().values())


@every_audit
def test_wrong_options_are_a_sentence(audit: Audit) -> None:
    """An unknown one, and a value of another type."""
    with pytest.raises(UserError, match="There is no option of"):
        audit.values_in_force({"no_such_option": "1"})
    for name, default in audit.options().items():
        if isinstance(default, (int, float)):
            with pytest.raises(UserError, match=f"{name} takes a value of type"):
                audit.values_in_force({name: "nonsense"})
        assert audit.values_in_force({name: str(default).lower()})[name] == default


@pytest.mark.slow
@every_audit
def test_examines_what_a_grading_has_stored(audit: Audit, workers: Workers, results: object) -> None:
    """No run is done again unless it needs weights; the result is frozen, is JSON, has a table, and comes again."""
    list(grade_methods([SPEC], workers, QUIET))
    result, path = audit_grading(audit, replace(SPEC, budget_seconds=None), {}, workers, QUIET)
    assert GradingSpec.read(path.with_name("config.yaml")) == SPEC, "the grading can't be repeated any more"
    assert is_dataclass(result)
    with pytest.raises(FrozenInstanceError):
        setattr(result, fields(result)[0].name, None)
    assert isinstance(result.as_table(), Table)
    assert result.as_table().row_count > 0
    assert path.name == f"audit-{audit.name}.json"
    stored = json.loads(path.read_text())
    assert stored["result"] == json.loads(json.dumps(asdict(result)))
    assert (stored["audit"], stored["method"]) == (audit.name, "my_method")
    jsonschema.validate(stored, audit_schema(audit))
    for changes in ({"audit": "another"}, {"surprise": 1}, {"result": {**stored["result"], "surprise": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**stored, **changes}, audit_schema(audit))
    check_csv(stored, result)
    again, _ = audit_grading(audit, SPEC, {}, workers, QUIET)
    assert again == result


def check_csv(stored: dict[str, Any], result: Any) -> None:
    """The rows of a result come back from CSV as they were, each with the grading that it is of."""
    rows = result.as_rows()
    assert len(rows) > 0
    assert len({tuple(row) for row in rows}) == 1, "rows have different columns"
    assert set(rows[0]).isdisjoint(CONTEXT)
    read = list(csv.DictReader(io.StringIO(as_csv(stored, rows))))
    assert [{name: row[name] for name in rows[0]} for row in read] == [
        {name: str(value) for name, value in row.items()} for row in rows
    ]
    for row in read:
        assert (row["method"], row["models"], row["seed"]) == ("my_method", "6", "0")
        assert (json.loads(row["forget"]), json.loads(row["options"])) == (["random:12"], stored["options"])


@every_audit
def test_its_json_is_explained(audit: Audit) -> None:
    """By the schema: every field of the record and of the result. Catches a result of a type that is not said."""
    schema = audit_schema(audit)
    assert schema["$defs"]["AuditRecord"]["properties"]["audit"]["const"] == audit.name
    unexplained = [
        f"{name}.{field}"
        for name, definition in schema["$defs"].items()
        for field, about in definition["properties"].items()
        if not about.get("description")
    ]
    assert unexplained == []
    assert all(definition["additionalProperties"] is False for definition in schema["$defs"].values())
    assert schema["$defs"]["AuditRecord"]["properties"]["result"]["$ref"].startswith("#/$defs/"), "any result is right"


@pytest.mark.slow
def test_an_audit_that_needs_weights_gets_them(workers: Workers, results: object) -> None:
    """Of the originals, of retrained models, and of each run: those whose logits are stored.

    Runs that were graded without keeping them are done again, once; an audit that does not need them gets none.
    """
    list(grade_methods([SPEC], workers, QUIET))
    seen: list[Evidence] = []

    def look(evidence: Evidence) -> Any:
        seen.append(evidence)
        return membership_of(evidence)

    with_weights = Audit("weights", "an audit of the tests that looks at weights", look, needs_weights=True)
    _, path = audit_grading(with_weights, SPEC, {}, workers, QUIET)
    (evidence,) = seen
    assert evidence.unlearned_weights is not None
    network = build_network(evidence.task)
    for original, run in SPEC.runs():
        network.load_state_dict(evidence.unlearned_weights(original, run))
        logits = record_outputs(network.eval(), evidence.task).forget[0]
        np.testing.assert_array_equal(logits, evidence.unlearned[original].forget[run])
    assert evidence.original_weights(0).keys() == evidence.retrained_weights(5).keys() == network.state_dict().keys()

    kept = [run_path(path.parent, original, run, ".pt").stat().st_mtime_ns for original, run in SPEC.runs()]
    audit_grading(with_weights, SPEC, {}, workers, QUIET)
    assert kept == [run_path(path.parent, original, run, ".pt").stat().st_mtime_ns for original, run in SPEC.runs()]
    audit_grading(replace(with_weights, needs_weights=False), SPEC, {}, workers, QUIET)
    assert seen[-1].unlearned_weights is None
