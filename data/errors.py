"""The one exception that means "the user can mend this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: `main.py` prints the message, without a traceback, and exits with 2.

    The message is a sentence that says what is wrong and what to do about it. Every other exception is
    our bug and keeps its traceback.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: it offers the nearest known names, or all of them.

    >>> print(unknown_name("task", "cifar", ["digits", "cifar10", "cifar100"]))
    There is no task 'cifar': did you mean cifar10 or cifar100?
    >>> print(unknown_name("task", "xyz", ["digits", "mnist"]))
    There is no task 'xyz': choose one of digits, mnist.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}."
    return UserError(f"There is no {kind} {name!r}: {advice}")
