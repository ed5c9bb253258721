"""Signals and what the operating system refuses: an end in order, a sentence, and nobody left."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints.server import SECONDS_TO_START
from checkpoints.standstill import descendants
from commands import interrupts, trouble
from tests.conftest import COMMAND, REPOSITORY, WARM, Answer, Process

TINY = ("--task", "digits", "--forget", "random:12", "--train-size", "60", "--test-size", "100")
LONG = ("-m", "my_method", *TINY, "--recipe", "epochs=2000", "--models", "6", "--originals", "1", "--workers", "2")


def start(*arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    """`python main.py ...` in a group of its own."""
    settings = {**os.environ, **environment}
    command = [sys.executable, "main.py", *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=settings, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: Process, seconds: float = 2 * SECONDS_TO_START) -> Answer:
    """Wait for its end; all of the group is killed if it hangs, which is an error.

    That of a server which ends while it is asked for a process may take `SECONDS_TO_START` until it is noticed.
    """
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Answer(process.wait(), stdout or "", stderr)


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    """Look every few milliseconds; an error if it does not happen."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


INTERRUPTIONS = {
    "three Ctrl-C": (signal.SIGINT, True, 3),
    "Ctrl-C for the main process alone": (signal.SIGINT, False, 1),
    "SIGTERM": (signal.SIGTERM, False, 1),
    "three SIGTERM for all": (signal.SIGTERM, True, 3),
    "a terminal that is closed": (signal.SIGHUP, True, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(closed: str, results: Path) -> None:
    """As a service may start it. Catches runs that need the streams of the command."""
    few = ("--recipe", "epochs=2", "--models", "6", "--originals", "1", "--workers", "1", "--budget-seconds", "60")
    line = shlex.join([sys.executable, "main.py", "-m", "my_method", *TINY, *few])
    done = subprocess.run(
        ["bash", "-c", f"{line} {closed}"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(list(results.glob("*/*/report.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "starting"])
@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_an_interruption_ends_all_in_order(how: str, when: str, results: Path, tmp_path: Path) -> None:
    """One sentence, exit code 130, no process that is left, what is finished is kept.

    Catches an end in order that the second signal breaks off, and signals that kill the main process alone.
    """
    number, everybody, times = INTERRUPTIONS[how]
    bank = tmp_path / "bank"
    process = WARM.start(COMMAND, LONG, REPOSITORY, {**os.environ, "UNLEARNING_BANK": str(bank)})
    wait_until(lambda: any(bank.glob("*/lock")))
    if when == "training":
        wait_until(lambda: len(descendants(process.pid)) >= 3)
        time.sleep(1.0)
    known = descendants(process.pid)
    for _ in range(times):
        with_all = os.killpg if everybody else os.kill
        with_all(process.pid, number)
        time.sleep(0.03)
    answer = finish(process)
    assert (answer.code, answer.stdout) == (interrupts.EXIT_CODE, ""), answer.stderr
    assert answer.stderr.endswith(interrupts.INTERRUPTED)
    assert answer.stderr.count("Interrupted.") == 1
    assert "Traceback" not in answer.stderr
    wait_until(lambda: not any(map(lives, known)), 20)


IN_ORDER = """
import os, signal, sys, time
from commands import interrupts
ignored, hangs = "ignored" in sys.argv, "hangs" in sys.argv
if ignored:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
interrupts.SECONDS_TO_END = 0.5
with interrupts.stopping_in_order():
    try:
        if ignored:
            os.kill(os.getpid(), signal.SIGHUP)
            print("goes on", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("goes on", flush=True)
    except KeyboardInterrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        print("in order", flush=True)
        if hangs:
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    ("case", "code", "said"), [("", 0, "in order\nTrue\n"), ("ignored", 0, "goes on\nin order\nTrue\n")]
)
def test_only_the_first_signal_interrupts(case: str, code: int, said: str) -> None:
    """Those that follow within seconds don't break off the end; what `nohup` ignores stays ignored."""
    command = [sys.executable, "-c", IN_ORDER, case]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, said), done.stderr


def test_a_signal_seconds_later_ends_at_once() -> None:
    """For an end in order that hangs."""
    command = [sys.executable, "-c", IN_ORDER, "hangs"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "in order\n", interrupts.INTERRUPTED)


# ----------------------------------------------------------------------------------------------------------------------
# Standard output
# ----------------------------------------------------------------------------------------------------------------------

PRINTING = [("list",), ("--help",), ("schema",), ("completion",), ("--version",)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_disk_for_the_output_is_a_sentence(arguments: tuple[str, ...]) -> None:
    """Catches a traceback, and Python's own message at its exit."""
    with Path("/dev/full").open("wb") as full:
        answer = finish(start(*arguments, stdout=full.fileno()))
    (line,) = answer.stderr.splitlines()
    assert answer.code == 2
    assert line.startswith(
        "error: A file, or the output, can't be written or read (No space left on device): make room"
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_output_that_nobody_reads_is_no_error(arguments: tuple[str, ...]) -> None:
    """As with `| head -1`: a silent end."""
    reads, writes = os.pipe()
    os.close(reads)
    answer = finish(start(*arguments, stdout=writes))
    os.close(writes)
    assert (answer.code, answer.stderr) == (1, "")


def test_without_any_output() -> None:
    """Closed by the shell (`>&-`): there is nothing to be flushed then."""
    command = [
        sys.executable,
        "-c",
        "import os, runpy, sys\nsys.stdout = None\nrunpy.run_path('main.py', {}, '__main__')",
    ]
    done = subprocess.run([*command, "--version"], cwd=REPOSITORY, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------------------------
# What the system refuses
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EROFS])
@pytest.mark.parametrize("name", [None, "/there/file"])
def test_what_the_machine_lacks_is_a_sentence(number: int, name: str | None) -> None:
    """Wherever the file is."""
    said = trouble.sentence(OSError(number, os.strerror(number), name))
    assert said is not None
    assert os.strerror(number) in said
    assert name is None or said.startswith(name)
    assert said.endswith(".")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES])
def test_files_of_ours_that_are_gone_are_a_sentence(number: int, results: Path) -> None:
    """Those in the folders of generated files; elsewhere it may be our bug, which keeps its traceback."""
    said = trouble.sentence(OSError(number, os.strerror(number), str(results / "some" / "file")))
    assert said is not None
    assert "removed or replaced meanwhile" in said
    assert trouble.sentence(OSError(number, os.strerror(number), "/elsewhere/file")) is None
    assert trouble.sentence(OSError(number, os.strerror(number))) is None
    assert trouble.sentence(OSError("something")) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t" * 40, "t" * 100])
def test_a_long_name_of_the_temporary_folder(name: str, results: Path, tmp_path: Path) -> None:
    """Sockets can't have names of more than 107 bytes. Catches "AF_UNIX path too long"."""
    folder = tmp_path / name / ("u" * 60)
    folder.mkdir(parents=True)
    few = ("--models", "6", "--originals", "1", "--workers", "1", "--budget-seconds", "60")
    answer = finish(start("-m", "my_method", *TINY, "--recipe", "epochs=5", *few, TMPDIR=str(folder)), 300)
    assert answer.code == 0, answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("most", [9, 16, 20])
def test_too_few_files_are_a_sentence(most: int, results: Path) -> None:
    """Before anything is started. Catches the traceback of the server that workers are forked from."""
    done = with_few_files(most, most, *LONG)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: Only {most} files may be open at once")
    assert "ulimit -n 1024" in line


@pytest.mark.slow
@pytest.mark.parametrize(("soft", "hard"), [(64, 64), (16, 64)])
def test_few_files_are_enough(soft: int, hard: int, results: Path) -> None:
    """The system's limit, if that can be raised."""
    few = ("--recipe", "epochs=5", "--budget-seconds", "60", "--json", "-q")
    done = with_few_files(soft, hard, *LONG, *few)
    assert done.returncode == 0, done.stderr


def with_few_files(soft: int, hard: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python main.py ...` that may open only so many."""
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


def _fails_while_cleaning_up() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        Path("/nowhere/at/all").unlink()


def test_ctrl_c_may_come_in_another_disguise() -> None:
    """An error of whoever cleaned up after it, as Optuna's lock of its journal does. Catches "it can't be written"."""
    with pytest.raises(FileNotFoundError) as caught:
        _fails_while_cleaning_up()
    assert interrupts.lies_behind(caught.value)
    assert not interrupts.lies_behind(OSError("of its own"))
