"""The submission: our template with a method in it, and what Kaggle's client wants to know about it."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_atomically
from notebooks.program import is_import
from notebooks.refusals import imports_of
from notebooks.source import lines_of, make_pieces

TEMPLATE = Path(__file__).parent / "run-unlearn-finetune.ipynb"
COMPETITION = "neurips-2023-machine-unlearning"
PLACEHOLDER_OWNER = "YOUR-KAGGLE-NAME"
"""Stands in `kernel-metadata.json` until the owner is known; Kaggle refuses it."""

LONGEST_NAME = 50 - len("Unlearning ")
"""Of a method in the title of a notebook: Kaggle takes 50 characters."""

METHOD_CELL, METHOD_TEXT, TITLE_TEXT = "method", "method-text", "title"
"""The ids of the template's cells that a submission replaces."""


def submissions_folder() -> Path:
    """`notebooks/submissions/`."""
    return Path(__file__).parent / "submissions"


@cache
def names_of_template() -> dict[str, str]:
    """The names that the template's other cells bind or use, each with the import that binds it, or ""."""
    taken: dict[str, str] = {}
    for cell in read_notebook(TEMPLATE)["cells"]:
        if cell["cell_type"] == "code" and cell["id"] != METHOD_CELL:
            text = source_of(cell)
            for piece in make_pieces(ast.parse(text).body, lines_of(text), first_line=1):
                taken |= imports_of(piece) if is_import(piece) else dict.fromkeys(piece.binds, "")
                for name in piece.needs:
                    taken.setdefault(name, "")
    return taken


def read_notebook(path: Path) -> dict[str, Any]:
    """An .ipynb file as the dict that it is."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source_of(cell: dict[str, Any]) -> str:
    """The text of a cell, which is stored as one text or as its lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def fill_template(name: str, code: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The template with the code of the method `name` in it; `settings` are shown above it."""
    notebook = read_notebook(TEMPLATE)
    values = ", ".join(_as_code(f"{key} = {value!r}") for key, value in settings.items())
    values = values or "It has no hyper-parameters."
    texts = {
        METHOD_CELL: code.strip("\n"),
        METHOD_TEXT: f"## The method: {_as_text(name)}\n\n`unlearning` changes `net` in place.\n\n{values}",
    }
    for cell in notebook["cells"]:
        cell["source"] = texts.get(cell["id"], source_of(cell)).splitlines(keepends=True)
        if cell["id"] == TITLE_TEXT:
            cell["source"][0] = f"# Machine unlearning: {_as_text(name)}\n"
    return notebook


def _as_text(name: str) -> str:
    """A name in Markdown, shown as it is; inside of words, underscores are."""
    line = " ".join(name.split())
    if re.fullmatch(r"\w+", line) and not line.startswith("_") and not line.endswith("_"):
        return line
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|~$&:-])", r"\\\1", line)


def _as_code(text: str) -> str:
    """A line of code in Markdown, between as many backticks as it needs."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def write_submission(name: str, notebook: dict[str, Any], owner: str | None, folder: Path) -> tuple[Path, Path]:
    """Write `FOLDER/NAME.ipynb` and `FOLDER/NAME/kernel-metadata.json`; the paths of both.

    A name that a file can't have everywhere is spelt as in the notebook's title.

    Kaggle's client pushes a folder with a `kernel-metadata.json`, so each submission has one of its own; the
    notebook's path in it is relative to that folder.
    """
    stem = name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_+.-]*", name) else "_".join(words_of(name))
    path = folder / f"{stem}.ipynb"
    about = folder / stem / "kernel-metadata.json"
    _write_json(path, notebook)
    _write_json(about, kernel_metadata(name, owner, code_file=f"../{path.name}"))
    return path, about


def words_of(name: str) -> list[str]:
    """A method's name as words of small letters and digits, 39 characters at most with a blank between any two.

    If they don't say the name, as those of `neg_grad+` or `Idée`, a word that follows from it tells it from others.

    >>> words_of("l1_sparse"), words_of("l1.sparse")
    (['l1', 'sparse'], ['l1', 'sparse', 'xfcccf8'])
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    if words and "_".join(words) == name and len(name) <= LONGEST_NAME:
        return words
    mark = f"x{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"
    return [*" ".join(words)[: LONGEST_NAME - len(mark) - 1].split(), mark]


def kernel_metadata(name: str, owner: str | None, code_file: str) -> dict[str, Any]:
    """What Kaggle's client reads (github.com/Kaggle/kaggle-api, docs/kernels_metadata.md).

    The id has to be the title as Kaggle's client spells it in addresses, or Kaggle names the notebook after the title.
    So the title is of words that every such spelling agrees on.

    Raises:
        UserError: `owner` can't be the name of a Kaggle account.
    """
    if owner is not None and (owner == PLACEHOLDER_OWNER or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", owner)):
        raise UserError(f"--owner is the name in your profile's address, kaggle.com/NAME, not {owner!r}.")
    words = words_of(name)
    return {
        "id": f"{owner or PLACEHOLDER_OWNER}/{'-'.join(['unlearning', *words])}",
        "title": " ".join(["Unlearning", *words]),
        "code_file": code_file,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))
