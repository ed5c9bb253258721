"""`python main.py schema`: the JSON schema of reports, or of an audit."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def command(
    audit: Annotated[str | None, Parameter(help="Name of an audit, for what its --json prints.")] = None, /
) -> None:
    """Print the JSON schema of reports, as --json prints and report.json holds them: every field is explained."""
    import json

    from data.errors import unknown_name
    from evaluation.views.schema import audit_schema, report_schema

    if audit is None:
        schema = report_schema()
    else:
        from evaluation.audits import AUDITS

        if audit not in AUDITS:
            raise unknown_name("audit", audit, AUDITS, shown_by="python main.py list")
        schema = audit_schema(AUDITS[audit])
    print(json.dumps(schema, indent=1, ensure_ascii=False))
