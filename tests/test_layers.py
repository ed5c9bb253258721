"""Imports point one way: main, commands, evaluation, checkpoints, data; in evaluation from views down to metrics."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

KIT = Path(__file__).parent.parent
MAY_IMPORT = {
    "main": {"commands", "data"},
    "commands": {"commands", "notebook_utils", "evaluation", "checkpoints", "data", "methods"},
    "notebook_utils": {"commands", "notebooks", "evaluation", "checkpoints", "data", "methods"},
    "notebooks": {"notebooks", "notebook_utils", "evaluation", "checkpoints", "data", "methods"},
    "evaluation": {"evaluation", "checkpoints", "data", "methods"},
    "checkpoints": {"checkpoints", "data"},
    "data": {"data"},
    "methods": {"methods"},
}
"""Which parts of the kit the modules of a part may import."""
LEVELS = (
    {"evaluation.competition"},
    {"evaluation.views"},
    {
        *("evaluation.submission", "evaluation.sweeps", "evaluation.sequence", "evaluation.tuning"),
        *("evaluation.audits", "evaluation.comparison", "evaluation.suites", "evaluation.handover"),
    },
    {"evaluation.grading"},
    {"evaluation.checks"},
    {"evaluation.runs", "evaluation.certification"},
    {"evaluation.spec"},
    {"evaluation.report", "evaluation.tuned", "evaluation.console", "evaluation.catalogue"},
    {"evaluation.metrics", "evaluation.isolation", "evaluation.texts"},
)
"""The rooms of evaluation: a module imports from its own level and those below."""


def modules(part: str) -> list[str]:
    """The modules of a part, by their dotted names."""
    if (KIT / f"{part}.py").is_file():
        return [part]
    paths = [path.relative_to(KIT).with_suffix("") for path in sorted((KIT / part).rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def imported_by(module: str) -> Iterator[str]:
    """The modules that a module imports, inside of functions too."""
    file = (KIT / module.replace(".", "/")).with_suffix(".py")  # a folder may have its name: data/cache is generated
    text = (file if file.is_file() else file.with_suffix("") / "__init__.py").read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_parts_import_downwards(part: str) -> None:
    """Catches a layer that reaches up, and anything that imports what starts it."""
    wrong = {
        (module, other)
        for module in modules(part)
        for other in imported_by(module)
        if other.split(".")[0] in MAY_IMPORT and other.split(".")[0] not in MAY_IMPORT[part]
    }
    assert wrong == set()


def test_methods_import_base_classes_alone() -> None:
    """A method is one file: of the kit it needs `BaseMethod`, `initialisation`, or the method that it inherits from."""
    files = {module for module in modules("methods") if module != "methods"}
    for module in files:
        of_ours = {other for other in imported_by(module) if other in files}
        assert of_ours <= {"methods.BaseMethod", "methods.initialisation", "methods.MyMethod"}, module


def level(module: str) -> int | None:
    """The level of a module of evaluation."""
    found = [number for number, rooms in enumerate(LEVELS) for room in rooms if f"{module}.".startswith(f"{room}.")]
    return found[0] if found else None


def test_rooms_of_evaluation_import_downwards() -> None:
    """Every module has a level; ten at most lie in the folder itself."""
    inside = [module for module in modules("evaluation") if module != "evaluation"]
    assert [module for module in inside if level(module) is None] == []
    wrong = {
        (module, other)
        for module in inside
        for other in imported_by(module)
        if (above := level(other)) is not None and above < (level(module) or 0)
    }
    assert wrong == set()
    assert len(list((KIT / "evaluation").glob("*.py"))) <= 10
