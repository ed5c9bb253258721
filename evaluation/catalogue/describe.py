"""The process that imports the files of methods and says what is in them; `child.py` starts it and reads its answer.

It is asked by one line of JSON, and answers with one; on standard input and output, or on a pipe if it was forked from
the server that workers are forked from, which has imported PyTorch already:

    {"generated": [folder, ...], "limit": seconds, "fork": true, "methods": [{"name", "module", "class_name", "path"}]}
    [{"facts": {...}, ...} or {"error": "a sentence"}, ...]

With `fork`, each file is imported in a process of its own, forked from this one after PyTorch is imported: nothing that
a file does (patches, prints, exits, hangs, threads) reaches the next.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evaluation.catalogue.declared import DeclarationError, describe_class
from evaluation.catalogue.sources import IN_EVERY_METHOD, Watch, all_files, path_in
from methods.registry import Place, find_class

ROOT = Path(__file__).parents[2]
LARGEST_ANSWER = 4 << 20
"""Bytes that a method may take to describe itself; its source is most of it."""
SECONDS_BETWEEN_LOOKS = 0.002


@dataclass(frozen=True)
class Question:
    """A method that is asked for."""

    name: str
    place: Place
    values: dict[str, Any] | None
    """Hyper-parameters that its constructor is to be tried with; None: the class is described."""


def main() -> None:
    """Answer what standard input asks."""
    question = sys.stdin.readline()
    answer_to = os.dup(1)
    os.set_inheritable(answer_to, False)
    _silence(0, 1)
    with os.fdopen(answer_to, "w") as file:
        file.write(_answers(question))
        file.flush()
        os._exit(0)  # whatever an import has registered for the end, or left as a thread


def answer_through(pipe: Connection, environment: Mapping[str, str]) -> None:
    """The same in a process that was forked from the server, whose environment may be an old one."""
    os.environ.clear()
    os.environ.update(environment)
    _silence(0, 1, 2)
    pipe.send_bytes(_answers(pipe.recv_bytes().decode()).encode())
    os._exit(0)


def _answers(text: str) -> str:
    asked = json.loads(text)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    gc.disable()  # in a fork, looking for garbage copies all memory
    gc.freeze()
    _own_modules()
    generated = [Path(folder) for folder in asked["generated"]]
    answers = []
    for one in asked["methods"]:
        question = Question(one["name"], Place(one["module"], one["class_name"], one["path"]), one.get("values"))
        if asked["fork"]:
            answers.append(_in_a_fork(question, generated, asked["limit"]))
        else:
            answers.append(json.loads(_answer(question, generated)))
    return json.dumps(answers)


def _silence(*descriptors: int) -> None:
    """What a file prints while it is imported is of no interest, and must not get into the answer."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in descriptors:
        os.dup2(nowhere, number)


# ----------------------------------------------------------------------------------------------------------------------
# One method
# ----------------------------------------------------------------------------------------------------------------------


def _in_a_fork(question: Question, generated: list[Path], limit: float) -> Any:
    """The answer of a process that is killed after `limit` seconds, with all that it has started."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.dup2(0, 2)
                text = _answer(question, generated)
                os.write(file.fileno(), text.encode())
            os._exit(0)
        status = _wait(child, limit)
        file.seek(0)
        content = file.read(LARGEST_ANSWER + 1)
    if status is None:
        return _error(question, f"its import was not finished after {limit:g} seconds")
    if content and len(content) <= LARGEST_ANSWER:
        with contextlib.suppress(ValueError):
            return json.loads(content)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"ended (exit code {code})"
    return _error(question, f"the process that imported it {how}")


def _wait(child: int, limit: float) -> int | None:
    """The exit status of a process, None if it had to be killed; its group is killed in any case."""
    until = time.monotonic() + limit
    status = None
    try:
        while time.monotonic() < until:
            ended, status_ = os.waitpid(child, os.WNOHANG)
            if ended:
                status = status_
                return status
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)  # it may not have had its group yet
            os.waitpid(child, 0)


def _answer(question: Question, generated: list[Path]) -> str:
    """Import the method's file and describe its class, as JSON."""
    for name in _own_modules():  # a method that imports one of them imports it anew, and is seen to
        sys.modules.pop(name, None)
    watch = Watch(ROOT, generated)
    try:
        handler = find_class(question.place)
        watch.stop()
        if question.values is not None:
            return json.dumps({"complaint": _complaint(handler, question.values)})
        module = inspect.getmodule(handler)
        assert module is not None
        assert module.__file__ is not None
        file = path_in(ROOT, module.__file__) or question.place.file
        opened = {*watch.opened, file, question.place.file}
        facts = {
            **describe_class(handler),
            "source_file": file,
            "source": inspect.getsource(module),
            "files": all_files(ROOT, (one for one in opened if (ROOT / one).is_file())),
        }
        return json.dumps(
            {
                "facts": facts,
                "elsewhere": sorted(watch.elsewhere),
                "absent": sorted(watch.absent),
                "variables": sorted(map(str, watch.variables)),
            }
        )
    except DeclarationError as error:
        return json.dumps(_error(question, str(error), is_import=False))
    except BaseException as error:  # whatever a file raises, SystemExit too, is its own failure
        return json.dumps(
            _error(question, f"{type(error).__name__}: {error}".rstrip(". "), where=_line(error, question.place))
        )


def _complaint(handler: Any, values: Mapping[str, Any]) -> str | None:
    """What the constructor of a method has against values; None if it takes them."""
    try:
        handler(**values)
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"{handler.__name__} can't be made ({type(error).__name__}: {error})."
    return None


@cache  # before any fork: it looks at some thousand files
def _own_modules() -> list[str]:
    """The modules of the kit that this process has imported for its own work."""
    keep = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in IN_EVERY_METHOD}
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if name not in keep and file and _is_of_the_kit(file)]


def _is_of_the_kit(path: str) -> bool:
    return path_in(ROOT, path) is not None and "site-packages" not in path


# ----------------------------------------------------------------------------------------------------------------------
# Errors
# ----------------------------------------------------------------------------------------------------------------------


def _error(question: Question, what: str, where: str = "", is_import: bool = True) -> dict[str, str]:
    """A sentence that names the file."""
    file = question.place.file
    text = " ".join(what.split())
    if not is_import:
        return {"error": f"{question.name} can't be used: {file}: {text}"}
    more = "" if question.place.path else f" python -m {question.place.module} shows more."
    return {"error": f"{question.name} can't be used: {file} can't be imported ({where}{text}).{more}"}


def _line(error: BaseException, method: Place) -> str:
    """The last line of the kit, or of a stranger's method, that an error came from, if it is one of a method."""
    if isinstance(error, SyntaxError) and error.filename:
        return _place_of(error.filename, error.lineno, method)
    return next(_lines(error, method), "")


def _lines(error: BaseException, method: Place) -> Iterator[str]:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if (place := _place_of(frame.filename, frame.lineno, method)) and not place.startswith(
            ("evaluation/catalogue/", "methods/registry.py")
        ):
            yield place


def _place_of(filename: str, line: int | None, method: Place) -> str:
    if filename == method.path:
        return f"line {line}: "
    if filename.startswith("<"):  # Python's own import
        return ""
    return f"{path_in(ROOT, filename)}, line {line}: " if _is_of_the_kit(filename) else ""
