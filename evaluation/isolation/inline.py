"""Runs where no process can be forked for each: with a GPU in use, and on systems other than Linux.

Then the room itself calls the method. What is weaker: a run could leave something behind for the next. Afterwards the
method's modules are dropped, so that they are imported anew, and what is often patched is compared with what it was; if
it differs, the room is not used again. Time is that of the trusted process, on its own clock, if the device is a GPU.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType

from checkpoints.installed import is_installed
from evaluation.isolation.hints import complaint_of
from evaluation.isolation.limits import Limits
from evaluation.isolation.watch import Verdict
from evaluation.isolation.wire import Message

PATCHED = ("builtins", "functools", "json", "math", "numpy", "random", "time", "torch")
"""Packages of which functions and classes are looked at."""


def call_here(do: Callable[[], Message], limits: Limits, log: int) -> Verdict:
    """Do a call in this process; how it went, and whether the process can be used again."""
    before, own = _callables(), set(sys.modules)
    with _printed_to(log):
        try:
            answer = do()
        except BaseException as error:  # whatever a method raises, SystemExit too, is its own failure
            traceback.print_exc()
            answer = Message({"complaint": complaint_of(error)})
    content = b"".join(answer.pieces())
    for name in set(sys.modules) - own:
        if not is_installed(name.partition(".")[0]):
            del sys.modules[name]
    after = _callables()
    as_before = all(after.get(name) == value for name, value in before.items())
    complaint = ""
    if len(content) > limits.answer_bytes:
        complaint, content = f"it left {len(content)} bytes, and {limits.answer_bytes} are allowed", b""
    elif os.fstat(log).st_size > limits.log_bytes:
        complaint = f"it printed more than {limits.log_bytes / 2**20:.3g} MB"
    return Verdict(content, float("nan"), 0, complaint, retry=False, clean=as_before)


@contextlib.contextmanager
def _printed_to(log: int) -> Iterator[None]:
    """Collect in a file whatever is printed, by C code and child processes too."""
    kept = (os.dup(1), os.dup(2))
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # a method may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _callables() -> dict[tuple[str, str], int]:
    """The identity of every function and class of the packages in `PATCHED`, and of every function of these classes."""
    found: dict[tuple[str, str], int] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in PATCHED or not isinstance(module, ModuleType):
            continue
        for attribute, value in list(vars(module).items()):
            if callable(value):
                found[name, attribute] = id(value)
            if isinstance(value, type) and value.__module__ == name:
                inside = [(key, part) for key, part in list(vars(value).items()) if callable(part)]
                found |= {(f"{name}.{attribute}", key): id(part) for key, part in inside}
    return found
