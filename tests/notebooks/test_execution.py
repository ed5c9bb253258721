"""Notebooks in real kernels: what runs, what fails and how that looks, and what a kernel can't reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from methods import all_method_handlers
from notebook_utils import execute, export, submit
from notebooks import assembly
from notebooks.execution import CellFailedError, Execution, execute_notebook
from notebooks.offline_kernel import refuse_network


def write_notebook(folder: Path, *cells: str) -> Path:
    """A notebook of these code cells under the heading "The method"."""
    heading = {"cell_type": "markdown", "id": "heading", "metadata": {}, "source": "## The method\n\nText."}
    code: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"cell{i}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
        for i, cell in enumerate(cells)
    ]
    path = folder / "notebook.ipynb"
    path.write_text(json.dumps({"cells": [heading, *code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def run_cells(folder: Path, *cells: str) -> Execution:
    """Execute them, with a last cell that writes the submission."""
    return execute_notebook(write_notebook(folder, *cells, "open('submission.zip', 'w').close()"), folder, folder, 1)


@pytest.mark.parametrize(("method", "settings"), [("my_method", {"learning_rate": "0.01"}), ("retrain", {"epochs": 1})])
@pytest.mark.slow
def test_a_submission_in_a_real_kernel(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """From export to bit-for-bit comparison, with the competition's ResNet-18 and a value from --set."""
    submission = export(method, settings, owner="somebody", folder=tmp_path)
    report = execute(submission, checkpoints=2)
    assert report.seconds_per_checkpoint > 0
    assert any("512 checkpoints" in remark for remark in report.remarks)


@pytest.mark.slow
def test_a_notebook_that_is_not_the_graders_run_is_refused(tmp_path: Path) -> None:
    """A checkpoint that differs from the grader's is an error: here the notebook trains at another rate."""
    submission = export("my_method", folder=tmp_path)
    text = submission.notebook.read_text()
    assert text.count("learning_rate: float = 0.001") == 1
    submission.notebook.write_text(text.replace("learning_rate: float = 0.001", "learning_rate: float = 0.002"))
    with pytest.raises(UserError, match=r"Run 0 in the notebook is not the grader's: conv1\.weight differs"):
        execute(submission, checkpoints=1)


def test_a_failing_cell_is_shown_as_on_kaggle(tmp_path: Path) -> None:
    """Number, heading, line and traceback, without codes for colours, which no terminal reads here."""
    with pytest.raises(CellFailedError, match="ZeroDivisionError: division by zero") as caught:
        run_cells(tmp_path, "x = 0", "def go():\n    return 1 / x\n\ngo()")
    shown = caught.value.shown
    assert shown.startswith("In [2]  (The method)\n")
    assert "ZeroDivisionError" in shown
    assert "return 1 / x" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "leave", ["import argparse; argparse.ArgumentParser('idea').parse_args(['--rate', '3'])", "import os; os._exit(2)"]
)
def test_what_a_failed_cell_printed_is_shown(leave: str, tmp_path: Path) -> None:
    """Both streams: of a method that reads its arguments, the traceback says no more than `SystemExit: 2`."""
    cell = (
        "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\nimport time; time.sleep(0.2)"
    )
    with pytest.raises(CellFailedError) as caught:
        run_cells(tmp_path, f"{cell}\n{leave}")
    assert "out\n" in caught.value.shown
    assert "err" in caught.value.shown
    if "argparse" in leave:
        assert "idea: error: unrecognized arguments: --rate 3" in caught.value.shown
        assert "SystemExit: 2" in caught.value.shown


def test_a_kernel_has_nothing_of_this_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Kaggle there is no variable that a user has exported, or that the import of a method has set here; where
    libraries are, and how many threads they take, is the machine's."""
    monkeypatch.setenv("MY_IDEA_SCALE", "3")
    monkeypatch.setenv("UNLEARNING_BANK", "/bank")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cell = (
        "import os; print([os.environ.get(name) for name in ('MY_IDEA_SCALE', 'UNLEARNING_BANK', 'OMP_NUM_THREADS')])"
    )
    assert run_cells(tmp_path, cell).output == "[None, None, '1']\n"


def test_lines_and_signs_reach_the_kernel_as_they_are(tmp_path: Path) -> None:
    """Characters that some take for ends of lines, and what IPython takes for its own where a line begins with it."""
    lines = [
        f"TEXTS += ['a{sign}b', '''{sign}!c\n%d{sign}\n?''']  # {sign}e?\n"
        for sign in "\f\v\x1c\x1d\x1e\x85\u2028\u2029"
    ]
    code = f"TEXTS = []\n\f\n{''.join(lines)}"
    names: dict[str, Any] = {}
    exec(code, names)
    assert run_cells(tmp_path, f"{code}\nprint(ascii(TEXTS))").output == f"{names['TEXTS']!a}\n"


def test_a_dead_kernel_is_a_sentence(tmp_path: Path) -> None:
    """As when the system kills a process that takes too much memory."""
    with pytest.raises(UserError, match="kernel died"):
        run_cells(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_notebook_without_submission_is_refused(tmp_path: Path) -> None:
    """A notebook that writes elsewhere would be scored as empty."""
    with pytest.raises(UserError, match=r"no submission\.zip"):
        execute_notebook(write_notebook(tmp_path, "x = 1"), tmp_path, tmp_path, 1)


def test_a_kernel_reaches_neither_kit_nor_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the user's start-up files and PYTHONPATH; this machine itself can be reached, as DataLoader workers need."""
    monkeypatch.setenv("PYTHONPATH", str(Path(assembly.__file__).parent.parent))
    cell = """
import importlib.util, os, pathlib, socket, urllib.request
assert importlib.util.find_spec("methods") is None
assert importlib.util.find_spec("refusals") is None
assert pathlib.Path.cwd().name == "working"
for go in (
    lambda: urllib.request.urlopen("http://192.0.2.1/"),
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        go()
    except Exception as error:
        reason = getattr(error, "reason", error)
        assert isinstance(reason, PermissionError) and "internet" in str(reason), repr(error)
    else:
        raise AssertionError("the network was reached")
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print("all well")
"""
    assert run_cells(tmp_path, cell).output == "all well\n"


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("::1", 80, 0, 0), "/tmp/socket", ("localhost", 80), b"/tmp/x"])
def test_this_machine_is_not_the_internet(address: Any) -> None:
    """Loopback addresses and Unix sockets pass the hook."""
    refuse_network("socket.connect", (None, address))


@pytest.mark.parametrize(
    "address", [("8.8.8.8", 80), ("2001:db8::1", 80, 0, 0), ("127.example.org", 80), ("0.0.0.0", 1)]
)
def test_other_machines_are(address: Any) -> None:
    """Any other address is refused, by a sentence that says where it was headed."""
    with pytest.raises(PermissionError, match="no internet"):
        refuse_network("socket.connect", (None, address))


@pytest.mark.slow
def test_submit_prints_the_failed_cell_and_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `main.py -p test` shows of a method that fails: the cell on standard error, and one sentence."""
    monkeypatch.setattr(assembly, "submissions_folder", lambda: tmp_path)
    monkeypatch.setattr(
        assembly, "fill_template", lambda *_: {**json.loads(write_notebook(tmp_path, "1 / 0").read_text())}
    )
    assert "my_method" in all_method_handlers()
    with pytest.raises(CellFailedError, match="The notebook fails: ZeroDivisionError"):
        submit("my_method", checkpoints=1)
    assert "\nIn [1]  (The method)\n" in capsys.readouterr().err
