"""Reports: what is written is what is read back, and what is no report is passed over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.report import Report, read_report
from evaluation.views.leaderboard import read_reports

MakeReport = Callable[..., Report]


def test_a_report_survives_json(make_report: MakeReport) -> None:
    """Equal in every field and type, tuples included. Catches intervals that come back as lists."""
    report = make_report(settings={"epochs": 1, "name": "ü", "flag": True}, epsilons=[[0.1, 1 / 3], [50.0, 0.0]])
    again = Report.from_json(report.to_json())
    assert again == report
    assert isinstance(again.floor.score_interval, tuple)


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
    promised = (
        "method task models originals metric score score_interval forgetting_quality forgetting_quality_interval "
        "retain_ratio test_ratio floor ceiling share_of_ceiling epsilons budget_fraction_used seconds"
    )
    assert set(promised.split()) <= record.keys()
    for name in ("floor", "ceiling"):
        assert {"score", "forgetting_quality"} <= record[name].keys()


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
    ],
)
def test_what_is_no_report_is_passed_over(content: bytes, make_report: MakeReport, tmp_path: Path) -> None:
    """A truncated file, a report of another version, anything: the leaderboard shows the others."""
    for name, text in (("broken", content), ("good", make_report().to_json().encode())):
        folder = tmp_path / "digits-aaa" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_bytes(text)
    assert read_reports(tmp_path) == [make_report()]


FIELDS = dataclasses.fields(Report)


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.default is dataclasses.MISSING], ids=lambda field: field.name
)
def test_a_report_lacking_a_field_is_passed_over(
    field: dataclasses.Field[object], make_report: MakeReport, tmp_path: Path
) -> None:
    """As an older version leaves it: no half-filled reports."""
    record = make_report().to_dict()
    del record[field.name]
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert read_report(tmp_path / "report.json") is None


def test_a_report_lacking_what_may_be_lacking_is_read(make_report: MakeReport, tmp_path: Path) -> None:
    """As a version leaves it that knew no accuracy by class: a long grading need not be repeated for that."""
    by_class = {"test": [0.75, None]}
    report = make_report(accuracy_by_class=by_class, accuracy_by_class_retrained=by_class)
    assert read_report(report.save(tmp_path)) == report
    record = report.to_dict()
    optional = [field.name for field in FIELDS if field.default is None]
    assert {"accuracy_by_class", "accuracy_by_class_retrained"} <= set(optional)
    for name in optional:
        del record[name]
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert read_report(tmp_path / "report.json") == make_report()


def test_conditions_in_words(make_report: MakeReport) -> None:
    """What a table's title says; the metric is named when it is not the competition's."""
    assert make_report().described_conditions == (
        "digits, small_cnn, forget random:0.5 (2 of 4 images), 1 originals x 64 runs"
    )
    assert make_report(metric="notebook").described_conditions.endswith(", notebook metric")
    assert "64 originals, one run each" in make_report(protocol="full", originals=64).described_conditions


def test_label_has_what_the_user_set(make_report: MakeReport) -> None:
    """Two gradings of a method with different hyper-parameters can be told apart."""
    assert make_report().label == "my_method"
    assert make_report(changed={"epochs": 4, "learning_rate": 0.05}).label == "my_method epochs=4 learning_rate=0.05"
