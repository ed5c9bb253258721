"""`open_grading`: the very arrays that were scored, tables of them, and a sentence for whatever is gone or changed."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.pool import Pool
from checkpoints.workers import Workers
from data import TaskSpec, UserError, load
from data.arrays import read_sealed, write_sealed
from evaluation import epsilons, logit_scaled_confidence, open_grading
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.report import read_report
from evaluation.runs.resolve import resolve
from evaluation.sequence import grade_sequences
from evaluation.spec import GradingSpec
from evaluation.submission import grade_submission
from evaluation.views.opened import OpenedGrading

REPOSITORY = Path(__file__).parent.parent.parent.parent
QUIET = Console(quiet=True)
TASK = TaskSpec("digits", forget=("random:12",), train_size=60, test_size=60, recipe=(("epochs", 2),))
SPEC = GradingSpec("my_method", TASK, (("learning_rate", "0.1"),), originals=2, models=6, budget_seconds=60.0)
K, N, FORGOTTEN, CLASSES = 2, 6, 12, 10


@pytest.fixture(scope="module")
def graded(workers: Workers) -> Path:
    """The folder of a grading with two originals."""
    list(grade_methods([SPEC], workers, QUIET))
    return resolve(SPEC, load(TASK), "cpu").folder


@pytest.fixture
def copy(graded: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(graded, tmp_path / "copy")


@pytest.fixture
def own_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bank, to be damaged."""
    bank = shutil.copytree(os.environ["UNLEARNING_BANK"], tmp_path / "bank")
    monkeypatch.setenv("UNLEARNING_BANK", str(bank))
    return bank


def scored_again(opened: OpenedGrading) -> np.ndarray:
    """Epsilons by the official metric of what was opened, `(pools, forget)`."""
    labels = opened.images["forget"].labels
    truth = logit_scaled_confidence(opened.retrained.forget, labels)
    return np.array([epsilons(logit_scaled_confidence(pool.forget, labels), truth) for pool in opened.unlearned])


# ----------------------------------------------------------------------------------------------------------------------
# What there is
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pools_are_those_that_were_scored(graded: Path) -> None:
    """The arrays give the report's epsilons bit for bit. Catches pools, labels or images in another order."""
    opened = open_grading(graded)
    assert opened.report == read_report(graded / "report.json")
    np.testing.assert_array_equal(scored_again(opened), opened.epsilons)
    np.testing.assert_array_equal(opened.epsilons, opened.report.scores.epsilons)
    task = load(TASK)
    assert [len(pool) for pool in opened.unlearned] == [N] * K
    assert (len(opened.retrained), len(opened.originals)) == (N, K)
    for outputs in (*opened.unlearned, opened.retrained, opened.originals):
        for part, images in opened.images.items():
            logits = getattr(outputs, part)
            assert (logits.dtype, logits.shape) == (np.float32, (len(outputs), len(images), CLASSES))
    np.testing.assert_array_equal(opened.retrained.test, Pool(task, "retrained").outputs(N).test)
    np.testing.assert_array_equal(opened.originals.test, Pool(task, "original").outputs(K).test)


def test_images_are_those_of_the_logits(graded: Path) -> None:
    """Accuracies by these labels are the report's; ids are those of the training images that the report names."""
    opened, task = open_grading(graded), load(TASK)
    assert set(opened.images) == {"forget", "retain", "validation", "test"}
    images = opened.images["forget"]
    assert images.indices is not None
    assert images.indices.tolist() == opened.report.grading.forget_indices
    assert images.image_ids.tolist() == task.train.image_ids[images.indices].tolist()
    assert set(images.image_ids).isdisjoint(opened.images["retain"].image_ids)
    assert len(opened.images["retain"]) == 60 - FORGOTTEN
    of_retained = opened.retrained.accuracy("retain", opened.images["retain"].labels)
    np.testing.assert_allclose(of_retained, opened.retrained.retain_accuracy)
    for part in ("forget", "validation", "test"):
        own = opened.images[part]
        assert opened.retrained.accuracy(part, own.labels).mean() == getattr(opened.report.retrained, part)
        assert len(set(own.image_ids)) == len(own.labels)


def test_tables(graded: Path) -> None:
    """A row for each image and pool, each model, each model and image; the means are those of the arrays."""
    opened = open_grading(graded)
    examples, models, confidences = opened.example_table(), opened.model_table(), opened.confidence_table()
    assert (len(examples), len(models), len(confidences)) == (K * FORGOTTEN, K + N + K * N, (K + N + K * N) * FORGOTTEN)

    second = examples[examples["original"] == 1]
    assert second["image_id"].tolist() == opened.images["forget"].image_ids.tolist()
    np.testing.assert_array_equal(second["epsilon"], opened.epsilons[1])
    mean = confidences.groupby(["kind", "original", "image_id"], sort=False)["confidence"].mean()
    np.testing.assert_allclose(second["unlearned"], mean["unlearned", 1])
    np.testing.assert_allclose(second["before"], mean["original", 1])
    np.testing.assert_allclose(second["retrained"], mean["retrained", -1])
    assert second["class"].tolist() == [opened.classes[label] for label in second["label"]]

    by_kind = models.groupby("kind")
    assert by_kind["test_accuracy"].mean()["unlearned"] == pytest.approx(opened.report.unlearned.test)
    assert by_kind["retain_accuracy"].mean()["retrained"] == pytest.approx(opened.report.retrained.retain)
    assert by_kind["seconds"].mean()["unlearned"] == pytest.approx(opened.report.cost.runs_seconds_mean)
    assert models[models["kind"] != "unlearned"][["seconds", "peak_memory_bytes", "drift"]].isna().all(axis=None)
    runs = models[models["kind"] == "unlearned"]
    assert list(zip(runs["original"], runs["model"], strict=True)) == SPEC.runs()


def test_other_parts_have_tables_too(graded: Path) -> None:
    """Without what only the forget set has; another part is a sentence."""
    opened = open_grading(graded)
    for part, images in opened.images.items():
        table = opened.example_table(part)
        assert len(table) == K * len(images)
        assert ("epsilon" in table) == ("request" in table) == (part == "forget")
        assert ("index" in table) == (part in ("forget", "retain"))
    with pytest.raises(UserError, match="There is no part 'tests': did you mean test"):
        opened.confidence_table("tests")


def test_metadata_take_no_other_column(graded: Path) -> None:
    """Columns of the task's metadata follow; one that is called like another is told apart from it."""
    opened = open_grading(graded)
    camera = np.array(["a", "b"] * (FORGOTTEN // 2))
    images = replace(opened.images["forget"], metadata={"camera": camera, "epsilon": np.arange(FORGOTTEN)})
    table = replace(opened, images={**opened.images, "forget": images}).example_table()
    assert table["camera"].tolist() == [*camera, *camera]
    assert table["metadata.epsilon"].tolist() == [*range(FORGOTTEN), *range(FORGOTTEN)]
    np.testing.assert_array_equal(table["epsilon"], opened.epsilons.reshape(-1))


def test_infinite_epsilons_are_infinite(copy: Path) -> None:
    """JSON has null in their place. Catches NaN, and an array of objects."""
    report = read_report(copy / "report.json")
    assert report is not None
    rows = [[None, *row[1:]] for row in report.scores.epsilons]
    replace(report, scores=replace(report.scores, epsilons=rows)).save(copy)
    opened = open_grading(copy)
    assert opened.epsilons.dtype == np.float64
    assert np.isinf(opened.example_table()["epsilon"]).sum() == K


def test_how_a_grading_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder or a file in it, as a text or a path, relative or in the home folder."""
    whole = open_grading(copy).report
    monkeypatch.chdir(copy.parent)
    monkeypatch.setenv("HOME", str(copy.parent))
    for path in (str(copy), "copy", "copy/", Path("copy/report.json"), "~/copy", "copy/outputs.npz"):
        assert open_grading(path).report == whole


def test_a_report_by_another_metric(copy: Path) -> None:
    """The one that was named; of a folder, that of the grading's own metric. One that the kit lacks is a sentence."""
    change_report(copy, metric="notebook")
    opened, other = open_grading(copy), open_grading(copy / "report-notebook.json")
    assert (opened.report.grading.metric, other.report.grading.metric) == ("official", "notebook")
    assert opened.confidence_table()["confidence"].min() < 0 <= other.confidence_table()["confidence"].min()
    change_report(copy, metric="ks")
    with pytest.raises(UserError, match="There is no metric 'ks': choose one of official"):
        open_grading(copy / "report-ks.json")
    (copy / "report.json").unlink()
    with pytest.raises(UserError, match=r"report\.json can't be read: python main\.py score"):
        open_grading(copy)


# ----------------------------------------------------------------------------------------------------------------------
# Other kinds of gradings
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sequence_of_requests(workers: Workers) -> None:
    """Each step has a folder of its own, with all that had to be forgotten by then."""
    spec = replace(SPEC, task=replace(TASK, forget=("class:3:4", "random:12")), originals=1)
    (sequence,) = grade_sequences([spec], workers, QUIET)
    stages = [replace(spec.task, step=0), replace(spec.task, step=1), replace(spec.task, at_once=True)]
    counts = []
    for stage, report in zip(stages, [*sequence.steps, sequence.at_once], strict=True):  # type: ignore[union-attr]
        folders = (Path(os.environ["UNLEARNING_RESULTS"]) / f"digits-{load(stage).fingerprint}").glob("my_method-*")
        (folder,) = [one for one in folders if read_report(one / "report.json") == report]
        opened = open_grading(folder)
        np.testing.assert_array_equal(scored_again(opened), report.scores.epsilons)
        counts.append(opened.example_table()["request"].value_counts().to_dict())
    assert counts == [{0: 4}, {0: 4, 1: 12}, {0: 16}]


@pytest.mark.slow
def test_the_full_protocol(workers: Workers) -> None:
    """One pool, of a run from each original; what was there before are all originals."""
    spec = replace(SPEC, protocol="full")
    list(grade_methods([spec], workers, QUIET))
    opened = open_grading(resolve(spec, load(TASK), "cpu").folder)
    assert ([len(pool) for pool in opened.unlearned], len(opened.originals)) == ([N], N)
    np.testing.assert_array_equal(scored_again(opened), opened.epsilons)
    models, examples = opened.model_table(), opened.example_table()
    assert models[models["kind"] == "unlearned"]["original"].tolist() == list(range(N))
    originals = opened.confidence_table().query("kind == 'original'")
    before = originals.groupby("image_id", sort=False)["confidence"].mean()
    np.testing.assert_allclose(examples["before"], before)


@pytest.mark.slow
def test_a_zip(workers: Workers, graded: Path, tmp_path: Path) -> None:
    """What its checkpoints gave; what they cost is not known."""
    pool = Pool(load(TASK), "retrained")
    with zipfile.ZipFile(tmp_path / "submission.zip", "w") as archive:
        for number in range(N):
            file = io.BytesIO()
            torch.save(pool.state(number), file)
            archive.writestr(f"unlearned_checkpoint_{number}.pth", file.getvalue())
    spec = replace(SPEC, method="sent", settings=(), originals=1, submission=str(tmp_path / "submission.zip"))
    report = grade_submission(tmp_path / "submission.zip", spec, workers, QUIET)
    (folder,) = graded.parent.glob("sent-*")
    opened = open_grading(folder)
    assert opened.report == report
    np.testing.assert_allclose(opened.unlearned[0].forget, opened.retrained.forget, rtol=1e-4, atol=1e-5)
    assert opened.model_table()[["seconds", "peak_memory_bytes", "drift"]].isna().all(axis=None)


# ----------------------------------------------------------------------------------------------------------------------
# What is gone or changed
# ----------------------------------------------------------------------------------------------------------------------


def change_numbers(folder: Path) -> None:
    """With a right checksum, of a model less."""
    arrays = read_sealed(folder / "outputs.npz")
    write_sealed(folder / "outputs.npz", {name: array[1:] for name, array in arrays.items()})


def exchange(folder: Path) -> None:
    """With a right checksum, of runs that were never sure of the same image."""
    arrays = read_sealed(folder / "outputs.npz")
    write_sealed(folder / "outputs.npz", {**arrays, "forget": np.roll(arrays["forget"], 1, axis=2)})


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_seed(folder: Path) -> None:
    """In the config alone."""
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))


def change_report(folder: Path, **grading: object) -> None:
    """Other facts in the report."""
    report = read_report(folder / "report.json")
    assert report is not None
    replace(report, grading=replace(report.grading, **grading)).save(folder)  # type: ignore[arg-type]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda one: (one / "config.yaml").unlink(), r"is not the folder of a grading"),
    "no outputs": (lambda one: (one / "outputs.npz").unlink(), r"is not finished: python main\.py --config"),
    "no report": (lambda one: (one / "report.json").unlink(), r"is not finished: python main\.py --config"),
    "not a report": (
        lambda one: (one / "report.json").write_text("{}"),
        r"not a report that can be read: python main\.py",
    ),
    "a bit of the outputs": (lambda one: flip(one / "outputs.npz"), r"outputs\.npz is damaged.*makes it again"),
    "empty outputs": (lambda one: (one / "outputs.npz").write_bytes(b""), r"outputs\.npz is damaged.*makes it again"),
    "a run less": (change_numbers, r"outputs\.npz does not fit its config\.yaml"),
    "other outputs": (exchange, r"is not about the outputs\.npz beside it.*: python main\.py score"),
    "another config": (other_seed, r"a report of another grading than its config\.yaml: python main\.py --config"),
    "another report": (lambda one: change_report(one, seed=1), r"a report of another grading"),
    "another bank": (lambda one: change_report(one, bank_fingerprint="x"), r"other models than the bank has: python"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder_is_refused(what: str, copy: Path) -> None:
    """One sentence that says what to do. Catches pools that the report is not about."""
    damage, message = DAMAGES[what]
    open_grading(copy)
    damage(copy)
    with pytest.raises(UserError, match=message) as refused:
        open_grading(copy)
    assert "\n" not in str(refused.value)


def outputs_in(bank: Path, kind: str) -> Path:
    """The first outputs of a pool."""
    path = Pool(load(TASK), kind).outputs_path(0)
    assert path.is_relative_to(bank)
    return path


@pytest.mark.parametrize("kind", ["original", "retrained"])
def test_a_bank_that_is_gone_or_changed_is_refused(kind: str, graded: Path, own_bank: Path) -> None:
    """What makes it again is said. Catches outputs that are believed as they are."""
    open_grading(graded)
    path = outputs_in(own_bank, kind)
    flip(path)
    with pytest.raises(UserError, match="is not what the bank has recorded: grade again"):
        open_grading(graded)
    path.unlink()
    with pytest.raises(UserError, match=r"models it was compared with are gone: python main\.py --config"):
        open_grading(graded)
    shutil.rmtree(own_bank)
    with pytest.raises(UserError, match=r"models it was compared with are gone: python main\.py --config"):
        open_grading(graded)


def test_a_folder_of_gradings_is_not_one(graded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is in it is named; and where was looked for a path that leads nowhere."""
    for folder in (graded.parent, graded.parent.parent):
        with pytest.raises(UserError, match=r"name one that is in it, like .*/\w+-\w+/\w+-\w+\.$"):
            open_grading(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"There is no results/x in {re.escape(str(tmp_path))}: name the folder"):
        open_grading("results/x")
    with pytest.raises(UserError, match="it has no config"):
        open_grading(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="it has no config"):
        open_grading(tmp_path / "report.json")


# ----------------------------------------------------------------------------------------------------------------------
# How it is found
# ----------------------------------------------------------------------------------------------------------------------


def test_importing_evaluation_is_quick() -> None:
    """The reader takes PyTorch, and `import evaluation` does not. Catches an import at the top."""
    code = "import sys, evaluation; print([name for name in ('torch', 'pandas', 'checkpoints') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_the_example_of_the_page(graded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/your-data.md: it prints the largest epsilons, and draws a picture. Catches a page that ages."""
    page = (REPOSITORY / "docs" / "your-data.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "open_grading" in block)  # the others are of networks
    code, named = re.subn(r'open_grading\(".*"\)', f"open_grading({str(graded)!r})", code)
    assert named == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    opened = open_grading(graded)
    worst = opened.images["forget"].image_ids[opened.epsilons[0].argmax()]
    assert worst in printed.getvalue()
    assert re.search(r"digits-\d+ is known to -?\d+% more of the unlearned models", printed.getvalue())
    assert (tmp_path / "worst.png").stat().st_size > 1000
