"""`python main.py certify CERTIFICATE`: check what a certified method claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from commands.options import WeightsOption


def command(
    certificate: Annotated[Path, Parameter(help="A certificate.json, or the notes of a certified run.")],
    /,
    *,
    model: WeightsOption = WeightsOption(),
) -> int:
    """Recompute a certificate of a certified method from its constants; exit code 1 if it doesn't hold.

    With --weights, it has to be the certificate of that very file.
    """
    from evaluation.certification.verification import certify

    verdict = certify(certificate, model.weights)
    print(verdict)
    return 0 if verdict.holds else 1
