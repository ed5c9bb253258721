"""Which packages are a part of Python, or installed."""

from __future__ import annotations

import importlib.util
import site
import sysconfig
from functools import cache
from pathlib import Path


@cache
def _folders() -> tuple[str, ...]:
    known = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(
        str(Path(folder).resolve()) for folder in (*known, *site.getsitepackages(), site.getusersitepackages())
    )


def is_installed(package: str) -> bool:
    """Whether a top-level package is a part of Python or installed, and not a file of somebody's project."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())  # of a package without code
    return any(str(Path(place).resolve()).startswith(_folders()) for place in places)
