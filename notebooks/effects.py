"""Statements at the top level of a file that change something beyond it: the environment, a setting of a library.

Nothing need mention what they change: `os.environ.setdefault("SCALE", "3")` is felt wherever the variable is read.
Which functions change something can't be known. Of a statement that is nothing but a call, it is assumed; of a call
whose result is kept, only if the function's name says so (`previous = torch.set_flush_denormal(True)`).
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator

from notebooks.program import is_import
from notebooks.source import DEFINITIONS, Piece, SourceFile, is_string, is_type_checking

CHANGING = re.compile(
    "set_.+|set[A-Z].*|setdefault|setattr|seterr.*|setenv|putenv|unsetenv|.*seed.*|append|extend|insert|update|pop|"
    "popitem|remove|discard|clear|register.*|.*enable.*|.*disable.*|use|use_.+|config|configure.*|basicConfig|install.*|"
    "patch.*|filterwarnings|simplefilter|load_library|init|initiali[sz]e.*|setup.*|exec|chdir|umask|setrlimit|reset.*|"
    "__setitem__|__setattr__"
)
"""The names of functions that change something, as a rule."""

HARMLESS_DECORATORS = {
    "dataclass", "lru_cache", "cache", "cached_property", "wraps", "singledispatch", "total_ordering", "unique",
    "contextmanager", "asynccontextmanager", "no_grad", "enable_grad", "inference_mode", "abstractmethod", "overload",
    "runtime_checkable", "final", "override", "jit", "njit", "vectorize", "script", "property", "staticmethod",
    "classmethod", "compile", "custom_fwd", "custom_bwd", "deprecated", "once_differentiable",
}  # fmt: skip
"""Decorators of libraries that only change what they decorate, by the last part of their names."""

ACTING_BUILTINS = {"__import__", "exec", "eval", "setattr", "delattr", "globals", "open"}
HARMLESS_BUILTINS = set(dir(builtins)) - ACTING_BUILTINS


def acts(file: SourceFile, piece: Piece) -> bool:
    """Whether executing a statement of the top level may change something that is not the file's own."""
    if piece.is_main_guard or is_import(piece):
        return False
    return any(_Reader(file).acts(node) for node in piece.nodes)


class _Reader:
    """Reads statements of one file; functions of the file that are called are read as well, each once."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self._read: set[str] = set()

    def acts(self, node: ast.stmt, inside: bool = False) -> bool:
        """See above; `inside` of a function or class that is called, definitions count with their bodies."""
        if isinstance(node, DEFINITIONS):
            if any(map(self._decorator_acts, node.decorator_list)) or self._values_act(_evaluated_with(node)):
                return True
            return (inside or isinstance(node, ast.ClassDef)) and any(self.acts(part, inside) for part in node.body)
        if isinstance(node, ast.Expr):
            return not is_string(node) and self._expression_acts(node.value, kept=False)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
            targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
            value = None if isinstance(node, ast.Delete) else node.value
            if isinstance(node, ast.AugAssign) and self._is_elsewhere(node.target):  # `variables |= {"A": "1"}`
                return True
            return any(map(self._target_is_elsewhere, targets)) or self._values_act([value])
        if isinstance(node, ast.If) and is_type_checking(node):
            return any(self.acts(part, inside) for part in node.orelse)
        if any(map(self._target_is_elsewhere, _targets(node))):
            return True
        return self._values_act(_expressions(node)) or any(self.acts(part, inside) for part in _statements(node))

    def _values_act(self, values: Iterable[ast.expr | None]) -> bool:
        return any(self._expression_acts(value, kept=True) for value in values if value is not None)

    def _expression_acts(self, value: ast.expr, kept: bool) -> bool:
        """Whether a call in an expression acts; if its value is not `kept`, the outermost call is made to act."""
        outermost = value.value if isinstance(value, (ast.Await, ast.YieldFrom)) else value
        return any(self._call_acts(node, kept or node is not outermost) for node in _calls(value))

    def _call_acts(self, call: ast.Call, kept: bool) -> bool:
        function = call.func
        own = self._own_definitions(function)
        if own:
            return any(self._body_acts(piece) for piece in own)
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if any(map(self._changes_elsewhere, (*call.args, *(keyword.value for keyword in call.keywords)))):
            return True  # whoever is given it may call it: `list(map(os.environ.pop, names))`
        if kept and not CHANGING.fullmatch(name):
            return False
        return self._is_elsewhere(function)

    def _changes_elsewhere(self, value: ast.expr) -> bool:
        """Whether a value is a function of another module whose name says that it changes something."""
        is_named_so = isinstance(value, ast.Attribute) and CHANGING.fullmatch(value.attr) is not None
        return is_named_so and self._is_elsewhere(value)

    def _own_definitions(self, function: ast.expr) -> list[Piece]:
        """The functions and classes of the file that a call `name(...)` or `name(...).method()` is of."""
        while isinstance(function, (ast.Attribute, ast.Call)):
            function = function.value if isinstance(function, ast.Attribute) else function.func
        name = function.id if isinstance(function, ast.Name) else ""
        return [piece for piece in self.file.binding(name) if isinstance(piece.nodes[0], DEFINITIONS)]

    def _body_acts(self, piece: Piece) -> bool:
        name = getattr(piece.nodes[0], "name", "")
        if name in self._read:
            return False
        self._read.add(name)
        return any(self.acts(node, inside=True) for node in piece.nodes)

    def _decorator_acts(self, decorator: ast.expr) -> bool:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        own = self._own_definitions(function)
        if own:
            return any(self._body_acts(piece) for piece in own)
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return name not in HARMLESS_DECORATORS and self._is_elsewhere(function)

    def _target_is_elsewhere(self, target: ast.expr) -> bool:
        """Whether an assignment goes into an object that is not the file's: `os.environ["A"] = ...`."""
        if isinstance(target, (ast.Tuple, ast.List)):
            return any(map(self._target_is_elsewhere, target.elts))
        if isinstance(target, ast.Starred):
            return self._target_is_elsewhere(target.value)
        return isinstance(target, (ast.Attribute, ast.Subscript)) and self._is_elsewhere(target.value)

    def _is_elsewhere(self, place: ast.expr, known: frozenset[str] = frozenset()) -> bool:
        """Whether an expression is an object of another module, as far as its text says."""
        while isinstance(place, (ast.Attribute, ast.Subscript, ast.Call)):
            if isinstance(place, ast.Call):
                of_argument = isinstance(place.func, ast.Name) and place.func.id in ("getattr", "vars") and place.args
                place = place.args[0] if of_argument else place.func
            else:
                place = place.value
        if not isinstance(place, ast.Name):
            return False
        if place.id in known or place.id in HARMLESS_BUILTINS:
            return False
        pieces = self.file.binding(place.id)
        if not pieces:
            return place.id in ACTING_BUILTINS
        values = [value for piece in pieces for value in _assigned(piece, place.id)]
        return any(is_import(piece) or _imports_inside(piece, place.id) for piece in pieces) or any(
            self._is_elsewhere(value, known | {place.id}) for value in values
        )


def _calls(value: ast.expr) -> Iterator[ast.Call]:
    """The calls in an expression that are made when it is evaluated; whoever is given a `lambda` may call it."""
    waiting: list[ast.AST] = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            yield node
            waiting += [part.body for part in (node.func, *node.args) if isinstance(part, ast.Lambda)]
        if not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _evaluated_with(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[ast.expr | None]:
    """The expressions that are evaluated with a definition: defaults of arguments, bases of a class."""
    if isinstance(node, ast.ClassDef):
        return [*node.bases, *(keyword.value for keyword in node.keywords)]
    return [*node.args.defaults, *node.args.kw_defaults]


def _expressions(node: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a compound statement's own: conditions, what a loop is over."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.withitem):
            yield child.context_expr


def _targets(node: ast.stmt) -> list[ast.expr]:
    """What a compound statement assigns to: `for os.environ["A"] in ...`, `with ... as torch.setting`."""
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return [node.target]
    items = node.items if isinstance(node, (ast.With, ast.AsyncWith)) else []
    return [item.optional_vars for item in items if item.optional_vars is not None]


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements in the blocks of a compound statement."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from child.body


def _assigned(piece: Piece, name: str) -> Iterator[ast.expr]:
    """What a piece assigns to a name, if that is written out: `env = os.environ`."""
    for node in piece.walk():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None) or getattr(node, "iter", None)
        if isinstance(value, ast.expr) and any(isinstance(part, ast.Name) and part.id == name for part in targets):
            yield value


def _imports_inside(piece: Piece, name: str) -> bool:
    """Whether a piece imports a name in a block: `try: import fast`."""
    return any((alias.asname or alias.name.split(".")[0]) == name for node in piece.imports for alias in node.names)
