"""Does runs of methods in a copy of the kit, as gradings do them, and says what they came to: `grade.py PLAN`.

The plan is JSON: whether there is a sandbox, the limits of runs, and entries, which are done one after another by one
worker: method, hyper-parameters, budget in seconds. Entries have one run or two, so that the second can show
what the first has left. For each entry, a line of JSON: complaints of the runs, and the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from checkpoints.bank import ensure
from checkpoints.workers import Workers
from data import TaskSpec, load
from evaluation.isolation import sandbox
from evaluation.isolation.handle import room_workers
from evaluation.isolation.limits import Limits
from evaluation.runs.many import failure_of
from evaluation.runs.one import perform
from evaluation.runs.settings import RunSettings

TASK = TaskSpec("digits", forget=("random:12",), train_size=160, recipe=(("epochs", 3),))


def do(entry: dict[str, Any], limits: Limits, folder: Path, workers: Workers) -> dict[str, Any]:
    """Do the runs of an entry: what they complained of, None for a run that went well."""
    began = time.monotonic()
    settings = RunSettings(
        TASK, "cpu", entry["method"], entry["settings"], 0, folder, budget_seconds=entry["budget"], limits=limits
    )
    failures = [failure_of(workers.submit(perform, settings, 0, run)) for run in range(entry["runs"])]
    complaints = [None if failure is None else failure.complaint for failure in failures]
    return {"complaints": complaints, "seconds": time.monotonic() - began}


def main() -> None:
    """See the module."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    results = Path(plan["results"])
    if plan["sandbox"]:
        sandbox.use_sandbox()
    with room_workers(1) as workers:
        ensure(load(TASK), 1, 2, workers)
        for number, entry in enumerate(plan["entries"]):
            folder = results / f"{number:03d}"
            folder.mkdir(parents=True)
            said = do(entry, Limits(**plan["limits"]), folder, workers)
            print(json.dumps({**entry, "folder": str(folder), **said}), flush=True)


if __name__ == "__main__":
    main()
