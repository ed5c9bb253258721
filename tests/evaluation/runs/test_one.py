"""What a run leaves of the process that it was in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkpoints.networks import build_network
from data import TaskSpec, load
from evaluation.runs import one
from evaluation.runs.one import unlearn_once
from evaluation.runs.settings import RunSettings
from methods.BaseMethod import BaseMethod


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_leaves_the_process_as_it_was(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, types and gradients, whether it fails or not: the same process trains models of the bank afterwards.

    Catches a reset that an exception jumps over, after which models would depend on what failed before.
    """

    class Careless(BaseMethod):
        def run(self, net: nn.Module, *loaders: Any) -> None:
            torch.set_num_threads(2)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            if fails:
                raise ZeroDivisionError

    monkeypatch.setattr(one, "all_method_handlers", lambda: {"careless": Careless})
    task = load(TaskSpec("digits", train_size=60))
    settings = RunSettings(task.spec, "cpu", "careless", {}, 0, tmp_path)
    try:
        unlearn_once(settings, task, build_network(task, 0).state_dict(), 1)
    except ZeroDivisionError:
        assert fails
    state = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    assert state == (1, torch.float32, True)
