"""What to say of a method's error beyond the error: that a batch is a dict, where it was taken for something else.

`for x, y in loader` fails with "too many values to unpack", which tells nothing of dicts. Whether an error is of that
kind is seen from the values that are involved, and from the statement that failed. Nothing of it is executed.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import re
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate

from data.loaders import ExampleDataset, TensorLoader

HINT = 'a batch is a dict: take batch["image"] and batch["age_group"] (the class labels)'
LONGEST = 200
"""Letters of an error that are shown before a hint, so that the hint is seen."""
KEYS = ("image", "age_group", "image_id")
"""What every batch has; what a loop over a batch gives."""
PASSING = {"iter", "list", "tuple", "islice", "cycle", "chain", "tqdm", "track"}
"""Functions that give the batches of a loader one by one, as the loader does."""
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
"""Parts of functions that have frames of their own, in some versions of Python."""
DEEPEST = 8
"""Steps from a name to where it comes from."""


def complaint_of(error: BaseException) -> str:
    """The error in a line, with a hint if there is one."""
    said = f"{type(error).__name__}: {error}"
    hint = hint_for(error)
    return said if hint is None else f"{' '.join(said.split())[:LONGEST]}; {hint}"


def hint_for(error: BaseException) -> str | None:
    """`HINT` if a method has taken a batch for a tuple, a tensor, or a dict with other keys; None if not."""
    with contextlib.suppress(Exception):  # a method's objects and source may be anything, and its error comes first
        if _is_about_batch(error):
            return HINT
    return None


def _is_about_batch(error: BaseException) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    if isinstance(error, AttributeError):
        return _is_batch(error.obj) or _is_key(error.obj)
    if isinstance(error, ValueError) and "values to unpack" in str(error):
        return _Statement(frames).unpacks_batch()
    if isinstance(error, KeyError):
        return error.args[:1] not in [(key,) for key in KEYS] and _Statement(frames).looks_into_batch(error.args)
    if str(error) == "unhashable type: 'slice'":  # what `batch[:5]` is for some versions of Python
        return _Statement(frames).looks_into_batch()
    if isinstance(error, TypeError) and re.search(r"\b(dict|Sample|str)\b", str(error)):
        given = [value for frame, _ in frames for value in _given_to_module(frame)]
        if any(_is_batch(value) or _is_key(value) for value in given):
            return True
        own = [where for where in frames if not where[0].f_globals.get("__name__", "").startswith("torch.")]
        return re.search(r"\b(dict|Sample)\b", str(error)) is not None and _Statement(own).computes_with_batch()
    return False


def _is_batch(value: Any) -> bool:
    return isinstance(value, dict) and "image" in value and "age_group" in value


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and value in KEYS


def _gives_batches(value: Any) -> bool:
    """Whether a loop over a value gives batches, or single examples, which are dicts, too."""
    if isinstance(value, TensorLoader | ExampleDataset):
        return True
    if isinstance(value, DataLoader):
        return value.collate_fn is default_collate and _gives_batches(value.dataset)
    if isinstance(value, Subset):
        return _gives_batches(value.dataset)
    if isinstance(value, ConcatDataset):
        return any(map(_gives_batches, value.datasets))
    return isinstance(value, list | tuple) and len(value) > 0 and _is_batch(value[0])


def _given_to_module(frame: FrameType) -> tuple[Any, ...]:
    """What a network or a layer was called with, if that is what the frame does."""
    return tuple(frame.f_locals.get("args", ())) if frame.f_code.co_name == "_call_impl" else ()


class _Statement:
    """The part of a source file that was executed in the last of some frames, and what its names stand for."""

    def __init__(self, frames: Sequence[tuple[FrameType, int]]) -> None:
        frame, line = frames[-1]
        self._names: dict[str, Any] = {**frame.f_globals, **frame.f_locals}
        if frame.f_code.co_name in COMPREHENSIONS and len(frames) > 1:
            self._names = {**frames[-2][0].f_locals, **self._names}
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
        inside = [node for node in ast.walk(tree) if _covers(node, line)]
        functions = [node for node in inside if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        self._function = functions[-1] if functions else tree
        simple = [node for node in inside if isinstance(node, ast.stmt) and not hasattr(node, "body")]
        headers = [part for node in inside if isinstance(node, ast.stmt) for part in _header(node)]
        roots = [*simple, *(part for part in headers if _covers(part, line))]
        loops = [node for node in inside if isinstance(node, ast.For) and (node.target in roots or node.iter in roots)]
        self._nodes = [*loops, *(node for root in roots for node in ast.walk(root))]
        self._comprehensions = [node for node in self._nodes if isinstance(node, ast.comprehension)]

    def unpacks_batch(self) -> bool:
        """Whether it has a tuple of names for a batch: `for x, y in loader`, `x, y = batch`."""
        return any(_is_tuple(target) and self._is_batch(value) for target, value in self._assignments())

    def looks_into_batch(self, missing: tuple[Any, ...] = ()) -> bool:
        """Whether it takes something from a batch that is not there: `batch[0]`, `batch["label"]`.

        `missing` has the key that was not found, if it is known.
        """
        found = [node for node in self._nodes if isinstance(node, ast.Subscript) and self._is_batch(node.value)]
        keys = [node.slice.value if isinstance(node.slice, ast.Constant) else self._value(node.slice) for node in found]
        return any(key is None or not missing or key == missing[0] for key in keys)

    def computes_with_batch(self) -> bool:
        """Whether it calls a function with a batch, or adds something to it: `F.cross_entropy(logits, batch)`."""
        calls = [node.args for node in self._nodes if isinstance(node, ast.Call)]
        sums = [[node.left, node.right] for node in self._nodes if isinstance(node, ast.BinOp)]
        return any(self._is_batch(part) for parts in [*calls, *sums] for part in parts)

    def _assignments(self) -> Iterator[tuple[ast.expr, ast.expr | _Element]]:
        """Targets, and what they are given."""
        for node in self._nodes:
            if isinstance(node, ast.Assign):
                yield from ((target, node.value) for target in node.targets)
            elif isinstance(node, ast.For | ast.comprehension):
                yield from _parts(node.target, node.iter)

    def _is_batch(self, node: ast.expr | _Element, deep: int = 0) -> bool:
        """Whether an expression gives a batch."""
        if deep > DEEPEST:
            return False
        if isinstance(node, _Element):
            return self._has_batches(node.of, deep + 1) or self._is_batch(node.of, deep + 1)
        if _is_batch(self._value(node)):
            return True
        if isinstance(node, ast.Name):  # one that a comprehension has had; it is gone with it
            found = [
                one for one in self._comprehensions if isinstance(one.target, ast.Name) and one.target.id == node.id
            ]
            return any(self._has_batches(one.iter, deep + 1) for one in found)
        if isinstance(node, ast.Subscript):
            return self._has_batches(node.value, deep + 1)
        return isinstance(node, ast.Call) and _called(node) == "next" and self._has_batches(node.args[0], deep + 1)

    def _has_batches(self, node: ast.expr, deep: int = 0) -> bool:
        """Whether a loop over what an expression gives has batches."""
        if deep > DEEPEST:
            return False
        if _gives_batches(self._value(node)):
            return True
        if isinstance(node, ast.Name):  # an iterator doesn't tell what it is over, but how it was made does
            made = [one for one in ast.walk(self._function) if isinstance(one, ast.Assign)]
            return any(
                self._has_batches(one.value, deep + 1)
                for one in made
                if any(isinstance(target, ast.Name) and target.id == node.id for target in one.targets)
            )
        if isinstance(node, ast.List | ast.Tuple):
            return any(self._is_batch(element, deep + 1) for element in node.elts)
        if isinstance(node, ast.Call) and _called(node) in PASSING:
            return any(self._has_batches(argument, deep + 1) for argument in node.args)
        return False

    def _value(self, node: ast.expr) -> Any:
        """What a name, or an attribute of what a name stands for, is; None if that is not known."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            try:
                return vars(self._value(node.value)).get(node.attr)
            except TypeError:  # it has no attributes of its own
                return None
        return None


class _Element:
    """What a loop over an expression gives, each time."""

    def __init__(self, of: ast.expr) -> None:
        self.of = of


def _parts(target: ast.expr, over: ast.expr) -> Iterator[tuple[ast.expr, _Element]]:
    """The targets of a loop, and what each is an element of; `enumerate` and `zip` have several."""
    if isinstance(over, ast.Call) and isinstance(target, ast.Tuple | ast.List):
        if _called(over) == "enumerate" and len(target.elts) == 2:
            yield from _parts(target.elts[1], over.args[0])
            return
        if _called(over) == "zip" and len(target.elts) == len(over.args):
            for part, argument in zip(target.elts, over.args, strict=True):
                yield from _parts(part, argument)
            return
    yield target, _Element(over)


def _called(call: ast.Call) -> str:
    """The last part of the name of what is called, `islice` of `itertools.islice`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_tuple(target: ast.expr) -> bool:
    return isinstance(target, ast.Tuple | ast.List)


def _covers(node: ast.AST, line: int) -> bool:
    return getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", None) or 0)


def _header(statement: ast.stmt) -> list[ast.expr]:
    """The expressions of a statement that are before its body, if it has one."""
    if not hasattr(statement, "body"):
        return []
    children = [getattr(child, "context_expr", child) for child in ast.iter_child_nodes(statement)]
    return [child for child in children if isinstance(child, ast.expr)]
