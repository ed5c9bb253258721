"""Asks the process that imports the files of methods; see `describe.py`. Nothing that it answers is believed unread."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import UserError
from data.documents import DocumentError, parse_json
from data.files import chosen_folders, generated_folder
from evaluation.isolation import sandbox
from methods.registry import Place

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.path[0] = sys.argv[1]; from evaluation.catalogue.describe import main; main()"
FORKS = sys.platform == "linux"
"""Whether a process that has imported PyTorch may be forked. Where it may not, each method has a process of its own."""
SECONDS_TO_IMPORT = 60.0
"""After so long, the import of a method's file is taken to hang."""
SECONDS_TO_START = 120.0
"""What importing PyTorch may take in addition."""


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
    process = subprocess.Popen(
        command(files), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        text, complaints = process.communicate(json.dumps(asked) + "\n", SECONDS_TO_START + limit * len(questions))
    except subprocess.TimeoutExpired:
        process.kill()
        text, complaints = "", ""
    finally:
        if process.poll() is None:  # Ctrl-C
            process.terminate()
            process.wait()
    try:
        answers = parse_json(text)
    except DocumentError:
        answers = None
    if isinstance(answers, list) and len(answers) == len(questions) and all(isinstance(one, dict) for one in answers):
        return answers
    if len(questions) == 1 and not FORKS:
        one = questions[0]
        what = "its import did not end" if process.returncode == -9 else f"exit code {process.returncode}"
        file = _place(one).file
        return [{"error": f"{one['name']} can't be used: {file} can't be imported ({what})."}]
    lines = complaints.strip().splitlines() or [f"exit code {process.returncode}"]
    raise UserError(
        f"The process that reads the methods' files has failed ({lines[-1]}): memory may be short, or a file of the "
        "kit may be broken."
    )


def _place(question: Mapping[str, Any]) -> Place:
    return Place(question["module"], question["class_name"], question["path"])
