"""From a notebook to its method as a file of Python: `unlearning(net, retain_loader, forget_loader, val_loader)`.

A notebook of the kit (`python main.py -m NAME -p test`), or one like it, has such a function. Taken are the statements
at the top level of its cells that `unlearning` needs, by name, directly or not: imports, functions, classes, constants.
What only makes checkpoints is left out. Nothing is executed. As the text is a stranger's, it is parsed by a process of
its own, which may crash or take too long.
"""

from __future__ import annotations

import ast
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.documents import DocumentError, parse_json
from data.texts import lines_of_file

ROOT = Path(__file__).parents[2]
FUNCTION = "unlearning"
ARGUMENTS = ("net", "retain_loader", "forget_loader", "val_loader")
SECONDS = 20
"""Processor time of the process that parses. (Its memory is bounded by the size of what may be handed in.)"""
CLASS = f'''

class Submission(_BaseMethod):
    """`{FUNCTION}` of a notebook."""

    def run(self, {", ".join(ARGUMENTS)}):
        """See `BaseMethod.run`."""
        {FUNCTION}({", ".join(ARGUMENTS)})
'''


class NotebookError(ValueError):
    """A notebook whose method can't be taken out; the message is a clause that says why."""


def method_in(path: Path) -> bytes:
    """The method in a notebook, as a file of Python.

    Raises:
        NotebookError: there is none in it.
    """
    program = [sys.executable, "-m", "evaluation.competition.notebook"]
    try:
        with path.open("rb") as content:
            done = subprocess.run(program, stdin=content, capture_output=True, cwd=ROOT, timeout=10 * SECONDS)
        answer = parse_json(done.stdout.decode("utf-8"))
    except (subprocess.TimeoutExpired, DocumentError, UnicodeDecodeError):
        answer = {"refused": "the process that reads it crashed, or took too long"}
    if "refused" in answer:
        raise NotebookError(answer["refused"])
    return str(answer["source"]).encode()


def extract(text: str) -> str:
    """The same, of the text of a notebook, in this process. Raises `NotebookError`, and what a parser may raise."""
    pieces = [piece for number, cell in enumerate(_code_cells(text), start=1) for piece in _parse(cell, number)]
    needed = _needed(pieces)
    head: list[ast.stmt] = []
    body: list[ast.stmt] = []
    for piece in needed:
        (head if _is_of_the_future(piece) else body).append(piece)
    own = '"""The method of a notebook, taken out of it."""\n'
    texts = [own, *map(ast.unparse, head), "from methods.BaseMethod import BaseMethod as _BaseMethod"]
    return "\n".join([*texts, *map(ast.unparse, body), CLASS])


def _code_cells(text: str) -> list[str]:
    try:
        cells = [cell for cell in parse_json(text)["cells"] if cell["cell_type"] == "code"]
        return ["".join(cell["source"]) for cell in cells]
    except (DocumentError, KeyError, TypeError) as error:
        raise NotebookError("it is not a notebook of Jupyter (nbformat 4)") from error


def _parse(cell: str, number: int) -> list[ast.stmt]:
    """The statements of a cell; if it is not Python, lines for IPython or a shell are left out."""
    lines = lines_of_file(cell)
    with contextlib.suppress(SyntaxError, ValueError):
        return ast.parse("\n".join(lines)).body
    lines = ["pass" if line.startswith(("%", "!", "?")) else line for line in lines]
    try:
        return ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError) as error:
        raise NotebookError(f"code cell {number} is not Python ({error})") from error


def _needed(pieces: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that `unlearning` needs, in their order."""
    functions = [piece for piece in pieces if isinstance(piece, ast.FunctionDef) and piece.name == FUNCTION]
    if not functions:
        raise NotebookError(f"no cell has a function {FUNCTION}({', '.join(ARGUMENTS)}) at its top level")
    arguments = functions[-1].args
    takes = len([*arguments.posonlyargs, *arguments.args])
    if not (takes - len(arguments.defaults) <= len(ARGUMENTS) <= takes or arguments.vararg) or any(
        default is None for default in arguments.kw_defaults
    ):
        raise NotebookError(f"its function {FUNCTION} does not take {', '.join(ARGUMENTS)}")
    binding: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        for name in _bound(piece):
            binding.setdefault(name, []).append(number)
    found: set[int] = {number for number, piece in enumerate(pieces) if _is_of_the_future(piece)}
    names, known = [FUNCTION], set[str]()
    while names:
        name = names.pop()
        if name not in known:
            known.add(name)
            found.update(binding.get(name, ()))
            for number in binding.get(name, ()):
                names += [node.id for node in ast.walk(pieces[number]) if isinstance(node, ast.Name)]
    return [piece for number, piece in enumerate(pieces) if number in found]


def _is_of_the_future(piece: ast.stmt) -> bool:
    return isinstance(piece, ast.ImportFrom) and piece.module == "__future__"


def _bound(piece: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a value at the top level, in blocks of `if` and `try` too."""
    waiting: list[Any] = [piece]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            waiting += ast.iter_child_nodes(node)


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        answer = {"source": extract(sys.stdin.buffer.read().decode("utf-8"))}
    except NotebookError as error:
        answer = {"refused": str(error)}
    except UnicodeDecodeError:
        answer = {"refused": "it is not UTF-8 text"}
    except (RecursionError, MemoryError):
        answer = {"refused": "its code is nested too deeply"}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
