"""Which version this is."""

from __future__ import annotations

import re
from pathlib import Path

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def version() -> str:
    """The version in `pyproject.toml`, or that of the installed package where there is no such file."""
    try:
        found = re.search(r'^version = "(.+)"$', _PROJECT.read_text(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    if found:
        return found.group(1)
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("machine-unlearning-kit")
    except PackageNotFoundError:
        return "unknown"
