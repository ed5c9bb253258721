"""The text of a notebook's cell with a method: what travels, file by file, in one namespace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property

from methods.BaseMethod import PLAIN_TYPES, BaseMethod
from notebooks.extraction import reached_links
from notebooks.program import (
    OF_BASE_MODULE,
    Link,
    MethodClass,
    Program,
    Travellers,
    bound_name,
    imports,
    is_import,
    literal,
    only,
    replaced,
)
from notebooks.source import DEFINITIONS, Piece, SourceFile

BASE = BaseMethod.__name__
STAND_IN = f'''\
class {BASE}:
    """Stands in for the class of the starter kit, of which a notebook needs nothing but the name."""'''

MODULE = "ModuleOfTheKit"
MODULE_STAND_IN = f'''\
class {MODULE}:
    """Stands in for a module of the starter kit, whose names are this notebook's."""

    def __getattr__(self, name):
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def __dict__(self):
        return globals()

    def __setattr__(self, name, value):
        globals()[name] = value'''


def text_for_notebook(program: Program, travellers: Travellers) -> str:
    """The code of a notebook cell: what travels, file by file, and `unlearning`, which calls it."""
    files = [file for file in program.files if any(piece in travellers.pieces for piece in program.pieces(file))]
    late = all(file.annotations_are_texts for file in files)
    lines: list[str] = []
    blocks: list[str] = []
    for file in files:
        for node in imports(file):
            here = [alias for alias in program.others(file, node) if bound_name(alias) in travellers.names[file]]
            line = ast.unparse(only(node, here)) if here else ""
            lines += [line] if line and line not in lines else []
        links = dict.fromkeys(_link_lines(program, file, travellers))
        blocks += ["\n".join(links)] if links else []
        blocks += _FileText(program, file, travellers, late).blocks()
    blocks.append(_call(program))
    stand_ins = [STAND_IN, MODULE_STAND_IN] if any(f"{MODULE}()" in block for block in blocks) else [STAND_IN]
    head = ["from __future__ import annotations", "", *lines] if late else lines
    return "\n\n\n".join(filter(None, ["\n".join(head).rstrip(), *stand_ins, *blocks])) + "\n"


def _call(program: Program) -> str:
    name = program.handler.__name__
    lines = ["def unlearning(net, retain_loader, forget_loader, val_loader):", f"    method = {name}()"]
    lines += [f"    method.{parameter} = {literal(value)}" for parameter, value in program.late_values.items()]
    return "\n".join([*lines, "    method.run(net, retain_loader, forget_loader, val_loader)"])


# ----------------------------------------------------------------------------------------------------------------------
# Imports of what travels along
# ----------------------------------------------------------------------------------------------------------------------


def _link_lines(program: Program, file: SourceFile, travellers: Travellers) -> Iterator[str]:
    """Statements in place of the imports from files that travel along, as far as their names are needed."""
    needed = [link for link in program.top_links(file) if link.bound in travellers.names[file]]
    for link in needed:
        if link.stays_behind:
            continue
        if link.name is not None:
            if link.bound != link.name:
                yield f"{link.bound} = {link.name}"
            continue
        for name in program.modules_of(link):
            if name not in _defined(program, travellers):
                yield f"{name} = {_module_itself(link) if name == link.bound else f'{MODULE}()'}"
    for link in reached_links(program, file, travellers):
        yield from _names_on_itself(program, link, travellers)


def _module_itself(link: Link) -> str:
    return BASE if link.is_base and link.bound != "methods" else f"{MODULE}()"


def _names_on_itself(program: Program, link: Link, travellers: Travellers) -> Iterator[str]:
    """A module and a class in it that share a name are one object in a notebook, with the module's names on it."""
    if link.name is not None:
        return
    if link.is_base:
        yield f"{BASE}.{BASE} = {BASE}"
    elif link.file is not None:
        for name in program.modules_of(link):
            if name in _defined(program, travellers) and name == link.module.rpartition(".")[2]:
                used = sorted(link.file.bound & travellers.names[link.file] & travellers.attributes)
                yield from (f"{name}.{one} = {one}" for one in used)


def _defined(program: Program, travellers: Travellers) -> set[str]:
    """The names in the notebook that are not from imports."""
    return {
        name
        for file in program.files
        for piece in file.pieces
        if piece in program.class_of or (piece in travellers.pieces and not is_import(piece))
        for name in piece.binds
    } | {BASE}


def _assignment(link: Link) -> str:
    """What stands in a function in place of an import from a file that travels along."""
    value = f'globals()["{link.name}"]' if link.name is not None else _module_itself(link)
    return f"{link.bound} = {value}"


# ----------------------------------------------------------------------------------------------------------------------
# Pieces of a file
# ----------------------------------------------------------------------------------------------------------------------


class _FileText:
    """The travelling pieces of one file as text. `late` says whether the notebook's annotations are texts anyway."""

    def __init__(self, program: Program, file: SourceFile, travellers: Travellers, late: bool) -> None:
        self.program, self.file, self.travellers = program, file, travellers
        edits: list[tuple[ast.expr | ast.stmt, str]] = []
        for piece in program.pieces(file):
            if piece in travellers.pieces and not is_import(piece):
                edits += self._imports(piece)
                edits += [] if late else self._annotations(piece)
        self.lines = replaced(file.lines, edits)

    def _imports(self, piece: Piece) -> Iterator[tuple[ast.stmt, str]]:
        for node in piece.imports:
            links, others = self.program.links(self.file, node), self.program.others(self.file, node)
            if links:
                rest = [ast.unparse(only(node, others))] if others else []
                yield node, "; ".join([*map(_assignment, links), *rest])

    def _annotations(self, piece: Piece) -> Iterator[tuple[ast.expr, str]]:
        """Annotations that become texts: all where the file says so, else those of what stays behind."""
        for annotation in piece.annotations:
            if isinstance(annotation, ast.Starred):
                continue
            if self._stays_behind(annotation) or (self.file.annotations_are_texts and not self._is_plain(annotation)):
                yield annotation, repr(ast.unparse(annotation))

    def _is_plain(self, annotation: ast.expr) -> bool:
        """Whether an annotation is the type of a hyper-parameter, of which nobody minds whether it is a text."""
        return (
            isinstance(annotation, ast.Name)
            and annotation.id in {plain.__name__ for plain in PLAIN_TYPES} - self.file.bound
            and any(annotation in member.annotations for cls in self.program.classes for member in cls.members)
        )

    def _stays_behind(self, annotation: ast.expr) -> bool:
        names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
        if names & self.file.bound - self._there:
            return True
        of_base = {link.bound for link in self.program.top_links(self.file) if link.name is None and link.is_base}
        attributes = {node.attr for node in ast.walk(annotation) if isinstance(node, ast.Attribute)}
        return bool(of_base & names and OF_BASE_MODULE & attributes)

    @cached_property
    def _there(self) -> set[str]:
        """The names of the file that the notebook has."""
        travelling = [piece for piece in self.file.pieces if piece in self.travellers.pieces and not is_import(piece)]
        bound = {name for piece in travelling for name in piece.binds}
        stays = {link.bound for link in self.program.top_links(self.file) if link.stays_behind}
        return (bound | self.travellers.names[self.file]) - stays

    def blocks(self) -> list[str]:
        """The pieces, imports apart; statements that stand together stay together."""
        blocks: list[str] = []
        last = -1  # the line that the last block ends with, if the next may stand right below it
        for piece in self.file.pieces:
            cls = self.program.class_of.get(piece)
            if cls is not None:
                blocks.append(self._class(cls))
            elif piece not in self.travellers.pieces or is_import(piece):
                continue
            elif piece.lines[0] == last + 1 and not isinstance(piece.nodes[0], DEFINITIONS):
                blocks[-1] += "\n" + self._text(*piece.lines)
            else:
                blocks.append(self._text(*piece.lines))
            last = -1 if isinstance(piece.nodes[0], DEFINITIONS) else piece.lines[1]
        return blocks

    def _text(self, first: int, last: int) -> str:
        """These lines, both ends included."""
        return "\n".join(self.lines[first - 1 : last])

    def _class(self, cls: MethodClass) -> str:
        """The class without the members that stay behind, and without the blank lines above them."""
        dropped: set[int] = set()
        staying = [member for member in cls.members if member not in self.travellers.pieces]
        if not cls.is_one_line:
            for member in staying:
                first, last = member.lines
                while not self.lines[first - 2].strip():
                    first -= 1
                dropped |= set(range(first, last + 1))
        first, last = cls.piece.lines
        kept = [self.lines[line - 1] for line in range(first, last + 1) if line not in dropped]
        return "\n".join(kept) + ("\n    pass" if len(staying) == len(cls.members) and dropped else "")
