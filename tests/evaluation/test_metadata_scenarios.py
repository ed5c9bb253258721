"""Scenarios of clinical unlearning, end to end: a class, a share of it, a device, a diagnosis, a year.

The folder is made of scikit-learn's digits; the class stands for a diagnosis, and `metadata.csv` says which device took
an image and when.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from data import TaskSpec, load
from evaluation.metrics import METRICS
from evaluation.report import Report

if TYPE_CHECKING:
    from tests.conftest import Kit

DIAGNOSES = ("glaucoma", "healthy", "retinopathy", "uveitis")
"""The classes, in the order of their labels: those of digits 0 to 3."""
DEVICES = ("Spectralis", "Cirrus 800 FA", "")
"""The last one is unknown."""

SCENARIOS: dict[str, Any] = {
    "class:uveitis": lambda row: row["class"] == "uveitis",
    "class:3": lambda row: row["class"] == "uveitis",
    'where:device == "Spectralis" and year <= 2016': lambda row: row["device"] == "Spectralis" and row["year"] <= 2016,
    'where:diagnosis == "retinopathy"': lambda row: row["diagnosis"] == "retinopathy",
    'where:device != "Spectralis" and not (eye == "OD" or year > 2015)': lambda row: (
        row["device"] != "Spectralis" and row["eye"] == "OS" and row["year"] <= 2015
    ),
    'where:class_name == "healthy" and device == "Cirrus 800 FA"': lambda row: (
        row["class"] == "healthy" and row["device"] == "Cirrus 800 FA"
    ),
    "group:year:1": lambda row: row["year"] == 2014,
    "where:`Cirrus-800-FA` == 1 and `2015` == 0": lambda row: row["device"] == "Cirrus 800 FA" and row["year"] != 2015,
}
"""What is asked for, and which rows of the table that is."""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train/<diagnosis>/*.png`, 60 of each, `test/<diagnosis>/*.png`, 20 of each, and `metadata.csv`, shuffled.

    A diagnosis in the table is now and then another than the folder's: a second opinion. The last two columns are 0 or
    1, as in the table of the paper's authors, with names that are no words.
    """
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("clinic")
    digits = load_digits()
    random = np.random.RandomState(0)
    rows = []
    for number, diagnosis in enumerate(DIAGNOSES):
        images = digits.images[digits.target == number][:80]
        for i, pixels in enumerate(images):
            path = f"{'train' if i < 60 else 'test'}/{diagnosis}/{i:03d}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / path)
            opinion = diagnosis if random.rand() < 0.9 else random.choice(DIAGNOSES)
            year, eye = random.randint(2014, 2019), random.choice(("OS", "OD"))
            device = random.choice(DEVICES)
            rows.append([path, device, opinion, year, eye, int(device == "Cirrus 800 FA"), int(year == 2015)])
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "device", "diagnosis", "year", "eye", "Cirrus-800-FA", "2015"])
        writer.writerows(rows[i] for i in random.permutation(len(rows)))
    return folder


def table(clinic: Path) -> dict[str, dict[str, Any]]:
    """The rows of `metadata.csv` by path, read without the kit."""
    with (clinic / "metadata.csv").open() as file:
        rows = {row["path"]: dict(row) for row in csv.DictReader(file)}
    return {path: {**row, "year": int(row["year"]), "class": path.split("/")[1]} for path, row in rows.items()}


@pytest.mark.parametrize("request_text", SCENARIOS)
def test_what_is_forgotten_is_what_the_table_says(clinic: Path, request_text: str) -> None:
    """Exactly the training images whose rows fit. Catches rows in the order of the file, and gaps taken for names."""
    task = load(TaskSpec("folder", (request_text,), data_dir=str(clinic)), progress=False)
    rows = table(clinic)
    expected = [i for i, path in enumerate(task.train.image_ids) if SCENARIOS[request_text](rows[path])]
    assert task.request_indices.tolist() == expected
    assert 0 < len(expected) < len(task.train)


def test_a_share_of_a_class(clinic: Path) -> None:
    """Half of the training images of one diagnosis, and none of another."""
    task = load(TaskSpec("folder", ("class:3:0.5",), data_dir=str(clinic)), progress=False)
    members = np.flatnonzero(task.train.labels.numpy() == 3)
    assert len(task.request_indices) == round(len(members) / 2)
    assert set(task.request_indices) < set(members)


@pytest.mark.slow
def test_a_device_of_some_years_is_unlearned(kit: Kit, clinic: Path, results: Path) -> None:
    """From the command line to the report: originals, retrained models, runs, score, and accuracies by class.

    In the report are the images that the table says, by index; metadata in the batches disturb no method.
    """
    request = 'where:device == "Spectralis" and year <= 2016'
    models = METRICS["official"].fewest_models
    flags = f"--network small_cnn --recipe epochs=8 --originals 1 --models {models} --workers 1 --json"
    command = ["-m", "perturbed_sign", "--task", "folder", "--data-dir", str(clinic), "--forget", request]
    answer = kit.run(*command, *flags.split(), "--budget", "10")
    assert answer.code == 0, answer.stderr
    report = Report.from_json(answer.stdout)
    assert report.grading.forget == [request]
    task = load(TaskSpec("folder", (request,), data_dir=str(clinic)), progress=False)
    rows = table(clinic)
    forgotten = [rows[task.train.image_ids[i]] for i in report.grading.forget_indices]
    assert len(forgotten) == report.grading.forget_examples > 10
    assert {row["device"] for row in forgotten} == {"Spectralis"}
    assert {row["year"] for row in forgotten} == {2014, 2015, 2016}
    assert report.unlearned.by_class is not None
    assert len(report.unlearned.by_class["test"]) == len(DIAGNOSES)
    assert report.retrained.test > 0.5, "the folder can be learned"
    (notes,) = results.glob("*/*/runs/original-000-run-0000.json")
    assert len(json.loads(notes.read_text())["history"]["forget_loss"]) == report.method.settings["epochs"]
