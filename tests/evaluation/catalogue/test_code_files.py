"""Which files a method's code comes from, however it gets there, and that the rest leaves it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit
    from tests.evaluation.catalogue.conftest import Ask

METHOD = '''"""A method of the tests."""
import importlib, importlib.util, os, runpy, sys
from pathlib import Path
from methods.BaseMethod import BaseMethod
HERE = os.path.dirname(os.path.abspath(__file__))
TOP


class CLASS(PARENT):
    """A method of the tests."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        INSIDE
'''
AT_TOP = {
    "plain": "from methods.shared_steps import STEP",
    "as_module": "import methods.shared_steps as steps",
    "relative": "from .shared_steps import STEP",
    "relative_module": "from . import shared_steps",
    "from_package": "from methods import shared_steps",
    "everything_in_it": "from methods.shared_steps import *",
    "by_name": "importlib.import_module('methods.shared_steps')",
    "by_relative_name": "importlib.import_module('.shared_steps', __package__)",
    "by_computed_name": "importlib.import_module('methods.' + 'shared' + '_steps')",
    "builtin": "__import__('methods.shared_steps')",
    "executed": "exec(open(os.path.join(HERE, 'shared_steps.py')).read())",
    "read_and_executed": "exec(Path(HERE, 'shared_steps.py').read_text())",
    "by_file": "spec = importlib.util.spec_from_file_location('x', HERE + '/shared_steps.py')\n"
    "spec.loader.exec_module(importlib.util.module_from_spec(spec))",
    "by_runpy": "runpy.run_path(HERE + '/shared_steps.py')",
    "by_path": "sys.path.insert(0, HERE)\nimport shared_steps",
    "through_helper": "from methods.other_steps import STEP",
    "through_folder": "from methods.steps.inner import STEP",
    "in_the_kit_s_folder": "from steps_of_root import STEP",
    "if_there": "try:\n    from methods.shared_steps import STEP\nexcept ImportError:\n    STEP = 1",
    "parent": "from methods.ParentOfTests import ParentOfTests",
}
INSIDE = {
    "late": "from methods.shared_steps import STEP",
    "late_relative": "from .shared_steps import STEP",
    "late_relative_module": "from . import shared_steps",
    "late_by_name": "importlib.import_module('methods.shared_steps')",
    "late_by_relative_name": "importlib.import_module('.shared_steps', package='methods')",
    "late_by_computed_name": "importlib.import_module('methods.' + 'shared' + '_steps')",
    "late_by_another_name": "load = importlib.import_module; load('methods.shared_steps')",
    "late_builtin": "__import__('methods.shared_steps')",
    "late_text": "exec('from methods.shared_steps import STEP')",
    "late_file": "exec(open(HERE + '/shared_steps.py').read())",
    "late_file_by_name": "runpy.run_path(os.path.join(HERE, 'shared_steps.py'))",
    "late_path": "sys.path.insert(0, HERE); import shared_steps",
    "late_through_helper": "from methods.other_steps import STEP",
    "late_registry": "from methods import all_method_handlers; all_method_handlers()['shared_steps']",
    "late_other_method": "import methods; methods.all_method_handlers()['finetune']",
}
ALONE = {
    "alone": "super().run(net, retain_loader, forget_loader, val_loader); net.eval()",
    "with_kit_s_names": "print('data', 'methods', 'evaluation.metrics', 'methods.shared_steps')",
    "with_packages": "import numpy, torch.nn.functional; importlib.import_module('json')",
    "with_registered_file": "__import__('os').environ.get('HOME')",
}


def class_name(name: str) -> str:
    """As in `Kit.add_method`."""
    return name.title().replace("_", "")


def add(kit: Kit, name: str, top: str = "", inside: str = "pass") -> None:
    """A method with these lines."""
    parent = "ParentOfTests" if name == "parent" else "BaseMethod"
    text = METHOD.replace("TOP", top).replace("CLASS", class_name(name)).replace("PARENT", parent)
    kit.add_method(name, text.replace("INSIDE", inside))


@pytest.fixture
def crowded(make_kit: Any) -> Kit:
    """A kit with all these methods and their helpers."""
    kit: Kit = make_kit()
    methods = kit.folder / "methods"
    (methods / "shared_steps.py").write_text("STEP = 1\n")
    (methods / "other_steps.py").write_text("from methods.shared_steps import STEP\n")
    (methods / "steps").mkdir()
    (methods / "steps" / "__init__.py").write_text("")
    (methods / "steps" / "inner.py").write_text("from ..shared_steps import STEP\n")
    (kit.folder / "steps_of_root.py").write_text("from methods.shared_steps import STEP\n")
    parent = METHOD.replace("TOP", "from methods.shared_steps import STEP").replace("CLASS", "ParentOfTests")
    (methods / "ParentOfTests.py").write_text(parent.replace("PARENT", "BaseMethod").replace("INSIDE", "pass"))
    for name, line in AT_TOP.items():
        add(kit, name, top=line)
    for name, line in {**INSIDE, **ALONE}.items():
        add(kit, name, inside=line)
    return kit


@pytest.mark.slow
def test_every_file_that_code_comes_from_is_part_of_it(crowded: Kit, ask: Ask) -> None:
    """An edit of the helper changes the code of whoever uses it, and of nobody else; nor does a new method.

    Catches a grading that goes on with runs of a method whose helper was edited meanwhile.
    """
    names = (*AT_TOP, *INSIDE, *ALONE)
    before = ask(crowded, *names)["methods"]
    shared = {"methods/shared_steps.py"}
    assert {name for name in names if not shared <= before[name]["files"].keys()} == set(ALONE)
    for name in ALONE:
        assert before[name]["code"] == (crowded.folder / "methods" / f"{class_name(name)}.py").read_text()
    (crowded.folder / "methods" / "shared_steps.py").write_text("STEP = 2\n")
    add(crowded, "new_one")
    after = ask(crowded, *names)["methods"]
    assert {name for name in names if before[name]["code"] == after[name]["code"]} == set(ALONE)


@pytest.mark.slow
def test_what_is_read_counts_and_what_the_kit_makes_does_not(crowded: Kit, ask: Ask) -> None:
    """A file of constants that is read, on import or in `run`, is part of the code; caches and results are none.

    So are the kit's own modules, where a method imports them.
    """
    (crowded.folder / "methods" / "constants.yaml").write_text("step: 1\n")
    (crowded.folder / "results").mkdir()
    (crowded.folder / "results" / "old.json").write_text("1")
    add(
        crowded, "reads", "TEXT = Path(HERE, 'constants.yaml').read_text() + open(HERE + '/../results/old.json').read()"
    )
    add(crowded, "reads_late", inside="Path(HERE, 'constants.yaml').read_text(); print('a.b', 'x\\0.y', '...')")
    add(crowded, "uses_kit", "from evaluation.metrics.official import epsilons")
    answers = ask(crowded, "reads", "reads_late", "uses_kit", UNLEARNING_RESULTS=str(crowded.folder / "results"))[
        "methods"
    ]
    assert sorted(answers["reads"]["files"]) == ["methods/Reads.py", "methods/constants.yaml"]
    assert sorted(answers["reads_late"]["files"]) == ["methods/ReadsLate.py", "methods/constants.yaml"]
    assert "evaluation/metrics/official.py" in answers["uses_kit"]["files"]
    assert "methods/BaseMethod.py" not in answers["uses_kit"]["files"]


@pytest.mark.slow
def test_runs_of_an_edited_helper_are_not_taken_for_those_of_this_one(make_kit: Any, results: Path) -> None:
    """On the command line: grade, edit the helper, grade again: another folder, and other scores."""
    kit: Kit = make_kit()
    (kit.folder / "methods" / "shared_steps.py").write_text("SCALE = 1.0\n")
    change = "from methods.shared_steps import SCALE\n        for value in net.parameters(): value.data.mul_(SCALE)"
    add(kit, "scaled", inside=change)
    flags = ("--train-size", "60", "--test-size", "60", "--recipe", "epochs=1", "--models", "8", "--originals", "1")
    drifts = []
    for scale in ("1.0", "3.0"):
        (kit.folder / "methods" / "shared_steps.py").write_text(f"SCALE = {scale}\n")
        answer = kit.run("-m", "scaled", *flags, "--workers", "1", "--budget-seconds", "60", "--json")
        assert answer.code == 0, answer.stderr
        drifts.append(json.loads(answer.stdout)["drift"])
    assert drifts[0] == 0
    assert drifts[1] > 1
    assert len(list(results.glob("*/scaled-*"))) == 2


@pytest.mark.parametrize("link", [False, True])
def test_the_kit_may_lie_behind_a_link(link: bool, make_kit: Any, tmp_path: Path) -> None:
    """Paths are those in the kit, whichever way one gets to it, and from whatever folder. So with a method's file."""
    kit: Kit = make_kit()
    kit.add_method("elsewhere", "")
    file = kit.folder / "methods" / "Elsewhere.py"
    text = METHOD.replace("TOP", "").replace("CLASS", "Elsewhere").replace("PARENT", "BaseMethod")
    (tmp_path / "real.py").write_text(text.replace("INSIDE", "pass"))
    file.unlink()
    file.symlink_to(tmp_path / "real.py")
    folder = kit.folder
    if link:
        folder = tmp_path / "linked"
        folder.symlink_to(kit.folder)
    program = (
        f"import sys; sys.path[0] = {str(folder)!r}; from evaluation.catalogue.lookup import facts_of; import json; "
        "print(json.dumps([sorted(facts_of(name).files) for name in ('my_method', 'elsewhere')]))"
    )
    answer = kit.run_program(f"import os; os.chdir({str(tmp_path)!r}); {program}")
    assert answer.code == 0, answer.stderr
    assert json.loads(answer.stdout) == [["methods/MyMethod.py"], ["methods/Elsewhere.py"]]
