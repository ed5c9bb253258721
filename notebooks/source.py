"""A Python file as pieces: the statements of its top level, what each binds, and what each needs.

Names are looked up the way Python does it, by its compiler: a piece needs the names that its bytecode reads from the
module's namespace. So closures, comprehensions, `global`, class scopes, defaults, decorators and f-strings are right
by construction. Annotations do not count, because few are needed: what they mention travels if it can, and where it
can't, they become texts (`text.py`).
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dis
import re
from collections import deque
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
        """The attributes `x.name` that it mentions, and its strings, any of which may name one to `getattr`.

        Strings like "{0.name}" are for `format`.
        """
        names = {node.attr for node in self.walk() if isinstance(node, ast.Attribute)}
        texts = {node.value for node in self.walk() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        names |= {text for text in texts if text.isidentifier()}
        fields = (name for text in texts for name in _FIELD.findall(text))
        return frozenset(names.union(*(field.split(".")[1:] for field in fields)))

    @cached_property
    def annotations(self) -> list[ast.expr]:
        """Its annotations: of arguments, of what functions return, of variables."""
        found = (node for inner in self.walk() for node in (_of(inner, "annotation"), _of(inner, "returns")))
        return [node for node in found if node is not None]

    @cached_property
    def in_annotations(self) -> frozenset[str]:
        """The names that its annotations mention, those that are texts too."""
        return frozenset(name for annotation in self.annotations for name in _names_in_annotation(annotation))

    @cached_property
    def lookups(self) -> list[frozenset[str]]:
        """For each use of an attribute whose name is computed, the names that say whose: `getattr(self, name)`.

        Nothing is known of a use without a name: a function is handed on, or the program is a text.
        """
        called = {id(node.func): node for node in self.walk() if isinstance(node, ast.Call)}
        found: list[frozenset[str]] = []
        for node in self.walk():
            if isinstance(node, ast.Attribute) and node.attr in ("__dict__", "__getattribute__"):
                found.append(_names_in(node.value))
                continue
            name = _last_name(node)
            call = called.get(id(node))
            if name in _BY_ARGUMENT and call is not None and len(call.args) > 1:
                if not isinstance(call.args[1], ast.Constant):
                    found.append(_names_in(call.args[0]))
            elif name in _OF_ALL and call is not None and call.args:
                found.append(_names_in(call.args[0]))
            elif name in _BY_ARGUMENT | _OF_ALL | _ELSEWHERE and not (
                name == "eval" and isinstance(node, ast.Attribute)
            ):
                found.append(frozenset())
        return found

    @cached_property
    def mentions(self) -> frozenset[str]:
        """The names that it uses for more than an attribute of theirs: `helper(self)`, but not `self.rate`."""
        parts = {id(node.value) for node in self.walk() if isinstance(node, ast.Attribute)}
        return frozenset(node.id for node in self.walk() if isinstance(node, ast.Name) and id(node) not in parts)

    @cached_property
    def defines(self) -> frozenset[str]:
        """The names of the functions in it, methods of classes too."""
        return frozenset(node.name for node in self.walk() if isinstance(node, ast.FunctionDef))

    @property
    def first_arguments(self) -> frozenset[str]:
        """What the functions that it defines call their first argument: in a class, the object itself."""
        functions = (node for node in self.nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        arguments = (
            [*node.args.posonlyargs, *node.args.args]
            for node in functions
            if "staticmethod" not in map(_last_name, node.decorator_list)
        )
        return frozenset(first.arg for first, *_ in filter(None, arguments))

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

    @property
    def is_for_type_checkers(self) -> bool:
        """Whether it is `if TYPE_CHECKING:`, which is never executed."""
        (first, *_) = self.nodes
        return isinstance(first, ast.If) and is_type_checking(first)

    @cached_property
    def imports(self) -> tuple[ast.Import | ast.ImportFrom, ...]:
        """Its imports, inside of functions too, apart from those for type checkers."""
        found: list[ast.Import | ast.ImportFrom] = []
        waiting: deque[ast.AST] = deque(self.nodes)
        while waiting:
            node = waiting.popleft()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found.append(node)
            elif isinstance(node, ast.If) and is_type_checking(node):
                waiting.extend(node.orelse)
            else:
                waiting.extend(ast.iter_child_nodes(node))
        return tuple(found)

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
    def without_annotations(self) -> list[ast.stmt]:
        """Its statements, without what annotations mention."""
        return [_WithoutAnnotations().visit(copy.deepcopy(node)) for node in self.nodes]

    @cached_property
    def _codes(self) -> list[CodeType]:
        """The code object of the statements, and all that are inside it."""
        module = ast.Module(self.without_annotations, type_ignores=[])
        found = [compile(module, "<piece>", "exec", dont_inherit=True)]
        for code in found:  # grows while it is walked
            found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        return found


class SourceFile:
    """The text of a Python file, and its pieces. `module` is its dotted name.

    Raises:
        SyntaxError: it is not Python.
    """

    def __init__(self, path: Path, text: str, module: str = "") -> None:
        self.path = path
        self.module = module
        self.lines = lines_of(text)
        tree = ast.parse(text, filename=str(path))
        pieces = make_pieces(tree.body, self.lines, first_line=1)
        self.pieces = [piece for piece in pieces if not _is_future(piece)]
        self.annotations_are_texts = any(
            isinstance(node, ast.ImportFrom) and "annotations" in {alias.name for alias in node.names}
            for piece in pieces
            if _is_future(piece)
            for node in piece.nodes
        )
        """Whether it has `from __future__ import annotations`."""

    @property
    def package(self) -> str:
        """The package that its relative imports start from; "" if it is in none."""
        return self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]

    @cached_property
    def bound(self) -> frozenset[str]:
        """All names of the module."""
        return frozenset(name for piece in self.pieces if not piece.is_main_guard for name in piece.binds)

    def binding(self, name: str) -> list[Piece]:
        """The pieces that bind a name of the module."""
        return self._binding.get(name, [])

    @cached_property
    def _binding(self) -> dict[str, list[Piece]]:
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            for name in piece.binds:
                found.setdefault(name, []).append(piece)
        return found

    def class_piece(self, name: str) -> Piece | None:
        """The piece that is the class of this name, at the top level."""
        for piece in self.pieces:
            (first, *others) = piece.nodes
            if isinstance(first, ast.ClassDef) and first.name == name and all(map(is_string, others)):
                return piece
        return None


def lines_of(text: str) -> list[str]:
    """The lines as Python counts them: a form feed, for one, ends none. A text is read with `\\n` at their ends."""
    return text.removesuffix("\n").split("\n")


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


def is_type_checking(node: ast.If) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return _last_name(node.test) == "TYPE_CHECKING"


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


_FIELD = re.compile(r"\{(\w*(?:\.\w+)+)")
"""A field of `str.format` that has attributes."""
_BY_ARGUMENT = {"getattr", "setattr", "hasattr", "delattr", "getattr_static"}
"""Functions of an object and the name of an attribute."""
_OF_ALL = {"vars", "dir", "getmembers", "getmembers_static"}
"""Functions of an object that give all of its attributes."""
_ELSEWHERE = {"attrgetter", "methodcaller", "eval", "exec", "globals"}
"""Functions that lead to attributes or names by texts, and are not told whose."""


def _names_in(node: ast.AST) -> frozenset[str]:
    return frozenset(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _of(node: ast.AST, part: str) -> ast.expr | None:
    found = getattr(node, part, None)
    return found if isinstance(found, ast.expr) else None


def _names_in_annotation(node: ast.expr) -> Iterator[str]:
    yield from _names_in(node)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            with contextlib.suppress(SyntaxError, ValueError):
                yield from _names_in(ast.parse(inner.value, mode="eval"))


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
