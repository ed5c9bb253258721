"""What the template does with folders, phases and numbers, and that it reads a folder as the task `kaggle` does."""

from __future__ import annotations

import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from checkpoints.workers import seed_everything
from data import TaskSpec, load
from data.loaders import loader_seed, run_loaders
from data.seeds import derive_seed
from notebooks.assembly import TEMPLATE
from tests.notebooks.light import code_cells, execute_light


def test_the_template_is_a_valid_notebook_without_outputs() -> None:
    """Kaggle takes no other; outputs in the repository would be noise."""
    notebook = nbformat.read(TEMPLATE, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")


def test_the_mock_phase_writes_an_empty_submission(tmp_path: Path) -> None:
    """With `empty.txt` there, no image is needed: that is how Kaggle executes a notebook when it is committed."""
    (tmp_path / "empty.txt").touch()
    submission = execute_light(TEMPLATE, tmp_path, tmp_path, 512, "small_cnn")
    with zipfile.ZipFile(submission) as archive:
        assert archive.namelist() == []


def test_no_accelerator_on_kaggle_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """512 runs on Kaggle's CPU would be stopped after hours, without a score."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(AssertionError, match="no accelerator: choose one under Settings"):
        execute_light(TEMPLATE, tmp_path, tmp_path, 512, "small_cnn")


def test_checkpoints_of_another_run_are_noticed(small_input: Path, tmp_path: Path) -> None:
    """The number is checked before anything is zipped."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "unlearned_checkpoint_7.pth").touch()
    with pytest.raises(AssertionError, match="has 2 checkpoints, instead of the 1"):
        execute_light(TEMPLATE, small_input, tmp_path, 1, "small_cnn")
    assert not (tmp_path / "submission.zip").exists()


@pytest.fixture
def shuffled_input(small_input: Path, tmp_path: Path) -> Path:
    """The same folder with the rows of its tables in another order."""
    folder = tmp_path / "shuffled"
    shutil.copytree(small_input, folder)
    for name in ("retain", "forget", "validation"):
        header, *rows = (folder / f"{name}.csv").read_text().splitlines()
        random.Random(0).shuffle(rows)
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def template_names(shuffled_input: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cells before the method define."""
    monkeypatch.setenv("UNLEARNING_INPUT", str(shuffled_input))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names: dict[str, Any] = {}
    for code in code_cells(TEMPLATE)[:3]:
        exec(code, names)
    return names


def test_the_folder_is_read_as_the_task_reads_it(shuffled_input: Path, template_names: dict[str, Any]) -> None:
    """Same order (that of the paths, not of the rows), pixels and types; batch for batch, and sample for sample."""
    task = load(TaskSpec("kaggle", data_dir=str(shuffled_input)))
    names = ("retain", "forget", "validation")
    for name, theirs in zip(names, run_loaders(task, seed=5), strict=True):
        dataset = template_names["HiddenDataset"](name)
        ours = template_names["make_loader"](dataset, name, 5)
        assert len(dataset) == len(theirs.dataset)
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() == other.keys() - {"in_forget_csv"}
            for key, value in one.items():
                assert (
                    torch.equal(value, other[key]) and value.dtype == other[key].dtype
                    if isinstance(value, torch.Tensor)
                    else value == other[key]
                ), key
        sample, expected = dataset[1], theirs.dataset[1]
        assert torch.equal(sample["image"], expected["image"])
        for key in ("image_id", "age_group", "age", "person_id"):
            assert sample[key] == expected[key]
            assert type(sample[key]) is type(expected[key])


def test_the_seeds_are_the_graders(template_names: dict[str, Any]) -> None:
    """The restated hash, and what follows from a seed: all three global generators."""
    for parts in [("run", 0, 0, 0), ("run", 0, 0, 511), ("loader", "retain", 3)]:
        assert template_names["derive_seed"](*parts) == derive_seed(*parts)
    assert derive_seed("loader", "retain", 3) == loader_seed(3, "retain")
    for run in range(8):  # some seeds are above 2^31 and 2^32, some are not
        draws = []
        for seed in (seed_everything, template_names["seed_everything"]):
            seed(derive_seed("run", 0, 0, run))
            draws.append((random.random(), np.random.rand(), torch.rand(2).tolist()))
        assert draws[0] == draws[1]


def test_each_run_gets_a_fresh_network_in_eval_mode(template_names: dict[str, Any]) -> None:
    """Whatever the run before left: mode, weights, default types, gradients switched off."""
    seen = []

    def unlearning(net: torch.nn.Module, *loaders: Any) -> None:
        weight = next(net.parameters())
        seen.append((net.training, weight.sum().item(), weight.dtype, torch.is_grad_enabled(), len(loaders)))
        net.train()
        weight.data.zero_()
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    exec(code_cells(TEMPLATE)[4].partition("def write_checkpoints")[0], template_names)
    template_names["unlearning"] = unlearning
    original = resnet18(weights=None, num_classes=10).state_dict()
    datasets = {name: template_names["HiddenDataset"](name) for name in ("retain", "forget", "validation")}
    try:
        states = [template_names["run_once"](run, original, datasets) for run in range(2)]
    finally:
        template_names["seed_everything"](0)
    assert seen[0] == seen[1] == (False, original["conv1.weight"].sum().item(), torch.float32, True, 3)
    assert all(state["conv1.weight"].count_nonzero() == 0 for state in states)
