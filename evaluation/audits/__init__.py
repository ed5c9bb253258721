"""Audits: other questions to what a grading stores, a file each.

To add one: a file with an `AUDIT` that has its facts (see `audit.Audit`), and its entry here.
"""

from __future__ import annotations

from evaluation.audits import membership
from evaluation.audits.audit import Audit

AUDITS: dict[str, Audit] = {audit.name: audit for audit in (membership.AUDIT,)}
"""Every audit by its name."""
