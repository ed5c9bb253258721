"""What is wrong with a command line, or with the registry of methods, as one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from cyclopts import CycloptsError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from data.errors import unknown_name

REGISTRY = Path(__file__).parent.parent / "methods" / "__init__.py"
"""Edited by whoever adds a method."""


def sentence(error: CycloptsError, commands: Collection[str]) -> str:
    """The mistake, and what to do about it."""
    typed = " ".join(("python main.py", *(error.command_chain or ())))
    if isinstance(error, UnknownOptionError):
        flag = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
        return str(unknown_name("option", flag, known, shown_by=f"{typed} --help"))
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _missing(error, typed)
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _unused(error.unused_tokens[0], error.command_chain, typed, commands)
    error.verbose = False
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."


def _missing(error: MissingArgumentError, typed: str) -> str:
    assert error.argument is not None
    flag = error.keyword or next((token.keyword for token in error.argument.tokens if token.keyword), None)
    flag = flag or error.argument.name
    if flag.startswith("-") and not error.argument.field_info.is_positional_only:
        return f"{flag} needs a value: {typed} --help shows which."
    return f"{flag.lstrip('-').upper()} is missing: {typed} --help explains it."


def _unused(token: str, chain: Collection[str] | None, typed: str, commands: Collection[str]) -> str:
    if chain:
        return f"{typed} does not take {token!r}: {typed} --help shows what it takes."
    if token in commands:
        return f"The command comes first: python main.py {token}, then its options."
    if near := get_close_matches(token, commands, n=1, cutoff=0.5):
        return f"There is no command {token!r}: did you mean {near[0]}?"
    return f"{token!r} is neither an option nor a command: python main.py --help shows them."


def of_registry(error: Exception) -> str | None:
    """The sentence for an error that comes from the file in which methods are registered; None for any other."""
    lines = [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(REGISTRY) else []
    lines += [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(REGISTRY)]
    if not lines:
        return None
    reason = " ".join(str(error).split())
    return f"methods/__init__.py can't be imported (line {lines[0]}, {type(error).__name__}: {reason})."
