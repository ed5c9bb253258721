"""Reports: what is written is what is read back, and what is no report is passed over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.metrics.accuracies import Accuracies
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.plausibility import Copy, Plausibility
from evaluation.metrics.score import Scores
from evaluation.report import FORMAT, GradingRecord, Report, read_report, read_reports

MakeReport = Callable[..., Report]
FORMAT_1 = Path(__file__).with_name("report-format-1.json")
LATER = {
    *("accuracy_by_class", "accuracy_by_class_retrained", "top5_accuracy", "top5_accuracy_retrained"),
    *("prepare_seconds",),
}
"""Fields that came in later, so that reports of format 1 may lack them."""


def test_a_report_survives_json(make_report: MakeReport) -> None:
    """Equal in every field and type, nested records included. Catches records that come back as dicts."""
    report = make_report(settings={"epochs": 1, "name": "ü", "flag": True}, epsilons=[[0.1, 1 / 3]])
    report = replace(report, plausibility=Plausibility(True, 0.1, [Copy(0, 3, 5, 0.1)]), remarks=("ü.",))
    again = Report.from_json(report.to_json())
    assert again == report
    assert isinstance(again.scores.floor.score, Estimate)
    assert again.scores.score.interval == (0.04, 0.06)


def test_saving_and_reading(make_report: MakeReport, tmp_path: Path) -> None:
    """`report.json` for the competition's metric; another metric has a file of its own beside it."""
    official, notebook = make_report(), make_report(metric="notebook", score=0.5, share_of_ceiling=None)
    assert official.save(tmp_path) == tmp_path / "report.json"
    assert notebook.save(tmp_path) == tmp_path / "report-notebook.json"
    assert read_report(tmp_path / "report.json") == official
    assert read_report(tmp_path / "report-notebook.json") == notebook
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(official.to_dict()))


def test_documented_fields_are_there(make_report: MakeReport) -> None:
    """The fields that other programs are told to read, with floor and ceiling as objects."""
    record = json.loads(make_report().to_json())
    promised = {
        "method": "name settings changed",
        "grading": "task models originals metric",
        "scores": "score forgetting_quality retain_ratio test_ratio floor ceiling share_of_ceiling epsilons",
        "cost": "budget_fraction_used",
        "provenance": "seconds",
    }
    for room, names in promised.items():
        assert set(names.split()) <= record[room].keys()
    for one in (record["scores"], record["scores"]["floor"], record["scores"]["ceiling"]):
        assert one["score"].keys() == one["forgetting_quality"].keys() == {"value", "low", "high"}


def test_a_report_of_format_1_is_read() -> None:
    """Flat, without a number of its format, as stored by version 0.1.0: every value is where it belongs now.

    It knows nothing of the code of its method, whether it is plausible, overlap, and F as of more models; and there
    were no suites.
    """
    stored = json.loads(FORMAT_1.read_text())
    report = Report.from_json(FORMAT_1.read_text())
    assert report.format == FORMAT
    assert Report.from_json(report.to_json()) == report
    added = [FORMAT, "grading", *[None] * 7]
    assert sorted(values_of(report.to_dict()), key=str) == sorted([*values_of(stored), *added], key=str)
    assert report.grading.role == "grading"
    assert report.method.name == stored["method"] == "constrained"
    assert report.scores.ceiling.score.interval == tuple(stored["ceiling"]["score_interval"])
    assert report.unlearned.forget_by_request == stored["forget_accuracy_by_request"]
    assert report.retrained.by_class == stored["accuracy_by_class_retrained"]
    assert (report.drift, report.cost.retrain_seconds) == (stored["drift"], stored["retrain_seconds"])


def values_of(record: Any) -> list[Any]:
    """The values at the leaves of a JSON document."""
    if isinstance(record, dict):
        return [value for entry in record.values() for value in values_of(entry)]
    if isinstance(record, (list, tuple)):
        return [value for entry in record for value in values_of(entry)]
    return [record]


def test_format_1_stored_a_share_that_bounds_nothing() -> None:
    """By the notebook metric, a number that early versions stored is dropped."""
    stored = {**json.loads(FORMAT_1.read_text()), "metric": "notebook", "share_of_ceiling": 2.07}
    assert Report.from_json(json.dumps(stored)).scores.share_of_ceiling is None


@pytest.mark.parametrize("name", json.loads(FORMAT_1.read_text()))
def test_a_report_of_format_1_lacking_a_field_is_passed_over(name: str, tmp_path: Path) -> None:
    """Unless that came in later."""
    stored = json.loads(FORMAT_1.read_text())
    del stored[name]
    (tmp_path / "report.json").write_text(json.dumps(stored))
    assert (read_report(tmp_path / "report.json") is not None) == (name in LATER)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"floor": "x", "ceiling": {}}',
        b'{"floor": {}, "ceiling": {}}',
        b'{"metric": "official", "floor": "x", "ceiling": {}}',
        b'{"metric": "official", "floor": {}, "ceiling": {}}',
        b"\xff\xfe\x00",
        b'{"format": 2}',
        b'{"format": 1e400}',
        b"[" * 100_000,
    ],
    ids=lambda content: str(content[:40]),
)
def test_what_is_no_report_is_passed_over(content: bytes, make_report: MakeReport, tmp_path: Path) -> None:
    """A truncated file, a report of another version, anything: the leaderboard shows the others, and names the file."""
    for name, text in (("broken", content), ("good", make_report().to_json().encode())):
        folder = tmp_path / "digits-aaa" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_bytes(text)
    assert read_reports(tmp_path) == ([make_report()], [tmp_path / "digits-aaa" / "broken" / "report.json"])


PATHS = [
    (*(() if room is None else (room,)), field.name)
    for room, kind in ((None, Report), ("grading", GradingRecord), ("scores", Scores), ("unlearned", Accuracies))
    for field in dataclasses.fields(kind)
    if field.default is dataclasses.MISSING
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_a_report_lacking_a_field_is_passed_over(
    path: tuple[str, ...], make_report: MakeReport, tmp_path: Path
) -> None:
    """No half-filled reports."""
    record = make_report().to_dict()
    room = record
    for name in path[:-1]:
        room = room[name]
    del room[path[-1]]
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert read_report(tmp_path / "report.json") is None


def test_a_report_lacking_what_may_be_lacking_is_read(make_report: MakeReport, tmp_path: Path) -> None:
    """As a version leaves it that knew no accuracy by class: a long grading need not be repeated for that."""
    report = make_report()
    known = replace(report, unlearned=replace(report.unlearned, by_class={"test": [0.75, None]}))
    assert read_report(known.save(tmp_path)) == known
    record = known.to_dict()
    optional = [field.name for field in dataclasses.fields(Accuracies) if field.default is None]
    assert set(optional) == {"by_class", "top5"}
    for name in optional:
        del record["unlearned"][name]
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize("format_", [1, 3, "2", None])
def test_a_report_of_another_format_is_passed_over(format_: object, make_report: MakeReport, tmp_path: Path) -> None:
    """Of a later version, for example."""
    record = {**make_report().to_dict(), "format": format_}
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert read_report(tmp_path / "report.json") is None


def test_conditions_in_words(make_report: MakeReport) -> None:
    """What a table's title says; the metric is named when it is not the competition's."""
    assert make_report().described_conditions == (
        "digits, small_cnn, forget random:0.5 (2 of 4 images), 1 original x 64 runs"
    )
    assert make_report(metric="notebook").described_conditions.endswith(", notebook metric")
    assert "64 originals, one run each" in make_report(protocol="full", originals=64).described_conditions


def test_label_has_what_the_user_set(make_report: MakeReport) -> None:
    """Two gradings of a method with different hyper-parameters can be told apart."""
    assert make_report().label == "my_method"
    assert make_report(changed={"epochs": 4, "learning_rate": 0.05}).label == "my_method epochs=4 learning_rate=0.05"
