"""The method of a notebook becomes a file of Python, or a sentence says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.competition.notebook import NotebookError, method_in
from notebooks.assembly import TEMPLATE

SIGNATURE = "def unlearning(net, retain_loader, forget_loader, val_loader):\n"
METHOD = f"{SIGNATURE}    net.eval()\n"


def notebook(path: Path, *cells: str) -> Path:
    """A notebook with these cells of code, and one of text."""
    parts = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "import nothing"}, *parts]}))
    return path


def test_the_notebook_of_the_kit() -> None:
    """What the kit exports: the function with its imports and constants; not what reads images and writes files."""
    source = method_in(TEMPLATE).decode()
    compile(source, "m.py", "exec")
    assert "def unlearning(net" in source
    assert "COMPUTE_DEVICE = " in source
    assert "class Submission(_BaseMethod)" in source
    for left_out in ("HiddenDataset", "write_checkpoints", "INPUT_FOLDER", "zipfile", "pandas"):
        assert left_out not in source


def test_what_is_taken(tmp_path: Path) -> None:
    """What is needed, directly or not, wherever it stands: the last of several functions, blocks, shell lines left."""
    path = notebook(
        tmp_path / "n.ipynb",
        "from __future__ import annotations\n%matplotlib inline\n!pip install x\nimport numpy as np\nimport math",
        "try:\n    import torch.nn.functional as F\nexcept ImportError:\n    F = None\nSTEPS, OTHER = 3, 4\nUNUSED = 1",
        "def helper(n):\n    return F, STEPS + n\nhelper(2)\nfor UNUSED_TOO in range(3):\n    print(UNUSED_TOO)",
        "def unlearning():\n    pass",
        f"{SIGNATURE}    local = np.zeros(3)\n    helper(local)",
    )
    source = method_in(path).decode()
    compile(source, "m.py", "exec")
    lines = source.splitlines()
    assert lines.index("from __future__ import annotations") < lines.index("import numpy as np")
    for taken in (
        "def helper(n):",
        "STEPS, OTHER = (3, 4)",
        "    import torch.nn.functional as F",
        "import numpy as np",
    ):
        assert taken in lines
    for left_out in ("UNUSED", "import math", "helper(2)", "pip", "matplotlib"):
        assert left_out not in lines
        assert f"{left_out} = 1" not in lines


def test_lines_are_those_of_python(tmp_path: Path) -> None:
    """Other separators of lines in texts and comments, and a text with a line that looks like one for IPython."""
    text = "a\x0cb\x1cc\u2028d"
    cell = f"TEXT = '{text}'  # x\x85y\nFORMAT = '''\n%d'''\n{SIGNATURE}    net.text = TEXT + FORMAT\n"
    source = method_in(notebook(tmp_path / "n.ipynb", "%matplotlib inline", cell)).decode()
    lines = source.split("\n")
    assert f"TEXT = {text!r}" in lines
    assert r"FORMAT = '\n%d'" in lines


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["x = 1"], "no cell has a function unlearning"),
        ([f"class A:\n    {METHOD}".replace("\n    net", "\n        net")], "no cell has a function unlearning"),
        (["unlearning = lambda *loaders: None"], "no cell has a function unlearning"),
        (["def unlearning(net):\n    pass"], "does not take net, retain_loader"),
        (["def unlearning(a, b, c, d, e):\n    pass"], "does not take"),
        ([METHOD, "a = ("], "code cell 2 is not Python"),
        ([METHOD, "x = '\0'"], "code cell 2 is not Python"),
        ([METHOD, "(" * 100_000], "nested too deeply|not Python|crashed"),
        ([METHOD, "-" * 1_000_000 + "1"], "nested too deeply|not Python|crashed"),
    ],
)
def test_what_is_refused(cells: list[str], said: str, tmp_path: Path) -> None:
    """With a sentence, also where Python's parser gives up."""
    with pytest.raises(NotebookError, match=said):
        method_in(notebook(tmp_path / "n.ipynb", *cells))


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"cells": 3}', '{"cells": [{}]}', "[" * 100_000, "\0", "NaN"])
def test_what_is_no_notebook(text: str, tmp_path: Path) -> None:
    """Other JSON, and what is none."""
    path = tmp_path / "n.ipynb"
    path.write_text(text)
    with pytest.raises(NotebookError, match="it is not a notebook"):
        method_in(path)
    path.write_bytes(b"\xff" + text.encode())
    with pytest.raises(NotebookError, match="not UTF-8"):
        method_in(path)
