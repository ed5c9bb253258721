"""What can't travel to Kaggle, found before anything is executed: each refusal names file and line."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping

from data.errors import UserError
from methods.BaseMethod import BaseMethod
from notebooks.extraction import Program, Travellers, bound_name, imports, is_base_import, is_import, only, packages
from notebooks.source import Piece, SourceFile

ON_KAGGLE = {
    "torch", "torchvision", "numpy", "scipy", "pandas", "sklearn", "PIL", "tqdm", "joblib", "matplotlib", "seaborn",
    "cv2", "skimage", "networkx", "statsmodels", "numba", "sympy", "psutil", "packaging", "yaml", "typing_extensions",
}  # fmt: skip
"""Packages, by the name of their import, that Kaggle's notebooks have besides the standard library.

To allow another, make sure that it is in the image of Kaggle's GPU notebooks (github.com/Kaggle/docker-python) and
add it here; internet is off, so a notebook can't install it.
"""

OWN_PACKAGES = {
    "data", "checkpoints", "evaluation", "methods", "notebooks", "notebook_utils", "benchmarks", "main", "tests", "."
}  # fmt: skip
"""The kit's own packages, and relative imports."""

READERS = {
    "open", "read_text", "read_bytes", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "read_image",
    "read_csv", "read_json", "read_pickle", "read_parquet", "read_table", "loadmat", "load_state_dict_from_url",
}  # fmt: skip
"""Functions, by the last part of their name, that read a file when they are given its path."""

DEFINED = set(dir(builtins)) | {
    "__name__", "__doc__", "__annotations__", "__conditional_annotations__", "__builtins__", "__spec__", "__package__",
    "__loader__", "__class__", "__classdict__",
}  # fmt: skip
"""Names that are there without a definition; `__file__` isn't one of them in a notebook."""


def may_import(package: str) -> bool:
    """Whether Kaggle's notebooks have a package of this name."""
    return package not in OWN_PACKAGES and (package in ON_KAGGLE or package in sys.stdlib_module_names)


def check(program: Program, travellers: Travellers, taken: Mapping[str, str]) -> None:
    """Refuse what can't travel.

    `taken` are the names that the rest of the notebook uses, with the import statement that binds each, or "".

    Raises:
        UserError: the message names file and line.
    """
    problems = sorted(_problems(program, travellers, taken))
    if problems:
        _, line, file, what = problems[0]
        raise UserError(f"{file}, line {line}: {what}")


Problem = tuple[int, int, str, str]
"""Number of the file, line, name of the file, and what is wrong."""


def _problems(program: Program, travellers: Travellers, taken: Mapping[str, str]) -> Iterator[Problem]:
    for number, file in enumerate(program.files):
        pieces = travelling(program, travellers, file)
        for node in imports(file):
            if any(alias.name == "*" for alias in node.names):
                what = "import * hides which names the notebook needs; name them."
                yield number, node.lineno, file.path.name, what
        for piece in pieces:
            needed = travellers.names[file]
            for line, what in _problems_of(program, file, _as_needed(piece, needed), pieces):
                yield number, line, file.path.name, what
        for line, what in _clashes(program, file, pieces, travellers, taken):
            yield number, line, file.path.name, what
    yield from _conflicts(program, travellers)


def travelling(program: Program, travellers: Travellers, file: SourceFile) -> list[Piece]:
    """The pieces of a file that travel: statements, and headers and members of the method's classes."""
    classes = [cls for cls in program.classes if cls.file is file]
    candidates = [*file.pieces, *(piece for cls in classes for piece in (cls.header, *cls.members))]
    return [piece for piece in candidates if piece in travellers.pieces]


def _as_needed(piece: Piece, names: set[str]) -> Piece:
    """An import without the names that don't travel; any other piece as it is."""
    if not is_import(piece):
        return piece
    nodes: list[ast.stmt] = []
    for node in piece.nodes:
        assert isinstance(node, (ast.Import, ast.ImportFrom))
        aliases = [alias for alias in node.names if bound_name(alias) in names]
        nodes += [ast.copy_location(only(node, aliases), node)] if aliases else []
    return Piece(tuple(nodes), piece.lines, piece.start)


def _problems_of(program: Program, file: SourceFile, piece: Piece, pieces: list[Piece]) -> Iterator[tuple[int, str]]:
    yield from _imports(program, file, piece)
    yield from _names(program, file, piece, pieces)
    for node in piece.walk():
        if isinstance(node, ast.Attribute) and node.attr in ("settings", "hyper_parameters"):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.lineno, f"{node.attr}() is BaseMethod's and stays behind; use the attributes themselves."
        elif isinstance(node, ast.Call) and (path := _path_that_is_read(node, file)):
            yield node.lineno, f"reads the file {path}, which Kaggle does not have; write its content into the code."


def _imports(program: Program, file: SourceFile, piece: Piece) -> Iterator[tuple[int, str]]:
    """Imports of what Kaggle lacks; of a top-level import, only the names that are needed count."""
    optional = {
        id(inner)
        for node in piece.walk()
        if isinstance(node, ast.Try) and any(map(_catches_import_errors, node.handlers))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in piece.walk():
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if is_base_import(node) or program.links(node):
                continue
            for asked in packages(node):
                if asked in OWN_PACKAGES:
                    yield node.lineno, _own(asked)
                elif not may_import(asked) and id(node) not in optional:
                    yield node.lineno, _missing(asked)
        elif isinstance(node, ast.Call) and (package := _dynamic_import(node)) and not may_import(package):
            yield node.lineno, _own(package) if package in OWN_PACKAGES else _missing(package)


def _own(package: str) -> str:
    name = "a file of its own folder" if package == "." else f"the kit's package {package}"
    return f"imports {name}, which stays behind; a notebook needs the code itself."


def _missing(package: str) -> str:
    return f"imports {package}, which Kaggle's notebooks don't have (or see ON_KAGGLE in notebooks/refusals.py)."


def _catches_import_errors(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(caught & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _dynamic_import(node: ast.Call) -> str | None:
    """The package of `__import__("package")` and `importlib.import_module("package.module")`."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("__import__", "import_module") and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value).split(".")[0] or "."
    return None


def _names(program: Program, file: SourceFile, piece: Piece, pieces: list[Piece]) -> Iterator[tuple[int, str]]:
    """Names that nothing defines, and those that come from BaseMethod.py and are not the class."""
    defined = {name for other in file.pieces for name in other.binds}
    defined |= {name for other in pieces for name in other.binds if other not in _members(program)}
    members = {name for cls in program.classes if piece in cls.members for other in cls.members for name in other.binds}
    stays = {
        bound_name(alias)
        for other in file.pieces
        for node in other.walk()
        if isinstance(node, ast.ImportFrom) and is_base_import(node)
        for alias in node.names
        if alias.name != BaseMethod.__name__
    }
    for name, line in piece.needs.items():
        if name in stays:
            yield line, f"{name} comes from methods/BaseMethod.py, which stays behind; run() has to do without it."
        elif name == "__file__":
            yield line, "a notebook has no __file__."
        elif name not in defined | DEFINED and not (name in members and name in piece.needs_at_top):
            yield line, f"{name} is not defined in this file."


def _members(program: Program) -> set[Piece]:
    return {member for cls in program.classes for member in cls.members}


def _path_that_is_read(node: ast.Call, file: SourceFile) -> str | None:
    """The path, as text, if a call reads a file whose path is written in the code."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in READERS:
        return None
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    places = arguments[:1]
    if isinstance(node.func, ast.Attribute) and name in ("open", "read_text", "read_bytes"):
        places = [node.func.value, *places]  # Path("a.txt").read_text()
    if name == "open" and any(_is_mode_to_write(argument) for argument in arguments):
        return None
    return next((text for place in places if (text := _path_in(place, file))), None)


def _is_mode_to_write(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and 0 < len(node.value) <= 3
        and bool(set(node.value) & set("wax"))
        and set(node.value) <= set("rwaxbt+")
    )


def _path_in(node: ast.expr, file: SourceFile, depth: int = 0) -> str | None:
    """The first string in an expression, looked up in the constants of the file too."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            return repr(inner.value)
        if isinstance(inner, ast.Name) and depth < 3:
            for piece in file.binding(inner.id):
                for statement in piece.nodes:
                    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                        found = _path_in(statement.value, file, depth + 1)
                        if found:
                            return found
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Names that mean two things in one notebook
# ----------------------------------------------------------------------------------------------------------------------


def _clashes(
    program: Program, file: SourceFile, pieces: list[Piece], travellers: Travellers, taken: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Names of the method that the rest of the notebook uses for something else."""
    needed = travellers.names.get(file, set())
    members = _members(program)
    for piece in pieces:
        if piece in members:
            continue
        bound = imports_of(piece) if is_import(piece) else dict.fromkeys(piece.binds, "")
        for name, statement in bound.items():
            if is_import(piece) and name not in needed:
                continue
            if name in taken and not (statement and statement == taken[name]):
                yield piece.start, f"the notebook has a {name} of its own; choose another name here."


def imports_of(piece: Piece) -> dict[str, str]:
    """The names that imports bind, each with the statement that imports it alone."""
    found: dict[str, str] = {}
    for node in piece.nodes:
        if isinstance(node, ast.Import):
            found |= {bound_name(alias): ast.unparse(ast.Import([_short(alias)])) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {
                bound_name(alias): ast.unparse(ast.ImportFrom(node.module, [alias], node.level)) for alias in node.names
            }
    return found


def _short(alias: ast.alias) -> ast.alias:
    """`import torch.nn` binds torch, as `import torch` does."""
    return alias if alias.asname else ast.alias(bound_name(alias))


def _conflicts(program: Program, travellers: Travellers) -> Iterator[Problem]:
    """Names that two files define differently: in the notebook, one would win."""
    first: dict[str, tuple[SourceFile, str]] = {}
    for number, file in enumerate(program.files):
        for piece in travelling(program, travellers, file):
            is_link = any(isinstance(node, ast.ImportFrom) and program.links(node) for node in piece.nodes)
            if is_link or piece in _members(program) or piece in program.class_of:
                continue
            bound = imports_of(piece) if is_import(piece) else dict.fromkeys(piece.binds, _code(piece))
            for name, code in bound.items():
                before, known = first.setdefault(name, (file, code))
                if before is not file and known != code and name in travellers.names.get(file, set()):
                    what = f"{name} is something else in {before.path.name}, whose class is inherited; rename one."
                    yield number, piece.start, file.path.name, what


def _code(piece: Piece) -> str:
    return " ".join(ast.dump(node) for node in piece.nodes)
