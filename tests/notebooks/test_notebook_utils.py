"""Export and the command line: what is written, for whom, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import notebook_utils
from data import all_tasks
from data.errors import UserError
from methods import all_method_handlers
from notebook_utils import export, kaggle_settings
from notebooks import assembly
from tests.command_line import command
from tests.notebooks.conftest import WriteMethod

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("method", all_method_handlers())
@pytest.mark.usefixtures("described")
def test_metadata_are_what_kaggles_client_wants(method: str, tmp_path: Path) -> None:
    """The rules of `kaggle kernels push`: the notebook is where it says, and the title is the id's."""
    submission = export(method, owner="somebody", folder=tmp_path)
    about = json.loads(submission.metadata.read_text())
    assert submission.metadata.name == "kernel-metadata.json"
    assert (submission.metadata.parent / about["code_file"]).resolve() == submission.notebook.resolve()
    owner, slug = about["id"].split("/")
    assert owner == "somebody"
    assert re.sub(r"[^a-z0-9]+", "-", about["title"].lower()) == slug
    assert 5 <= len(about["title"]) <= 50
    assert about["language"] == "python"
    assert about["kernel_type"] == "notebook"
    assert about["enable_gpu"] is True
    assert about["enable_internet"] is False
    assert about["is_private"] is True
    assert about["competition_sources"] == ["neurips-2023-machine-unlearning"]
    assert submission.push_command == f"kaggle kernels push -p {submission.metadata.parent}"


NAMES = [
    "neg_grad+", "neg_grad-", "my__idea", "l1.sparse", "l1-sparse", "_x", "x_", "idée", "ide\u0301e", "scrub/r", "../x",
    "MyIdea", "理念", "ß", "①", "a&amp;b", "don't", "1,000", "x" * 60, "x_" * 30, "two words", "*bold*", "$a$", "",
]  # fmt: skip


def test_names_give_the_slug_of_their_title(tmp_path: Path) -> None:
    """Whoever makes it, in whatever way: Kaggle's client compares. Different names have different notebooks, and all
    files stay in the folder."""
    slugs = set()
    for name in [*NAMES, "neg_grad", "neg_grad_plus", "my_idea", "l1_sparse", "x", "idee", "scrub_r"]:
        path, metadata = assembly.write_submission(name, {}, "somebody", tmp_path)
        about = json.loads(metadata.read_text())
        title, slug = about["title"], about["id"].partition("/")[2]
        assert re.fullmatch(r"Unlearning( [a-z0-9]+)*", title)
        assert slug == title.lower().replace(" ", "-")
        assert 5 <= len(title) <= 50
        assert (metadata.parent / about["code_file"]).resolve() == path.resolve()
        assert path.parent == tmp_path
        slugs.add(slug)
    assert len(slugs) == len(NAMES) + 7
    assert len(list(tmp_path.glob("*.ipynb"))) == len(NAMES) + 7


@pytest.mark.parametrize("folder", ["my kit", "it's", "$HOME", "a;b", "new\nline"])
def test_the_push_command_is_one_for_a_shell(folder: str, tmp_path: Path) -> None:
    """Whatever the folder is called."""
    submission = export("my_method", folder=tmp_path / folder)
    assert shlex.split(submission.push_command)[-1] == str(submission.metadata.parent)


@pytest.mark.parametrize("name", ["neg_grad+", "my__idea", "_x_", "*x*", "`x`", "<b>x", "[a](b)", "x\n# y", "$x$"])
def test_names_are_shown_as_they_are(name: str) -> None:
    """In Markdown, a name is a text; a value in which backticks are is code all the same."""
    cells = {cell["id"]: cell for cell in assembly.fill_template(name, "", {"plan": "a`b``c"})["cells"]}
    title = cells["title"]["source"][0]
    assert "".join(cells["method-text"]["source"]).endswith("\n\n``` plan = 'a`b``c' ```")
    assert title.count("\n") == 1
    shown = title.removeprefix("# Machine unlearning: ").rstrip("\n")
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(name.split())
    assert not re.search(r"(?<!\\)[*`<\[$]", shown)


def test_two_methods_do_not_share_metadata(tmp_path: Path) -> None:
    """A folder each, or the second export would redirect the first one's push."""
    first, second = export("my_method", folder=tmp_path), export("noisy_finetune", folder=tmp_path)
    assert json.loads(first.metadata.read_text())["code_file"] == "../my_method.ipynb"
    assert json.loads(second.metadata.read_text())["code_file"] == "../noisy_finetune.ipynb"


def test_without_an_owner_there_is_a_placeholder(tmp_path: Path) -> None:
    """Kaggle refuses it; so does --owner."""
    submission = export("my_method", folder=tmp_path)
    assert json.loads(submission.metadata.read_text())["id"] == "YOUR-KAGGLE-NAME/unlearning-my-method"
    assert submission.owner is None
    for owner in ("YOUR-KAGGLE-NAME", "", "some/body", "a b", "https://kaggle.com/me"):
        with pytest.raises(UserError, match=r"kaggle\.com/NAME"):
            export("my_method", owner=owner, folder=tmp_path)


def test_values_are_baked_in_and_visible(tmp_path: Path) -> None:
    """Texts, as --set has them, become values of the hyper-parameter's type, in the class and above the cell."""
    submission = export("noisy_finetune", {"epochs": "2", "noise": "1e-3"}, folder=tmp_path)
    assert submission.settings["epochs"] == 2
    cells = json.loads(submission.notebook.read_text())["cells"]
    by_id = {cell["id"]: "".join(cell["source"]) for cell in cells}
    assert "    epochs: int = 2\n" in by_id["method"]
    assert "    noise: float = 0.001\n" in by_id["method"]
    assert "    momentum: float = 0.9\n" in by_id["method"]
    assert "`epochs = 2`" in by_id["method-text"]
    assert "noisy_finetune" in by_id["title"]


def test_retraining_follows_the_competitions_recipe() -> None:
    """As a grading of the task `kaggle` does; what is set goes before."""
    recipe = all_tasks()["kaggle"].recipe
    settings = kaggle_settings("retrain", {"epochs": "3"})
    assert settings["optimizer"] == recipe.optimizer == "adam"
    assert settings["learning_rate"] == recipe.learning_rate
    assert settings["class_weights"] is True
    assert settings["epochs"] == 3


def test_unknown_names_and_values_are_sentences(tmp_path: Path) -> None:
    """Each says what there is."""
    with pytest.raises(UserError, match="no method 'my_metod': did you mean my_method"):
        export("my_metod", folder=tmp_path)
    with pytest.raises(UserError, match="no hyper-parameter 'epoch'; it has epochs"):
        export("my_method", {"epoch": "3"}, folder=tmp_path)
    with pytest.raises(UserError, match="epochs takes a value of type int"):
        export("my_method", {"epochs": "many"}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_export_leaves_the_environment_as_it_was(
    write_method: WriteMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grader's process and the kernel start from this one's environment: what the import of the method has set is
    not theirs. Statements that can't travel are named."""
    source = (
        "import os\nimport sys\nfrom methods.BaseMethod import BaseMethod\nos.environ.setdefault('ODD_SCALE', '3')\n"
        "sys.path.append(os.path.dirname(__file__))\nclass Odd(BaseMethod):\n"
        "    def run(self, net, *loaders): print(os.environ['ODD_SCALE'])\n"
    )

    class Imported(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            return write_method(source)

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("methods.all_method_handlers", lambda: Imported(odd=None))
    monkeypatch.setattr(notebook_utils, "kaggle_settings", lambda *_: {})
    submission = export("odd", folder=tmp_path / "out")
    assert "ODD_SCALE" not in os.environ
    assert "ODD_SCALE" in submission.notebook.read_text()
    (remark,) = submission.remarks
    assert remark.startswith("Odd.py, line 5: may change something")


def test_what_travels_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A competitor edits that one function, and the export does what it says."""
    from notebooks.extraction import everything

    monkeypatch.setattr(notebook_utils, "what_travels", lambda program, whole_module: everything(program))
    text = export("retrain", folder=tmp_path).notebook.read_text()
    monkeypatch.undo()
    assert "what every unlearning method is measured against" in text
    assert (
        "what every unlearning method is measured against"
        not in export("retrain", folder=tmp_path).notebook.read_text()
    )


def test_the_command_line_without_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-run writes, and prints the command of Kaggle's client; the owner may come from its own variable."""
    monkeypatch.setattr(assembly, "submissions_folder", lambda: tmp_path)
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    arguments = ["-m", "my_method", "--set", "epochs=3", "--whole-module", "--no-run"]
    answer = command("notebook", *arguments)
    assert answer.code == 0
    assert answer.stdout.splitlines()[-1] == f"kaggle kernels push -p {tmp_path / 'my_method'}"
    assert "--owner YOUR_KAGGLE_NAME" in answer.stdout
    assert "epochs: int = 3" in (tmp_path / "my_method.ipynb").read_text()
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    answer = command("notebook", *arguments)
    assert "--owner" not in answer.stdout
    assert '"somebody/unlearning-my-method"' in (tmp_path / "my_method" / "kernel-metadata.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "nothing"], "There is no method 'nothing'"),
        (["-m", "my_method", "--set", "epochs"], "--set takes name=value"),
        (["-m", "my_method", "--owner", "a/b", "--no-run"], "--owner is the name"),
        (["-m", "my_method", "--checkpoints", "0"], "--checkpoints must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    """Without a traceback."""
    monkeypatch.setattr(assembly, "submissions_folder", lambda: tmp_path)
    answer = command("notebook", *arguments)
    assert answer.code == 2
    assert answer.stderr.startswith(f"error: {sentence}")
    assert len(answer.stderr.splitlines()) == 1


def test_as_a_program() -> None:
    """`python notebook_utils.py --help` is quick and complete: no PyTorch is loaded for it."""
    command = [sys.executable, "-X", "importtime", "notebook_utils.py", "--help"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--whole-module" in answer.stdout
    assert " torch\n" not in answer.stderr
