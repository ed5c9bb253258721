"""Execute a notebook's cells quickly: in a process forked from this one, which has imported PyTorch already.

A real kernel takes some five seconds to start, mostly for imports; with one for each of some fifty methods the contract
test would take minutes. A forked process is as fresh in what matters here: it has a namespace of its own, can't import
the kit, and nothing that it changes comes back. That real kernels do the same is tested with a few methods
(`test_execution.py`).

To be quick, the network is a small one: the cells get it in place of torchvision's ResNet-18.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from checkpoints.networks import NETWORKS

KIT = ("data", "checkpoints", "evaluation", "methods", "notebooks", "notebook_utils", "main", "tests")


def execute_light(notebook: Path, input_folder: Path, scratch: Path, checkpoints: int, network: str) -> Path:
    """The `submission.zip` that the cells leave; an `AssertionError` with the traceback if one raises."""
    failure = scratch / "failure.txt"
    arguments = (notebook, input_folder, scratch, checkpoints, network, failure)
    process = multiprocessing.get_context("fork").Process(target=_execute, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, failure.read_text() if failure.exists() else f"exit code {process.exitcode}"
    return scratch / "submission.zip"


def code_cells(notebook: Path) -> list[str]:
    """The code of a notebook's cells."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _execute(notebook: Path, input_folder: Path, scratch: Path, checkpoints: int, network: str, failure: Path) -> None:
    os.environ |= {
        "UNLEARNING_INPUT": str(input_folder),
        "UNLEARNING_OUTPUT": str(scratch),
        "UNLEARNING_TMP": str(scratch / "tmp"),
        "UNLEARNING_CHECKPOINTS": str(checkpoints),
    }
    os.chdir(scratch)

    def small(weights: None, num_classes: int) -> nn.Module:
        return NETWORKS[network](3, 32, num_classes)

    torchvision.models.resnet18 = small
    torch.cuda.is_available = lambda: False  # a forked process can't use a GPU
    module: Any = types.ModuleType("__main__")
    for name in [name for name in sys.modules if name.split(".")[0] in KIT]:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
    sys.modules["__main__"] = module
    try:
        for number, code in enumerate(code_cells(notebook), start=1):
            exec(compile(code, f"<cell {number}>", "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        failure.write_text(traceback.format_exc())
        raise
