"""Grades all cheats of the catalogue in one command; what they came to is for the tests to judge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import load
from evaluation.runs.unlearned import Unlearned
from tests.security.expected import EXPECTED, SANDBOX
from tests.security.grade import TASK

if TYPE_CHECKING:
    from tests.conftest import Kit

HERE = Path(__file__).parent
LIMITS: dict[str, Any] = {
    **{"patience": 1.0, "more_patience": 3.0, "margin": 8.0, "prepare_seconds": 1.8, "prepare_budgets": 3.0},
    **{"memory_bytes": 1 << 29, "log_bytes": 1 << 20, "threads": 1000},
}
"""Smaller than those of every grading, so that what runs into them does so soon."""
BUDGETS = {"Timers": 0.6, "Preparers": 0.6, "Failures": 6.0}
"""Processor seconds of a run, by family; the others have many."""
TWICE = ("States", "Patches")
"""Families whose cheats have two runs, so that the second shows what the first has left."""
SAID = "said.json"
LONGEST = 900.0
"""Seconds that a mode may take, on a very busy machine."""
FILES = ("outputs.npz", "manifest.json", "report.json", "tuned.yaml")
"""Files that a cheat may try to change. Their content is their name."""
BASELINE = {"learning_rate": 0.1}


@dataclass(frozen=True)
class Verdict:
    """What became of a cheat, and of an honest method after it."""

    complaints: list[str | None]
    """Of its runs; None for those that went well."""
    outputs: list[Unlearned | None]
    """Of its runs."""
    rival: Unlearned | None
    """Outputs of the run of an honest method that was graded next."""
    rivals_complaint: str | None
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Graded:
    """What a command left: a verdict for each cheat, and what honest runs leave."""

    verdicts: dict[tuple[str, str], Verdict]
    baseline: list[Unlearned | None]
    last: Unlearned | None
    """The run of a method in another file, after all cheats."""
    stderr: str
    kit: Path
    """The copy of the kit that they were graded in."""
    files: Path
    """A folder of files that cheats may try to change."""


def entries(settings: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """What is graded, in this order: the baseline, every cheat with an honest run after it, the baseline."""
    baseline = {"method": "my_method", "settings": BASELINE, "budget": 60.0}
    found = [{**baseline, "runs": 2}]
    for family, cheats in EXPECTED.items():
        limits = {"budget": BUDGETS.get(family, 60.0), "runs": 2 if family in TWICE else 1}
        for cheat in cheats:
            given = {**BASELINE, **settings.get(family, {})}
            method = {"method": family.lower()}
            found.append({**method, "settings": {**given, "which": cheat}, **limits})
            found.append({**method, "settings": {**given, "which": "honest"}, "budget": 60.0, "runs": 1})
    return [*found, {**baseline, "runs": 1}]


def outputs(folder: str, run: int) -> Unlearned | None:
    """What a run left for the metrics, if it left something."""
    return Unlearned.load(Path(folder) / "runs" / f"original-000-run-{run:04d}.npz")


def grade(mode: str, kit: Kit, folder: Path) -> None:
    """Grade the catalogue in a mode, in a copy of the kit to which it is added; `read` reads what it leaves."""
    for family in EXPECTED:
        kit.add_method(family.lower(), (HERE / "cheats" / f"{family}.py").read_text())
    shutil.copy(HERE / "grade.py", kit.folder)
    load(TASK)  # so that the cache is there
    files = folder / "files"
    files.mkdir(parents=True)
    for name in FILES:
        (files / name).write_text(name)
    places = {"bank": str(folder / "bank"), "kit": str(kit.folder)}
    places |= {"results": str(folder / "results"), "files": str(files)}
    wanted = {"Readers": ("bank", "results", "kit"), "States": ("kit",), "Writers": ("files", "kit")}
    settings = {family: {name: places[name] for name in names} for family, names in wanted.items()}
    todo = entries(settings)
    plan = {"sandbox": mode == SANDBOX, "results": places["results"], "limits": LIMITS, "entries": todo}
    (folder / "plan.json").write_text(json.dumps(plan))
    said, stderr = _run(kit, folder / "plan.json", places["bank"])
    assert len(said) == len(todo), f"it stopped at {todo[len(said)]}: {stderr[-3000:]}"
    (folder / SAID).write_text(json.dumps({"said": said, "stderr": stderr, "kit": str(kit.folder)}))


def read(folder: Path) -> Graded:
    """What a command left."""
    told = json.loads((folder / SAID).read_text())
    first, *pairs, last = told["said"]
    verdicts = {}
    for cheat, rival in zip(pairs[::2], pairs[1::2], strict=True):
        key = cheat["method"].title(), cheat["settings"]["which"]
        left = [outputs(cheat["folder"], run) for run in range(cheat["runs"])]
        rivals = outputs(rival["folder"], 0), rival["complaints"][0]
        verdicts[key] = Verdict(cheat["complaints"], left, *rivals, cheat["seconds"], Path(cheat["folder"]))
    baseline = [outputs(first["folder"], run) for run in range(2)]
    lasting = outputs(last["folder"], 0)
    return Graded(verdicts, baseline, lasting, told["stderr"], Path(told["kit"]), folder / "files")


def _run(kit: Kit, plan: Path, bank: str) -> tuple[list[dict[str, Any]], str]:
    """Do what a plan says, in a process group that is killed if it takes too long."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "UNLEARNING_BANK": bank}
    environment["A_TOKEN_OF_THE_ORGANISER"] = "secret"
    command = [sys.executable, "grade.py", str(plan)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=kit.folder, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        stdout, stderr = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
    return [json.loads(line) for line in stdout.splitlines()], stderr
