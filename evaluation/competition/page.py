"""The leaderboard of a competition, as Markdown. Names are strangers': they are shown as texts, whatever they are."""

from __future__ import annotations

import string
from collections.abc import Sequence

from data.texts import printable
from evaluation.competition.intake import submissions_of
from evaluation.competition.ranking import MARKS, Row, Standing
from evaluation.competition.rules import closed_at, turns
from evaluation.views.leaderboard import MIN_MODELS_FOR_RANK

LONGEST_NAME = 60
COLUMNS = ("place", "team", "score", "F", "retain", "test", "budget used", "submissions", "mark", "file", "SHA-256")
HOW = (
    "A score is the mean, over {requests} forget requests, of F x (retain accuracy / that of retrained models) x (test "
    "accuracy / that of retrained models), from {models} runs on each of {originals} originals; perfect methods get "
    "about {ceiling:.3f}. Each team has its best submission here. Equal scores: whoever came first."
)


def as_markdown(standing: Standing) -> str:
    """The page: the public part, and after the end the private one before it."""
    settings = standing.settings
    closed = closed_at(settings, standing.lines)
    parts = [f"# {escaped(settings.title, 200)}"]
    if standing.has_ended and settings.hidden:
        rows = standing.private_rows()
        parts += ["## Final ranking", "On requests that nobody had seen.", *_table(rows, standing, settings.hidden)]
    parts += ["## Public ranking" if settings.hidden else "## Ranking", *_table_of_public(standing)]
    state = "It has ended." if standing.has_ended else f"Submissions are taken until {closed.isoformat()}."
    parts.append(state)
    if not settings.sandbox or any(line.get("sandbox") is False for line in standing.lines):
        parts.append("**Graded without a sandbox: methods could read and write whatever they liked.**")
    last = standing.lines[-1] if standing.lines else None
    if last is not None:
        parts.append(f"Audit trail: {last['number']} lines, the hash of the last one is `{last['hash']}`.")
    return "\n\n".join(parts) + "\n"


def escaped(text: str, most: int = LONGEST_NAME) -> str:
    r"""A text that Markdown shows as it is: without markup, links, HTML or columns.

    >>> escaped("<b>|[a](http://x)\n")
    '&lt;b&gt;\\|\\[a\\]\\(http&#58;&#47;&#47;x\\)\ufffd'
    """
    letters = {"<": "&lt;", ">": "&gt;", "&": "&amp;", ":": "&#58;", "/": "&#47;", "@": "&#64;", ".": "&#46;"}
    for letter in string.punctuation:
        letters.setdefault(letter, f"\\{letter}")
    return "".join(letters.get(letter, letter) for letter in printable(text, most))


def _table_of_public(standing: Standing) -> list[str]:
    rows = standing.public_rows()
    closed = closed_at(standing.settings, standing.lines)
    found = turns(submissions_of(list(standing.lines)), standing.settings.per_day, closed, standing.now)
    ranked = {row.submission.team for row in rows}
    without = sorted({one.team for one in found.admitted} - ranked)
    lines = _table(rows, standing, standing.settings.public)
    if without:
        lines.append(f"Without a score: {', '.join(map(escaped, without))}.")
    counts = {"wait for another day": found.waiting, "came late": found.late, "were too many": found.over}
    said = [f"{len(submissions)} {what}" for what, submissions in counts.items() if submissions]
    return [*lines, *([f"Submissions: {', '.join(said)}."] if said else [])]


def _table(rows: Sequence[Row], standing: Standing, requests: Sequence[str]) -> list[str]:
    if not rows:
        return ["Nothing has a score yet."]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    models = standing.settings.models
    ceilings = [report.scores.ceiling.score.value for report in rows[0].reports]
    about = {"requests": len(requests), "models": models, "originals": standing.settings.originals}
    parts = ["\n".join(lines), HOW.format(**about, ceiling=sum(ceilings) / len(ceilings))]
    if models < MIN_MODELS_FOR_RANK:
        parts.append(f"Below {MIN_MODELS_FOR_RANK} models, scores flatter bad methods: places mean little.")
    used = {mark for row in rows for mark in row.marks}
    return [*parts, *(f"`{mark}` {meaning}." for mark, meaning in MARKS.items() if mark in used)]


def _cells(row: Row) -> list[str]:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    scores = [report.scores for report in row.reports]
    budgets = [report.cost.budget_seconds for report in row.reports if report.cost.budget_seconds]
    seconds = [report.cost.runs_seconds_mean for report in row.reports if report.cost.runs_seconds_mean is not None]
    low, high = mean([one.score.low for one in scores]), mean([one.score.high for one in scores])
    return [
        "-" if row.rank is None else str(row.rank),
        escaped(row.submission.team),
        f"{row.score:.4f} ({low:.4f} to {high:.4f})",
        f"{mean([one.forgetting_quality.value for one in scores]):.4f}",
        f"{mean([one.retain_ratio for one in scores]):.3f}",
        f"{mean([one.test_ratio for one in scores]):.3f}",
        f"{mean(seconds) / mean(budgets):.2f}" if budgets and seconds else "?",
        str(row.of),
        f"`{row.marks}`" if row.marks else "",
        escaped(row.submission.file),
        f"`{row.submission.sha256[:12]}`",
    ]
