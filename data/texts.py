"""Texts that somebody else may have written, where they are shown: as they are, and nothing else."""

from __future__ import annotations

import re
import unicodedata

from data.errors import shortened


def nfc(text: str) -> str:
    """A text as it is compared with others: an accent may be a letter with it, or a mark of its own behind the letter.

    File names come in either form (Unicode's NFC and NFD) and look alike.

    >>> nfc("cafe\u0301") == "caf\u00e9"
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def lines_of_file(text: str) -> list[str]:
    r"""The lines as files and Python have them; `str.splitlines` ends some at letters that a name may have.

    >>> lines_of_file("a\r\nb\u2028c\rd") == ["a", "b\u2028c", "d"]
    True
    """
    return re.split(r"\r\n|\n|\r", text)


def as_attribute(name: str) -> str:
    """A name in the form (NFKC) that Python gives to those of attributes: of the two letters for micro, it keeps one.

    >>> as_attribute("\u00b5") == "\u03bc"
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFKC", name)


def printable(text: str, most: int = 300) -> str:
    """On one line, without characters that move a terminal's cursor or change its colours, and not too long.

    >>> printable("a\\x1b[31mb\\nc")
    'a�[31mb�c'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in shortened(text, most))


def unmathematical(text: str, most: int = 300) -> str:
    r"""For Matplotlib, which takes what is between two dollar signs for a formula, and may not understand it.

    >>> unmathematical(r"$\frac$")
    '\\$\\frac\\$'
    """
    return printable(text, most).replace("$", r"\$")
