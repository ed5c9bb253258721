"""Building a network from the text of a user's file: `--network file.py:Name`.

The text is executed once in each process, as a module of its own. What it imports has to be installed, or be the kit's:
the bank knows a network by the text of its one file, and would not notice that another file has been edited.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from checkpoints.installed import is_installed
from checkpoints.trial import Builder
from data.errors import UserError, shortened, unknown_name

OF_THE_KIT = ("checkpoints", "data")
"""Packages of the kit that a network's file may import, from `checkpoints.networks` for example."""
OFFERED = ("channels", "size", "classes", "num_classes")
"""What a builder may call the numbers that it takes."""
HOW = "a network is a class or function of (channels, size, classes), or of classes alone"


def own_builder(label: str, source: str) -> Builder:
    """The builder in a file with this text; `label` is `file.py:Name`.

    Raises:
        UserError: the file can't be executed, imports another file, has no such name, or what it names can't be called
            with channels, size and classes.
    """
    file, _, name = label.rpartition(":")
    module = _module(file, source)
    if name not in vars(module):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        if not own:
            raise UserError(f"{file} has no {shortened(name)!r}, and no class or function at all: {HOW}.")
        raise unknown_name("class or function", label, [f"{file}:{one}" for one in own])
    target = getattr(module, name)
    if not callable(target) or isinstance(target, nn.Module):
        kind = "a network that is built already" if isinstance(target, nn.Module) else f"a {type(target).__name__}"
        raise UserError(f"{label} is {kind}, and can't be called: {HOW}.")
    by_place, by_name = _arguments(target, label)

    def build(channels: int, size: int, classes: int) -> nn.Module:
        offered = dict(zip(OFFERED, (channels, size, classes, classes), strict=True))
        try:
            network: nn.Module = target(*(offered[key] for key in by_place), **{key: offered[key] for key in by_name})
        except (Exception, SystemExit) as error:
            where = f"images of {channels} x {size} x {size} (channels, height, width) and {classes} classes"
            raise UserError(f"{label} can't be built for {where}: {described(error, file)}.") from error
        return network

    return build


def described(error: BaseException, file: str) -> str:
    """An error in a few words, with the last line of `file` that led to it."""
    text = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" (line {lines[-1]} of {file})" if lines and lines[-1] else ""
    return f"{type(error).__name__}{': ' if text else ''}{shortened(text.rstrip('.'), 300)}{where}"


def _arguments(target: Callable[..., Any], label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of `OFFERED` it is called with: by position, and by name."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError) as error:
        raise UserError(f"Nobody can tell what {label} takes: {HOW}.") from error
    singles = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    required = [one for one in singles if one.default is one.empty]
    named = [one.name for one in singles if one.name in OFFERED and one.kind is not one.POSITIONAL_ONLY]
    if {"classes", "num_classes"} & set(named) and {one.name for one in required} <= set(named):
        return (), tuple(named)
    by_position = {3: OFFERED[:3], 1: ("classes",)}.get(len(required))
    if by_position is None or any(one.kind is one.KEYWORD_ONLY for one in required):
        takes = ", ".join(one.name for one in singles) or "nothing"
        raise UserError(f"{label} takes ({shortened(takes, 100)}): {HOW}.")
    return by_position, ()


def _module(file: str, source: str) -> ModuleType:
    """The module of the text, executed on the first call.

    Raises:
        UserError: the text is no Python, imports what it may not, or fails.
    """
    name = _name_of(source)
    known = sys.modules.get(name)
    if known is not None:
        return known
    try:
        tree = ast.parse(source, filename=file)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{file} is no Python: {error.args[0]}{line}.") from error
    for imported in _imported(tree):
        _check_import(imported, file)
    module = ModuleType(name)
    module.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    sys.modules[name] = module
    try:
        exec(compile(tree, file, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{file} can't be executed: {described(error, file)}.") from error
    return module


def _name_of(source: str) -> str:
    return f"own_network_{hashlib.sha256(source.encode()).hexdigest()[:24]}"


def _imported(tree: ast.Module) -> Iterator[str]:
    """The packages that a file imports; of a relative import a point."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]


def _check_import(package: str, file: str) -> None:
    if package in OF_THE_KIT or is_installed(package):
        return
    what = "a file beside it" if package == "." else shortened(package)
    raise UserError(
        f"{file} imports {what}, which is not installed: the file of a network may import installed packages alone, "
        "because the bank would not notice if other files of yours were edited; put all of it into one file."
    )
