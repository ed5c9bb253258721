"""The files that a method comes from: its own, those of its parents, and modules beside it that any of them imports."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import methods
from data.errors import UserError
from methods.BaseMethod import BaseMethod
from notebooks.source import Piece, SourceFile, lines_of, make_pieces

BASE_MODULE = BaseMethod.__module__
PACKAGE = methods.__name__
OF_THE_KIT = {PACKAGE, f"{PACKAGE}.registry", BASE_MODULE}
"""Modules of the package that are no part of any method."""
OF_BASE_MODULE = frozenset(
    name for name, value in vars(sys.modules[BASE_MODULE]).items() if getattr(value, "__module__", "") == BASE_MODULE
) - {BaseMethod.__name__} | {"Loader", "Drawing", "PLAIN_TYPES", "CLAIMS", "ATTRIBUTES"}
"""What else `methods/BaseMethod.py` has: a notebook does without it."""

AnyImport = ast.Import | ast.ImportFrom


@dataclass(frozen=True, eq=False)
class MethodClass:
    """A class of the method: the one that is registered, or another method's that it inherits from."""

    name: str
    file: SourceFile
    piece: Piece

    @property
    def definition(self) -> ast.ClassDef:
        """The statement."""
        node = self.piece.nodes[0]
        assert isinstance(node, ast.ClassDef)
        return node

    @cached_property
    def members(self) -> list[Piece]:
        """The statements of its body, as pieces."""
        return make_pieces(self.definition.body, self.file.lines, first_line=self.header_end + 1)

    @property
    def header_end(self) -> int:
        """The last line of `class Name(...):`; of the whole class if its body begins on the same line."""
        node = self.definition
        body = node.body[0]
        before = [*node.bases, *[keyword.value for keyword in node.keywords]]
        last = max([node.lineno, *(part.end_lineno or 0 for part in before)])
        while last < body.lineno and not self.file.lines[last - 1].split("#")[0].rstrip().endswith(":"):
            last += 1
        return last if body.lineno > last else self.piece.lines[1]

    @property
    def is_one_line(self) -> bool:
        """Whether the body begins on the line of the header, so that nothing can be taken out of it."""
        return self.header_end == self.piece.lines[1]

    @cached_property
    def header(self) -> Piece:
        """The class without its body."""
        bare = copy.copy(self.definition)
        bare.body = [ast.copy_location(ast.Pass(), self.definition.body[0])]
        return Piece((bare,), (self.piece.lines[0], self.header_end), self.piece.start)


class Link(NamedTuple):
    """What one name of an import stands for, if that is in a file that travels with the method."""

    bound: str
    """The name that the import binds."""
    module: str
    """The dotted name of the module."""
    name: str | None
    """The name in that module; None if the module itself is meant."""
    file: SourceFile | None
    """The module's file; None if it is that of `BaseMethod`, or a package without code."""

    @property
    def is_base(self) -> bool:
        """Whether it is, or is of, `methods/BaseMethod.py`."""
        return self.module == BASE_MODULE

    @property
    def stays_behind(self) -> bool:
        """Whether it is of a name of `methods/BaseMethod.py` that a notebook does without."""
        return self.is_base and self.name not in (None, BaseMethod.__name__)


class Program:
    """The classes of a method, parents first, and the files with their code, in the order of their execution.

    `values` are the hyper-parameters that are to have another value than their default: they are written into the
    text of the class, so that a notebook shows the values in force.

    Raises:
        UserError: a class is not at the top level of a file.
    """

    def __init__(self, handler: type[BaseMethod], values: Mapping[str, Any] | None = None) -> None:
        self.handler = handler
        self.late_values = dict(values or {})  # those that no text could be changed for
        self._texts: dict[Path, str] = {}
        self._write_values()
        self._known: dict[Path, SourceFile | None] = {}
        self._links: dict[int, tuple[AnyImport, list[tuple[ast.alias, Link | None]]]] = {}
        lineage = [cls for cls in reversed(handler.__mro__) if issubclass(cls, BaseMethod) and cls is not BaseMethod]
        files = [_readable(self._file(_path(cls), cls.__module__), cls) for cls in lineage]
        self.files: list[SourceFile] = []
        for file in files:
            self._add(file)
        self.classes = [_method_class(cls, file) for cls, file in zip(lineage, files, strict=True)]
        self.hyper_parameters = set(handler.hyper_parameters())

    def _write_values(self) -> None:
        for name, value in list(self.late_values.items()):
            owner = next((cls for cls in self.handler.__mro__ if name in vars(cls)), self.handler)
            if owner.__module__.split(".")[0] != PACKAGE and owner.__module__ != self.handler.__module__:
                continue
            path = _path(owner)
            changed = _with_value(self._texts.get(path) or _read(path), owner.__name__, name, value)
            if changed is not None:
                self._texts[path] = changed
                del self.late_values[name]

    def _file(self, path: Path, module: str) -> SourceFile | None:
        """The file, read once; None if it is not Python."""
        path = path.resolve()
        if path not in self._known:
            try:
                self._known[path] = SourceFile(path, self._texts.get(path) or _read(path), module)
            except (SyntaxError, ValueError, OSError):
                self._known[path] = None
        return self._known[path]

    def _add(self, file: SourceFile, importing: tuple[SourceFile, ...] = ()) -> None:
        """Add a file after those that it imports; `importing` are those that wait for it."""
        if file in self.files or file in importing:
            return
        for piece in file.pieces:
            for link in self.links_in(file, piece):
                if link.file is not None:
                    self._add(link.file, (*importing, file))
        self.files.append(file)

    @cached_property
    def class_of(self) -> dict[Piece, MethodClass]:
        """The method's classes by their piece."""
        return {cls.piece: cls for cls in self.classes}

    @cached_property
    def parents_imported(self) -> set[str]:
        """The names by which the files know the classes that their own inherit from, or the modules of these."""
        known = {(cls.file, cls.name) for cls in self.classes}
        modules = {cls.file for cls in self.classes}
        return {
            link.bound
            for file in self.files
            for link in self.top_links(file)
            if (link.file, link.name) in known or (link.name is None and (link.file in modules or link.file is None))
        }

    def is_member(self, piece: Piece) -> bool:
        """Whether a piece is a statement in the body of one of the method's classes."""
        return piece in self._members

    @cached_property
    def _members(self) -> set[Piece]:
        return {member for cls in self.classes for member in cls.members}

    def pieces(self, file: SourceFile) -> list[Piece]:
        """All of a file that can travel by itself: statements, and headers and members of the method's classes."""
        classes = [cls for cls in self.classes if cls.file is file]
        others = [piece for piece in file.pieces if piece not in self.class_of]
        return [*others, *(piece for cls in classes for piece in (cls.header, *cls.members))]

    # ------------------------------------------------------------------------------------------------------------------
    # Imports of what travels along
    # ------------------------------------------------------------------------------------------------------------------

    def top_links(self, file: SourceFile) -> Iterator[Link]:
        """What the imports at the top level of a file link to."""
        for node in imports(file):
            yield from self.links(file, node)

    def links_in(self, file: SourceFile, piece: Piece) -> Iterator[Link]:
        """What the imports in a piece link to, those inside of functions too."""
        for node in piece.imports:
            yield from self.links(file, node)

    def links(self, file: SourceFile, node: AnyImport) -> list[Link]:
        """Those names of an import that come from files which travel with the method."""
        return [link for _, link in self._names(file, node) if link is not None]

    def others(self, file: SourceFile, node: AnyImport) -> list[ast.alias]:
        """The other names of an import."""
        return [alias for alias, link in self._names(file, node) if link is None]

    def _names(self, file: SourceFile, node: AnyImport) -> list[tuple[ast.alias, Link | None]]:
        if id(node) not in self._links:
            self._links[id(node)] = node, [(alias, self._link(file, node, alias)) for alias in node.names]
        return self._links[id(node)][1]

    def _link(self, file: SourceFile, node: AnyImport, alias: ast.alias) -> Link | None:
        if isinstance(node, ast.Import):
            return self._link_to_module(file, alias.name, bound_name(alias))
        base = node.module or ""
        if node.level:
            above = file.package.split(".")[: len(file.package.split(".")) + 1 - node.level]
            base = ".".join(filter(None, [*above, base]))
        if alias.name == "*" or not base:
            return None
        found, code = self._module(file, base)
        if base == BASE_MODULE or (code is not None and alias.name in code.bound):
            return Link(bound_name(alias), base, alias.name, code)
        if found and base != BASE_MODULE:
            module = self._link_to_module(file, f"{base}.{alias.name}", bound_name(alias))
            if module is not None:
                return module
        return Link(bound_name(alias), base, alias.name, code) if code is not None else None

    def _link_to_module(self, file: SourceFile, module: str, bound: str) -> Link | None:
        found, code = self._module(file, module)
        return Link(bound, module, None, code) if found and module not in OF_THE_KIT - {BASE_MODULE} else None

    def _module(self, file: SourceFile, module: str) -> tuple[bool, SourceFile | None]:
        """Whether a module may travel, and its file, if it has one that is not the kit's."""
        if module in OF_THE_KIT:
            return True, None
        path = _beside(file, module)
        if path is None:
            return False, None
        if path.is_dir():
            return True, None
        code = self._file(path, module)
        return code is not None, code

    @staticmethod
    def modules_of(link: Link) -> list[str]:
        """The last parts of the dotted names of the modules that an import of a module makes reachable by its name."""
        parts = link.module.split(".")
        return parts if link.bound == parts[0] else [link.bound]


def _beside(file: SourceFile, module: str) -> Path | None:
    """The file of a module in the folder of methods, or of one that is imported from beside `file`."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if module.split(".")[0] != PACKAGE:
        below = loaded is not None and Path(loaded).resolve().is_relative_to(file.path.parent)
        return Path(loaded) if loaded is not None and below else None
    if loaded is not None:
        return Path(loaded)
    roots = [Path(next(iter(methods.__path__)))]
    if file.module.split(".")[0] == PACKAGE:
        roots.insert(0, file.path.parents[file.module.count(".") - (file.path.name != "__init__.py")])
    for root in roots:
        place = root.joinpath(*module.split(".")[1:])
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return path
        if place.is_dir():
            return place
    return None


@dataclass
class Travellers:
    """What goes into the notebook: pieces of files and members of classes, and of imports the names."""

    pieces: set[Piece] = field(default_factory=set)
    names: dict[SourceFile, set[str]] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    """The attributes, of whatever object, that the pieces mention."""
    left_behind: list[tuple[SourceFile, Piece]] = field(default_factory=list)
    """Statements that may change something outside of their file, and can't travel."""

    def take(self, file: SourceFile, piece: Piece) -> None:
        """Add a piece, and the names that it needs of its file."""
        self.pieces.add(piece)
        self.names.setdefault(file, set()).update(piece.needs)
        self.attributes |= piece.attributes

    def copy(self) -> Travellers:
        """The same, to be tried with more."""
        return Travellers(
            set(self.pieces), {file: set(names) for file, names in self.names.items()}, {*self.attributes}
        )

    @property
    def size(self) -> int:
        """How much it is; it only ever grows."""
        return len(self.pieces) + len(self.attributes) + sum(map(len, self.names.values()))


# ----------------------------------------------------------------------------------------------------------------------
# Imports
# ----------------------------------------------------------------------------------------------------------------------


def imports(file: SourceFile) -> Iterator[AnyImport]:
    """The imports at the top level of a file."""
    for piece in file.pieces:
        if is_import(piece):
            yield from (node for node in piece.nodes if isinstance(node, (ast.Import, ast.ImportFrom)))


def is_import(piece: Piece) -> bool:
    """Whether a piece is nothing but imports."""
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in piece.nodes)


def bound_name(alias: ast.alias) -> str:
    """The name that an import binds: `np` of `numpy as np`, `torch` of `torch.nn`."""
    return alias.asname or alias.name.split(".")[0]


def packages(node: AnyImport) -> list[str]:
    """The packages, without their modules, that an import asks for; "." for a relative one."""
    if isinstance(node, ast.ImportFrom):
        return ["." if node.level else (node.module or "").split(".")[0]]
    return [alias.name.split(".")[0] for alias in node.names]


def only(node: AnyImport, aliases: list[ast.alias]) -> AnyImport:
    """The import of some of its names."""
    if isinstance(node, ast.Import):
        return ast.Import(aliases)
    return ast.ImportFrom(node.module, aliases, node.level)


# ----------------------------------------------------------------------------------------------------------------------
# Reading the classes
# ----------------------------------------------------------------------------------------------------------------------


def literal(value: Any) -> str:
    """A hyper-parameter's value as Python text; infinity and NaN have no literal of their own."""
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _path(cls: type) -> Path:
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):
        raise UserError(f"{cls.__name__} is in no file; write it into methods/{cls.__name__}.py.") from None


def _read(path: Path) -> str:
    with tokenize.open(path) as file:  # knows the encoding that the file declares
        return file.read()


def _readable(file: SourceFile | None, cls: type) -> SourceFile:
    if file is None:
        raise UserError(f"The file of {cls.__name__}, {_path(cls).name}, has changed and is no Python any more.")
    return file


def _method_class(cls: type, file: SourceFile) -> MethodClass:
    piece = file.class_piece(cls.__name__)
    if piece is None:
        raise UserError(f"{file.path.name} has no class {cls.__name__} at its top level; only such a class can travel.")
    return MethodClass(cls.__name__, file, piece)


def _with_value(text: str, class_name: str, parameter: str, value: Any) -> str | None:
    """The text of a file with another value for a hyper-parameter.

    None if it isn't set by a plain assignment, if it is set again after the class, or if other attributes of the class
    are made from it: these keep the values that they have by default, as in a grading.
    """
    tree = ast.parse(text)
    for cls in tree.body:
        if not (isinstance(cls, ast.ClassDef) and cls.name == class_name):
            continue
        pieces = make_pieces(cls.body, lines_of(text), first_line=cls.lineno)
        if any(parameter in piece.needs_at_top for piece in pieces) or _is_set_outside(tree, class_name, parameter):
            return None
        for node in reversed(cls.body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and len(targets) == 1:
                (target,) = targets
                if isinstance(target, ast.Name) and target.id == parameter:
                    return "\n".join(replaced(lines_of(text), [(node.value, literal(value))])) + "\n"
    return None


def _is_set_outside(tree: ast.Module, class_name: str, attribute: str) -> bool:
    """Whether a file has an assignment `Name.attribute = ...` to a class."""
    places = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return any(
        node.attr == attribute and isinstance(node.value, ast.Name) and node.value.id == class_name for node in places
    )


def replaced(lines: list[str], edits: list[tuple[ast.expr | ast.stmt, str]]) -> list[str]:
    """The lines with other texts in place of expressions and statements; lines keep their numbers."""
    lines = list(lines)
    for node, new in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        # Columns are counted in bytes.
        before = lines[first].encode()[: node.col_offset].decode()
        after = lines[last].encode()[node.end_col_offset :].decode()
        rest = last - first
        if rest and isinstance(node, ast.expr):
            new = f"({new}" + "\n" * rest + ")"
            rest = 0
        lines[first : last + 1] = (before + new + after).split("\n") + [""] * rest
    return lines
