"""The server that processes are forked from: forked from a command itself where that is safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")

PROGRAM = """
import _thread, contextlib, io, json, os, signal, sys, threading, time
from multiprocessing import forkserver
from pathlib import Path
from checkpoints import server

def tell(path):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)]
    facts = {
        "parent": os.getppid(),
        "handlers": [int(handler) if not callable(handler) else "a function" for handler in handlers],
        "files": [str(file.resolve()) for file in Path("/proc/self/fd").iterdir()],
        "compiler": "torch._dynamo" in sys.modules,
        "threads": threading.active_count(),
        "stream": type(sys.stdout).__name__,
    }
    forkserver.ensure_running()  # as any child process may: its lock has to be free
    Path(path).write_text(json.dumps(facts))

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    secret = open(sys.argv[2])
    if sys.argv[1] == "thread":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    if sys.argv[1] == "unknown thread":
        _thread.start_new_thread(lambda: time.sleep(1000), ())
        time.sleep(0.1)
    print("printed before", end="")
    with contextlib.redirect_stdout(io.StringIO()):
        server.start_server()
    pid = forkserver._forkserver._forkserver_pid
    process = server.fork_from_server(tell, sys.argv[3])
    process.join()
    forked = Path(f"/proc/{pid}/cmdline").read_text() == Path("/proc/self/cmdline").read_text()
    print(json.dumps({"exit": process.exitcode, "server": pid, "forked": forked}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "thread", "unknown thread"])
def test_it_is_as_a_new_program_is(how: str, tmp_path: Path) -> None:
    """No handler, no open file and no lock of the command is left in it. One that has threads is not forked.

    Catches workers that wait for a lock which was held when the server was forked, print what the command had not
    printed yet, or keep its files open.
    """
    secret, told, program = tmp_path / "secret.txt", tmp_path / "told.json", tmp_path / "program.py"
    secret.write_text("secret")
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), how, str(secret), str(told)]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert answer.stdout.count("printed before") == 1
    said = json.loads(answer.stdout.removeprefix("printed before"))
    facts = json.loads(told.read_text())
    assert (said["exit"], said["forked"]) == (0, how == "alone")
    assert facts["parent"] == said["server"]
    assert facts["handlers"] == [0, 0, 1, 1]  # by default, but that Ctrl-C is for the command, and what was ignored
    assert str(secret) not in facts["files"]
    assert facts["compiler"]
    assert facts["threads"] == 1
    assert facts["stream"] == "TextIOWrapper"


FROM_A_PIPE = """
import os
from checkpoints.workers import Workers
from evaluation.catalogue.lookup import facts_of

print(facts_of("my_method").name)
with Workers(1) as workers:
    print(workers.submit(os.getpid).result() != os.getpid())
"""


def test_a_program_may_come_from_a_pipe(tmp_path: Path) -> None:
    """`python -`, as scripts of shells have it: there is no file of it that processes could import anew."""
    answer = subprocess.run(
        [sys.executable, "-"],
        input=FROM_A_PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "UNLEARNING_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "my_method\nTrue\n"), answer.stderr
