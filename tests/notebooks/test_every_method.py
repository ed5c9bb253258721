"""Every registered method's notebook is written, executed, and leaves the grader's bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data import TaskSpec, load
from methods import all_method_handlers
from notebook_utils import export, kaggle_settings
from notebooks.assembly import TEMPLATE
from notebooks.checks import check_equal, check_states, local_runs, read_states
from tests.notebooks.light import execute_light

NETWORK = "small_cnn"


def assert_matches(notebook: Path, method: str, folder: Path, scratch: Path) -> None:
    """Two checkpoints of the notebook equal those of the grader's runs of a method with its defaults, bit for bit."""
    states = read_states(execute_light(notebook, folder, scratch, 2, NETWORK), 2)
    spec = TaskSpec("kaggle", data_dir=str(folder), network=NETWORK)
    original = folder / "original_model.pth"
    runs = local_runs(method, kaggle_settings(method, {}), spec, original, 2, "cpu")
    check_equal(states, [run.weights for run in runs])
    # A method may find nothing to change on so little data, as long as the grader's run finds nothing, too.
    check_states(states, load(spec), torch.load(original, weights_only=True), expect_change=False)


@pytest.mark.parametrize("method", all_method_handlers())
@pytest.mark.usefixtures("described")
@pytest.mark.slow
def test_every_method_matches_the_grader_bit_for_bit(method: str, small_input: Path, tmp_path: Path) -> None:
    """Also: a fresh network takes the checkpoints, and the notebook shows every hyper-parameter with its value."""
    submission = export(method, folder=tmp_path)
    text = json.dumps(json.loads(submission.notebook.read_text())["cells"])
    for name in all_method_handlers()[method].hyper_parameters():
        assert f"{name}: " in text
        assert f"`{name} = " in text
    assert_matches(submission.notebook, method, small_input, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["my_method", "noisy_finetune"])
def test_the_whole_module_matches_too(method: str, small_input: Path, tmp_path: Path) -> None:
    """--whole-module sends more code, which does the same."""
    submission = export(method, folder=tmp_path, whole_module=True)
    assert_matches(submission.notebook, method, small_input, tmp_path)


def test_the_template_is_the_baseline(small_input: Path, tmp_path: Path) -> None:
    """The template as it is, without a method of ours, is `my_method`."""
    assert_matches(TEMPLATE, "my_method", small_input, tmp_path)
