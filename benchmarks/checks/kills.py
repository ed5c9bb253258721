"""Is anything lost, or stored wrong, if processes are killed? `python -m benchmarks.checks.kills --kills 30 --seed 0`.

Six small commands run to their end, undisturbed: a grading from an empty bank, gradings with the bank there, a search
for hyper-parameters, a sweep, two requests one after another, a submission notebook. Then each of them runs again and
again in a fresh folder, and at a random moment one of its processes is killed (SIGKILL):

    main       the main process itself: the same command, typed again, has to go on
    worker     one that trains, or runs a method: the command has to come to its end as if nothing had been
    any        any process that the main one has started: the server that workers come from, the kernel of a notebook

A command that ends with a sentence (exit code 2), as the one whose kernel is gone, is typed again as well. In the end
all that does not depend on the clock has to equal what the undisturbed command has left, no file may be half-written,
no process be left, and no traceback have been printed. A row for each kill; exit code 1 if one of them fails. Kills,
their moments and victims are drawn from the seed, though what a process does at a moment is up to the machine. About
ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console as Screen
from rich.table import Table

from benchmarks.checks.same_bits import (
    FORGET,
    GRADING,
    ROOT,
    SIZE,
    SWEEP,
    Found,
    Tree,
    compare,
    in_bank,
    in_gradings,
    in_sweep,
    timeless,
)
from checkpoints.standstill import all_processes, descendants
from data.files import UNFINISHED
from evaluation.console import Console

CODE = ("main.py", "notebook_utils.py", "commands", "data", "checkpoints", "evaluation", "methods", "notebooks")
GENERATED = shutil.ignore_patterns("__pycache__", "cache", "bank", "results", "submissions", "tuned")
VICTIMS = ("main", "worker", "any")
TRIES = 3
"""How often a command may be typed again until it comes to its end."""
SECONDS = 900.0
"""After which a command hangs."""

# ----------------------------------------------------------------------------------------------------------------------
# What is done
# ----------------------------------------------------------------------------------------------------------------------

LITTLE = ("--originals", "1", "--workers", "2", "-q")
SCENES: dict[str, tuple[str, ...]] = {
    "bank": ("-m", "my_method", *SIZE, *FORGET, *GRADING, *LITTLE, "--json"),
    "runs": ("-m", "retrain,noisy_finetune", *SIZE, *FORGET, *GRADING, *LITTLE, "--json"),
    "tune": ("tune", "-m", "noisy_finetune", "--trials", "4", *SIZE, *FORGET, *GRADING, "--workers", "2", "-q"),
    "sweep": ("sweep", "small.yaml", "--devices", "cpu", "--jobs", "2", "-q"),
    "sequence": ("-m", "scrub", *SIZE, "--forget", "class:3", "--forget", "random:0.1", *GRADING, *LITTLE, "--json"),
    "export": ("notebook", "-m", "my_method"),
}
"""The commands, by the part that most of their time goes to."""
JOBS = {"bank": "grade", "runs": "grade"}
"""Where `same_bits` looks for what a scene has left, if not under its own name."""


@dataclass(frozen=True)
class Place:
    """A copy of the kit, and folders for what one command leaves."""

    scene: str
    folder: Path

    @property
    def tree(self) -> Tree:
        """As `same_bits` sees it."""
        return Tree(self.folder / "kit", self.folder)

    def prepare(self, bank: Path | None) -> None:
        """Copy the kit, and the models of another place unless they are to be trained."""
        for name in CODE:
            source, target = ROOT / name, self.folder / "kit" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=GENERATED)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        (self.folder / "kit" / "small.yaml").write_text(yaml.safe_dump(SWEEP))
        if bank is not None and bank.is_dir() and self.scene != "bank":
            shutil.copytree(bank, self.folder / "bank")

    def start(self) -> subprocess.Popen[bytes]:
        """Type the command. What it prints goes to the file `said`."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {f"UNLEARNING_{name.upper()}": str(self.folder / name) for name in ("bank", "tuned")}
        environment["UNLEARNING_RESULTS"] = str(self.tree.results(JOBS.get(self.scene, self.scene)))
        environment["UNLEARNING_CACHE"] = str(self.folder.parent / "cache")
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "main.py", *SCENES[self.scene]],
                cwd=self.folder / "kit",
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def found(self) -> Found:
        """All that can be compared."""
        found: Found = {}
        rows = (*in_bank(self.folder / "bank"), *in_gradings(self.tree), *in_trials(self.tree), *in_sweep(self.tree))
        for row, name, value in (*rows, *in_notebooks(self.folder / "kit")):
            found.setdefault(row, {})[name] = value
        return found

    def unfinished(self) -> list[Path]:
        """Files that nobody writes any more, and that nobody has removed."""
        return list(self.folder.rglob(f"{UNFINISHED}*"))


def in_trials(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """The trials of a search that have come to an end, in their order, and the values that it wrote down."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for path in sorted(tree.results("tune").glob("*/tuning-*/trials.journal")):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        trials = optuna.load_study(study_name="tuning", storage=storage).get_trials()
        ended = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
        for number, trial in enumerate(ended):
            what = [trial.state.name, trial.value, trial.params, trial.intermediate_values, trial.user_attrs]
            yield "tune: trials", str(number), json.dumps(what)
    for path in sorted((tree.folder / "tuned").glob("*.yaml")):
        yield "tune: values", path.name, timeless(yaml.safe_load(path.read_text()))


def in_notebooks(kit: Path) -> Iterator[tuple[str, str, str]]:
    """The submissions that were written."""
    for path in sorted((kit / "notebooks" / "submissions").rglob("*.*")):
        yield "export", path.name, hashlib.sha256(path.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# A kill
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a kill went."""

    scene: str
    victim: str
    """With a remark if nobody was killed."""
    moment: float
    """Seconds after the start."""
    codes: tuple[int | None, ...]
    """The exit codes of the command, and of the same one typed again; None for one that hung."""
    complaints: tuple[str, ...]
    """What was wrong in the end."""

    def as_row(self) -> tuple[str, ...]:
        """For the table."""
        codes = ", ".join("hangs" if code is None else str(code) for code in self.codes)
        return self.scene, self.victim, f"{self.moment:.1f} s", codes, "; ".join(self.complaints) or "equal"


def disturb(place: Place, victim: str, moment: float, expected: Found, rng: random.Random) -> Outcome:
    """Run a command, kill one of its processes, type it again until it comes to its end, and look at what is there."""
    process = place.start()
    known = kill_at(process, victim, moment, rng)
    codes = [finish(process, known)]
    if not known:
        victim += " (nobody there)"
    first = codes[0]
    complaints = [f"exit code {first} after a worker was killed"] * (victim.startswith("worker") and first != 0)
    while codes[-1] not in (0, None) and len(codes) <= TRIES:
        codes.append(finish(place.start(), set()))
    if codes[-1] != 0:
        complaints.append("hangs" if codes[-1] is None else "does not come to its end")
    rows = compare(place.found(), expected)
    complaints += [f"{row.what} differs in {', '.join(row.different[:3])}" for row in rows if row.different]
    complaints += [f"{path.name} is left" for path in place.unfinished()]
    complaints += ["a process is left"] * wait_for_the_end_of(known)
    said = (place.folder / "said").read_text(errors="replace")
    complaints += ["a traceback"] * ("Traceback" in said)
    return Outcome(place.scene, victim, moment, tuple(codes), tuple(complaints))


def kill_at(process: subprocess.Popen[bytes], victim: str, moment: float, rng: random.Random) -> set[int]:
    """Kill a process of the command; all that it had by then. Empty if there was nobody to kill."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        return set()
    processes = all_processes()
    children = descendants(process.pid, processes)
    workers = [pid for pid in children if processes[pid].parent in children]
    chosen = {"main": [process.pid], "worker": workers, "any": children}[victim]
    if not chosen:
        return set()
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(chosen), signal.SIGKILL)
    return {process.pid, *children}


def finish(process: subprocess.Popen[bytes], known: set[int]) -> int | None:
    """Wait for the end of a command; its exit code. None if it hangs, and then it and its processes are killed."""
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        for pid in {process.pid, *known, *descendants(process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        return None


def wait_for_the_end_of(pids: set[int], seconds: float = 10.0) -> bool:
    """Whether one of these processes still runs some seconds later, those aside that are dead and not yet collected."""
    limit = time.monotonic() + seconds
    while left := {pid for pid in pids if _runs(pid)}:
        if time.monotonic() > limit:
            return bool(left)
        time.sleep(0.1)
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def disturb_all(
    scenes: Sequence[str], kills: int, seed: int, folder: Path, on_progress: Callable[[float, int], None]
) -> list[Outcome]:
    """Do so many kills, all scenes and victims in turn; everything is below `folder`."""
    rng = random.Random(seed)
    undisturbed: dict[str, tuple[Found, float]] = {}
    bank = None
    steps = len(scenes) + kills
    for number, scene in enumerate(scenes):
        on_progress(number, steps)
        place = Place(scene, folder / f"undisturbed-{scene}")
        place.prepare(bank)
        began = time.monotonic()
        code = finish(place.start(), set())
        if code != 0:
            sys.exit(f"{scene} fails undisturbed:\n{(place.folder / 'said').read_text()[-3000:]}")
        undisturbed[scene] = place.found(), time.monotonic() - began
        bank = bank or place.folder / "bank"
    outcomes = []
    for number in range(kills):
        on_progress(len(scenes) + number, steps)
        scene = scenes[number % len(scenes)]
        victim = VICTIMS[(number % len(scenes) + number // len(scenes)) % len(VICTIMS)]  # all with all
        expected, seconds = undisturbed[scene]
        place = Place(scene, folder / f"kill-{number}")
        place.prepare(bank)
        outcomes.append(disturb(place, victim, rng.uniform(0, seconds), expected, rng))
        shutil.rmtree(place.folder, ignore_errors=True)
    on_progress(steps, steps)
    return outcomes


def main() -> int:
    """Print a table with a row for each kill."""
    parser = argparse.ArgumentParser(description="Kill processes at random moments, and look at what is left.")
    parser.add_argument("--kills", type=int, default=30, help="how many (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default: 0)")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, Console().progress("kills", "steps") as on_progress:
        outcomes = disturb_all(arguments.scenes, arguments.kills, arguments.seed, Path(temporary), on_progress)
    table = Table("scene", "killed", "after", "exit codes", "in the end", box=None, pad_edge=False)
    for outcome in outcomes:
        table.add_row(*outcome.as_row())
    Screen(highlight=False, soft_wrap=True).print(table)
    wrong = sum(bool(outcome.complaints) for outcome in outcomes)
    print(f"\n{len(outcomes)} kills, {wrong} with something wrong in the end")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
