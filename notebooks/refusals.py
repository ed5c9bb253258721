"""What can't travel to Kaggle, found before anything is executed: each refusal names file and line."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping

from data.errors import UserError
from notebooks.program import (
    OF_BASE_MODULE,
    AnyImport,
    Link,
    Program,
    Travellers,
    bound_name,
    imports,
    is_import,
    only,
    packages,
)
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
    found = problems(program, travellers, taken)
    if found:
        _, line, file, what = found[0]
        raise UserError(f"{file}, line {line}: {what}")


Problem = tuple[int, int, str, str]
"""Number of the file, line, name of the file, and what is wrong."""


def problems(program: Program, travellers: Travellers, taken: Mapping[str, str]) -> list[Problem]:
    """All that is wrong, those of the method's own file last; see `check`."""
    return sorted(_problems(program, travellers, taken))


def _problems(program: Program, travellers: Travellers, taken: Mapping[str, str]) -> Iterator[Problem]:
    for number, file in enumerate(program.files):
        pieces = [piece for piece in program.pieces(file) if piece in travellers.pieces]
        for node in imports(file) if pieces else ():
            if any(alias.name == "*" for alias in node.names):
                what = "import * hides which names the notebook needs; name them."
                yield number, node.lineno, file.path.name, what
        for piece in pieces:
            for line, what in _problems_of(program, file, piece, pieces, travellers.names[file]):
                yield number, line, file.path.name, what
        for line, what in _clashes(program, file, pieces, travellers, taken):
            yield number, line, file.path.name, what
    yield from _conflicts(program, travellers)


def _problems_of(
    program: Program, file: SourceFile, piece: Piece, pieces: list[Piece], needed: set[str]
) -> Iterator[tuple[int, str]]:
    yield from _imports(program, file, piece, needed)
    yield from _names(program, file, piece, pieces)
    if is_import(piece):
        return
    modules = {link.bound for link in program.top_links(file) if link.is_base and link.name is None}
    for node in (inner for statement in piece.without_annotations for inner in ast.walk(statement)):
        if isinstance(node, ast.Attribute) and node.attr in ("settings", "hyper_parameters"):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.lineno, f"{node.attr}() is BaseMethod's and stays behind; use the attributes themselves."
        elif isinstance(node, ast.Attribute) and node.attr in OF_BASE_MODULE and modules & _names_in(node.value):
            yield node.lineno, _of_base(node.attr)
        elif isinstance(node, ast.Call) and (path := _path_that_is_read(node, file)):
            yield node.lineno, f"reads the file {path}, which Kaggle does not have; write its content into the code."


def _imports(program: Program, file: SourceFile, piece: Piece, needed: set[str]) -> Iterator[tuple[int, str]]:
    """Imports of what Kaggle lacks; of a top-level import, only the names that are needed count."""
    optional = set(_optional_imports(program, file, piece))
    for node in piece.imports:
        links = [link for link in program.links(file, node) if not is_import(piece) or link.bound in needed]
        yield from _of_links(node, links, piece)
        others = [one for one in program.others(file, node) if not is_import(piece) or bound_name(one) in needed]
        for asked in packages(only(node, others)) if others else ():
            if asked in OWN_PACKAGES:
                yield node.lineno, _own(asked)
            elif not may_import(asked) and id(node) not in optional:
                yield node.lineno, _missing(asked)
    for call in piece.walk():
        if isinstance(call, ast.Call) and (package := _dynamic_import(call)) and not may_import(package):
            yield call.lineno, _own(package) if package in OWN_PACKAGES else _missing(package)


def _of_links(node: AnyImport, links: list[Link], piece: Piece) -> Iterator[tuple[int, str]]:
    """Imports from files that travel along, of names that these do not have."""
    for link in links:
        if link.stays_behind and not is_import(piece):  # others are a mistake only if they are used
            yield node.lineno, _of_base(link.name)
        elif link.name is not None and link.file is not None and link.name not in link.file.bound:
            yield node.lineno, f"{link.name} is not defined in {link.file.path.name}, as far as its text says."


def _optional_imports(program: Program, file: SourceFile, piece: Piece) -> Iterator[int]:
    """The ids of imports that may fail: what to do then is written down, or they are made if another one fails."""
    for node in piece.walk():
        if isinstance(node, ast.Try) and any(map(_catches_import_errors, node.handlers)):
            tried = _imports_among(node.body)
            yield from map(id, tried)
            if all(not program.others(file, one) or all(map(may_import, packages(one))) for one in tried):
                for handler in filter(_catches_import_errors, node.handlers):
                    yield from map(id, _imports_among(handler.body))


def _imports_among(statements: list[ast.stmt]) -> list[AnyImport]:
    nodes = (node for statement in statements for node in ast.walk(statement))
    return [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def _of_base(name: str | None) -> str:
    return f"{name} comes from methods/BaseMethod.py, which stays behind; run() has to do without it."


def _names_in(node: ast.expr) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


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
    defined = file.bound | {name for other in pieces for name in other.binds if not program.is_member(other)}
    members = {name for cls in program.classes if piece in cls.members for other in cls.members for name in other.binds}
    stays = {
        link.bound: link.name for other in file.pieces for link in program.links_in(file, other) if link.stays_behind
    }
    for name, line in piece.needs.items():
        if name in stays:
            yield line, _of_base(name)
        elif name == "__file__":
            yield line, "a notebook has no __file__."
        elif name not in defined | DEFINED and not (name in members and name in piece.needs_at_top):
            yield line, f"{name} is not defined in this file."


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
    needed = travellers.names[file]
    for piece in pieces:
        if program.is_member(piece):
            continue
        bound = imports_of(piece) if is_import(piece) else dict.fromkeys(piece.binds, "")
        for name, statement in bound.items():
            if is_import(piece) and name not in needed:
                continue
            if name in taken and not (statement and statement == taken[name]):
                yield piece.start, f"the notebook has a {name} of its own; choose another name here."


def imports_of(piece: Piece) -> dict[str, str]:
    """The names that imports bind, each with the statement that imports it alone, in one of its spellings."""
    return {
        bound_name(alias): _spelt(node, alias)
        for node in piece.nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def _spelt(node: AnyImport, alias: ast.alias) -> str:
    """`import torch.nn` binds torch, as `import torch` does, and `import torch.nn as nn` is `from torch import nn`."""
    if isinstance(node, ast.ImportFrom):
        return ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
    package, _, module = alias.name.rpartition(".")
    if alias.asname and package:
        alias = ast.alias(module, alias.asname if alias.asname != module else None)
        return ast.unparse(ast.ImportFrom(package, [alias], 0))
    return ast.unparse(ast.Import([alias if alias.asname else ast.alias(bound_name(alias))]))


def _conflicts(program: Program, travellers: Travellers) -> Iterator[Problem]:
    """Names that two files define differently: in the notebook, one would win."""
    first: dict[str, tuple[SourceFile, str]] = {}
    for number, file in enumerate(program.files):
        for piece in program.pieces(file):
            if piece not in travellers.pieces or program.is_member(piece):
                continue
            for name, code in _meanings(program, file, piece, travellers.names[file]):
                before, known = first.setdefault(name, (file, code))
                if before is not file and known != code and f"module {before.module}" != code:
                    what = f"{name} is something else in {before.path.name}, which travels along; rename one."
                    yield number, piece.start, file.path.name, what


def _meanings(program: Program, file: SourceFile, piece: Piece, needed: set[str]) -> Iterator[tuple[str, str]]:
    """The names that a piece binds in the notebook, each with a text of what it is."""
    if not is_import(piece):
        if not any(piece is cls.header for cls in program.classes):
            linked = {link.bound for link in program.links_in(file, piece) if link.bound == link.name}
            yield from dict.fromkeys(piece.binds - linked, _code(piece)).items()
        return
    spelt = imports_of(piece)
    for link in program.links_in(file, piece):
        spelt.pop(link.bound, None)
        if link.bound not in needed or link.is_base:
            continue
        if link.name is None:
            yield from ((name, f"module {link.module}") for name in program.modules_of(link))
        elif link.name != link.bound:
            yield link.bound, f"{link.module}.{link.name}"
    yield from ((name, statement) for name, statement in spelt.items() if name in needed)


def _code(piece: Piece) -> str:
    return " ".join(ast.dump(node) for node in piece.nodes)
