"""Texts in what users read: numbers of things, and what somebody else may have written, in Markdown."""

from __future__ import annotations

import re

from data.texts import printable


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things in words; `many` is the plural, where an s does not make it.

    >>> counted(1, "original"), counted(2, "original"), counted(0, "image is", "images are")
    ('1 original', '2 originals', '0 images are')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def in_markdown(text: str, most: int = 1000) -> str:
    r"""A text that Markdown shows as it is: without markup, links, HTML, formulas or columns.

    What means nothing to Markdown where it stands is left alone, so that the page can be read as a text, too.

    >>> in_markdown("where:a|b <unk> *x* $y$ [t](u)"), in_markdown("learning_rate=0.1 _x_ 3 & 4 &lt;")
    ('where:a\\|b \\<unk> \\*x\\* \\$y\\$ \\[t\\](u)', 'learning_rate=0.1 \\_x\\_ 3 & 4 \\&lt;')
    """
    return _MEANT.sub(r"\\\g<0>", printable(text, most))


_MEANT = re.compile(r"[\\`*<|~\[\]$]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would take for its own: an underscore inside a word it would not."""
