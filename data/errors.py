"""The one exception that means "the user can fix this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix: `main.py` prints the message, without a traceback, and exits with 2.

    The message is a sentence that says what is wrong and what to do about it. Every other exception is
    our bug and keeps its traceback.
    """


def unknown_name(kind: str, name: str, known: Iterable[str], shown_by: str | None = None) -> UserError:
    """The error for a name that does not exist: it offers the nearest known names, or all of them.

    Where there are too many of them for a sentence, `shown_by` is the command that shows them.

    >>> print(unknown_name("task", "cifar", ["digits", "cifar10", "cifar100"]))
    There is no task 'cifar': did you mean cifar10 or cifar100?
    >>> print(unknown_name("task", "xyz", ["digits", "mnist"]))
    There is no task 'xyz': choose one of digits, mnist.
    >>> print(unknown_name("method", "xyz", ["digits", "mnist"], shown_by="python main.py list"))
    There is no method 'xyz': python main.py list shows them.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    others = f"{shown_by} shows them." if shown_by else f"choose one of {', '.join(names)}."
    advice = f"did you mean {' or '.join(near)}?" if near else others
    return UserError(f"There is no {kind} {shortened(name, 100)!r}: {advice}")


def shortened(text: str, most: int = 60) -> str:
    """A text for a message: of one that is longer than `most` characters, the beginning and the end.

    >>> shortened("a" * 100, most=11)
    'aaaa...aaaa'
    """
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"
