"""Asks the process that imports the files of methods; see `describe.py`. Nothing that it answers is believed unread."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints.server import can_become_server, fork_from_server, server_is_there, start_server
from data import UserError
from data.documents import DocumentError, parse_json
from data.files import chosen_folders, generated_folder
from evaluation.catalogue.describe import answer_through
from evaluation.isolation import sandbox
from methods.registry import Place

ROOT = Path(__file__).parents[2]
PROGRAM = """
import gc, sys
gc.disable()
sys.path[0] = sys.argv[1]
from evaluation.catalogue.describe import main
main()
"""
"""Without a look for garbage, which it does not make, it imports PyTorch in two thirds of the time."""
FORKS = sys.platform == "linux"
"""Whether a process that has imported PyTorch may be forked. Where it may not, each method has a process of its own."""
SECONDS_TO_IMPORT = 60.0
"""After so long, the import of a method's file is taken to hang."""
SECONDS_TO_START = 120.0
"""What importing PyTorch may take in addition."""
SECONDS_TO_END = 5.0
"""What a process may take to end when it has answered, or was told to."""


def command(files: Sequence[Path] = ()) -> list[str]:
    """What starts the process that imports `files`, in a sandbox if those are in use."""
    program = [sys.executable, "-c", PROGRAM, str(ROOT)]
    return [*sandbox.sandboxed("cpu", files), *program] if sandbox.in_use() else program


def describe(places: Mapping[str, Place], limit: float = SECONDS_TO_IMPORT) -> dict[str, dict[str, Any]]:
    """What the files of methods say, by the name of the method: `facts` and what they depend on, or an `error`."""
    questions = [{"name": name, **place._asdict()} for name, place in places.items()]
    if FORKS:
        answers = _ask(questions, limit)
    else:
        answers = [answer for question in questions for answer in _ask([question], limit)]
    return dict(zip(places, answers, strict=True))


def complaint_of(name: str, place: Place, values: Mapping[str, Any], limit: float = SECONDS_TO_IMPORT) -> str | None:
    """What the method's own constructor has against values of its hyper-parameters; None if it takes them."""
    (answer,) = _ask([{"name": name, **place._asdict(), "values": dict(values)}], limit)
    complaint = answer.get("error", answer.get("complaint"))
    return None if complaint is None else str(complaint)


def _ask(questions: Sequence[Mapping[str, Any]], limit: float) -> list[dict[str, Any]]:
    """One process, one answer for each question.

    Raises:
        UserError: it failed, for a reason that is not a method's.
    """
    generated = [str(generated_folder(variable)) for variable in chosen_folders()]
    asked = {"generated": generated, "limit": limit, "fork": FORKS, "methods": questions}
    files = [ROOT / _place(question).file for question in questions]
    patience = SECONDS_TO_START + limit * len(questions)
    if FORKS and not sandbox.in_use() and (server_is_there() or can_become_server()):
        start_server()
        text, why = _ask_a_fork(json.dumps(asked), patience)
    else:
        text, why = _ask_a_program(command(files), json.dumps(asked), patience)
    try:
        answers = parse_json(text)
    except DocumentError:
        answers = None
    if isinstance(answers, list) and len(answers) == len(questions) and all(isinstance(one, dict) for one in answers):
        return answers
    if len(questions) == 1 and not FORKS:
        one = questions[0]
        what = "its import did not end" if why.endswith(" -9)") else why
        file = _place(one).file
        return [{"error": f"{one['name']} can't be used: {file} can't be imported ({what})."}]
    raise UserError(
        f"The process that reads the methods' files has failed ({why}): memory may be short, or a file of the kit may "
        "be broken."
    )


def _ask_a_program(program: Sequence[str], question: str, patience: float) -> tuple[str, str]:
    """The answer of a new process, and what went wrong if it is none."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        text, complaints = process.communicate(f"{question}\n", patience)
    except subprocess.TimeoutExpired:
        process.kill()
        text, complaints = "", ""
    finally:
        if process.poll() is None:  # Ctrl-C
            process.terminate()
            process.wait()
    return text, (complaints.strip().splitlines() or [f"exit code {process.returncode}"])[-1]


def _ask_a_fork(question: str, patience: float) -> tuple[str, str]:
    """The same of a process that is forked from the server: it has imported PyTorch already."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        try:
            process = fork_from_server(answer_through, theirs, dict(os.environ))
        except (OSError, EOFError) as error:
            return "", f"it can't be started: {error}"
        theirs.close()
        text = ""
        try:
            with suppress(EOFError, OSError):  # it has ended
                ours.send_bytes(question.encode())
                if ours.poll(patience):
                    text = ours.recv_bytes().decode(errors="replace")
        finally:
            if not text:
                process.terminate()
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
    return text, f"exit code {process.exitcode}"


def _place(question: Mapping[str, Any]) -> Place:
    return Place(question["module"], question["class_name"], question["path"])
