"""Methods that somebody has handed in: none of the kit's, never imported here, and alone in the sandbox."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from data import UserError
from evaluation.catalogue import lookup
from evaluation.catalogue.facts import ROOT, Described
from evaluation.catalogue.lookup import facts_of
from evaluation.catalogue.strangers import NAME, admit, only_own, stranger
from methods import all_method_handlers

METHOD = '''"""Handed in."""

from methods.BaseMethod import BaseMethod


class {name}(BaseMethod):
    """Whatever the class is called."""

    steps: int = 3
    """How many."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        """Nothing."""
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they lie."""
    monkeypatch.setenv("UNLEARNING_STRANGERS", str(tmp_path / "strangers"))
    return tmp_path / "strangers"


def test_a_file_that_lies_elsewhere(folder: Path) -> None:
    """It is known by its content, whatever its class is called, even as one of the kit's is; nothing is registered."""
    name = admit(METHOD.format(name="MyMethod").encode())
    facts = lookup.facts_of(name)
    assert (facts.class_name, facts.hyper_parameters["steps"].default, facts.remarks) == ("MyMethod", 3, [])
    assert facts.paths == ((folder / f"{name}.py").resolve(),)
    assert name not in all_method_handlers()
    assert name not in sys.modules
    assert admit(METHOD.format(name="MyMethod").encode()) == name
    assert admit(METHOD.format(name="Other").encode()) != name
    assert lookup.facts_of("my_method").class_name == "MyMethod"


@pytest.mark.slow
def test_the_same_file_in_two_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it names the folder that it was looked for in."""
    for place in (folder, folder.with_name("other")):
        monkeypatch.setenv("UNLEARNING_STRANGERS", str(place))
        with pytest.raises(UserError, match=re.escape(str(place))):
            lookup.facts_of(admit(b"x = 2"))


def test_names_never_collide() -> None:
    """No name of the kit's is that of a stranger, and only exact names are."""
    assert not [name for name in all_method_handlers() if NAME.fullmatch(name)]
    for name in ("submission_1", "submission_../../../../etc/pass", "submission_" + "A" * 24, "my_method"):
        assert stranger(name) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "it has 0 classes that inherit from BaseMethod, and needs one"),
        (METHOD.format(name="A") + METHOD.format(name="B"), "it has 2 classes"),
        ("import os\nos._exit(0)", "the process that imported it ended"),
        ("raise SystemExit", "SystemExit"),
        ("def", "SyntaxError"),
        ("import submission_other", "No module named"),
        ("\0", "null bytes"),
    ],
)
def test_files_that_can_not_be_used(text: str, said: str) -> None:
    """One sentence, which tells nobody to run `python -m` on them."""
    name = admit(text.encode())
    found = lookup.look_up([name])[name]
    assert isinstance(found, UserError)
    assert said in str(found)
    assert "python -m" not in str(found)


LIES = [
    ["private/seed"],
    ["/etc/passwd", "methods/../checkpoints/bank"],
    ["methods/tuned/digits.yaml", "evaluation/grading.py", "../x.py", "methods"],
]


@pytest.mark.slow
@pytest.mark.parametrize("lies", LIES)
def test_what_it_says_of_files_is_not_believed(lies: list[str]) -> None:
    """A sandbox shows the files that a method is in: its own, and the kit's methods that it may import."""
    name = admit(METHOD.format(name="A").encode())
    place = stranger(name)
    assert place is not None
    facts = lookup.facts_of(name)
    described = msgspec.convert(
        {
            **{field: getattr(facts, field) for field in ("class_name", "docstring", "source", "guarantee")},
            **{field: getattr(facts, field) for field in ("published_figures", "mechanism", "has_prepare", "has_init")},
            **dict.fromkeys(("leaves_original", "deterministic", "exempt_from_budget", "certifies"), False),
            **{"follows_recipe": False, "recipe_is_binding": False, "hyper_parameters": [], "almost": {}},
            **{"search_space": {}, "drawings": {}, "tried_with": {}, "prepares_with": []},
            "source_file": lies[0],
            "files": [*lies, "methods/Scrub.py"],
        },
        Described,
    )
    only_own(described, place)
    assert described.source_file == place.path
    assert described.files == [place.path, "methods/Scrub.py"]


LIE = "checkpoints/bank/0/model-00000.pt"


def test_a_method_of_the_kit_cant_name_a_model_as_its_code() -> None:
    """Its files are shown to it in a sandbox, and it says which these are. Catches an answer that is believed."""
    facts = facts_of("my_method")
    said = {**facts.files, LIE: "", "methods/table.json": "", "data/where.py": ""}
    shown = [path.relative_to(ROOT).as_posix() for path in replace(facts, files=said).paths]
    assert shown == [facts.source_file, *(file for file in said if file not in (facts.source_file, LIE))]
