"""Importing what a method's file imports from Python and from installed packages, before its runs are forked.

Otherwise each run would import them anew, and that would be part of its time. Nothing of a method is executed for it:
its imports are read from the syntax tree.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

from checkpoints.installed import is_installed


@cache
def import_libraries(file: Path) -> None:
    """Import what the Python file `file` imports, if it is a part of Python or installed. Failures are the file's."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if is_installed(name.partition(".")[0]) and not _is_internal(name):
                try:
                    importlib.import_module(name)
                except (Exception, SystemExit):
                    continue  # some names are no modules; others fail again, and visibly, in the run


def _is_internal(name: str) -> bool:
    """Whether a module is not meant to be imported by others: some change PyTorch, or do their work, when they are."""
    return any(part.startswith("_") or part == "testing" for part in name.split("."))
