"""Whatever lies in the folder of a team: it is received, or a sentence in the trail says why not; nothing hangs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from data import UserError
from evaluation.competition import intake as module
from tests.evaluation.competition.conftest import DEADLINE, Contest


def test_files_are_received(contest: Contest) -> None:
    """Each by its content: the same in one team is one submission, another content another, whatever its name."""
    contest.put("a", "one")
    contest.put("a", "one", "copy.py")
    contest.put("a", "two", "n.ipynb")
    contest.put("b", "one", "M.PY")
    found = contest.look()
    assert [(one.team, one.file, one.kind) for one in found] == [
        ("a", "copy.py", "method"),
        ("a", "n.ipynb", "notebook"),
        ("b", "M.PY", "method"),
    ]
    assert found[0].sha256 == sha256(b"one").hexdigest()
    assert [one.copy_in(contest.folder).read_text() for one in found] == ["one", "two", "one"]
    assert contest.look() == found
    contest.now += timedelta(hours=1)
    contest.put("a", "three")
    assert [(one.file, one.received) for one in contest.look()[3:]] == [("m.py", contest.now)]


def test_times_of_files_are_not_believed(contest: Contest) -> None:
    """A file of last year that is seen now has come now; a change that keeps all times is seen."""
    path = contest.put("a", "one")
    os.utime(path, (0, 0))
    contest.now = DEADLINE + timedelta(minutes=1)
    trail = contest.trail
    intake = module.Intake(contest.folder, contest.settings, trail, lambda: contest.now)
    intake.look()
    path.write_text("two")
    os.utime(path, (0, 0))
    intake.look()
    received = module.submissions_of(trail.lines)
    assert [(one.sha256, one.received) for one in received] == [
        (sha256(content).hexdigest(), contest.now) for content in (b"one", b"two")
    ]


def link(path: Path) -> None:
    """To a file that anybody can read."""
    path.symlink_to("/etc/passwd")


def link_to_nowhere(path: Path) -> None:
    """To nothing."""
    path.symlink_to("nowhere")


def device(path: Path) -> None:
    """To a file without an end."""
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    """A terabyte that takes no room."""
    path.touch()
    os.truncate(path, 1 << 40)


def a_socket(path: Path) -> None:
    """Nobody listens."""
    here = Path.cwd()
    os.chdir(path.parent)  # its name would be too long
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "it is not a regular file"),
        (a_socket, "it is not a regular file"),
        (link, "it is a link; hand in the file itself"),
        (link_to_nowhere, "it is a link; hand in the file itself"),
        (device, "it is a link; hand in the file itself"),
        (Path.mkdir, "it is a folder; hand in one file"),
        (lambda path: path.write_bytes(bytes(20_000)), "it has more than 0.01 MB"),
        (huge, "it has more than 0.01 MB"),
    ],
)
def test_what_is_no_submission(make: Callable[[Path], object], said: str, contest: Contest) -> None:
    """Pipes, links, devices, folders, huge files: a sentence, once; others are received."""
    honest = contest.put("b")
    (contest.folder.submissions / "a").mkdir()
    make(contest.folder.submissions / "a" / "m.py")
    for _ in range(2):
        assert [one.team for one in contest.look()] == ["b"]
    assert contest.refusals() == {("a", "m.py"): said}
    assert [line["event"] for line in contest.trail.lines].count("not received") == 1
    assert not list(contest.folder.accepted.glob(".*")), "a copy that was begun is removed"
    assert honest.exists()


def test_folders_of_teams(contest: Contest) -> None:
    """A file or a link among the teams, and a team of very many files."""
    (contest.folder.submissions / "file.py").write_text("pass")
    (contest.folder.submissions / "linked").symlink_to("/etc")
    contest.put("b")
    for number in range(module.MOST_FILES + 1):
        contest.put("many", file=f"{number}.py")
    assert [one.team for one in contest.look()] == ["b"]
    refused = contest.refusals()
    assert refused["file.py", None] == refused["linked", None] == "it is not a folder of a team, but lies beside them"
    assert refused["many", None] == "there are more than 1000 files in it: none is looked at"


@pytest.mark.parametrize(
    "name", ["..a", "a\nb", "[red]\\", "a|b", "<script>", "\u202egnp", "a" * 200, "$(id)", "ü", " "]
)
def test_names_are_texts(name: str, contest: Contest) -> None:
    """Any name of a team or a file is kept as it is, and leads nowhere."""
    contest.put(f"x{name}", file="m.py")
    contest.put("team", "other", file=f"x{name}.py"[-200:])
    received = {one.team for one in contest.look()}
    assert received == ({"team"} if len(name) > 199 else {f"x{name}", "team"})
    assert all(path.parent == contest.folder.accepted for path in contest.folder.accepted.iterdir())


def test_names_that_are_no_text(contest: Contest) -> None:
    """Bytes that are not UTF-8."""
    folder = os.fsencode(contest.folder.submissions) + b"/\xff\xfe"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/\xff.py")).write_text("pass")
    assert [(one.team, one.file) for one in contest.look()] == [("\udcff\udcfe", "\udcff.py")]
    assert [one.team for one in contest.look()] == ["\udcff\udcfe"]


@pytest.mark.parametrize("name", [".m.py", "README.md", "m.pyc", "py", "m.py.exe", "zip"])
def test_other_files(name: str, contest: Contest) -> None:
    """What begins with a dot is being written; what ends otherwise is named."""
    contest.put("a", file=name)
    assert contest.look() == []
    hidden = name.startswith(".")
    assert [file for _, file in contest.refusals()] == ([] if hidden else [name])


def test_the_folder_is_gone(contest: Contest) -> None:
    """One sentence."""
    contest.folder.submissions.rmdir()
    with pytest.raises(UserError, match="submissions can't be used"):
        contest.look()
