"""Files of somebody else with something odd in them: one sentence and exit code 2, or an answer; never a traceback.

Each file begins as a right one; then one of its values, somewhere, becomes one of `ODD`, or is removed.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from checkpoints.outputs import Outputs
from data import TaskSpec
from evaluation.report import Report
from evaluation.runs.unlearned import Unlearned
from evaluation.spec import GradingSpec
from tests.command_line import command
from tests.evaluation.certification.test_certificates import gradient_clipping, model_clipping

if TYPE_CHECKING:
    from tests.conftest import Answer

VARIANTS = 40
MARKUP, FORMULA, COLOURS = "[/red][bold", r"$\frac$", "\x1b[31m\r\n"


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    *(None, True, -1, 0, 2.5, 10**12, 10**400, -(10**400), 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *("", "x", "1", MARKUP, FORMULA, COLOURS, "\0", "x" * 20_000, "{a.__class__}", "{a:>999999999}"),
    *([], {}, [1], ["x"], [None], {"x": 1}, {FORMULA: [1]}, {"1": 10**400}, nested(60), [0] * 3000, [[1], [1, 2]]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a document are, those inside of others too."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def spoilt(document: Any, seed: int) -> tuple[Any, str]:
    """A copy of a document with one odd value, and what is odd in words."""
    draw = random.Random(seed)
    changed = copy.deepcopy(document)
    path = draw.choice(list(places(document)))
    room = changed
    for key in path[:-1]:
        room = room[key]
    if draw.random() < 0.1:
        del room[path[-1]]
        return changed, f"{path} removed"
    room[path[-1]] = draw.choice(ODD)
    return changed, f"{path} = {str(room[path[-1]])[:60]!r}"


def dumped(document: Any) -> str:
    """As JSON, which YAML can read, too, apart from huge numbers."""
    return json.dumps(document)


def check(answer: Answer, what: str, codes: tuple[int, ...] = (2,)) -> None:
    """One of the codes; if it is 2, one line on standard error that is not too long."""
    assert answer.code in codes, (what, answer)
    assert "\x1b" not in answer.stdout + answer.stderr, what
    if answer.code == 2:
        assert answer.stdout == "", what
        (line,) = answer.stderr.splitlines()
        assert line.startswith("error: "), what
        assert len(line) < 1500, what


NOWHERE = "/nonexistent/folder"


def config() -> Any:
    """A `config.yaml` that nothing can be run with, because its data are gone."""
    task = TaskSpec("folder", ("random:0.1", "class:3"), 100, 50, NOWHERE, "mlp", (("epochs", 3),))
    text = GradingSpec("my_method", task, (("learning_rate", 0.1),), budget_seconds=1.5).to_yaml()
    values = yaml.safe_load(text)
    values["tuned"] = {"settings": {"epochs": 2}, "trials": 3}
    return values


def sweep() -> Any:
    """A figure, likewise."""
    return {
        "title": "t",
        "figure": "budget",
        "x": "epochs",
        "values": [1, 2],
        "seeds": 2,
        "task": {"name": "folder", "data_dir": NOWHERE, "forget": ["random:0.1"], "recipe": {"epochs": 3}},
        "curves": [
            {"name": "a {momentum}", "method": "certified_retrain", "for_each": {"momentum": [0.0, 0.9]}},
            {"name": "b", "method": "finetune", "grid": {"learning_rate": [0.1, 1]}, "published": {1: 0.5, 2: 0.6}},
            {"name": "c", "method": "finetune", "x": "epochs", "settings": {"learning_rate": 0.1}, "task": {}},
        ],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("start", "make"), [("--config", config), ("sweep", sweep)], ids=["config", "sweep"])
def test_yaml(start: str, make: Callable[[], Any], tmp_path: Path, results: Path) -> None:
    """What a user gets from others: settings of a grading, and a figure."""
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(make()))
    answer = command(start, str(path))
    check(answer, "nothing")
    assert NOWHERE in answer.stderr
    for seed in range(VARIANTS):
        document, what = spoilt(make(), seed)
        path.write_text(yaml.safe_dump(document))
        check(command(start, str(path)), what)


MANY: dict[str, dict[str, Any]] = {
    "seeds": {"seeds": 10**12},
    "runs": {"seeds": 9_999, "curves": [{"name": "a", "method": "finetune", "grid": {"epochs": list(range(100))}}]},
    "combinations": {
        "curves": [{"name": "a", "method": "finetune", "grid": {f"a{n}": list(range(10)) for n in range(20)}}]
    },
    "curves": {
        "curves": [{"name": "{a}{b}{c}", "method": "finetune", "for_each": {n: list(range(100)) for n in "abc"}}]
    },
    "epochs": {"values": [1, 10**12]},
    "10^400": {"values": [1, 10**400]},
    "a wide name": {"curves": [{"name": "{a:>999999999}", "method": "finetune", "for_each": {"a": [1]}}]},
    "a name that looks inside": {"curves": [{"name": "{a.real}", "method": "finetune", "for_each": {"a": [1]}}]},
    "a name of a name": {"curves": [{"name": "{a:{a}}", "method": "finetune", "for_each": {"a": [1]}}]},
    "recipe": {"task": {"name": "digits", "recipe": {"epochs": 10**12}}},
}


@pytest.mark.parametrize("change", MANY.values(), ids=MANY)
def test_sweeps_that_would_never_end_are_refused(change: dict[str, Any], tmp_path: Path, results: Path) -> None:
    """A few characters that ask for 10^12 runs, or gigabytes of a name."""
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump({**sweep(), **change}))
    answer = command("sweep", str(path))
    check(answer, str(change))
    assert NOWHERE not in answer.stderr


@pytest.mark.parametrize("make", [gradient_clipping, model_clipping])
def test_certificates(make: Callable[[], Any], tmp_path: Path) -> None:
    """A verdict, or a sentence."""
    document = make().to_dict()
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "original-000-run-0000.json"
    (tmp_path / "config.yaml").write_text(f"method: {document['method']}")
    for seed in range(VARIANTS // 2):
        changed, what = spoilt({"certificate": document}, seed)
        path.write_text(dumped(changed))
        check(command("certify", str(path)), what, codes=(0, 1, 2))


def histories() -> Any:
    """The notes of a run of `constrained`, whose other notes are drawn as a matrix and as bars."""
    return {
        "history": {"loss": [1.0, 0.5, 0.25], "val": [0.1, 0.2]},
        "thresholds": [1.0, 2.0],
        "confusion": [[1.0, 0.0], [0.0, 1.0]],
    }


@pytest.mark.slow
def test_histories(tmp_path: Path) -> None:
    """Of one run among others: a picture, or a sentence."""
    folder = tmp_path / f"method-{FORMULA.replace(chr(92), '')}"
    (folder / "runs").mkdir(parents=True)
    (folder / "config.yaml").write_text("method: constrained")
    (folder / "runs" / "original-000-run-0000.json").write_text(dumped(histories()))
    for seed in range(VARIANTS):
        changed, what = spoilt(histories(), seed)
        (folder / "runs" / "original-000-run-0001.json").write_text(dumped(changed))
        check(command("history", str(folder)), what, codes=(0, 2))


@pytest.mark.parametrize(
    "notes",
    [
        {"history": {FORMULA: [1.0], MARKUP: [2.0], COLOURS: [3.0]}},
        {"history": {"a": [1e308, -1e308, 10**400]}},
        {"history": {"a": [float("nan"), float("inf"), 1e300, 1e100]}},
        {"history": {f"series {number}": [1] for number in range(5000)}},
        {"history": {"a": [0] * 200_000}},
    ],
    ids=["formulas", "10^400", "infinity", "many series", "a long series"],
)
def test_odd_histories(notes: Any, tmp_path: Path) -> None:
    """Catches a formula that Matplotlib can't read, and thousands of panels."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "original-000-run-0000.json").write_text(dumped(notes))
    check(command("history", str(tmp_path)), "notes", codes=(0, 2))


def lengthy(report: Report) -> Any:
    """A report with something in each of its fields."""
    record = replace(
        report,
        unlearned=replace(report.unlearned, by_class={"test": [0.5, None]}, top5={"test": 0.5}),
        method=replace(report.method, changed={"learning_rate": 0.001}),
    ).to_dict()
    record["plausibility"] = {"above_ceiling": True, "nearest": 0.1, "copies": [{**COPY}]}
    return record


COPY = {"original": 0, "run": 3, "retrained": 5, "distance": 0.1}


def test_reports_on_the_leaderboard(make_report: Callable[..., Report], results: Path) -> None:
    """Each is shown or named; the others are there, in all three forms."""
    written = {}
    for seed in range(-1, 3 * VARIANTS):
        document, what = spoilt(lengthy(make_report()), seed)
        folder = results / "digits-aaa" / f"method-{seed}"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(dumped(document if seed >= 0 else lengthy(make_report("the_good_one"))))
        written[folder / "report.json"] = what
    for form in ([], ["--markdown"], ["--csv"]):
        answer = command("leaderboard", *form)
        assert answer.code == 0
        assert "the_good_one" in answer.stdout
        assert "\x1b" not in answer.stdout or form == ["--csv"]
        left_out = answer.stderr.splitlines()
        assert all(line.startswith("left out: ") for line in left_out)
        assert VARIANTS < len(left_out) < 3 * VARIANTS
    assert max(map(len, command("leaderboard").stdout.splitlines())) < 2000


UNEQUAL: dict[str, Callable[[Any], None]] = {
    "epsilons": lambda record: record["scores"]["epsilons"][0].pop(),
    "no epsilons": lambda record: record["scores"].update(epsilons=[[]]),
    "originals": lambda record: record["scores"]["score_by_original"].append(0.1),
    "requests": lambda record: record["grading"]["forget"].append("class:3"),
    "requests of accuracies": lambda record: record["retrained"].update(forget_by_request=[]),
    "indices": lambda record: record["grading"].update(forget_indices=[0]),
    "indices outside": lambda record: record["grading"].update(forget_indices=[1, 4]),
    "an interval beside its value": lambda record: record["scores"]["score"].update(low=0.07),
    "an accuracy of 2": lambda record: record["unlearned"].update(test=2.0),
    "a negative time": lambda record: record["cost"].update(retrain_seconds=-1.0),
    "NaN": lambda record: record["scores"]["floor"]["score"].update(value=float("nan")),
    "infinity": lambda record: record["scores"].update(test_ratio=float("inf")),
    "settings in settings": lambda record: record["method"].update(settings={"a": {"b": 1}}),
    "a protocol": lambda record: record["grading"].update(protocol="half"),
    "a long name": lambda record: record["method"].update(name="x" * 5000),
    "no name": lambda record: record["method"].update(name=""),
}


@pytest.mark.parametrize("change", UNEQUAL.values(), ids=UNEQUAL)
def test_reports_that_contradict_themselves(
    change: Callable[[Any], None], make_report: Callable[..., Report], results: Path
) -> None:
    """Named and left out. Catches a report whose parts don't fit, which the views can't show."""
    for name in ("good", "bad"):
        record = make_report(name).to_dict()
        if name == "bad":
            change(record)
        folder = results / "digits-aaa" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(dumped(record))
    answer = command("leaderboard")
    assert answer.code == 0
    assert "good" in answer.stdout
    assert answer.stderr.splitlines() == [
        f"left out: {results}/digits-aaa/bad/report.json is not a report that this version of the kit can read"
    ]


@pytest.mark.slow
def test_the_folder_of_a_grading(make_report: Callable[..., Report], tmp_path: Path, results: Path) -> None:
    """`score FOLDER` with an odd report, or an odd config; what is right in it has no bank here."""
    spec = GradingSpec("my_method", TaskSpec(train_size=60, recipe=(("epochs", 3),)), originals=1, models=6)
    record = lengthy(make_report())
    logits = np.zeros((6, 9, 10), np.float32)
    left = Unlearned(Outputs(logits, logits, logits, np.ones(6)), np.ones(6), np.ones(6, np.int64), np.ones(6))
    left.save(tmp_path / "outputs.npz")
    for seed in range(VARIANTS):
        document, what = spoilt(record, seed)
        settings, more = spoilt(yaml.safe_load(spec.to_yaml()), seed)
        for report, config_ in ((document, yaml.safe_load(spec.to_yaml())), (record, settings)):
            (tmp_path / "report.json").write_text(dumped(report))
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_))
            check(command("score", str(tmp_path)), f"{what}; {more}")


BOMBS = {
    "merges": "a0: &a0 {k: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 200)}]}}\n" for n in range(1, 6)),
    "a merge of itself": "a: &a {<<: *a}\n",
    "megabytes": "# " + "x" * (1 << 20),
    "keys": "? " + "[" * 500 + "]" * 500 + "\n: 1",
    "a date": "a: 0001-01-01T00:00:00-23:59\n",
    "sexagesimal": "a: " + ":".join(["59"] * 5000),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("start", ["--config", "sweep"])
def test_yaml_that_grows(text: str, start: str, tmp_path: Path) -> None:
    """Few lines that become billions of values while they are read."""
    (tmp_path / "file.yaml").write_text(text)
    check(command(start, str(tmp_path / "file.yaml")), text[:50])
