"""Code that is written in odd ways travels, and does in the notebook what it does in the kit."""

from __future__ import annotations

import ast
import copy
import os
import re
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkpoints.workers import seed_everything
from data.errors import UserError
from methods.BaseMethod import BaseMethod
from notebooks.assembly import names_of_template
from notebooks.extraction import everything, needed_by
from notebooks.program import Program
from notebooks.refusals import check
from notebooks.text import text_for_notebook
from tests.notebooks.conftest import WriteMethod

HEAD = """
import torch
from torch import nn
from methods.BaseMethod import BaseMethod, Between, Loader, OneOf
"""


def add(amount: str) -> str:
    """The lines of a `run` that adds `amount` to all weights."""
    return f"        for weight in net.parameters():\n            weight.data.add_({amount})\n"


RUN = "    def run(self, net, retain_loader, forget_loader, val_loader):\n"


def notebook_code(handler: type[BaseMethod], whole_module: bool = False, **values: Any) -> str:
    """The cell that an export of the method has."""
    program = Program(handler, values)
    travellers = everything(program) if whole_module else needed_by(program)
    check(program, travellers, names_of_template())
    return text_for_notebook(program, travellers)


def states_after(unlearn: Any) -> dict[str, torch.Tensor]:
    """What a function leaves of a small network, with loaders as the competition has them."""
    seed_everything(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    images, labels = torch.randn(12, 1, 2, 2), torch.arange(12) % 2
    batches = [{"image": images[rows], "age_group": labels[rows]} for rows in (slice(0, 6), slice(6, 12))]
    seed_everything(2)
    unlearn(net, batches, batches[:1], batches[1:])
    return copy.deepcopy(net.state_dict())


def run_cell(code: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Execute a cell where the kit can't be imported, as the module `__main__`."""
    module = types.ModuleType("__main__")
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in ("methods", "data", "evaluation")]:
            patch.setitem(sys.modules, name, None)
        patch.setitem(sys.modules, "__main__", module)
        exec(compile(code, "<cell>", "exec", dont_inherit=True), module.__dict__)
    return module


def assert_same(handler: type[BaseMethod], code: str, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    """The cell's `unlearning` leaves what the method's `run` leaves, and that is not what was there before."""
    here = states_after(handler(**values).run)
    for variable in [name for name in os.environ if name.startswith("ODD_")]:  # the import of the method has set it
        del os.environ[variable]
    module = run_cell(code, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", module)
        there = states_after(module.unlearning)
    before = states_after(lambda *arguments: None)
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not all(torch.equal(here[name], before[name]) for name in here)


@dataclass
class Case:
    """A method, in words; parts of its text that must be in the notebook, and parts that must not."""

    source: str = ""
    travels: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def read_cases(file: str) -> dict[str, Case]:
    """The cases of a text file: `=== name`, lines `+ travels`, `- stays` and `= hyper-parameter value`, `---`, source.

    `HEAD` in a source stands for the usual imports.
    """
    cases = {}
    for text in re.split(r"^=== ", (Path(__file__).parent / file).read_text(), flags=re.MULTILINE)[1:]:
        about, _, source = text.partition("---\n")
        name, *lines = about.splitlines()
        case = cases[name] = Case(source.replace("HEAD\n", HEAD))
        for kind, _, rest in (line.partition(" ") for line in lines):
            if kind == "=":
                parameter, _, value = rest.partition(" ")
                case.values[parameter] = float(value) if value == "inf" else ast.literal_eval(value)
            else:
                {"+": case.travels, "-": case.stays}[kind].append(rest.replace("\\n", "\n"))
    return cases


CASES = read_cases("odd_methods.txt")
REFUSED = read_cases("refused_methods.txt")
BROKEN_ELSEWHERE = {
    "annotations of what stays behind, without the future import",
    "effects that cannot travel stay",
    "an overridden run stays behind",
    "helpers, constants and imports, transitively",
    "instance, static and class methods",
}
"""Cases with code that `run()` does not reach, and that could not run on Kaggle."""


@pytest.mark.parametrize("name", CASES)
def test_odd_code_runs_the_same_in_the_notebook(
    name: str, write_method: WriteMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `run()` needs travels, what it doesn't need stays, and both leave the same weights."""
    case = CASES[name]
    handler = write_method(case.source)
    code = notebook_code(handler, **case.values)
    for text in case.travels:
        assert text in code
    for text in case.stays:
        assert text not in code
    assert_same(handler, code, monkeypatch, **case.values)


@pytest.mark.parametrize("name", sorted(CASES.keys() - BROKEN_ELSEWHERE))
def test_the_whole_module_runs_the_same(name: str, write_method: WriteMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --whole-module, code that `run()` does not need travels as well, and changes nothing."""
    case = CASES[name]
    handler = write_method(case.source)
    assert_same(handler, notebook_code(handler, whole_module=True, **case.values), monkeypatch, **case.values)


@pytest.mark.parametrize("name", sorted(BROKEN_ELSEWHERE))
def test_the_whole_module_is_refused_where_unused_code_is_broken(name: str, write_method: WriteMethod) -> None:
    """What is not reached may be broken, and then only the whole module is refused."""
    with pytest.raises(UserError, match=r"Odd\.py, line \d+: .*(is not defined|stays behind|don't have)"):
        notebook_code(write_method(CASES[name].source), whole_module=True)


def test_whole_module_sends_what_nothing_mentions(write_method: WriteMethod) -> None:
    """The switch makes a difference, both ways."""
    source = f"'''A module.'''\n{HEAD}def unused():\n    return 3\n\nclass Odd(BaseMethod):\n{RUN}{add('1')}"
    handler = write_method(source)
    assert "def unused" in notebook_code(handler, whole_module=True)
    assert "def unused" not in notebook_code(handler)


def test_a_parent_from_another_file_travels(write_method: WriteMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class comes with what it needs of its own file, under the name that the child knows it by."""
    write_method(
        f"{HEAD}import math\nSIZE = 2\nUNUSED = 1\nclass Parent(BaseMethod):\n    rate: float = 1.0\n    '''Rate.'''\n"
        f"{RUN}{add('self._size() * self.rate')}\n    def _size(self): return math.floor(SIZE)\n",
        name="Parent",
    )
    handler = write_method(
        "import torch\nfrom methods.Parent import Parent as Old\nclass Odd(Old):\n    def _size(self):\n"
        "        return Old._size(self) + float(torch.rand(()))\n"
    )
    code = notebook_code(handler, rate=3.0)
    assert "rate: float = 3.0" in code
    assert "Old = Parent" in code
    assert "UNUSED" not in code
    assert_same(handler, code, monkeypatch, rate=3.0)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [*"\f\v\x1c\x1d\x1e\x85\u2028\u2029"])
def test_lines_are_where_python_says_they_are(
    separator: str, ends: str, write_method: WriteMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other characters that end a line for `str.splitlines`, alone on a line if Python allows it, in comments, in
    texts; with a value from --set below. They were counted as lines, so that the text was cut at the wrong places."""
    alone = separator if separator == "\f" else f"# {separator}"
    source = (
        f"{HEAD}# a{separator}b\nTEXT = 'a{separator}b'\ndef helper(x): return x + len(TEXT)\n{alone}\n\n"
        f"class Odd(BaseMethod):\n    first: float = 1.0  # {separator}\n{alone}\n    second: int = 2\n"
        f"    def _unused(self): pass\n{RUN}{add('helper(self.first)')}{add('self.second')}"
    )
    handler = write_method(source.replace("\n", ends))
    code = notebook_code(handler, first=3.0, second=5)
    assert "first: float = 3.0" in code
    assert "_unused" not in code
    assert_same(handler, code, monkeypatch, first=3.0, second=5)


def test_comments_travel_with_what_they_explain(write_method: WriteMethod) -> None:
    """The notebook is read by people: comments above a statement and in a function are kept."""
    source = (
        f"{HEAD}# why it is three\nSIZE = 3  # of all\n\n\nclass Odd(BaseMethod):\n{RUN}        # add\n{add('SIZE')}"
    )
    code = notebook_code(write_method(source))
    assert "# why it is three\nSIZE = 3  # of all\n" in code
    assert "        # add\n" in code


def test_members_that_stay_leave_no_gap(write_method: WriteMethod) -> None:
    """The blank lines above them stay with them."""
    unused = "    def _x(self): pass\n\n    def _y(self): pass\n\n"
    source = f"{HEAD}class Odd(BaseMethod):\n    a: int = 1\n    '''A.'''\n\n{unused}{RUN}{add('1')}"
    code = notebook_code(write_method(source))
    assert "    '''A.'''\n\n    def run(" in code


# ----------------------------------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------------------------------

BEFORE = f"{HEAD}class Odd(BaseMethod):\n{RUN}"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_travel_is_refused_with_its_line(name: str, write_method: WriteMethod) -> None:
    """The sentence names the file, the line and the culprit."""
    source = REFUSED[name].source
    (line,) = (number for number, text in enumerate(source.splitlines(), start=1) if "  # <-- " in text)
    culprit = source.partition("  # <-- ")[2].splitlines()[0]
    handler = write_method(source)
    with pytest.raises(UserError) as caught:
        notebook_code(handler)
    assert str(caught.value).startswith(f"Odd.py, line {line}: ")
    assert culprit in str(caught.value)


HARMLESS = {
    "a file that is written": "open('log.txt', 'w').close()",
    "a buffer that is read": "import io; b = io.BytesIO(); torch.save(net.state_dict(), b); b.seek(0); torch.load(b)",
    "a dictionary's copy": "net.load_state_dict(dict(net.state_dict()))",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_looks_like_a_file_but_is_none_is_not_refused(name: str, write_method: WriteMethod) -> None:
    """Readers are refused for paths in the code alone."""
    notebook_code(write_method(f"{BEFORE}        {HARMLESS[name]}\n"))


def test_what_stays_behind_is_not_refused(write_method: WriteMethod) -> None:
    """Only code that `run()` reaches counts; with the whole module, the same code is refused."""
    handler = write_method(f"{HEAD}def unused():\n    import opacus\nclass Odd(BaseMethod):\n{RUN}        pass\n")
    notebook_code(handler)
    with pytest.raises(UserError, match=r"Odd\.py, line 6: imports opacus"):
        notebook_code(handler, whole_module=True)


def test_two_files_with_one_name_for_two_things_are_refused(write_method: WriteMethod) -> None:
    """In the notebook one of them would win."""
    write_method(f"{HEAD}SIZE = 2\nclass Parent(BaseMethod):\n    def _old(self): return SIZE\n", name="Parent")
    handler = write_method(
        f"{HEAD}from methods.Parent import Parent\nSIZE = 3\nclass Odd(Parent):\n{RUN}        self._old(), SIZE\n"
    )
    with pytest.raises(UserError, match=r"Odd\.py, line 6: SIZE is something else in Parent\.py"):
        notebook_code(handler)


def test_a_class_inside_a_function_is_refused(write_method: WriteMethod) -> None:
    """Its text can't stand alone."""
    source = f"{HEAD}def make():\n    class Odd(BaseMethod):\n        def run(self, *a): pass\n    return Odd\n"
    with pytest.raises(UserError, match="no class Odd at its top level"):
        Program(write_method(f"{source}Odd = make()\n"))
