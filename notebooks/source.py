"""A Python file as pieces: the statements of its top level, what each binds, and what each needs.

Names are looked up the way Python does it, by its compiler: a piece needs the names that its bytecode reads from the
module's namespace. So closures, comprehensions, `global`, class scopes, defaults, decorators and f-strings are right
by construction. Annotations do not count: in the notebook, as under `from __future__ import annotations`, they are
never evaluated.
"""

from __future__ import annotations

import ast
import copy
import dis
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, eq=False)
class Piece:
    """One statement, with the comment above it and the string below it that explain it.

    Statements that share a line make one piece. `lines` are the first and the last line in the file, both included,
    counted from 1; `start` is the first line of code.
    """

    nodes: tuple[ast.stmt, ...]
    lines: tuple[int, int]
    start: int

    @cached_property
    def binds(self) -> frozenset[str]:
        """The names that it binds in the namespace that it is executed in, or in the module's by `global`."""
        return frozenset(_names(self._codes, "STORE_NAME", "STORE_GLOBAL"))

    @cached_property
    def needs(self) -> dict[str, int]:
        """The names that it reads from the module (or from builtins), each with the line where it first does."""
        found: dict[str, int] = {}
        for code in self._codes:
            for name, line in _reads(code):
                found.setdefault(name, line)
        return found

    @cached_property
    def needs_at_top(self) -> frozenset[str]:
        """Those of `needs` that are read outside of functions; in the body of a class they may be the class's."""
        return frozenset(name for name, _ in _reads(self._codes[0]))

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The attributes `x.name` that it mentions, and its strings, any of which may name one to `getattr`."""
        names = {node.attr for node in self.walk() if isinstance(node, ast.Attribute)}
        texts = {node.value for node in self.walk() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        return frozenset(names | {text for text in texts if text.isidentifier()})

    @cached_property
    def in_annotations(self) -> frozenset[str]:
        """The names that its annotations mention."""
        annotations = [
            node
            for inner in self.walk()
            for node in (getattr(inner, "annotation", None), getattr(inner, "returns", None))
            if isinstance(node, ast.AST)
        ]
        return frozenset(
            node.id for annotation in annotations for node in ast.walk(annotation) if isinstance(node, ast.Name)
        )

    @cached_property
    def looks_up_attributes(self) -> bool:
        """Whether it may use an attribute of the method whose name is computed: `getattr(self, name)`, `vars(self)`."""
        for node in self.walk():
            if isinstance(node, ast.Attribute) and node.attr == "__dict__" and _is_self(node.value):
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and _is_self(node.args[0]):
                by_name = node.func.id in ("getattr", "setattr", "hasattr", "delattr")
                computed = by_name and not isinstance(node.args[1], ast.Constant)
                if computed or node.func.id in ("vars", "dir"):
                    return True
        return False

    @property
    def is_docstring(self) -> bool:
        """Whether it is a string and nothing else."""
        return all(is_string(node) for node in self.nodes)

    @property
    def is_main_guard(self) -> bool:
        """Whether it is `if __name__ == "__main__":`, which would be true in a notebook."""
        (first, *_) = self.nodes
        return isinstance(first, ast.If) and "__name__" in {
            node.id for node in ast.walk(first.test) if isinstance(node, ast.Name)
        }

    def walk(self) -> Iterator[ast.AST]:
        """Every node of the syntax tree."""
        for node in self.nodes:
            yield from ast.walk(node)

    def effect_needs(self) -> set[str]:
        """The names of what it may change when it is executed, apart from binding its own names.

        Those of the decorators (and `metaclass=...`) of a definition, which may register it; those of all that is
        not a plain assignment or an import, like `TABLE.update(...)` or a loop that fills the table.
        """
        if all(isinstance(node, DEFINITIONS) for node in self.nodes):
            parts: list[ast.expr] = []
            for node in self.nodes:
                assert isinstance(node, DEFINITIONS)
                parts += node.decorator_list
                parts += [keyword.value for keyword in node.keywords] if isinstance(node, ast.ClassDef) else []
            return {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
        plain = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Import, ast.ImportFrom)
        if self.is_docstring or (self.binds and all(isinstance(node, plain) or is_string(node) for node in self.nodes)):
            return set()
        return set(self.needs)

    @cached_property
    def _codes(self) -> list[CodeType]:
        return _compiled(self.nodes)


class SourceFile:
    """The text of a Python file, and its pieces."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()
        tree = ast.parse(text, filename=str(path))
        self.pieces = [piece for piece in make_pieces(tree.body, self.lines, first_line=1) if not _is_future(piece)]

    def where(self, line: int) -> str:
        """File and line, for messages."""
        return f"{self.path.name}, line {line}"

    def binding(self, name: str) -> list[Piece]:
        """The pieces that bind a name of the module."""
        return [piece for piece in self.pieces if name in piece.binds]

    def class_piece(self, name: str) -> Piece | None:
        """The piece that is the class of this name, at the top level."""
        for piece in self.pieces:
            (first, *others) = piece.nodes
            if isinstance(first, ast.ClassDef) and first.name == name and all(map(is_string, others)):
                return piece
        return None

    def text_of(self, lines: tuple[int, int]) -> str:
        """These lines, both ends included."""
        return "\n".join(self.lines[lines[0] - 1 : lines[1]])


def make_pieces(statements: Sequence[ast.stmt], lines: Sequence[str], first_line: int) -> list[Piece]:
    """Cut a list of statements into pieces. Comments above `first_line` belong to none of them."""
    pieces: list[Piece] = []
    for node in statements:
        start = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        end = node.end_lineno or node.lineno
        before = pieces[-1] if pieces else None
        if before and (start == before.lines[1] or (is_string(node) and not before.is_docstring)):
            pieces[-1] = Piece((*before.nodes, node), (before.lines[0], end), before.start)
            continue
        free = before.lines[1] + 1 if before else first_line  # the first line that may be this piece's
        top = start
        while top > free and lines[top - 2].lstrip().startswith("#"):
            top -= 1
        pieces.append(Piece((node,), (top, end), start))
    return pieces


def is_string(node: ast.AST) -> bool:
    """Whether a statement is a string and nothing else: a docstring, or the explanation of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_self(node: ast.expr) -> bool:
    """Whether an expression is the method or its class: `self`, `cls`, `type(self)`."""
    return any(isinstance(inner, ast.Name) and inner.id in ("self", "cls") for inner in ast.walk(node))


def _is_future(piece: Piece) -> bool:
    return all(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in piece.nodes)


class _WithoutAnnotations(ast.NodeTransformer):
    """Takes annotations away, so that the compiler doesn't read the names in them."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.copy_location(ast.Constant(None), node.annotation)
        return self.generic_visit(node)


def _compiled(nodes: Sequence[ast.stmt]) -> list[CodeType]:
    """The code object of the statements, and all that are inside it."""
    bare = [_WithoutAnnotations().visit(copy.deepcopy(node)) for node in nodes]
    found = [compile(ast.Module(bare, type_ignores=[]), "<piece>", "exec", dont_inherit=True)]
    for code in found:  # grows while it is walked
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


def _names(codes: Sequence[CodeType], at_top: str, anywhere: str) -> Iterator[str]:
    for depth, code in enumerate(codes):
        for instruction in dis.get_instructions(code):
            if instruction.opname == anywhere or (depth == 0 and instruction.opname == at_top):
                yield instruction.argval


def _reads(code: CodeType) -> Iterator[tuple[str, int]]:
    """The names that one code object reads from outside of all functions, with their lines."""
    line = code.co_firstlineno
    own: set[str] = set()  # what a class body has bound so far stays in the class
    for instruction in dis.get_instructions(code):
        line = _line(instruction) or line
        if instruction.opname == "STORE_NAME":
            own.add(instruction.argval)
        elif instruction.opname in _READS and not (code.co_name != "<module>" and instruction.argval in own):
            yield instruction.argval, line


_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


def _line(instruction: dis.Instruction) -> int | None:
    positions = getattr(instruction, "positions", None)  # since Python 3.11
    if positions is not None:
        return positions.lineno
    return instruction.starts_line if isinstance(instruction.starts_line, int) else None
