"""Places, marks, names of strangers, and what must not be seen before the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from data import load
from evaluation.competition.page import as_markdown, escaped
from evaluation.competition.parts import draw, hidden_parts
from evaluation.metrics.plausibility import Plausibility
from evaluation.report import Report
from tests.evaluation.competition.conftest import DEADLINE, Contest

MakeReport = Callable[..., Report]


def places(contest: Contest) -> list[tuple[int | None, str, float, str]]:
    """The public ranking."""
    return [(row.rank, row.submission.team, row.score, row.marks) for row in contest.standing.public_rows()]


def graded(contest: Contest, make_report: MakeReport, **scores: float) -> None:
    """Each team hands in a file, which gets a score."""
    for team in scores:
        contest.put(team, f"of {team}")
    for one in contest.look():
        contest.grade(one, contest.public_part(), make_report(score=scores[one.team]))


def test_ranking(contest: Contest, make_report: MakeReport) -> None:
    """By score, the best of each team; equal scores by who came first, then by name: always the same."""
    graded(contest, make_report, c=0.02, b=0.05, a=0.02)
    assert places(contest) == [(1, "b", 0.05, ""), (2, "a", 0.02, ""), (3, "c", 0.02, "")]
    contest.now += timedelta(minutes=1)
    contest.put("a", "better")
    contest.grade(contest.look()[-1], contest.public_part(), make_report(score=0.07))
    assert [row.of for row in contest.standing.public_rows()] == [2, 1, 1]
    assert places(contest)[0] == (1, "a", 0.07, "")
    assert as_markdown(contest.standing) == as_markdown(contest.standing)


def test_marks(contest: Contest, make_report: MakeReport) -> None:
    """What is implausible, the same as another's, or disqualified has no place, until it is cleared."""
    contest.put("a", "cheat")
    contest.put("b", "honest")
    contest.put("c", "out")
    contest.now += timedelta(minutes=1)
    contest.look()
    contest.put("d", "honest")
    odd = Plausibility(above_ceiling=True, nearest=0.0, copies=[])
    for one in contest.look():
        report = make_report(score=0.9, plausibility=odd) if one.team == "a" else make_report(score=0.05)
        contest.grade(one, contest.public_part(), report)
    text, digests = contest.folder.settings.read_text(), {one.team: one.sha256 for one in contest.look()}
    contest.folder.settings.write_text(f"{text}\ndisqualified: ['{digests['c'][:12]}']")
    ranks = {team: (rank, marks) for rank, team, _, marks in places(contest)}
    assert ranks == {"b": (1, ""), "a": (None, "!"), "c": (None, "x"), "d": (None, "=")}
    page = as_markdown(contest.standing)
    assert "hardly possible for an honest method" in page
    contest.folder.settings.write_text(f"{text}\ncleared: ['{digests['a'][:12]}', '{digests['d']}']")
    assert [place[:2] for place in places(contest)] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_team_falls_back_on_what_is_fair(contest: Contest, make_report: MakeReport) -> None:
    """A marked submission does not take the place of the team's honest one."""
    contest.put("a", "cheat")
    contest.put("a", "honest", "n.py")
    cheat, honest = contest.look()
    odd = Plausibility(above_ceiling=True, nearest=0.0, copies=[])
    contest.grade(cheat, contest.public_part(), make_report(score=0.9, plausibility=odd))
    contest.grade(honest, contest.public_part(), make_report(score=0.05))
    assert places(contest) == [(1, "a", 0.05, "")]


@pytest.mark.parametrize("change", ["edited", "removed", "other format"])
def test_reports_that_were_changed(change: str, contest: Contest, make_report: MakeReport) -> None:
    """A report that is not the one that the trail tells of is named, and left out; the others stay."""
    graded(contest, make_report, a=0.02, b=0.05)
    path = next(
        contest.folder.root / line["report"]
        for line in contest.trail.lines
        if line.get("team") == "a" and line["event"] == "verdict"
    )
    if change == "removed":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("0.02", "0.92") if change == "edited" else "{}")
    standing = contest.standing
    assert [row.submission.team for row in standing.public_rows()] == ["b"]
    assert str(path) in standing.remarks[0]


def test_other_conditions_do_not_count(contest: Contest, make_report: MakeReport) -> None:
    """Scores of another number of models are not compared with these."""
    graded(contest, make_report, a=0.02)
    text = contest.folder.settings.read_text()
    contest.folder.settings.write_text(text.replace("models: 8", "models: 16"))
    assert places(contest) == []
    contest.folder.settings.write_text(text.replace("title: A test", "title: Another"))
    assert len(places(contest)) == 1


NAMES = [
    "<img src=x onerror=alert(1)>", "[a](http://x)", "a|b", "`a`", "**a**", "# a", "http://x.org", "@all", "a\n\n# b",
    "&lt;b&gt;", "\\|", "![a](b)", "www.x.org", "~~a~~", "$x$", "\u202eabc", "\x1b[31m", "<!--", "--", "../../etc",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str) -> None:
    """Rendered, each is its own text, on one line, without any markup."""
    from html import unescape

    shown = escaped(name)
    plain = unescape(
        "".join(letter for number, letter in enumerate(shown) if letter != "\\" or shown[number - 1 : number] == "\\")
    )
    expected = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    assert plain.replace("\\\\", "\\") == expected.replace("\\\\", "\\")
    assert not set("<>\n@") & set(shown)
    for number, letter in enumerate(shown):
        if letter in "|[]`*_~#!$":
            before = shown[number - 1 : number]
            assert before in ("\\", "&"), shown  # "&" begins an entity, as in &#58;


def test_rows_have_as_many_columns_as_the_table(contest: Contest, make_report: MakeReport) -> None:
    """Whatever the names are."""
    for number, name in enumerate(name for name in NAMES if "/" not in name):
        contest.put(name, f"{number}")
    for one in contest.look():
        contest.grade(one, contest.public_part(), make_report(score=0.1))
    rows = [line for line in as_markdown(contest.standing).splitlines() if line.startswith("|")]
    assert {row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows} == {12}
    assert len(rows) == 2 + len([name for name in NAMES if "/" not in name])


def public_texts(contest: Contest) -> str:
    """All that may be published: every file but those in private/, and the page."""
    root = contest.folder.root
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and contest.folder.private not in path.parents]
    return "\n".join([*(path.read_text(errors="replace") for path in files), as_markdown(contest.standing)])


def test_private_numbers_stay_private(contest: Contest, make_report: MakeReport) -> None:
    """Neither seed, nor hidden images, nor scores on them are public before the end; then the page has the scores."""
    graded(contest, make_report, a=0.02, b=0.05)
    hidden = contest.hidden_part()
    secret = {"a": 0.0777, "b": 0.0333}
    for one in contest.look():
        contest.grade(one, hidden, make_report(score=secret[one.team]))
    (path,) = (contest.folder.private / "requests").iterdir()
    indices = np.load(path)
    told = [contest.folder.seed.read_text().strip(), str(indices.tolist()), json.dumps(indices.tolist(), indent=1)]
    told += [str(hidden.spec.seed), *map(str, secret.values())]
    assert not [text for text in told if text in public_texts(contest)]
    contest.trail.add("ended", contest.now)
    page = as_markdown(contest.standing)
    assert page.index("0.0777") < page.index("0.0333") < page.index("## Public ranking")
    assert not [text for text in told if text in public_texts(contest).replace(page, "")]


def test_hidden_requests_are_drawn_by_the_seed(contest: Contest) -> None:
    """Other images than the public request has, the same ones each time, and others by another seed or number."""
    hidden = hidden_parts(contest.settings, contest.folder)[0].spec.task.forget
    assert hidden == contest.hidden_part().spec.task.forget
    task = load(replace(contest.settings.task, forget=("random:12",)), progress=False)
    public = set(task.forget_indices.tolist())
    drawn = [tuple(draw("random:12", task, secret).tolist()) for secret in ("one", "one", "other")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(one) == 12 and set(one) != public for one in drawn)
    labels = task.train.labels.numpy()
    of_class = [draw("class:3:0.5", task, secret) for secret in ("one", "other")]
    assert set(labels[np.concatenate(of_class)]) == {3}
    assert of_class[0].tolist() != of_class[1].tolist()
    assert draw("class:3", task, "one").tolist() == np.flatnonzero(labels == 3).tolist()
    np.save(contest.folder.private / "mine.npy", task.train.image_ids[[3, 5]])
    assert draw(f"file:{contest.folder.private / 'mine.npy'}", task, "one").tolist() == [3, 5]


def test_another_seed_draws_again(contest: Contest) -> None:
    """What was drawn by one seed is not taken for what another would draw."""
    before = contest.hidden_part()
    contest.folder.seed.write_text("f" * 64)
    after = contest.hidden_part()
    assert before.conditions != after.conditions
    files = [Path(part.spec.task.forget[0].removeprefix("file:")) for part in (before, after)]
    assert np.load(files[0]).tolist() != np.load(files[1]).tolist()


def test_nothing_yet(contest: Contest) -> None:
    """A page without submissions."""
    page = as_markdown(contest.standing)
    assert "Nothing has a score yet." in page
    assert DEADLINE.astimezone().tzinfo is not None
    assert "2026-03-10" in page
