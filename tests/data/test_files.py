"""Writing: whole files, and a sentence where that is not possible."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from checkpoints.pool import bank_folder
from data import files
from data.cache import cache_dir
from data.errors import UserError
from data.files import generated_folder, locked, write_arrays, write_atomically, write_tensors
from evaluation.report import results_folder
from tests.conftest import REPOSITORY

VARIABLES = ["UNLEARNING_BANK", "UNLEARNING_CACHE", "UNLEARNING_RESULTS", "UNLEARNING_TUNED", "UNLEARNING_STRANGERS"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_what_cannot_be_written_names_the_variable(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the folder it is in; a lock is a file like others."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    path = generated_folder(variable) / "some" / "file.json"
    for write in (lambda: write_atomically(path, Path.touch), lambda: locked(path).__enter__()):
        with pytest.raises(UserError, match=rf"file\.json can't be written \(Not a directory\): .* {variable} to"):
            write()


def test_elsewhere_another_name_helps(tmp_path: Path) -> None:
    """As of a picture's --out; a folder of that name is in the way here."""
    with pytest.raises(UserError, match=r"can't be written \(Is a directory\): fix that, or name a folder"):
        write_atomically(tmp_path, Path.touch)


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For arrays and for tensors, of which PyTorch itself says "enforce fail at inline_container.cc"."""
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(Path, "with_name", lambda path, name: tmp_path / "full")
    for write in (
        lambda: write_arrays(tmp_path / "a.npz", {"a": torch.zeros(10**5).numpy()}),
        lambda: write_tensors(tmp_path / "a.pt", {"a": torch.zeros(10**5)}),
    ):
        if not (tmp_path / "full").is_symlink():
            (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(UserError, match=os.strerror(errno.ENOSPC)):
            write()
    assert not (tmp_path / "a.npz").exists()


WRITER = """
import sys, time
from pathlib import Path
from data.files import write_atomically

def write(beside):
    beside.write_text("half")
    print("writing", flush=True)
    sys.stdin.read(1)
    beside.write_text("whole")

write_atomically(Path(sys.argv[1]), write)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing a file, and finishes it when it is told to."""
    command, pipe = [sys.executable, "-c", WRITER, str(path)], subprocess.PIPE
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


@pytest.mark.parametrize("how", ["write_atomically", "locked", "the same file"])
def test_leftovers_of_killed_writers_are_removed(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next process that writes to the folder, or locks it; what a living one still writes stays, and gets whole.

    Catches leftovers that pile up, and a file that is taken away from its writer.
    """
    monkeypatch.setattr(files, "_tidied", set())  # else it would be as if this process had been here before
    own = [tmp_path / name for name in (".2024-notes", ".unfinished", ".unfinished-", "unfinished-1-a", ".hidden")]
    for path in own:
        path.write_text("")
    living, killed = start_writer(tmp_path / "living.txt"), start_writer(tmp_path / "killed.txt")
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(f"{files.UNFINISHED}*.txt"))) == 2
    if how == "locked":
        with locked(tmp_path / "lock"):
            pass
    else:
        write_atomically(tmp_path / ("killed.txt" if how == "the same file" else "other.txt"), Path.touch)
    (left,) = tmp_path.glob(f"{files.UNFINISHED}*.txt")
    assert left.name == f"{files.UNFINISHED}{living.pid}-living.txt"
    living.communicate("x")
    assert living.returncode == 0
    assert (tmp_path / "living.txt").read_text() == "whole"
    assert not list(tmp_path.glob(f"{files.UNFINISHED}*.txt"))
    assert all(path.exists() for path in own)


def test_a_leftover_of_the_same_number_is_no_obstacle(tmp_path: Path) -> None:
    """Numbers of processes come again. Catches a leftover whose end stays behind a shorter text."""
    (tmp_path / f"{files.UNFINISHED}{os.getpid()}-a.txt").write_text("a long leftover")
    write_atomically(tmp_path / "a.txt", lambda beside: beside.write_text("short"))
    assert (tmp_path / "a.txt").read_text() == "short"


def test_two_that_write_the_same_file(tmp_path: Path) -> None:
    """Both succeed, in threads too. Catches one that waits for the other's lock, and gets a file that is gone."""
    with ThreadPoolExecutor(8) as executor:
        for text in ("a", "b"):
            write = lambda beside, text=text: beside.write_text(text * 1000)  # noqa: E731
            list(executor.map(lambda _: write_atomically(tmp_path / "a.txt", write), range(50)))  # noqa: B023
    assert (tmp_path / "a.txt").read_text() == "b" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_inside_a_lock_is_not_about_the_lock(tmp_path: Path) -> None:
    """Catches a translation that reaches too far."""
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lock"):
        (tmp_path / "missing").read_text()


def test_tensors_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """Whatever the file is called. Catches `torch.save` of a path, which writes its name into the file."""
    for name in ("a.pt", "b.pt"):
        write_tensors(tmp_path / name, {"weight": torch.arange(3)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["weight"], torch.arange(3))


def test_generated_files_are_in_the_repository_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """In folders that are ignored, apart from tuned values, which are kept."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    assert bank_folder() == REPOSITORY / "checkpoints" / "bank"
    assert cache_dir() == REPOSITORY / "data" / "cache"
    assert results_folder() == REPOSITORY / "results"
    assert generated_folder("UNLEARNING_TUNED") == REPOSITORY / "methods" / "tuned"
