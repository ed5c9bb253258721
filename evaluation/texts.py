"""Texts that users read and write: numbers in words, Markdown, CSV, numbers that YAML takes for texts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.texts import printable


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things in words; `many` is the plural, where an s does not make it.

    >>> counted(1, "original"), counted(2, "original"), counted(0, "image is", "images are")
    ('1 original', '2 originals', '0 images are')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def in_seconds(seconds: float) -> str:
    """A limit of time as users give it.

    >>> in_seconds(1.0), in_seconds(0.25)
    ('1 second', '0.25 seconds')
    """
    number = f"{seconds:.3g}"
    return f"{number} second" if number == "1" else f"{number} seconds"


def in_markdown(text: str, most: int = 1000) -> str:
    r"""A text that Markdown shows as it is: without markup, links, HTML, formulas or columns.

    What means nothing to Markdown where it stands is left alone, so that the page can be read as a text, too.

    >>> in_markdown("where:a|b <unk> *x* $y$ [t](u)"), in_markdown("learning_rate=0.1 _x_ 3 & 4 &lt;")
    ('where:a\\|b \\<unk> \\*x\\* \\$y\\$ \\[t\\](u)', 'learning_rate=0.1 \\_x\\_ 3 & 4 \\&lt;')
    """
    return _MEANT.sub(r"\\\g<0>", printable(text, most))


_MEANT = re.compile(r"[\\`*<|~\[\]$]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would take for its own: an underscore inside a word it would not."""


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """For a spreadsheet: a line of names (if no `columns` are given, those of the first row), and a line for each row.

    Lists and mappings are JSON.

    >>> as_csv([{"forget": ["class:3"], "score": 0.25}, {"forget": [], "score": None}]).splitlines()
    ['forget,score', '"[""class:3""]",0.25', '[],']
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: json.dumps(value) if isinstance(value, (list, dict)) else value for name, value in row.items()}
        )
    return text.getvalue()


def with_numbers(values: Any) -> Any:
    """What a YAML file says, with numbers for texts like 1e-3: YAML asks for a point, as in 1.0e-3, and few know.

    >>> with_numbers({"values": ["1e-3", "2E3", ".5e+1", "e3", "1e-3 s", 4], "1e2": True})
    {'values': [0.001, 2000.0, 5.0, 'e3', '1e-3 s', 4], 100.0: True}
    """
    if isinstance(values, dict):
        return {with_numbers(key): with_numbers(value) for key, value in values.items()}
    if isinstance(values, list):
        return [with_numbers(value) for value in values]
    return float(values) if isinstance(values, str) and _SCIENTIFIC.fullmatch(values) else values


_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d{1,3}", re.ASCII)
