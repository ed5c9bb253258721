"""Whole competitions, graded by the command: strangers cheat and crash, and the honest ranking comes out."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data import UserError
from evaluation.competition.trail import read_trail
from evaluation.isolation.sandbox import check_sandbox
from evaluation.metrics import METRICS

if TYPE_CHECKING:
    from tests.conftest import Kit

pytestmark = pytest.mark.slow

N = METRICS["official"].fewest_models
CHEATS = Path(__file__).parent / "cheats"
METHODS = Path(__file__).parents[2] / "methods"
LONGEST = 2400.0
"""Seconds, on a very busy machine."""
SETTINGS = f"""
title: A test
task: {{name: digits, train_size: 160, recipe: {{epochs: 3}}}}
public: ["random:12"]
originals: 1
models: {N}
budget_seconds: 0.9
deadline: 2100-01-01T00:00:00Z
"""
HONEST = '''"""Noise on the weights, then the baseline."""

import torch

from methods.MyMethod import MyMethod


class Honest(MyMethod):
    """Forget by noise."""

    noise: float = {noise}
    """Its size, relative to the weights of a layer."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn_like(weight) * (self.noise * weight.abs().mean()))
        super().run(net, retain_loader, forget_loader, val_loader)
'''
CRASHER = '''"""Crashes when it is imported."""

import ctypes

ctypes.string_at(0)
'''


def need_sandbox() -> None:
    """Skip where there is none."""
    try:
        check_sandbox()
    except UserError as error:
        pytest.skip(str(error))


def start(folder: Path, **settings: object) -> None:
    """A competition without `init`."""
    (folder / "submissions").mkdir(parents=True)
    (folder / "private").mkdir()
    (folder / "private" / "seed").write_text("5eed" * 16)
    more = "".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    (folder / "competition.yaml").write_text(f"{SETTINGS}{more}")


def put(folder: Path, team: str, content: str, file: str = "method.py") -> None:
    """What a team hands in."""
    path = folder / "submissions" / team / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def cheat(family: str, which: str, **settings: object) -> str:
    """A file of the catalogue whose defaults are these."""
    text = (CHEATS / f"{family}.py").read_text()
    for name, value in {"which": which, **settings}.items():
        text, count = re.subn(rf'(?m)^    {name}: str = ".*"$', f"    {name}: str = {str(value)!r}", text)
        assert count == 1
    return text


def honest(folder: Path) -> None:
    """Eleven honest teams; one of them has the baseline."""
    for number in range(10):
        put(folder, f"honest {number}", HONEST.format(noise=round(0.3 * number, 3)))
    put(folder, "baseline", (METHODS / "MyMethod.py").read_text())


def grade(kit: Kit, folder: Path, *options: str) -> str:
    """`competition grade`, to its end: what it said."""
    answer = kit.finish(kit.start("competition", "grade", str(folder), "--workers", "1", *options), LONGEST)
    assert answer.code == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr


def rows(kit: Kit, folder: Path) -> list[dict[str, str]]:
    """The rows of the page, those of the final ranking first."""
    answer = kit.run("competition", "page", str(folder))
    assert (answer.code, answer.stderr) == (0, "")
    lines = [line for line in answer.stdout.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line[1] != "-"]
    return [dict(zip(table[0], row, strict=True)) for row in table if row != table[0]]


def bank_as_zip(bank: Path, path: Path) -> None:
    """The retrained models that everybody is compared with, as somebody's checkpoints."""
    manifests = [json.loads(file.read_text()) | {"at": file.parent} for file in bank.glob("*/manifest.json")]
    (pool,) = (manifest["at"] for manifest in manifests if manifest["kind"] == "retrained")
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(N):
            archive.write(pool / f"model-{number:05d}.pt", f"unlearned_checkpoint_{number}.pth")


def verdicts(folder: Path) -> dict[str, Any]:
    """By team: what became of its submission."""
    return {line["team"]: line for line in read_trail(folder / "trail.jsonl") if line["event"] == "verdict"}


def test_twenty_teams(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cheats and three crashers change no score and no place of eleven honest teams, which are as without them."""
    need_sandbox()
    bank = tmp_path / "bank"
    monkeypatch.setenv("UNLEARNING_BANK", str(bank))
    alone, all_ = tmp_path / "alone", tmp_path / "all"
    start(alone, sandbox=False)
    honest(alone)
    assert "WARNING" in grade(kit, alone)
    start(all_)
    honest(all_)
    put(all_, "cheat bank", cheat("Readers", "bank_models", bank=bank))
    put(all_, "cheat rivals", cheat("Readers", "results_of_others", results=all_))
    put(all_, "cheat time", cheat("Timers", "in_an_orphan"))
    put(all_, "cheat state", cheat("States", "in_tmp"))
    put(all_, "cheat files", cheat("Writers", "others_files", files=all_))
    bank_as_zip(bank, all_ / "submissions" / "cheat zip" / "submission.zip")
    put(all_, "crash 1", cheat("Failures", "ends"))
    put(all_, "crash 2", cheat("Failures", "crashes"))
    put(all_, "crash 3", CRASHER)
    assert len(list((all_ / "submissions").iterdir())) == 20
    grade(kit, all_)

    expected, found = rows(kit, alone), rows(kit, all_)
    columns = ("team", "score", "F", "retain", "test", "SHA-256")
    assert [[row[name] for name in columns] for row in expected] == [
        [row[name] for name in columns] for row in found if row["team"].startswith(("honest", "baseline"))
    ]
    assert len({row["score"] for row in expected}) > 3, "there is something to be ranked"
    (baseline,) = (row for row in expected if row["team"] == "baseline")
    cheats = {row["team"]: row for row in found if row["team"].startswith("cheat")}
    assert cheats.keys() == {"cheat bank", "cheat rivals", "cheat state", "cheat files", "cheat zip"}
    copied = cheats.pop("cheat zip")
    assert (copied["place"], copied["mark"]) == ("-", "`!`")
    assert {row["score"] for row in cheats.values()} == {baseline["score"]}
    said = verdicts(all_)
    assert "it exceeded the budget" in said["cheat time"]["why"]
    for team in ("cheat time", "crash 1", "crash 2"):
        assert said[team]["verdict"] == "failed"
        assert "Its log: results/" in said[team]["why"]
    assert said["crash 3"]["verdict"] == "refused"
    assert not (kit.folder / "results").exists()


def test_killed_and_taken_up_again(kit: Kit, tmp_path: Path) -> None:
    """Killed in the middle, once by force and once by Ctrl-C: what is finished stays, and the end is the same."""
    need_sandbox()
    folders = tmp_path / "straight", tmp_path / "killed"
    for folder in folders:
        start(folder, hidden=["random:12"])
        put(folder, "a", HONEST.format(noise=0.5))
        put(folder, "b", HONEST.format(noise=1.5))
    grade(kit, folders[0], "--final")
    for how in (signal.SIGKILL, signal.SIGINT):
        process = kit.start("competition", "grade", str(folders[1]), "--workers", "1")
        before = len(list(folders[1].glob("results/*/*/runs/*.npz")))
        _wait_for(lambda count=before: len(list(folders[1].glob("results/*/*/**/*.npz"))) > count, process)  # type: ignore[misc]
        os.kill(process.pid, how)
        assert kit.finish(process).code != 0
        read_trail(folders[1] / "trail.jsonl")
    assert not list(folders[1].glob("private/results"))
    grade(kit, folders[1], "--final")
    tables = [[{**row, "SHA-256": ""} for row in rows(kit, folder)] for folder in folders]
    for table in tables:
        for row in table:
            row.pop("budget used")
    assert tables[0] == tables[1]
    graded = [line for line in read_trail(folders[1] / "trail.jsonl") if line["event"] == "verdict"]
    assert sorted((line["team"], line["part"]) for line in graded) == sorted(
        (team, part) for team in "ab" for part in ("public", "hidden")
    )


def _wait_for(condition: Callable[[], bool], process: Any) -> None:
    until = time.monotonic() + LONGEST
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
