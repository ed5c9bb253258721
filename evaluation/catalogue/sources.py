"""Which files a method's code comes from: those that are opened while it is imported, and those that its text names.

The first are watched by an audit hook of Python: parent classes, mixins, helper modules, however they are found, and
files of constants. The second are imports that wait inside of functions, read from the syntax trees: all of the files
that have been found are looked through. Where a text imports something whose name is computed, every file in `methods/`
counts: better one run too many than one that another version of the code has made.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "methods"
IN_EVERY_METHOD = {"methods/__init__.py", "methods/registry.py", "methods/BaseMethod.py"}
"""These belong to the kit, not to a method: adding one changes none of the others."""
BY_NAME = {"import_module", "__import__", "run_module", "run_path", "spec_from_file_location", "SourceFileLoader"}
"""Functions that import what a text names."""
OF_TEXT = {"exec", "eval"}
"""Functions that are given a program."""
ANYTHING = {"iter_modules", "walk_packages", "all_method_handlers"}
"""What leads to any method."""


class Watch:
    """Notes what this process opens and looks for, from when it is made until `stop`. It can't be removed."""

    def __init__(self, root: Path, generated: Iterable[Path]) -> None:
        self._root = root
        packages = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
        self._pythons = (*(os.path.realpath(folder) + os.sep for folder in packages), "/dev/", "/proc/", "/sys/")
        self._generated = tuple(os.path.realpath(folder) + os.sep for folder in generated)
        self._working = True
        self.opened: set[str] = set()
        """Files of the kit, by their path in it."""
        self.elsewhere: set[str] = set()
        """Other files, though not those of Python and its packages."""
        self.absent: set[str] = set()
        """Modules that were looked for, and not found, by their dotted names."""
        self.variables: set[str] = set()
        """Environment variables that were asked for."""
        sys.addaudithook(self._note)
        sys.meta_path.append(self)
        _watch_environment(self.variables)

    def stop(self) -> None:
        """Note nothing more."""
        self._working = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Called by the import system for a module that nobody else has found."""
        if self._working:
            self.absent.add(name)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._working:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)) and not _writes(*arguments[1:]):
            self._add(os.fsdecode(arguments[0]))
        elif event == "import" and isinstance(arguments[1], str):  # an extension module
            self._add(arguments[1])

    def _add(self, name: str) -> None:
        path = os.path.abspath(name)
        if path.endswith(".pyc"):
            with contextlib.suppress(ValueError):  # it lies where sources do
                path = importlib.util.source_from_cache(path)
        real = os.path.realpath(path)
        if real.startswith(self._pythons) or not os.path.isfile(real):
            return
        of_kit = path_in(self._root, path)
        if of_kit is not None and not real.startswith(self._generated):
            self.opened.add(of_kit)
        else:
            self.elsewhere.add(real)


def path_in(root: Path, path: str | os.PathLike[str]) -> str | None:
    """A path as one in the kit, whichever way its folder is spelt; None if it is elsewhere."""
    for one, other in (
        (os.path.abspath(path), os.path.abspath(root)),
        (os.path.realpath(path), os.path.realpath(root)),
    ):
        if one.startswith(other + os.sep):
            return Path(one[len(other) + 1 :]).as_posix()
    return None


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return not set(mode).isdisjoint("wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _watch_environment(asked: set[str]) -> None:
    kind: Any = type(os.environ)

    class Watched(kind):  # type: ignore[misc]
        def __getitem__(self, name: str) -> str:
            asked.add(name)
            value: str = super().__getitem__(name)
            return value

    os.environ.__class__ = Watched


# ----------------------------------------------------------------------------------------------------------------------
# What texts name
# ----------------------------------------------------------------------------------------------------------------------


def all_files(root: Path, opened: Iterable[str]) -> list[str]:
    """The files that were opened, and all that their texts lead to: paths in the kit, sorted."""
    found: set[str] = set()
    waiting = list(opened)
    while waiting:
        file = waiting.pop()
        if file in found or file in IN_EVERY_METHOD:
            continue
        found.add(file)
        if file.endswith(".py"):
            waiting += named_in(root, file)
    return sorted(found)


def named_in(root: Path, file: str) -> list[str]:
    """The files of the kit that the text of one imports, anywhere in it, or names as a whole."""
    try:
        tree = ast.parse((root / file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # whoever imports it has to say so
        return []
    reader = _Reader(root, file)
    reader.visit(tree)
    return sorted(reader.found | (set(every_method(root)) if reader.anything else set()))


def every_method(root: Path) -> Iterator[str]:
    """All files of Python in `methods/`."""
    return (path.relative_to(root).as_posix() for path in (root / PACKAGE).rglob("*.py"))


class _Reader(ast.NodeVisitor):
    """Goes through a file's syntax tree."""

    def __init__(self, root: Path, file: str) -> None:
        self.root, self.folder = root, Path(file).parent
        self.found: set[str] = set()
        self.anything = False
        """Whether it may import any method."""

    def visit_Import(self, node: ast.Import) -> None:  # ast's name
        """`import a.b`; of a function by another name nothing is known."""
        for alias in node.names:
            self.anything |= alias.name == PACKAGE
            self._module(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from a import b`, where b may be a module."""
        base = node.module or ""
        if node.level:
            above = self.folder.parts[: len(self.folder.parts) + 1 - node.level]
            base = ".".join((*above, *filter(None, [base])))
        self._module(base)
        for alias in node.names:
            is_module = self._module(f"{base}.{alias.name}" if base else alias.name)
            leads_anywhere = alias.name in ANYTHING or (alias.name in BY_NAME | OF_TEXT and alias.asname is not None)
            self.anything |= leads_anywhere or (base == PACKAGE and not is_module)

    def visit_Call(self, node: ast.Call) -> None:
        """`import_module("a.b")`, `exec("import a")`."""
        name = _last_name(node.func)
        text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if not isinstance(text, str) or not self._is_told(node.func, name, text):
            self.visit(node.func)
        for part in (*node.args, *node.keywords):
            self.visit(part)

    def _is_told(self, function: ast.expr, name: str, text: str) -> bool:
        """Take note of a call with a text, if it is one that imports."""
        if name in BY_NAME:
            relative = len(text) - len(text.lstrip("."))
            above = ".".join(self.folder.parts[: len(self.folder.parts) + 1 - relative]) + "." if relative else ""
            self._module(above + text.lstrip("."))
            return True
        if name in OF_TEXT and isinstance(function, ast.Name):
            try:
                self.visit(ast.parse(text.strip()))
            except (SyntaxError, ValueError):
                return False
            return True
        return False

    def visit_Name(self, node: ast.Name) -> None:
        """A mention of a function that imports something, by a name that is computed, or by nobody knows whom."""
        self.anything |= node.id in BY_NAME | OF_TEXT | ANYTHING

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """The same; but every network has an `eval`."""
        self.anything |= node.attr in BY_NAME | ANYTHING
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """The name of a file that is there, here or from the kit's folder: of code, or of constants for `run`."""
        if isinstance(node.value, str) and len(node.value) < 200 and Path(node.value).suffix:
            for folder in (self.root / self.folder, self.root):
                path = Path(os.path.normpath(folder / node.value))
                if path.is_relative_to(self.root) and path.is_file():
                    self.found.add(path.relative_to(self.root).as_posix())

    def _module(self, name: str) -> bool:
        """Take note of a module of the kit, and of the packages that it is in; False if there is no such module."""
        parts = name.split(".")
        if not all(parts):
            return False
        for folder in (Path(), self.folder):
            files = [file_of(self.root, folder.joinpath(*parts[:length])) for length in range(1, len(parts) + 1)]
            self.found.update(filter(None, files))
            if files[-1] is not None:
                return True
        return False


def file_of(root: Path, module: Path) -> str | None:
    """The file of a module, given as a path in the kit without its ending; None if it is not there."""
    for file in (module / "__init__.py", module.with_name(f"{module.name}.py")):
        if (root / file).is_file():
            return file.as_posix()
    return None


def _last_name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
