"""The search for hyper-parameters: the same trials whatever happens, on other models, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import notebook_utils
from checkpoints.bank import Bank
from checkpoints.pool import Pool
from checkpoints.queue import ATTEMPTS
from checkpoints.workers import Workers
from data import TaskSpec, UserError, load
from data.seeds import derive_seed
from evaluation import tuning
from evaluation.console import Console
from evaluation.grading import grade_methods
from evaluation.isolation.handle import open_beside, room_workers
from evaluation.report import Report
from evaluation.runs.many import GradingFailedError, GradingLostError, unlearn
from evaluation.runs.resolve import resolve
from evaluation.spec import GradingSpec
from evaluation.tuned import Tuned, find_tuned, tuned_path, write_tuned
from evaluation.tuning import TuningResult, _most_frequent, tune
from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Kit

TASK = TaskSpec("digits", forget=("random:12",), train_size=160, test_size=100, recipe=(("epochs", 3),))
SPEC = GradingSpec("noisy_finetune", TASK, (("epochs", "1"),), originals=1, models=16, budget_seconds=60.0)
ON_TASK = ["--train-size", "160", "--test-size", "100", "--recipe", "epochs=3", "--forget", "random:12"]
FLAGS = ["-m", "noisy_finetune", *ON_TASK, "--budget-seconds", "60"]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Two workers for all tests."""
    with room_workers(2) as pool:
        yield pool


@pytest.fixture
def tuned_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one test's tuned values go."""
    monkeypatch.setenv("UNLEARNING_TUNED", str(tmp_path / "tuned"))
    return tmp_path / "tuned"


def search(spec: GradingSpec, trials: int, workers: Workers) -> TuningResult:
    """`tune`, quietly."""
    return tune(spec, trials, workers, Console(quiet=True))


def grade_one(spec: GradingSpec, workers: Workers) -> Report:
    """Grade one method; its error is raised."""
    (report,) = grade_methods([spec], workers, Console(quiet=True))
    if isinstance(report, GradingFailedError):
        raise report
    return report


def trials_of(results: Path) -> list[dict[str, Any]]:
    """Values, looks and states of the trials that ended, in order."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    (journal,) = results.glob("*/tuning-*/trials.journal")
    study = optuna.load_study(study_name="tuning", storage=JournalStorage(JournalFileBackend(str(journal))))
    ended = [trial for trial in study.get_trials() if trial.state.name in ("COMPLETE", "PRUNED")]
    return [{"values": t.params, "looks": t.intermediate_values, "state": t.state.name} for t in ended]


@pytest.mark.slow
def test_interrupted_or_not_the_trials_are_the_same(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned_folder: Path
) -> None:
    """In one go by two workers; and in three calls by one: the same values, the same scores, bit for bit.

    The sampler has begun to learn from the first trials by then. Catches a sampler whose random state is lost between
    calls, trials that depend on the order in which runs finish, and trials that see files of other trials.
    """
    monkeypatch.setattr(tuning, "RANDOM_TRIALS", 3)
    monkeypatch.setenv("UNLEARNING_RESULTS", str(tmp_path / "in one go"))
    whole = search(SPEC, 6, workers)
    monkeypatch.setenv("UNLEARNING_RESULTS", str(tmp_path / "in three"))
    with room_workers(1) as one:
        for trials in (1, 4, 6):
            pieces = search(SPEC, trials, one)
    assert trials_of(tmp_path / "in one go") == trials_of(tmp_path / "in three")
    assert whole == pieces
    assert len({str(trial["values"]) for trial in trials_of(tmp_path / "in three")}) == 6


@pytest.mark.slow
def test_kill_9_and_go_on(kit: Kit, workers: Workers, results: Path, tmp_path: Path, tuned_folder: Path) -> None:
    """Killed in the middle of a trial, and started again: the file of values is that of a search left in peace."""
    search(SPEC, 4, workers)
    expected = next(tuned_folder.glob("*.yaml")).read_text()
    elsewhere = {"UNLEARNING_RESULTS": str(tmp_path / "killed"), "UNLEARNING_TUNED": str(tmp_path / "killed tuned")}
    flags = ("tune", *FLAGS, "--set", "epochs=1", "--models", "16", "--trials", "4", "--workers", "1")

    process = kit.start(*flags, **elsewhere)
    limit = time.monotonic() + 120
    while not (journals := list(tmp_path.glob("killed/*/tuning-*/trials.journal"))) or len(_lines(journals[0])) < 14:
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    kit.finish(process)
    assert not list(tmp_path.glob("killed tuned/*.yaml")), "it was killed too late for this test to show anything"

    answer = kit.run(*flags, **elsewhere)
    assert answer.code == 0, answer.stderr
    assert next(tmp_path.glob("killed tuned/*.yaml")).read_text() == expected
    assert "noisy_finetune" in answer.stdout
    assert "stopped early" in answer.stdout


class LosingWorkers(Workers):
    """Workers of which one dies at once that does the fifth run of a trial, so many times."""

    def __init__(self, losses: int) -> None:
        super().__init__(1, beside=open_beside)
        self.losses = losses

    def submit(self, job: Any, *args: Any) -> Any:
        """Queue a sudden end in place of the job."""
        if job.__name__ == "perform" and args[2] == 4 and self.losses > 0:
            self.losses -= 1
            return super().submit(os._exit, 0)
        return super().submit(job, *args)


@pytest.mark.slow
@pytest.mark.parametrize("losses", [1, ATTEMPTS - 1, ATTEMPTS])
def test_a_worker_that_is_lost_is_no_score(
    losses: int, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned_folder: Path
) -> None:
    """Few losses change nothing; many end the search with a sentence, and the next call goes on as if nothing had been.

    Catches a trial that is stored with a score of 0, for ever.
    """
    spec = replace(SPEC, models=8)
    monkeypatch.setenv("UNLEARNING_RESULTS", str(tmp_path / "in peace"))
    expected = search(spec, 2, workers)
    monkeypatch.setenv("UNLEARNING_RESULTS", str(tmp_path / "with losses"))
    losing = LosingWorkers(losses)
    with losing:
        if losses < ATTEMPTS:
            result = search(spec, 2, losing)
        else:
            with pytest.raises(GradingLostError, match="its worker died with exit code 0"):
                search(spec, 2, losing)
            assert not list((tmp_path / "with losses").glob("*/*/failed.json"))
            result = search(spec, 2, losing)
    assert losing.losses == 0
    assert result == expected
    assert trials_of(tmp_path / "with losses") == trials_of(tmp_path / "in peace")


@pytest.mark.slow
@pytest.mark.parametrize("tail", [b"", b'{"op_code":', b'{"op_code":4,"worker_id":"a"'])
def test_a_journal_that_was_left_open_is_mended(
    tail: bytes, workers: Workers, results: Path, tuned_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A search was killed while it wrote: half a line, and Optuna's lock. Catches one that waits, or never goes on."""
    spec = replace(SPEC, models=8)
    search(spec, 1, workers)
    (journal,) = results.glob("*/tuning-*/trials.journal")
    with journal.open("ab") as file:
        file.write(tail)
    Path(f"{journal}.lock").symlink_to(journal)
    assert search(spec, 2, workers).trials == 2
    assert len(trials_of(results)) == 2
    assert [json.loads(line) for line in _lines(journal)]
    assert "acquire the lock" not in caplog.text


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.slow
def test_hopeless_trials_are_stopped_early(workers: Workers, results: Path, tuned_folder: Path) -> None:
    """Looked at after 8 runs and after 16; those that were stopped have been looked at once, and were not the best."""
    outcome = search(SPEC, 8, workers)
    trials = trials_of(results)
    stopped = [trial["looks"] for trial in trials if trial["state"] == "PRUNED"]
    assert 0 < len(stopped) == outcome.stopped_early < 8
    assert all(list(looks) == [8] for looks in stopped)
    complete = [trial["looks"] for trial in trials if trial["state"] == "COMPLETE"]
    assert all(list(looks) == [8, 16] for looks in complete)
    assert outcome.score == max(looks[16] for looks in complete)


@pytest.mark.slow
def test_published_values_are_the_first_trial(workers: Workers, results: Path, tuned_folder: Path) -> None:
    """So nothing worse than them is ever written; and what the user set is not searched, but kept beside the rest."""
    outcome = search(SPEC, 1, workers)
    assert outcome.settings == {"noise": 0.3, "learning_rate": 0.05, "epochs": 1}
    assert outcome.score == outcome.published_score
    (trial,) = trials_of(results)
    assert trial["values"] == {"noise": 0.3, "learning_rate": 0.05}


@pytest.mark.slow
def test_certified_methods_are_tuned_without_the_forget_set(
    workers: Workers, results: Path, tuned_folder: Path
) -> None:
    """By validation accuracy, to the digit, of runs that start from retrained models; and the values say so.

    Catches a search by the score, one that starts from models that saw the forget set, and values that the certificate
    would call published.
    """
    spec = replace(SPEC, method="certified_output_perturbation", settings=(("epochs", "1"), ("momentum", "0.9")))
    spec = replace(spec, settings=(*spec.settings, ("epsilon", "1e5"), ("initial_clip", "100")), models=8)
    outcome = search(spec, 2, workers)
    settings = dict(outcome.settings)
    assert settings.pop("constants_chosen_on") == "retrained"
    seed = derive_seed("tuning from retrained models", spec.seed)
    texts = tuple((name, str(value)) for name, value in settings.items())
    trial = replace(spec, task=replace(TASK, role="tuning"), seed=seed, settings=texts)
    grading = resolve(trial, load(trial.task), "cpu")
    bank = Bank(Pool(grading.task, "original"), Pool(grading.task, "retrained"), retrain_seconds=60.0)
    worth = {}
    for start in ("original", "retrained"):
        unlearned = unlearn(replace(grading, folder=results / start / "runs of its own"), bank, workers, start=start)
        worth[start] = unlearned.outputs.accuracy("validation", grading.task.labels("validation")).mean()
    assert outcome.score == pytest.approx(worth["retrained"], abs=1e-12)
    assert outcome.score != pytest.approx(worth["original"], abs=1e-12)


@pytest.mark.slow
def test_values_for_other_requests_are_not_for_a_certificate(
    workers: Workers, results: Path, tuned_folder: Path
) -> None:
    """Those for a suite: its retrained models were trained on what another request forgets."""
    spec = replace(SPEC, method="certified_retrain", settings=(("epochs", "1"), ("momentum", "0.9")), models=8)
    outcome = tuning.search([spec], 1, tuned_folder / "suite.yaml", workers, Console(quiet=True))
    assert outcome.settings["constants_chosen_on"] == "retain"


@pytest.mark.slow
def test_failures_count_as_zero(workers: Workers, results: Path, tuned_folder: Path) -> None:
    """A method that always exceeds the budget ends with its published values, and every trial is a failure."""
    outcome = search(replace(SPEC, budget_seconds=1e-3), 3, workers)
    assert (outcome.failed, outcome.score, outcome.published_score) == (3, 0.0, 0.0)
    assert outcome.why_failed.startswith("it exceeded the budget of 0.0008 seconds")
    assert outcome.settings["noise"] == 0.3


def test_the_reason_of_most_failures() -> None:
    """Whatever the numbers in it, of which each run has others. Catches a rare reason that is told as the usual one."""
    slow = "it exceeded the budget of 0.2 seconds and was killed after {}"
    assert _most_frequent([]) == ""
    assert _most_frequent(["KeyError: 'a'", "KeyError: 'a'", "KeyError: 'b'"]) == "KeyError: 'a'"
    reasons = ["KeyError: 'a'", slow.format("0.21"), "KeyError: 'a'", slow.format("2.5e-06"), slow.format(3)]
    assert _most_frequent(reasons) == slow.format("0.21")


def test_nothing_of_a_grading_is_looked_at() -> None:
    """Models for tuning are other models, originals and retrained ones: not one seed or file is shared."""
    final, search_only = load(TASK), load(replace(TASK, role="tuning"))
    for kind in ("original", "retrained"):
        one, other = Pool(final, kind), Pool(search_only, kind)
        assert one.folder != other.folder
        assert not {one.seed(model) for model in range(100)} & {other.seed(model) for model in range(100)}


def test_trials_have_seeds_of_their_own(workers: Workers, results: Path, tuned_folder: Path) -> None:
    """A trial's grading and the final one differ in task, seed and budget. Catches a trial that runs the grading."""
    specs = []

    class Watching(Workers):
        def submit(self, job: Any, *args: Any) -> Any:
            if job.__name__ == "perform":
                specs.append(args[0])
            return super().submit(job, *args)

    with Watching(1, beside=open_beside) as watching:
        search(replace(SPEC, models=6), 1, watching)
    assert {spec.task.role for spec in specs} == {"tuning"}
    assert {spec.budget_seconds for spec in specs} == {0.8 * 60.0}
    assert SPEC.seed not in {spec.seed for spec in specs}


@pytest.mark.slow
def test_a_grading_uses_what_was_found(results: Path, tuned_folder: Path) -> None:
    """Tuned values by default, published ones if asked for, the user's before both; the report says which.

    And `--config` repeats the grading with the values that it was done with, though the file is gone.
    """
    entry = {"settings": {"noise": 0.7, "learning_rate": 0.02}, "trials": 25}
    write_tuned(tuned_path(TASK), "noisy_finetune", entry)
    flags = (*FLAGS, "--models", "6", "--originals", "1", "--workers", "1", "--json")

    def settings_of(*more: str) -> dict[str, Any]:
        answer = command(*more)
        assert answer.code == 0, answer.stderr
        return dict(json.loads(answer.stdout))

    tuned = settings_of(*flags)
    method = tuned["method"]
    assert method["tuned_trials"] == 25
    assert method["settings"] | {"noise": 0.7, "learning_rate": 0.02, "epochs": 4} == method["settings"]
    assert method["changed"] == {}
    published = settings_of(*flags, "--published")
    method = published["method"]
    assert method["tuned_trials"] is None
    assert method["settings"] | {"noise": 0.3, "learning_rate": 0.05} == method["settings"]
    changed = settings_of(*flags, "--set", "noise=0.9")
    method = changed["method"]
    assert method["settings"] | {"noise": 0.9, "learning_rate": 0.02} == method["settings"]
    assert method["changed"] == {"noise": 0.9}

    next(tuned_folder.glob("*.yaml")).unlink()
    for report in (tuned, published, changed):
        (config,) = [
            path.parent / "config.yaml"
            for path in results.glob("*/*/report.json")
            if json.loads(path.read_text())["method"]["settings"] == report["method"]["settings"]
        ]
        again = settings_of("--config", str(config), "--workers", "1", "--json")
        assert [again[name] for name in ("scores", "method")] == [report[name] for name in ("scores", "method")]


@pytest.mark.parametrize(
    ("flags", "noise"), [([], "0.3"), (["--task", "digits"], "0.7"), (["--task", "digits", "--published"], "0.3")]
)
def test_notebooks_take_values_of_a_named_task(
    flags: list[str], noise: str, tuned_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What suits the digits goes to Kaggle only if the digits were named. Catches values sent unasked."""
    write_tuned(tuned_path(TaskSpec("digits")), "noisy_finetune", {"settings": {"noise": 0.7}, "trials": 25})
    sent = []
    monkeypatch.setattr(notebook_utils, "submit", lambda name, values, *more: sent.append((name, values)))
    command("-m", "noisy_finetune", "-p", "test", "--set", "epochs=2", *flags)
    ((name, values),) = sent
    assert name == "noisy_finetune"
    assert str(values.pop("noise", "0.3")) == noise
    assert values == {"epochs": "2"}


def test_another_problem_has_another_file(tuned_folder: Path) -> None:
    """What was found for one forget request, network, recipe or size is not used for another."""
    specs = [
        TaskSpec("digits"),
        TaskSpec("digits", forget=("class:3",)),
        TaskSpec("digits", network="mlp"),
        TaskSpec("digits", recipe=(("epochs", 30),)),
        TaskSpec("digits", train_size=600),
        TaskSpec("faces"),
        TaskSpec("faces", size="full"),
        TaskSpec("faces", size="full", network="all_cnn"),
    ]
    paths = [tuned_path(spec) for spec in specs]
    assert len(set(paths)) == len(specs)
    assert [paths[number].name for number in (0, 5, 6)] == ["digits.yaml", "faces.yaml", "faces-full.yaml"]
    assert tuned_path(TaskSpec("faces", size="mini")) == paths[5]


def test_entries_are_kept_apart(tuned_folder: Path) -> None:
    """Each method has its own; writing one leaves the others; what is not there is None."""
    path = tuned_path(TASK)
    assert find_tuned(TASK, "kookmin") is None
    write_tuned(path, "seif", {"settings": {"epochs": 3}, "trials": 7, "score": 0.1})
    write_tuned(path, "kookmin", {"settings": {"share": 0.5, "globally": True}, "trials": 9})
    write_tuned(path, "seif", {"settings": {"epochs": 4}, "trials": 8})
    assert find_tuned(TASK, "seif") == Tuned((("epochs", 4),), 8)
    assert find_tuned(TASK, "kookmin") == Tuned((("share", 0.5), ("globally", True)), 9)
    assert list(yaml.safe_load(path.read_text())) == ["kookmin", "seif"]


@pytest.mark.parametrize("text", ["- a\n", "seif: 3\n", "seif: {trials: 3}\n", "seif: {settings: 5, trials: 3}\n", "{"])
def test_damaged_files_are_named(text: str, tuned_folder: Path) -> None:
    """With what to do about it; catches a traceback from a file that somebody edited."""
    path = tuned_path(TASK)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"\.yaml.*--published"):
        find_tuned(TASK, "seif")


def test_mistakes_are_explained() -> None:
    """A method without anything to search, no trial at all, everything set: a sentence and exit code 2."""
    everything = [flag for name in ("noise", "epochs", "learning_rate") for flag in ("--set", f"{name}=1")]
    for flags, said in (
        (["-m", "do_nothing"], "do_nothing has nothing to tune"),
        (["-m", "noisy_finetune", "--trials", "0"], "--trials must be at least 1"),
        (["-m", "noisy_finetune", *everything], "noisy_finetune has nothing to tune"),
        (["-m", "nosy_finetune"], "did you mean noisy_finetune"),
        (["-m", "noisy_finetune", "--models", "3"], "at least 6 models, not 3"),
    ):
        answer = command("tune", *flags)
        assert answer.code == 2
        assert said in answer.stderr
