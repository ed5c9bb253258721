"""Cheats that only show in a whole grading: at import, in claims about itself, and those that are announced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data import UserError
from evaluation.isolation.limits import Limits
from evaluation.isolation.sandbox import check_sandbox
from evaluation.metrics import METRICS
from tests.security.expected import MODES, SANDBOX

if TYPE_CHECKING:
    from tests.conftest import Kit

pytestmark = pytest.mark.slow

N = METRICS["official"].fewest_models
FLAGS = (
    f"--train-size 160 --recipe epochs=3 --forget random:12 --set learning_rate=0.1 --originals 1 --models {N}".split()
)

AT_IMPORT = '''"""Whoever imports this file gets other metrics, other outputs, and a thread that goes on with both."""

import sys
import threading
import time

import numpy as np

from methods.MyMethod import MyMethod

MANY = ("evaluation", "checkpoints", "data")


def spoil():
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in MANY and not name.startswith("evaluation.isolation"):
            for attribute in ("record_outputs", "score_outputs", "accuracies", "forgetting_quality", "load_state_dict"):
                if hasattr(module, attribute):
                    setattr(module, attribute, lambda *args, **named: 1 / 0)
    np.savez = np.load = None


def spoil_again_and_again():
    while True:
        spoil()
        time.sleep(0.01)


spoil()
threading.Thread(target=spoil_again_and_again, daemon=True).start()


class AtImport(MyMethod):
    """As the baseline."""
'''

EXEMPT = '''"""Says of itself that it is a reference, and takes its time."""

import time

from methods.MyMethod import MyMethod


class Exempt(MyMethod):
    """As the baseline, and far too long."""

    exempt_from_budget = True

    def run(self, net, retain_loader, forget_loader, val_loader):
        super().run(net, retain_loader, forget_loader, val_loader)
        end = time.process_time() + 5
        while time.process_time() < end:
            pass
'''

TOUCHES = '''"""Leaves a file elsewhere."""

from pathlib import Path

from methods.MyMethod import MyMethod


class Touches(MyMethod):
    """As the baseline."""

    path: str = ""
    """The file."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        try:
            Path(self.path).touch()
        except OSError:
            pass
        super().run(net, retain_loader, forget_loader, val_loader)
'''


@pytest.fixture(scope="module", autouse=True)
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bank in which nobody looks for the models of another task."""
    folder = tmp_path_factory.mktemp("bank")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_BANK", str(folder))
        yield folder


@pytest.fixture(scope="module")
def kit(make_kit: Callable[[], Kit]) -> Kit:
    """A kit with methods that cheat, which waits for less long until it kills one."""
    kit = make_kit()
    kit.limits = Limits(patience=1.0, more_patience=0.5, attempts=2)
    kit.add_method("at_import", AT_IMPORT)
    kit.add_method("exempt", EXEMPT)
    kit.add_method("touches", TOUCHES)
    kit.add_method("readers", (Path(__file__).parent / "cheats" / "Readers.py").read_text())
    return kit


def flags(mode: str) -> list[str]:
    """Those of a mode; skips where there is no sandbox."""
    if mode != SANDBOX:
        return []
    try:
        check_sandbox()
    except UserError as error:
        pytest.skip(str(error))
    return ["--sandbox"]


def scores(kit: Kit, results: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The reports of a command by method, and what it said on standard error."""
    answer = kit.run(*arguments, *FLAGS, "--workers", "1", "--json", UNLEARNING_RESULTS=str(results))
    assert "Traceback" not in answer.stderr
    said = json.loads(answer.stdout) if answer.stdout else []
    reports = said if isinstance(said, list) else [said]  # of one method, its report alone
    return {report["method"]["name"]: report for report in reports}, answer.stderr


@pytest.fixture(scope="module")
def alone(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the baseline, graded by itself."""
    reports, _ = scores(kit, tmp_path_factory.mktemp("alone"), "-m", "my_method", "--budget-seconds", "60")
    return reports["my_method"]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_done_at_import_or_claimed(mode: str, kit: Kit, alone: dict[str, Any], tmp_path: Path) -> None:
    """A file that patches at import harms nobody but itself; only the kit's own references have no budget."""
    methods = ("-m", "at_import,exempt,my_method", "--budget-seconds", "2")
    together, said = scores(kit, tmp_path, *methods, *flags(mode))
    assert together["my_method"]["scores"] == alone["scores"]
    assert together["my_method"]["unlearned"] == alone["unlearned"]
    assert "exempt" not in together
    assert "exempt failed in run 0 from original 0: it exceeded the budget of 2 seconds" in said
    if "at_import" in together:
        assert together["at_import"]["scores"] == alone["scores"]


def grade_reader(cheat: str, kit: Kit, bank: Path, results: Path, *more: str) -> dict[str, Any]:
    """The report of a method that loads retrained models, if it can."""
    arguments = ("-m", "readers", "--set", f"which={cheat}", "--set", f"bank={bank}", "--budget-seconds", "60")
    reports, _ = scores(kit, results, *arguments, *more)
    return reports["readers"]


@pytest.mark.parametrize("cheat", ["bank_models", "bank_models_with_noise", "bank_models_and_training"])
def test_in_plain_mode_models_of_the_bank_are_announced(cheat: str, kit: Kit, bank: Path, tmp_path: Path) -> None:
    """They are there to be read, and better than any method; every run is called a copy."""
    report = grade_reader(cheat, kit, bank, tmp_path)
    assert len(report["plausibility"]["copies"]) == N


def test_in_the_sandbox_models_of_the_bank_are_out_of_reach(
    kit: Kit, alone: dict[str, Any], bank: Path, tmp_path: Path
) -> None:
    """The score is the baseline's, and nothing is announced."""
    report = grade_reader("bank_models", kit, bank, tmp_path, *flags(SANDBOX))
    assert report["scores"] == alone["scores"]
    assert report["plausibility"]["copies"] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_sweep(mode: str, kit: Kit, tmp_path: Path) -> None:
    """It takes --sandbox, too."""
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "sweep.yaml"
    task = {"name": "digits", "train_size": 160, "forget": "random:12", "recipe": {"epochs": 3}}
    curve = {"name": "a", "method": "touches", "settings": {"path": str(elsewhere)}, "x": "epochs"}
    sweep = {"title": "A", "figure": "budget", "values": [1], "seeds": 1, "task": task, "curves": [curve]}
    file.write_text(json.dumps(sweep))
    answer = kit.run("sweep", str(file), "--devices", "cpu", "--jobs", "1", "-q", *flags(mode))
    assert answer.code == 0, answer.stderr
    assert elsewhere.exists() == (mode != SANDBOX)
