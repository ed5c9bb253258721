"""The files of suites: those of the kit, and mistakes in others."""

from __future__ import annotations

from pathlib import Path

import pytest

from data import TaskSpec, UserError, all_tasks
from data.forget import parse_request
from evaluation.spec import GradingSpec
from evaluation.suites.suite import Suite, names_of_suites, read_suite
from evaluation.views.leaderboard import MIN_MODELS_FOR_RANK

SMALL = """
about: a small one
task: {name: digits, train_size: 160}
originals: 3
models: 40
budget: 1e-1
kinds:
  random:
    tuning: ["random:20@1"]
    held_out: ["random:20@2", "random:20@3"]
  long:
    task: {recipe: {epochs: 90}}
    held_out: ["class:2", "class:3"]
"""


def written(folder: Path, text: str) -> Suite:
    """The suite that a file with this text describes."""
    (folder / "mine.yaml").write_text(text)
    return read_suite(str(folder / "mine.yaml"))


@pytest.mark.parametrize("name", names_of_suites())
def test_suites_of_the_kit(name: str) -> None:
    """Each kind has requests to tune on and others to be graded on; methods are ranked; the tasks exist."""
    suite = read_suite(name)
    assert suite.about
    assert {problem.kind for problem in suite.tuning} == set(suite.kinds)
    assert not {one.grading.task for one in suite.tuning} & {one.grading.task for one in suite.held_out}
    for problem in (*suite.tuning, *suite.held_out):
        assert problem.grading.models >= MIN_MODELS_FOR_RANK
        assert problem.grading.originals > 1
        assert problem.grading.task.name in all_tasks()


def test_what_a_file_says(tmp_path: Path) -> None:
    """Every field, in the gradings that it stands for; a kind's task adds to that of all."""
    suite = written(tmp_path, SMALL)
    assert (suite.name, suite.about, suite.kinds) == ("mine", "a small one", ("random", "long"))
    (tuning,) = suite.tuning
    tuned_on = TaskSpec("digits", ("random:20@1",), train_size=160, role="suite:random:20@1")
    assert tuning.grading == GradingSpec("", tuned_on, originals=3, models=40, budget=0.1)
    assert [problem.request for problem in suite.held_out] == ["random:20@2", "random:20@3", "class:2", "class:3"]
    long = suite.held_out[2].graded("my_method")
    assert long.task == TaskSpec("digits", ("class:2",), train_size=160, recipe=(("epochs", 90),), role="suite:class:2")
    assert long.method == "my_method"


def test_results_and_values_belong_to_their_part(tmp_path: Path) -> None:
    """Another held-out request is another suite, for which the same tuned values hold; the data's place is neither."""
    suite = written(tmp_path, SMALL)
    other = written(tmp_path, SMALL.replace("random:20@3", "random:20@4"))
    assert suite.folder != other.folder
    assert suite.tuned_path == other.tuned_path
    tuned = written(tmp_path, SMALL.replace("random:20@1", "random:20@4"))
    assert (suite.folder, suite.tuned_path == tuned.tuned_path) == (tuned.folder, False)
    longer = written(tmp_path, SMALL.replace("epochs: 90", "epochs: 91"))
    assert (suite.folder == longer.folder, suite.tuned_path) == (False, longer.tuned_path)
    moved = suite.in_folder("/somewhere")  # a download is the same everywhere
    assert (moved.folder, moved.tuned_path) == (suite.folder, suite.tuned_path)
    assert {problem.grading.task.data_dir for problem in (*moved.tuning, *moved.held_out)} == {"/somewhere"}
    own = written(tmp_path, SMALL.replace("name: digits", "name: folder, data_dir: /mine"))
    assert own.in_folder("/mine/../mine").folder == own.folder
    assert own.in_folder("/other").folder != own.folder
    assert own.in_folder("/other").tuned_path != own.tuned_path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("random:20@1", "random:20@2", "random:20@2 is in it twice"),
        ("random:20@3", "random:20@2", "random:20@2 is in it twice"),
        (', "random:20@3"', "", "kind random needs at least 2 held-out requests"),
        ("  long:", "  random:", "it has the entry random twice, the second time in line 11"),
        ("about: a small one", "", "missing required field `about`"),
        ("train_size: 160", "trainsize: 160", "its task has an unknown entry trainsize; these are known: name, "),
        ("train_size: 160", "forget: [class:1]", "its task has an unknown entry forget"),
        ("train_size: 160", "train_size: many", "Expected `int | null`, got `str` - at `$.train_size`"),
        ("recipe: {epochs: 90}", "recipe: 90", "its recipe is no mapping"),
        ("models: 40", "models: -1", "Expected `int` >= 1"),
        ("models: 40", "model: 40", "unknown field `model`"),
        ("budget: 1e-1", "budget: 0", "> 0.0"),
        ("random:\n", "a b:\n", "can't be called 'a b'"),
        ("kinds:", "kinds: 3\nmore:", "Expected `object`, got `int` - at `$.kinds`"),
        ("kinds:", "kinds: [", "it is not YAML"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    """One sentence, with the file's name and what is wrong."""
    assert old in SMALL
    with pytest.raises(UserError) as caught:
        written(tmp_path, SMALL.replace(old, new, 1))
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    assert complaint in str(caught.value)


def test_too_few_models(tmp_path: Path) -> None:
    """The metric says how many it needs."""
    with pytest.raises(UserError, match="needs at least"):
        written(tmp_path, SMALL.replace("models: 40", "models: 2"))


@pytest.mark.parametrize("text", ["", "- a", "3", "null"])
def test_files_of_something_else(tmp_path: Path, text: str) -> None:
    """No mapping."""
    with pytest.raises(UserError, match="is not the file of a suite: it is no mapping"):
        written(tmp_path, text)


def test_names(tmp_path: Path) -> None:
    """A name that is near one; a file that is not there; a folder."""
    with pytest.raises(UserError, match="There is no suite 'digts': did you mean digits"):
        read_suite("digts")
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_suite(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="can't be read: Could not determine home directory"):
        read_suite("~nobody-of-this-name/mine.yaml")
    (tmp_path / f"{'n' * 60}.yaml").write_text(SMALL)
    with pytest.raises(UserError, match="can't be called 'nnn"):
        read_suite(str(tmp_path / f"{'n' * 60}.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        read_suite(str(tmp_path / "folder.yaml"))


def test_requests_of_digits_can_be_understood() -> None:
    """All of them, by the task itself; and those held out are not those that are tuned on."""
    from data import load

    suite = read_suite("digits")
    task = load(TaskSpec("digits"))
    found = {
        problem.request: frozenset(parse_request(problem.request, task.train, task.classes).indices.tolist())
        for problem in (*suite.tuning, *suite.held_out)
    }
    assert len(set(found.values())) == len(found)
