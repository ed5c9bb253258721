"""`python main.py schema`: the JSON schema of reports."""

from __future__ import annotations


def command() -> None:
    """Print the JSON schema of reports, as --json prints and report.json holds them: every field is explained."""
    import json

    from evaluation.views.schema import report_schema

    print(json.dumps(report_schema(), indent=1, ensure_ascii=False))
