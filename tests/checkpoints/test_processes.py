"""The pool of processes: however one of them vanishes, it is noticed, and costs no other job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from checkpoints import messages, one_process, processes, standstill
from checkpoints.processes import JobPool, NoWorkersError, WorkerLostError
from checkpoints.server import kill_server
from checkpoints.workers import Workers

SECONDS = 60
"""For whatever should happen at once."""


@pytest.fixture
def pool() -> Iterator[Workers]:
    """Two processes."""
    with Workers(2) as workers:
        yield workers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands still for seconds is killed."""
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_WATCHES", 0.5)
    monkeypatch.setattr(standstill, "STANDSTILL_SECONDS", 3.0)
    monkeypatch.setattr(standstill, "STOPPED_SECONDS", 2.0)


# ----------------------------------------------------------------------------------------------------------------------
# What the processes do
# ----------------------------------------------------------------------------------------------------------------------


def whose(number: int) -> tuple[int, int]:
    """The number, and the process that was asked."""
    return number, os.getpid()


def whose_slowly(number: int) -> tuple[int, int]:
    """The same, so that another process is asked meanwhile."""
    time.sleep(0.5)
    return whose(number)


def be_killed(number: int) -> None:
    """As if from outside."""
    os.kill(os.getpid(), number)
    time.sleep(SECONDS)


def end_quietly(code: int) -> None:
    """Without a word, and with success."""
    os._exit(code)


def leave(number: int) -> tuple[int, int]:
    """In order: the answer is the last. Number 3 raises instead."""
    messages.leave_after_this_job()
    if number == 3:
        raise ValueError("the last word")
    return whose(number)


def send_half(then: Callable[..., None], *arguments: Any) -> None:
    """The first half of an answer, and then something else."""
    assert messages._to_main is not None
    messages._to_main.sendall(messages.framed(bytes(1000))[:500])
    then(*arguments)


def send_nonsense() -> None:
    """An answer that is no pickle."""
    assert messages._to_main is not None
    messages._to_main.sendall(messages.framed(b"nonsense"))
    time.sleep(SECONDS)


def close_everything() -> None:
    """As a method that wants to be a daemon."""
    os.closerange(3, 1000)
    time.sleep(SECONDS)


def compute(seconds: float) -> str:
    """With all of a processor."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return "done"


def have_computed(seconds: float) -> str:
    """By a child, for which it only waits."""
    subprocess.run([sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"], check=True)
    return "done"


def start_child(file: Path) -> None:
    """A child that would go on for long, whose number the file gets."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    file.write_text(str(child.pid))
    time.sleep(SECONDS)


def progress_and(then: Callable[..., None], *arguments: Any) -> None:
    """Tell of some progress, then go on."""
    messages.tell_progress(2.0)
    then(*arguments)


class OddError(Exception):
    """One that can be pickled, and not made again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"odd {one} {other}")


def raise_odd() -> None:
    """See `OddError`."""
    raise OddError(1, 2)


def a_function() -> Any:
    """What can't be pickled."""
    return lambda: None


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(happened: Callable[[], bool]) -> None:
    """Look again and again; an error if it does not happen."""
    limit = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


# ----------------------------------------------------------------------------------------------------------------------
# Losses
# ----------------------------------------------------------------------------------------------------------------------

LOSSES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {
    "exit code 0": (end_quietly, (0,), 0),
    "exit code 1": (end_quietly, (1,), 1),
    "SIGKILL": (be_killed, (signal.SIGKILL,), -signal.SIGKILL),
    "SIGTERM": (be_killed, (signal.SIGTERM,), -signal.SIGTERM),
    "SIGSEGV": (be_killed, (signal.SIGSEGV,), -signal.SIGSEGV),
    "exit code 0 after half an answer": (send_half, (end_quietly, 0), 0),
    "killed after half an answer": (send_half, (be_killed, signal.SIGKILL), -signal.SIGKILL),
    "nonsense": (send_nonsense, (), -signal.SIGKILL),
    "closed files": (close_everything, (), -signal.SIGKILL),
}


@pytest.mark.slow
def test_who_leaves_has_answered_before(pool: Workers) -> None:
    """Each job has a process of its own then, and none is lost. Catches a job that is given to one that leaves."""
    futures = [pool.submit(leave, number) for number in range(8)]
    with pytest.raises(ValueError, match="the last word"):
        futures.pop(3).result(SECONDS)
    answers = [future.result(SECONDS) for future in futures]
    assert [number for number, _ in answers] == [0, 1, 2, 4, 5, 6, 7]
    assert len({process for _, process in answers}) == len(answers)
    assert pool.submit(whose, 8).result(SECONDS)[0] == 8


@pytest.mark.parametrize("loss", LOSSES)
def test_a_process_that_vanishes_is_noticed(loss: str, pool: Workers) -> None:
    """At once, whatever its exit code, and the jobs before, beside and after it are done.

    Catches a pool that takes exit code 0 for nothing, and one whose processes share a lock or a pipe.
    """
    job, arguments, exitcode = LOSSES[loss]
    before = [pool.submit(whose, number) for number in range(4)]
    lost = pool.submit(job, *arguments)
    after = [pool.submit(whose, number) for number in range(4, 8)]
    with pytest.raises(WorkerLostError, match="What is finished is saved") as caught:
        lost.result(SECONDS)
    assert caught.value.exitcode == exitcode
    assert [future.result(SECONDS)[0] for future in before + after] == list(range(8))


@pytest.mark.slow
def test_many_losses_one_after_another(pool: Workers) -> None:
    """Every other job kills its process. Catches a pool that gives up, or that loses a neighbour's answer."""
    futures = [pool.submit(whose, number) if number % 2 else pool.submit(end_quietly, 0) for number in range(24)]
    wait(futures, SECONDS)
    assert [future.result()[0] for future in futures[1::2]] == list(range(1, 24, 2))
    assert all(isinstance(future.exception(), WorkerLostError) for future in futures[::2])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_idle_process_may_be_killed(pool: Workers) -> None:
    """It has no job that could be lost. Catches a pool that is broken by it."""
    for _ in range(3):
        _, pid = pool.submit(whose, 0).result(SECONDS)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
        assert pool.submit(whose, 1).result(SECONDS)[0] == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")
def test_the_server_may_be_killed(pool: Workers) -> None:
    """What is being done goes on, and the processes that are started later are those of a new server."""
    assert pool.submit(whose, 0).result(SECONDS)[0] == 0
    going_on = pool.submit(compute, 1.0)
    kill_server()
    assert going_on.result(SECONDS) == "done"
    with pytest.raises(WorkerLostError):
        pool.submit(end_quietly, 0).result(SECONDS)
    assert [pool.submit(whose, number).result(SECONDS)[0] for number in range(4)] == list(range(4))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")
@pytest.mark.slow
def test_a_server_that_is_stopped_is_replaced(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer any more. Catches a main process that waits for it."""
    assert pool.submit(whose, 0).result(SECONDS)[0] == 0
    server = getattr(forkserver._forkserver, "_forkserver_pid")  # noqa: B009  # it is not typed
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(one_process, "SECONDS_TO_START", 30.0)  # a new one imports PyTorch first
    with pytest.raises(WorkerLostError):
        pool.submit(end_quietly, 0).result(SECONDS)
    with pytest.raises(WorkerLostError):
        pool.submit(end_quietly, 0).result(SECONDS)
    assert pool.submit(whose, 1).result(90)[0] == 1
    assert not lives(server)


def test_progress_of_what_is_lost_does_not_count(pool: Workers) -> None:
    """It is done, and told, again. Catches a bar that goes beyond its end."""
    pool.submit(progress_and, int).result(SECONDS)
    assert pool.progress == 2.0
    with pytest.raises(WorkerLostError):
        pool.submit(progress_and, end_quietly, 0).result(SECONDS)
    assert pool.progress == 2.0


# ----------------------------------------------------------------------------------------------------------------------
# Standing still
# ----------------------------------------------------------------------------------------------------------------------

STILL: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "stopped": (be_killed, (signal.SIGSTOP,)),
    "stopped after half an answer": (send_half, (be_killed, signal.SIGSTOP)),
    "asleep": (time.sleep, (SECONDS,)),
    "waiting for a child that sleeps": (subprocess.run, (["sleep", "1000"],)),
}


@pytest.mark.slow
@pytest.mark.parametrize("standstill", STILL)
@pytest.mark.usefixtures("impatient")
def test_a_process_that_stands_still_is_killed(standstill: str, pool: Workers) -> None:
    """With the time that it stood still in the message; meanwhile the other process does its jobs."""
    job, arguments = STILL[standstill]
    lost = pool.submit(job, *arguments)
    assert [pool.submit(whose, number).result(SECONDS)[0] for number in range(3)] == [0, 1, 2]
    with pytest.raises(WorkerLostError, match=r"did nothing for \d+ seconds, and was killed"):
        lost.result(SECONDS)
    assert pool.submit(whose, 3).result(SECONDS)[0] == 3


@pytest.mark.parametrize("work", [compute, have_computed])
@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_whoever_computes_may_take_as_long_as_it_takes(work: Callable[[float], str], pool: Workers) -> None:
    """Longer than one may stand still. Catches a limit on the time of a job, whose length nobody knows."""
    assert pool.submit(work, 5.0).result(SECONDS) == "done"


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_nobody_is_killed_for_having_nothing_to_do(pool: Workers) -> None:
    """Between two jobs, minutes may pass. Catches a watch that looks at idle processes."""
    _, before = pool.submit(whose, 0).result(SECONDS)
    time.sleep(4.5)
    both = [pool.submit(whose_slowly, 0) for _ in range(2)]
    assert before in {future.result(SECONDS)[1] for future in both}


# ----------------------------------------------------------------------------------------------------------------------
# Answers and ends
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("job", "said"), [(raise_odd, "OddError: odd 1 2"), (a_function, "pickle")])
def test_what_cannot_be_sent_is_an_error(job: Callable[[], Any], said: str, pool: Workers) -> None:
    """Of its job, whose process goes on."""
    error = pool.submit(job).exception(SECONDS)
    assert said in str(error)
    assert not isinstance(error, WorkerLostError)


def test_what_a_job_raises_has_its_traceback(pool: Workers) -> None:
    """That of the process, as the cause."""
    error = pool.submit(int, "many").exception(SECONDS)
    assert isinstance(error, ValueError)
    assert "Traceback" in str(error.__cause__)


def test_large_jobs_and_answers(pool: Workers) -> None:
    """Larger than any buffer of the system."""
    large = bytes(10_000_000)
    assert pool.submit(bytes, large).result(SECONDS) == large


@pytest.mark.slow
def test_processes_that_die_while_they_start_are_a_sentence() -> None:
    """Catches a pool that tries for ever, and jobs that wait for it."""
    broken = JobPool(2, ForkServerContext(), end_quietly, (1,))
    futures = [broken.submit(whose, (number,)) for number in range(3)]
    for future in futures:
        with pytest.raises(NoWorkersError, match="new ones can't be started"):
            future.result(SECONDS)
    with pytest.raises(NoWorkersError):
        broken.submit(whose, (0,))
    broken.stop()


def test_a_job_that_is_cancelled_ends(pool: Workers) -> None:
    """Others get its process. Catches a run that goes on for long after its grading has failed."""
    endless = [pool.submit(compute, 1000.0) for _ in range(2)]
    waiting = pool.submit(whose, 0)
    for future in endless:
        assert future.cancel()
    assert waiting.result(SECONDS)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", ["stopped", "cancelled"])
def test_nobody_is_left(end: str, tmp_path: Path) -> None:
    """Neither a process nor what it has started, in a session of its own too."""
    with Workers(1) as workers:
        _, pid = workers.submit(whose, 0).result(SECONDS)
        endless = workers.submit(start_child, tmp_path / "child")
        wait_until(lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text() != "")
        child = int((tmp_path / "child").read_text())
        assert lives(pid)
        assert lives(child)
        if end == "cancelled":
            endless.cancel()
            assert workers.submit(whose, 0).result(SECONDS)[1] != pid
    wait_until(lambda: not lives(pid) and not lives(child))
