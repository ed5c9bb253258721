"""The command line, as a user types it: what it prints, what it leaves, and how it refuses mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml

from checkpoints.networks import NETWORKS
from data import TaskSpec, all_tasks
from evaluation.audits import AUDITS
from evaluation.report import Report, read_report
from evaluation.spec import GradingSpec
from evaluation.tuned import tuned_path, write_tuned
from evaluation.views.leaderboard import WHY_NO_RANK
from methods import all_method_handlers
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Answer, Kit

TASK = ["--train-size", "60", "--recipe", "epochs=3", "--forget", "random:12"]
TINY = [*TASK, "--originals", "1", "--budget-seconds", "60"]
FEW, ENOUGH = ["--models", "6"], ["--models", "32"]
"""32 models are enough for a rank."""


# ----------------------------------------------------------------------------------------------------------------------
# The main job
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answer, Path]]:
    """What `python main.py -m my_method` said, and its folder; the other commands here see the same results."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_RESULTS", str(results))
        answer = kit.run("-m", "my_method", *TINY, *ENOUGH)
        folders = list(results.glob("digits-*/my_method-*"))
        assert len(folders) == 1, answer.stderr
        yield answer, folders[0]


def report_in(folder: Path) -> Report:
    """The report of a grading."""
    report = read_report(folder / "report.json")
    assert report is not None
    return report


def test_the_main_job(graded: tuple[Answer, Path]) -> None:
    """Exit code 0; a table of the method between doing nothing and retraining; its place, and where the results are."""
    answer, folder = graded
    report = report_in(folder)
    assert answer.code == 0, answer.stderr
    lines = answer.stdout.splitlines()
    for name, score in (
        ("my_method", report.scores.score.value),
        ("do nothing", report.scores.floor.score.value),
        ("retrained", report.scores.ceiling.score.value),
    ):
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{score:.4f}" in line
    assert any("of the ceiling" in line for line in lines)
    assert any(re.match(r"leaderboard +1st of 1 ", line) for line in lines)
    assert (
        "digits · small_cnn, 3 epochs · forget random:12 (12 of 60) · 1 original, 32 retrained · cpu, " in answer.stderr
    )
    assert "Only 12 images are to be forgotten" in answer.stderr
    assert "metric notebook" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_it_leaves(graded: tuple[Answer, Path]) -> None:
    """The report, the outputs of all runs, and a config that repeats it; no logs of methods that said nothing."""
    _, folder = graded
    report = report_in(folder)
    assert folder.parent.name == f"digits-{report.grading.task_fingerprint}"
    assert (report.method.name, report.grading.task, report.grading.models, report.grading.originals) == (
        "my_method",
        "digits",
        32,
        1,
    )
    scores = report.scores
    assert scores.score.low <= scores.score.value <= scores.score.high
    assert np.array(scores.epsilons).shape == (1, 12)
    assert scores.share_of_ceiling == pytest.approx(scores.score.value / scores.ceiling.score.value)
    with np.load(folder / "outputs.npz") as outputs:
        assert outputs["forget"].shape == (32, 12, 10)
        assert outputs["seconds"].shape == (32,)
    assert yaml.safe_load((folder / "config.yaml").read_text())["models"] == 32
    assert list((folder / "runs").iterdir()) == []


@pytest.mark.slow
def test_json_is_the_report_and_nothing_else(graded: tuple[Answer, Path], kit: Kit) -> None:
    """Standard output is one JSON object, equal to `report.json`; with --quiet nothing at all is on standard error."""
    _, folder = graded
    answer = kit.run("-m", "my_method", *TINY, *ENOUGH, "--json", "--quiet")
    assert answer.code == 0
    assert answer.stderr == ""
    assert json.loads(answer.stdout) == json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_a_config_repeats_the_grading(graded: tuple[Answer, Path]) -> None:
    """From the file alone: the same report, without a new run. And a flag beside it counts more than the file."""
    _, folder = graded
    before = report_in(folder)
    assert command("--config", str(folder / "config.yaml"), "--quiet").code == 0
    after = report_in(folder)
    assert after.provenance.created >= before.provenance.created
    assert (after.scores.epsilons, after.scores.score.interval) == (
        before.scores.epsilons,
        before.scores.score.interval,
    )
    assert after.cost.runs_seconds_mean == before.cost.runs_seconds_mean

    answer = command("--config", str(folder / "config.yaml"), "--quiet", "--json", *FEW, "--set", "epochs=2")
    changed = json.loads(answer.stdout)
    assert (changed["grading"]["models"], changed["method"]["settings"]["epochs"]) == (6, 2)
    assert changed["grading"]["task_fingerprint"] == before.grading.task_fingerprint
    assert changed["grading"]["seed"] == before.grading.seed


@pytest.mark.slow
def test_all_methods_and_no_ranks_for_few_models(graded: tuple[Answer, Path]) -> None:
    """`-m all` grades every registered method; below 32 models there is no rank, and the reason is said."""
    tiny = TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", "3"),))
    few_steps = {"settings": {"pretrain_steps": 10}, "trials": 1}
    write_tuned(tuned_path(tiny), "adversarial", few_steps)  # its 1,000 take half a minute
    answer = command("-m", "all", *TINY, *FEW)
    assert answer.code == 0, answer.stderr
    for name in all_method_handlers():
        assert re.search(rf"^{name} ", answer.stdout, re.MULTILINE)
        assert f"{name}: scoring 6 runs" in answer.stderr
    exempt = sum(handler.exempt_from_budget for handler in all_method_handlers().values())
    assert answer.stdout.count("no rank: a reference, not a method") == exempt
    assert (
        answer.stdout.count(f"no rank: with fewer than 32 models {WHY_NO_RANK}") == len(all_method_handlers()) - exempt
    )

    summary = answer.stdout.rpartition("All methods:")[2]
    for name in all_method_handlers():
        assert len(re.findall(rf"^{name} +\d", summary, re.MULTILINE)) == 1
    scores = [float(score) for score in re.findall(r"^\w+ +(\d\.\d+) +\[", summary, re.MULTILINE)]
    assert scores == sorted(scores, reverse=True)

    quiet = command("-m", "my_method,do_nothing", *TINY, *FEW, "--json", "--quiet")
    assert [report["method"]["name"] for report in json.loads(quiet.stdout)] == ["my_method", "do_nothing"]
    assert quiet.stderr == ""


def test_score_scores_again(graded: tuple[Answer, Path], tmp_path: Path) -> None:
    """The stored outputs give the stored report, wherever the folder has been moved to."""
    folder = shutil.copytree(graded[1], tmp_path / "elsewhere")
    before = json.loads((folder / "report.json").read_text())
    assert json.loads(command("score", str(folder), "--json").stdout) == before
    shown = command("score", str(folder))
    assert shown.code == 0
    assert f"{before['scores']['score']['value']:.4f}" in shown.stdout


@pytest.mark.slow
def test_the_notebook_metric_has_no_share_of_the_ceiling(graded: tuple[Answer, Path], tmp_path: Path) -> None:
    """Its ceiling bounds nothing: no share is shown or stored, and every command warns of its numbers."""
    folder = shutil.copytree(graded[1], tmp_path / "elsewhere")
    shown = command("score", str(folder), "--metric", "notebook")
    assert "Its ceiling is 0.5 to 0.9: compare with nothing else." in shown.stderr
    assert "of the ceiling" not in shown.stdout
    report = read_report(folder / "report-notebook.json")
    assert report is not None
    assert report.scores.share_of_ceiling is None
    assert "Its ceiling is" not in command("score", str(folder)).stderr


# ----------------------------------------------------------------------------------------------------------------------
# The other commands
# ----------------------------------------------------------------------------------------------------------------------


def test_list_shows_what_there_is() -> None:
    """One line each."""
    answer = command("list")
    assert answer.code == 0
    for name in (*all_method_handlers(), *all_tasks(), *NETWORKS, *AUDITS):
        assert len(re.findall(rf"^ +{name} +\S.*$", answer.stdout, re.MULTILINE)) == 1, name


@pytest.mark.parametrize("name", all_method_handlers())
def test_list_of_a_method_shows_its_hyper_parameters(name: str) -> None:
    """Name, type, default and explanation of each."""
    answer = command("list", name)
    assert answer.code == 0
    for parameter in all_method_handlers()[name].hyper_parameters().values():
        explanation = parameter.explanation[:30]  # the rest may continue on the next line
        cells = (parameter.name, parameter.type.__name__, str(parameter.default), explanation)
        assert re.search(r"^ *" + " +".join(map(re.escape, cells)), answer.stdout, re.MULTILINE)


def test_leaderboard(graded: tuple[Answer, Path]) -> None:
    """As a table, as CSV that Python's csv module reads, and as Markdown; of all tasks or of one."""
    report = report_in(graded[1])
    table = command("leaderboard")
    assert table.code == 0
    assert "my_method" in table.stdout
    assert report.described_conditions in table.stdout
    assert command("leaderboard", "--task", "digits").stdout == table.stdout

    rows = list(csv.DictReader(io.StringIO(command("leaderboard", "--csv").stdout)))
    (row,) = [row for row in rows if row["models"] == "32"]
    assert (row["rank"], row["method"], float(row["score"])) == ("1", "my_method", report.scores.score.value)

    markdown = command("leaderboard", "--markdown").stdout
    assert f"**{report.described_conditions}**" in markdown
    assert "| 1 | my_method |" in markdown


def test_help_names_every_option() -> None:
    """Also what is printed when no method is named."""
    answer = command("--help")
    assert answer.code == 0
    assert command().stdout.split() == answer.stdout.split()
    for option in ("--method", "--forget", "--models", "--protocol", "--config", "--json", "leaderboard", "score"):
        assert option in answer.stdout


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes
# ----------------------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("-m my_metod", "There is no method 'my_metod': did you mean my_method"),
    ("-m my_method,retrian", "There is no method 'retrian': did you mean retrain"),
    ("-m ,", "Name a method"),
    ("-m my_method --task digit", "There is no task 'digit': did you mean digits"),
    ("-m my_method --network smal_cnn", "There is no network 'smal_cnn': did you mean small_cnn"),
    ("-m my_method --recipe epochs", "--recipe takes name=value"),
    ("-m my_method --recipe epoch=3", "There is no recipe value 'epoch': did you mean epochs"),
    ("-m my_method --recipe epochs=many", "epochs must be a whole number, not 'many'"),
    ("-m my_method --recipe epochs=0", "epochs must be greater than 0"),
    ("-m my_method --recipe optimizer=lion", "optimizer must be one of sgd, adam"),
    ("-m my_method --set learning_rate", "--set takes name=value"),
    ("-m my_method --set =1", "--set takes name=value"),
    ("-m my_method --set lerning_rate=1", "no hyper-parameter 'lerning_rate'; it has learning_rate"),
    ("-m my_method --set epochs=2.5", "epochs takes a value of type int, not '2.5'"),
    ("-m my_method,do_nothing --set epochs=2", "DoNothing has no hyper-parameter 'epochs'"),
    ("-m my_method --forget random:0", "'random:0': it names no training image"),
    ("-m my_method --forget random:1.5", "neither a number of images"),
    ("-m my_method --forget class:eleven", "There is no class 'eleven'"),
    ("-m my_method --forget cls:3", "did you mean class"),
    ("-m my_method --forget where:labl==3", "labl"),
    ("-m my_method --forget file:missing.npy", "missing.npy"),
    ("-m my_method --task folder", "needs a data directory"),
    ("-m my_method --task folder --data-dir missing", "There are no images in"),
    ("-m my_method --data-dir missing", "The task digits has no files of its own"),
    ("-m my_method --train-size 5", "less than one image a class"),
    ("-m my_method --train-size 5000", "choose 10 to"),
    (
        "-m my_method --models 3",
        "needs at least 6 models, not 3: of fewer it has no value. python main.py -m METHOD --debug",
    ),
    ("-m my_method --models 6 --metric notebook", "The notebook metric needs at least 12 models, not 6"),
    ("-m my_method --originals 0", "needs at least 1 original, not 0"),
    ("-m my_method --budget 0", "The budget must be greater than 0 and finite, not 0.0"),
    ("-m my_method --budget nan", "The budget must be greater than 0 and finite, not nan"),
    ("-m my_method --budget-seconds inf", "The budget must be greater than 0 and finite, not inf"),
    ("-m my_method --budget-seconds -1", "The budget must be greater than 0 and finite, not -1.0"),
    ("-m my_method --workers 0", "--workers must be at least 1, not 0"),
    ("-m my_method --workers -1", "--workers must be at least 1, not -1"),
    ("-m my_method --metric x", "--metric is one of official, notebook, not 'x'"),
    ("-m my_method --protocol x", "--protocol is one of per-original, full, not 'x'"),
    ("-m my_method --device gpu", "--device gpu is not available here"),
    ("-m my_method -p x", "-p is dev or test, not 'x'"),
    ("-m my_method --config missing.yaml", "missing.yaml can't be read: No such file or directory"),
    ("--config garbage.yaml", "garbage.yaml is not the config.yaml of a grading"),
    ("--config binary.yaml", "binary.yaml is not the config.yaml of a grading"),
    ("--config list.yaml", "list.yaml is not the config.yaml of a grading"),
    ("--config lacking.yaml", "lacking.yaml is not the config.yaml of a grading"),
    ("--config .", "can't be read: Is a directory"),
    ("--config unknown.yaml", "is not the config.yaml of a grading: it has an unknown entry foo"),
    ("--config unknown-in-task.yaml", "is not the config.yaml of a grading: it has an unknown entry bar"),
    ("--config zip.yaml", "zip.yaml is that of a graded zip: python main.py grade /there/sub.zip "),
    ("list my_metod", "There is no method 'my_metod': did you mean my_method"),
    ("list xyz", "There is no method 'xyz': python main.py list shows them."),
    ("embed -m my_method,retrain", "This command takes one method: -m my_method, not -m my_method,retrain"),
    ("membership -m all", "This command takes one method: "),
    ("show --out file/sheet.png", "file/sheet.png can't be written ("),
    ("-m my_method,retrain --debug", "--debug runs one method: -m my_method, not -m my_method,retrain."),
    ("-m my_method --debug --sandbox", "--debug goes without --sandbox: the method runs in this process"),
    ("-m my_method --debug --json", "--debug goes without --json"),
    ("-m my_method --debug -p test", "--debug goes without -p test"),
    ("-m my_method,retrain --quick", "--quick runs one method: -m my_method, not -m my_method,retrain."),
    ("-m my_method --quick --json", "--quick goes without --json"),
    ("-m my_method --quick --until 10%", "--quick goes without --until: nothing is scored"),
    ("-m my_method --debug --set epochs=2.5", "epochs takes a value of type int, not '2.5'"),
    ("-m my_method --debug --forget class:3 --forget class:5", "Several --forget requests arrive one after another"),
    ("--debug", "Name a method, too"),
    ("tune -m my_method --debug", "There is no option '--debug'"),
    ("-p test", "Name a method, too: -m my_method (python main.py list shows them)."),
    ("--set learning_rate=0.1", "Name a method, too"),
    ("--task mnist --json", "Name a method, too"),
    ("leaderboard", "Nothing has been graded yet"),
    ("leaderboard --csv --markdown", "Choose one of --csv and --markdown"),
    ("audit membership -m my_method --csv --json", "Choose one of --csv and --json"),
    ("membership -m my_method --json --csv", "Choose one of --csv and --json"),
    ("schema membershp", "There is no audit 'membershp': did you mean membership?"),
    ("leaderboard --task digits", "Nothing has been graded yet: python main.py -m my_method --task digits"),
    ("leaderboard --task digit", "There is no task 'digit': did you mean digits"),
    ("score missing", "missing is not the folder of a grading"),
    ("score .", "is not the folder of a grading"),
]


@pytest.fixture
def empty_folder(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with files that are no configs, and without results."""
    monkeypatch.chdir(tmp_path)
    Path("garbage.yaml").write_text("models: [1, 2\n")
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("lacking.yaml").write_text("task: {name: digits}\nmodels: many\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    Path("unknown.yaml").write_text("method: my_method\nfoo: 1\n")
    Path("unknown-in-task.yaml").write_text("method: my_method\ntask: {name: digits, bar: 1}\n")
    Path("zip.yaml").write_text("method: sub\nsubmission: /there/sub.zip\n")
    Path("file").write_text("")


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: value)
def test_a_mistake_is_one_sentence(arguments: str, said: str) -> None:
    """On standard error, with exit code 2, before anything is trained, run or written."""
    little = ["--train-size", "60", "--models", "6"] if arguments.startswith("-m") else []
    answer = command(*little, *arguments.split())
    assert answer.code == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ")
    assert line[-1] in ".?)"
    assert said in line
    assert not Path("results").exists()


@pytest.mark.parametrize("variable", ["UNLEARNING_BANK", "UNLEARNING_RESULTS"])
def test_a_folder_that_cannot_be_made_is_one_sentence(
    variable: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names a file in the folder, and the variable to change. Catches an `OSError` that nobody catches."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    answer = command("-m", "my_method", *TINY, *FEW, "--quiet")
    (line,) = answer.stderr.splitlines()
    assert answer.code == 2
    assert line.startswith(f"error: {tmp_path}/file/folder/")
    assert f"can't be written (Not a directory): fix that, or set the environment variable {variable} to" in line


def test_json_of_a_method_that_failed(results: Path) -> None:
    """An object was asked for and there is none: nothing on standard output. Catches an empty list in its place."""
    slow = ["--set", "epochs=100", "--budget-seconds", "0.001"]
    answer = command("-m", "my_method", *TINY, *FEW, *slow, "--json", "--quiet")
    assert (answer.code, answer.stdout) == (2, "")
    more = (
        r"was killed after [\d.e-]+; --budget-seconds 0\.002 allows twice as much, and --debug tells how much it needs"
    )
    assert re.search(rf"{more}\. Its log:", answer.stderr)


@pytest.mark.parametrize(("task", "numbers"), [("digits", (8, 64)), ("faces", (2, 64)), ("kaggle", (1, 512))])
def test_numbers_to_grade_with(
    task: str, numbers: tuple[int, int], make_report: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task has its own; on kaggle those of the published evaluation, which a graded zip is ranked with."""
    seen: list[GradingSpec] = []

    def grade(specs: list[GradingSpec], *_: object) -> list[Report]:
        seen.extend(specs)
        return [make_report(spec.method) for spec in specs]

    monkeypatch.setattr("evaluation.grading.grade_methods", grade)
    command("-m", "my_method", "--task", task)
    assert [(spec.originals, spec.models) for spec in seen] == [numbers]


def test_options_of_a_grading_fit_show(results: Path, tmp_path: Path) -> None:
    """A contact sheet is drawn with the options that a grading had."""
    sheet = tmp_path / "sheet.png"
    answer = command("show", *TASK, "--test-size", "50", "--network", "mlp", "--out", str(sheet))
    assert (answer.code, sheet.is_file()) == (0, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_said() -> None:
    """Rather than an exception from CUDA."""
    answer = command("-m", "my_method", "--device", "cuda")
    assert (answer.code, answer.stderr) == (2, "error: --device cuda is not available here; use cpu, or auto.\n")


@pytest.mark.parametrize("arguments", ["--models many", "--modles 3", "-m", "leaderboard --rank", "scor results"])
def test_what_cannot_be_parsed_is_named(arguments: str) -> None:
    """The library for command lines says it its own way, with exit code 2 as well."""
    answer = command(*arguments.split())
    assert answer.code == 2
    assert arguments.split()[0].lstrip("-") in answer.stderr or arguments.split()[1] in answer.stderr


@pytest.mark.slow
def test_a_mistake_leaves_no_traceback_in_a_real_process(kit: Kit, results: Path) -> None:
    """The exit code and the sentence come through; the pool of workers goes quietly."""
    answer = kit.run("-m", "my_method", "--network", "smal_cnn")
    assert answer.code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: There is no network 'smal_cnn'")
    assert answer.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------------------
# Ctrl-C
# ----------------------------------------------------------------------------------------------------------------------

SLOW = '''"""The baseline, slowly."""

import os
import time

from methods.MyMethod import MyMethod


class SlowMethod(MyMethod):
    """The baseline, slowly."""

    def run(self, net, retain_loader, forget_loader, val_loader):
        print("run", file=open(os.environ["LEDGER"], "a"))
        time.sleep(float(os.environ["SECONDS"]))
        super().run(net, retain_loader, forget_loader, val_loader)
'''


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    """Look every few milliseconds; an error if it does not happen."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.slow
def test_ctrl_c_and_going_on(kit: Kit, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is saved and how to go on, exits with 130, and going on does only what is missing.

    The signal goes to the whole group of processes, as from a terminal: no worker prints a traceback.
    """
    ledger = tmp_path / "ledger"
    monkeypatch.setenv("LEDGER", str(ledger))
    kit.add_method("slow_method", SLOW)
    job = ("-m", "slow_method", *TINY, *FEW, "--workers", "1")
    process = kit.start(*job, SECONDS="1")  # a busy machine is late with the signal, and four runs are to be left
    wait_until(lambda: len(list(results.glob("*/*/runs/*.npz"))) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    answer = kit.finish(process)
    assert answer.code == 130, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.endswith(
        "Interrupted. Every finished model and run is saved: type the same command again to go on.\n"
    )
    assert "Traceback" not in answer.stderr

    kept = len(list(results.glob("*/*/runs/*.npz")))
    assert 2 <= kept < 6
    before = ledger.read_text().count("run")
    answer = kit.run(*job, SECONDS="0")
    assert answer.code == 0, answer.stderr
    assert ledger.read_text().count("run") - before == 6 - kept


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start(kit: Kit, results: Path, tmp_path: Path) -> None:
    """In the seconds in which they import PyTorch: one sentence, and no traceback from any process."""
    process = kit.start("-m", "my_method", *TINY, *FEW, UNLEARNING_BANK=str(tmp_path / "bank"))
    wait_until(lambda: any((tmp_path / "bank").glob("*/lock")))
    os.killpg(process.pid, signal.SIGINT)
    answer = kit.finish(process)
    assert answer.code == 130
    assert "Interrupted." in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list((tmp_path / "bank").glob("*/model-*")) == [], (
        "it was interrupted too late for this test to show anything"
    )
