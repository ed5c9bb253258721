"""What of a method's file `run()` needs, and the text of it for a notebook."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.errors import UserError
from methods.BaseMethod import BaseMethod
from notebooks.source import DEFINITIONS, Piece, SourceFile, make_pieces

FOR_THE_KIT = frozenset(
    name for name, annotation in inspect.get_annotations(BaseMethod).items() if "ClassVar" in str(annotation)
)
"""The attributes of a method that tell the kit about it; a run does without them."""


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


class Program:
    """The classes of a method, parents first, and the files that they are in, in the same order.

    `values` are the hyper-parameters that are to have another value than their default: they are written into the
    text of the class, so that a notebook shows the values in force.

    Raises:
        UserError: a class is not at the top level of a file.
    """

    def __init__(self, handler: type[BaseMethod], values: Mapping[str, Any] | None = None) -> None:
        self.handler = handler
        lineage = [cls for cls in reversed(handler.__mro__) if issubclass(cls, BaseMethod) and cls is not BaseMethod]
        texts = {_path(cls): _read(_path(cls)) for cls in lineage}
        self.late_values = dict(values or {})  # those that no text could be changed for
        for name, value in list(self.late_values.items()):
            owner = next((cls for cls in handler.__mro__ if name in vars(cls)), handler)
            changed = _with_value(texts[_path(owner)], owner.__name__, name, value)
            if changed is not None:
                texts[_path(owner)] = changed
                del self.late_values[name]
        files = {path: SourceFile(path, text) for path, text in texts.items()}
        self.files = list(files.values())
        self.classes = [_method_class(cls, files[_path(cls)]) for cls in lineage]
        self.hyper_parameters = set(handler.hyper_parameters())

    @cached_property
    def class_of(self) -> dict[Piece, MethodClass]:
        """The method's classes by their piece."""
        return {cls.piece: cls for cls in self.classes}

    @cached_property
    def parents_imported(self) -> set[str]:
        """The names by which the files know the classes that their own inherit from."""
        return {
            bound_name(alias)
            for file in self.files
            for node in imports(file)
            if self.links(node)
            for alias in node.names
        }

    def links(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import is of nothing but classes that the method inherits from, which travel with it."""
        known = {(cls.file.path.stem, cls.name) for cls in self.classes}
        package, _, module = (getattr(node, "module", "") or "").rpartition(".")
        return package == "methods" and all((module, alias.name) in known for alias in node.names)


@dataclass
class Travellers:
    """What goes into the notebook: pieces of files and members of classes, and of imports the names."""

    pieces: set[Piece] = field(default_factory=set)
    names: dict[SourceFile, set[str]] = field(default_factory=dict)

    def take(self, file: SourceFile, piece: Piece) -> None:
        """Add a piece, and the names that it needs of its file."""
        self.pieces.add(piece)
        self.names.setdefault(file, set()).update(piece.needs)

    @property
    def size(self) -> int:
        """How much it is; it only ever grows."""
        return len(self.pieces) + sum(map(len, self.names.values()))


# ----------------------------------------------------------------------------------------------------------------------
# What travels
# ----------------------------------------------------------------------------------------------------------------------


def everything(program: Program) -> Travellers:
    """All of the files, apart from `if __name__ == "__main__"` and what only the kit has a use for."""
    found = Travellers()
    attributes = {name for piece in _all_pieces(program) for name in piece.attributes}
    for file in program.files:
        for piece in file.pieces:
            if piece.is_main_guard:
                continue
            cls = program.class_of.get(piece)
            if cls is None:
                found.take(file, piece)
                found.names[file] |= piece.binds
                continue
            found.take(file, cls.header)
            for member in cls.members:
                if not _is_for_the_kit(member, attributes):
                    found.take(file, member)
    return found


def _all_pieces(program: Program) -> Iterator[Piece]:
    """Every statement of the files, members of the method's classes among them, apart from what is for the kit."""
    for file in program.files:
        yield from (piece for piece in file.pieces if piece not in program.class_of)
    for cls in program.classes:
        yield from (member for member in cls.members if not _is_for_the_kit(member, attributes=()))


def _is_for_the_kit(member: Piece, attributes: Iterable[str]) -> bool:
    """Whether a member of a class is for the kit alone: that is, unless it is among the attributes that are in use."""
    return bool(member.binds) and member.binds <= FOR_THE_KIT.difference(attributes)


def needed_by(program: Program, roots: Iterable[str] = ("run",)) -> Travellers:
    """The members of the method that are named, and all that they need, directly or not.

    An attribute is needed if reached code mentions one of its name, of whatever object, or a string that is its name;
    a name of the module if the bytecode reads it. Hyper-parameters and special methods (`__init__`) always travel.
    """
    found = Travellers(names={file: set() for file in program.files})
    attributes = set(roots)
    size = -1
    while size < found.size + len(attributes):
        size = found.size + len(attributes)
        for file in program.files:
            for piece in file.pieces:
                if piece not in program.class_of and _is_needed(piece, file, found.names[file]):
                    found.take(file, piece)
        for cls in program.classes:
            found.take(cls.file, cls.header)
            found.names[cls.file].add(cls.name)  # `Name.attribute = ...` belongs to it
            for member in _needed_members(program, cls, attributes, found):
                found.take(cls.file, member)
        for piece in found.pieces:
            attributes |= piece.attributes
    return found


def _is_needed(piece: Piece, file: SourceFile, names: set[str]) -> bool:
    if piece.is_main_guard:
        return False
    if piece.binds & names:
        return True
    touched = piece.effect_needs()
    if not piece.binds and touched & names:  # `torch.backends...(...)`, `TABLE.update(...)`
        return True
    return bool(_local_closure(file, touched) & names)  # `@register def ...`, where `register` fills a table in use


def _local_closure(file: SourceFile, names: Iterable[str]) -> set[str]:
    """The names among these, and among what they need in turn, that the file defines (and does not import)."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        pieces = [piece for piece in file.binding(name) if not is_import(piece)]
        if name not in found and pieces:
            found.add(name)
            waiting += [needed for piece in pieces for needed in piece.needs]
    return found


def _needed_members(program: Program, cls: MethodClass, attributes: set[str], found: Travellers) -> Iterator[Piece]:
    """The members of one class that have to travel, as far as it is known by now."""
    reached = [piece for piece in found.pieces if not any(piece is other.header for other in program.classes)]
    all_of_them = cls.is_one_line or any(piece.looks_up_attributes for piece in reached)
    names = (attributes - _overridden(program, cls, reached)) | program.hyper_parameters
    for member in cls.members:
        if member in found.pieces:
            names |= member.needs_at_top  # `second = first + 1` in the body of the class
    for member in cls.members:
        if _is_for_the_kit(member, attributes):
            continue
        special = any(name.startswith("__") and name.endswith("__") for name in member.binds)
        if all_of_them or special or member.binds & names or not member.binds:
            yield member


def _overridden(program: Program, cls: MethodClass, reached: Iterable[Piece]) -> set[str]:
    """The attributes that classes below define anew; none if reached code calls `super()`, or a parent by its name."""
    ancestors = {other.name for other in program.classes[:-1]} | program.parents_imported | {"super"}
    if any(ancestors & piece.needs.keys() for piece in reached):
        return set()
    below = program.classes[program.classes.index(cls) + 1 :]
    return {name for other in below for member in other.members for name in member.binds}


# ----------------------------------------------------------------------------------------------------------------------
# The text
# ----------------------------------------------------------------------------------------------------------------------

STAND_IN = '''\
class BaseMethod:
    """Stands in for the class of the starter kit, of which a notebook needs nothing but the name."""'''


def text_for_notebook(program: Program, travellers: Travellers, may_import: Callable[[str], bool]) -> str:
    """The code of a notebook cell: what travels, file by file, and `unlearning`, which calls it.

    `may_import(package)` says whether Kaggle has a package: an import that only annotations mention travels if so.
    """
    lines: list[str] = []
    blocks = [STAND_IN]
    for file in program.files:
        names = travellers.names.get(file, set())
        annotated = {name for piece in _inside(program, file, travellers) for name in piece.in_annotations}
        for node in imports(file):
            here = [alias for alias in node.names if bound_name(alias) in names]
            if is_base_import(node):
                here = [alias for alias in here if alias.name == "BaseMethod"]
            if isinstance(node, ast.ImportFrom) and (is_base_import(node) or program.links(node)):
                blocks += [f"{alias.asname} = {alias.name}" for alias in here if alias.asname]
                continue
            if all(may_import(package) for package in packages(node)):
                here = [alias for alias in node.names if alias in here or bound_name(alias) in annotated]
            line = ast.unparse(only(node, here)) if here else ""
            lines += [line] if line and line not in lines else []
        blocks += _blocks(program, file, travellers)
    blocks.append(_call(program))
    return "\n\n\n".join(["\n".join(["from __future__ import annotations", "", *lines]), *blocks]) + "\n"


def _call(program: Program) -> str:
    name = program.handler.__name__
    lines = ["def unlearning(net, retain_loader, forget_loader, val_loader):", f"    method = {name}()"]
    lines += [f"    method.{parameter} = {literal(value)}" for parameter, value in program.late_values.items()]
    return "\n".join([*lines, "    method.run(net, retain_loader, forget_loader, val_loader)"])


def _inside(program: Program, file: SourceFile, travellers: Travellers) -> list[Piece]:
    """The travelling pieces of one file, members of its classes among them."""
    members = [member for cls in program.classes if cls.file is file for member in cls.members]
    return [piece for piece in [*file.pieces, *members] if piece in travellers.pieces]


def _blocks(program: Program, file: SourceFile, travellers: Travellers) -> list[str]:
    """The text of the travelling pieces of a file, imports apart; statements that stand together stay together."""
    blocks: list[str] = []
    last = -1  # the line that the last block ends with, if the next may stand right below it
    for piece in file.pieces:
        cls = program.class_of.get(piece)
        if cls is not None:
            blocks.append(_class_text(cls, travellers))
        elif piece not in travellers.pieces or is_import(piece):
            continue
        elif piece.lines[0] == last + 1 and not isinstance(piece.nodes[0], DEFINITIONS):
            blocks[-1] += "\n" + file.text_of(piece.lines)
        else:
            blocks.append(file.text_of(piece.lines))
        last = -1 if isinstance(piece.nodes[0], DEFINITIONS) else piece.lines[1]
    return blocks


def _class_text(cls: MethodClass, travellers: Travellers) -> str:
    """The class without the members that stay behind, and without the blank lines above them."""
    dropped: set[int] = set()
    staying = [member for member in cls.members if member not in travellers.pieces]
    if not cls.is_one_line:
        for member in staying:
            first, last = member.lines
            while not cls.file.lines[first - 2].strip():
                first -= 1
            dropped |= set(range(first, last + 1))
    first, last = cls.piece.lines
    kept = [cls.file.lines[line - 1] for line in range(first, last + 1) if line not in dropped]
    return "\n".join(kept) + ("\n    pass" if len(staying) == len(cls.members) and dropped else "")


def imports(file: SourceFile) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports at the top level of a file."""
    for piece in file.pieces:
        if is_import(piece):
            yield from (node for node in piece.nodes if isinstance(node, (ast.Import, ast.ImportFrom)))


def is_import(piece: Piece) -> bool:
    """Whether a piece is nothing but imports."""
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in piece.nodes)


def is_base_import(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether an import is `from methods.BaseMethod import ...`."""
    return isinstance(node, ast.ImportFrom) and node.module == BaseMethod.__module__


def bound_name(alias: ast.alias) -> str:
    """The name that an import binds: `np` of `numpy as np`, `torch` of `torch.nn`."""
    return alias.asname or alias.name.split(".")[0]


def packages(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The packages, without their modules, that an import asks for; "." for a relative one."""
    if isinstance(node, ast.ImportFrom):
        return ["." if node.level else (node.module or "").split(".")[0]]
    return [alias.name.split(".")[0] for alias in node.names]


def only(node: ast.Import | ast.ImportFrom, aliases: list[ast.alias]) -> ast.stmt:
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
        return Path(inspect.getfile(cls))
    except (TypeError, OSError):
        raise UserError(f"{cls.__name__} is in no file; write it into methods/{cls.__name__}.py.") from None


def _read(path: Path) -> str:
    with tokenize.open(path) as file:  # knows the encoding that the file declares
        return file.read()


def _method_class(cls: type, file: SourceFile) -> MethodClass:
    piece = file.class_piece(cls.__name__)
    if piece is None:
        raise UserError(f"{file.path.name} has no class {cls.__name__} at its top level; only such a class can travel.")
    return MethodClass(cls.__name__, file, piece)


def _with_value(text: str, class_name: str, parameter: str, value: Any) -> str | None:
    """The text of a file with another value for a hyper-parameter; None if it isn't set by a plain assignment."""
    for cls in ast.parse(text).body:
        if not (isinstance(cls, ast.ClassDef) and cls.name == class_name):
            continue
        for node in cls.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and len(targets) == 1:
                (target,) = targets
                if isinstance(target, ast.Name) and target.id == parameter:
                    return _replaced(text, node.value, literal(value))
    return None


def _replaced(text: str, node: ast.expr, new: str) -> str:
    """The text with another expression in place of `node`; lines keep their numbers."""
    lines = text.splitlines()
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    # Columns are counted in bytes.
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    if last > first:
        new = f"({new}" + "\n" * (last - first) + ")"
    return "\n".join([*lines[:first], before + new + after, *lines[last + 1 :]]) + "\n"
