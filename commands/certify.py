"""`python main.py certify CERTIFICATE`: check what a certified method claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def command(
    certificate: Annotated[Path, Parameter(help="A certificate.json, or the notes of a certified run.")], /
) -> int:
    """Recompute epsilon and delta of a certified method's run from its constants; exit code 1 if they don't hold."""
    from evaluation.certification.certificates import certify

    verdict = certify(certificate)
    print(verdict)
    return 0 if verdict.holds else 1
