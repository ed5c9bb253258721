"""Mutations of methods that no test notices: each method's file is changed in one place, and its tests are run.

    python -m benchmarks.checks.mutations                         all methods, some mutations of each: hours
    python -m benchmarks.checks.mutations scrub scar --each 30    two of them, at most 30 mutations each
    python -m benchmarks.checks.mutations --list scrub            what would be changed

The mutations are mistakes that happen to people who write methods: a sign, the wrong set, train for eval mode, a mask
upside down, a schedule that is stepped by batch, teacher and student exchanged, a step left out, a hyper-parameter that
is ignored, a default that is not the published one. (Tools like mutmut and cosmic-ray know operators of the language,
and none of these; both start a new program for each mutation, which imports PyTorch.) Nothing is written to the
sources: a process is forked for each mutation, in which the method's module has the changed text.

What survives is listed with the reason of `REASONS`, if it changes nothing that can be observed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from methods import all_method_handlers

ROOT = Path(__file__).parents[2]
REASONS = Path(__file__).with_name("mutations.json")
"""By method: texts of mutations that change nothing, and why."""
LONGEST = 400.0
"""Seconds after which tests count as failed: a mutated loop may not end."""
SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class Mutation:
    """One change of one method."""

    method: str
    line: int
    what: str
    """In words, by which `REASONS` knows it, whatever its line."""
    source: str
    """The whole file, changed."""


# ----------------------------------------------------------------------------------------------------------------------
# What is changed
# ----------------------------------------------------------------------------------------------------------------------

Change = tuple[ast.AST, ast.AST, str]
"""A node, what takes its place, and that in words."""

SETS = {"retain_loader": "forget_loader", "forget_loader": "retain_loader", "val_loader": "forget_loader"}
OPPOSITES: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
}


def mutations(method: str) -> list[Mutation]:
    """All mutations of a method's file, in its order."""
    path = ROOT / all_method_handlers().where(method).file
    text = path.read_text()
    tree, found = ast.parse(text), []
    for node, new, what in list(_changes(tree)):
        _replace(tree, node, new)
        found.append(Mutation(method, getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(tree))))
        _replace(tree, new, node)
    return found


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Every change, each of the same tree."""
    annotations = {id(part) for node in ast.walk(tree) for part in _annotation_parts(node)}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        defaults = {
            node.target.id: node.value
            for node in cls.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
        }
        for name, value in defaults.items():
            changed = _other_default(value)
            if changed is not None:
                yield value, changed, f"default of {name}: {ast.unparse(value)} -> {ast.unparse(changed)}"
        yield from _of_reads(cls, defaults)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        yield from _of_loops(function)
        for node in ast.walk(function):
            if id(node) not in annotations and not isinstance(node, (ast.FunctionDef, ast.Raise)):
                yield from _of_node(node, function.name)


def _of_reads(cls: ast.ClassDef, defaults: Mapping[str, ast.expr]) -> Iterator[Change]:
    """A hyper-parameter's default written in a place where it is read."""
    seen: Counter[str] = Counter()
    for node in ast.walk(cls):
        if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in defaults):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            seen[node.attr] += 1
            where = f" in place {seen[node.attr]}" if seen[node.attr] > 1 else ""
            yield node, ast.copy_location(copy.deepcopy(defaults[node.attr]), node), f"{node.attr} ignored{where}"


def _annotation_parts(node: ast.AST) -> Iterator[ast.AST]:
    for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if isinstance(part, ast.AST):
            yield from ast.walk(part)
    if isinstance(node, ast.Raise):
        yield from ast.walk(node)


def _other_default(value: ast.expr) -> ast.expr | None:
    """Another value of a plain type; None if it is something else."""
    with contextlib.suppress(ValueError):
        plain = ast.literal_eval(value)
        if isinstance(plain, bool):
            return ast.Constant(not plain)
        if isinstance(plain, (int, float)):
            return ast.Constant(plain * 2 if plain else 1)
    return None


def _of_node(node: ast.AST, where: str) -> Iterator[Change]:
    """Changes of an expression."""

    def change(new: ast.AST, what: str) -> Change:
        return node, ast.copy_location(new, node), f"{where}: {what}"

    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SETS:
        other = SETS[node.id]
        yield change(ast.Name(other, ast.Load()), f"{node.id} -> {other}")
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPPOSITES and not _is_text(node):
        yield change(_with(node, op=OPPOSITES[type(node.op)]()), f"operator in {_short(node)}")
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPPOSITES:
        yield change(_with(node, ops=[OPPOSITES[type(node.ops[0])]()]), f"comparison in {_short(node)}")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        if not isinstance(node.operand, ast.Constant):
            yield change(node.operand, f"without the sign of {_short(node)}")
    elif isinstance(node, ast.Call):
        yield from _of_call(node, change)


def _of_call(node: ast.Call, change: Callable[[ast.AST, str], Change]) -> Iterator[Change]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("train", "eval") and isinstance(node.func, ast.Attribute):
        other = "eval" if name == "train" else "train"
        func = ast.Attribute(node.func.value, other, ast.Load())
        yield change(ast.Call(func, [], []), f"{_short(node)} -> {other}()")
    if name in ("where", "kl_div") and len(node.args) >= 2:
        args = [*node.args[:-2], node.args[-1], node.args[-2]]
        yield change(_with(node, args=args), f"arguments exchanged in {_short(node)}")
    for keyword in node.keywords:
        if keyword.arg in ("largest", "descending", "momentum", "weight_decay", "weight", "T_max", "shuffle"):
            rest = [other for other in node.keywords if other is not keyword]
            yield change(_with(node, keywords=rest), f"without {keyword.arg} in {_short(node)}")


def _of_loops(function: ast.FunctionDef) -> Iterator[Change]:
    """A step of a schedule moved into the loop over batches; a statement of training left out."""
    for loop in (node for node in ast.walk(function) if isinstance(node, ast.For)):
        inner = [node for node in loop.body if isinstance(node, ast.For)]
        for statement in loop.body:
            called = ast.unparse(statement) if isinstance(statement, ast.Expr) else ""
            if called.endswith(".step()") and "schedul" in called and inner:
                body = [one for one in loop.body if one is not statement]
                moved = _with(inner[-1], body=[*inner[-1].body, statement])
                new = _with(loop, body=[moved if one is inner[-1] else one for one in body])
                yield loop, new, f"{function.name}: {called} for each batch"
            if called.endswith((".step()", ".backward()", ".zero_grad()")) or ".copy_(" in called or ".mul_(" in called:
                rest = [one for one in loop.body if one is not statement] or [ast.Pass()]
                yield loop, _with(loop, body=rest), f"{function.name}: without {called[:60]}"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    return ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), **fields}), node)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_text(node: ast.AST) -> bool:
    return any(isinstance(part, ast.JoinedStr) for part in ast.walk(node))


def _replace(tree: ast.Module, target: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, new)
                return
            if isinstance(value, list) and any(one is target for one in value):
                value[[one is target for one in value].index(True)] = new
                return


# ----------------------------------------------------------------------------------------------------------------------
# Whether its tests notice
# ----------------------------------------------------------------------------------------------------------------------


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a module another text."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See importlib."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def create_module(self, spec: ModuleSpec) -> None:
        """See importlib."""

    def exec_module(self, module: ModuleType) -> None:
        """See importlib."""
        exec(compile(self.source, self.path, "exec"), vars(module))


def files_with_tests(method: str) -> list[str]:
    """The files of tests that import a method's class."""
    module = all_method_handlers().where(method).module
    files = sorted((ROOT / "tests" / "methods").glob("test_*.py"))
    return [str(file) for file in files if f"from {module} import" in file.read_text()]


def survivors_of(mutations: Sequence[Mutation], workers: int) -> Iterator[Mutation]:
    """Those with which all tests of the method pass, as they are found. Each is tried in a process that is forked.

    This process has no threads, whose locks nobody would free in the others.
    """
    waiting, running = list(reversed(mutations)), dict[int, tuple[Mutation, float]]()
    tqdm.monitor_interval = 0
    with tqdm(total=len(mutations), unit="mutation", file=sys.stderr) as bar:
        while waiting or running:
            while waiting and len(running) < workers:
                mutation = waiting.pop()
                running[_start(mutation)] = mutation, time.monotonic() + LONGEST
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for process, (mutation, until) in list(running.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if not ended and time.monotonic() < until:
                    continue
                if not ended:
                    os.killpg(process, signal.SIGKILL)
                    _, status = os.waitpid(process, 0)
                del running[process]
                bar.update()
                if os.waitstatus_to_exitcode(status) == 0:
                    yield mutation


def _start(mutation: Mutation) -> int:
    """A process that ends with 0 if all tests pass."""
    process = os.fork()
    if process == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            code = _run_tests(mutation)
        os._exit(code)
    return process


def _run_tests(mutation: Mutation) -> int:
    import pytest

    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    place = all_method_handlers().where(mutation.method)
    sys.meta_path.insert(0, _Changed(place.module, ROOT / place.file, mutation.source))
    for name in [name for name in sys.modules if name == place.module or name.startswith("tests.")]:
        del sys.modules[name]  # they may have been imported with the text as it is
    options = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    chosen = ["-m", "not slow", "-k", f"[{mutation.method}] or [{mutation.method}- or -{mutation.method}]"]
    parameters = ["tests/methods/test_every_hyper_parameter.py", "-k", f"[{mutation.method}-"]
    contract = ["tests/methods/test_contract.py", *chosen]
    first = ["tests/methods/test_defaults.py", *chosen]
    for arguments in (first, files_with_tests(mutation.method), contract, parameters):
        code = pytest.main([*arguments, *options])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="names (default: all)")
    parser.add_argument("--each", type=int, default=10, help="most mutations of a method (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among its mutations (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="print what would be changed, and run nothing")
    options = parser.parse_args(arguments)
    unknown = [method for method in options.methods if method not in all_method_handlers()]
    if unknown:
        parser.error(f"there is no method {unknown[0]}: python main.py list has their names")
    chosen = []
    for method in options.methods or all_method_handlers():
        found = mutations(method)
        random.Random(f"{options.seed} {method}").shuffle(found)
        chosen += found[: options.each]
    if options.list:
        for one in chosen:
            print(f"{one.method:24} line {one.line:4}  {one.what}")
        return
    import tests.methods.trained_digits  # noqa: F401  # so that no fork imports PyTorch

    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    survivors = unexplained = 0
    for one in survivors_of(chosen, options.workers):
        why = reasons.get(one.method, {}).get(one.what)
        survivors, unexplained = survivors + 1, unexplained + (why is None)
        print(f"{one.method:24} line {one.line:4}  {one.what}\n{'':24}   {why or 'NO REASON KNOWN'}", flush=True)
    share = 100 * unexplained / max(1, len(chosen))
    print(f"{len(chosen)} mutations, {survivors} survived, {unexplained} of them without a reason ({share:.1f} %)")


if __name__ == "__main__":
    main()
