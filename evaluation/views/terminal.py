"""What the command line prints on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as Screen
from rich.table import Table
from rich.text import Text

from checkpoints.networks import NETWORKS, OTHER_NETWORKS
from checkpoints.trial import Builder
from data import UserError, all_tasks
from data.texts import printable
from evaluation.audits import AUDITS
from evaluation.audits.audit import Audit
from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.lookup import facts_of, look_up, registry
from evaluation.metrics import METRICS
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.score import Reference
from evaluation.report import Report, read_reports, results_folder
from evaluation.texts import counted
from evaluation.views.columns import as_of_with_interval, as_rich_table, overlap_with_interval, remarks
from evaluation.views.leaderboard import MIN_MODELS_FOR_RANK, WHY_NO_RANK, Row, is_suspicious, place_of

if TYPE_CHECKING:
    from evaluation.sequence import SequenceReport
    from evaluation.tuning import TuningResult

    Result = Report | SequenceReport | UserError
    """What the grading of a method came to."""


WIDE = 300
"""Letters in a line of the leaderboard, where there is no terminal to fold it."""
NO_DOCSTRING = "(it has no docstring)"


def make_screen(width: int = 140) -> Screen:
    """Standard output, for tables."""
    # Without a terminal, rich would fold tables at 80 columns.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # texts are shown as they are
    screen = Screen(**plain)
    return screen if screen.is_terminal else Screen(**plain, width=width)


def show_report(report: Report, all_numbers: bool = False) -> None:
    """The score of a method between its floor and its ceiling, its place, and where to look next.

    With `all_numbers`, F as of as many models as the competition had, too.
    """
    screen = make_screen()
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("score", "F", "overlap", "retain ratio", "test ratio"):
        table.add_column(name, justify="left" if name in ("score", "overlap") else "right")
    table.add_column("")
    table.add_row(
        printable(report.label),
        _with_interval(report.scores.score),
        f"{report.scores.forgetting_quality.value:.4f}",
        overlap_with_interval(report),
        f"{report.scores.retain_ratio:.3f}",
        f"{report.scores.test_ratio:.3f}",
        report.percent_of_ceiling(" % of the ceiling"),
    )
    table.add_row("do nothing", *_reference_cells(report.scores.floor), "")
    table.add_row("retrained", *_reference_cells(report.scores.ceiling), "")
    screen.print()
    screen.print(table)
    screen.print()
    if report.method.settings:
        screen.print(_values_line(report))
    if report.unlearned.top5 is not None and report.retrained.top5 is not None:
        screen.print(_top5_line(report.unlearned.top5, report.retrained.top5))
    if all_numbers:
        screen.print(_as_of_line(report))
    screen.print(_budget_line(report))
    screen.print(_rank_line(report))
    for line in (*remarks_of(report), *suspicions_of(report)):
        screen.print(line)


def show_result(result: Report | SequenceReport, all_numbers: bool = False) -> None:
    """What a grading came to: of one request, or of several."""
    if isinstance(result, Report):
        show_report(result, all_numbers)
    else:
        show_sequence(result)


def show_summary(results: Mapping[str, Result]) -> None:
    """A line for each method of a batch, the best score first; those that failed say why, last."""
    screen = make_screen()
    names = ("method", "score", "F", "of ceiling", "seconds a run")
    table = Table(*names, "", box=None, pad_edge=False)
    graded = {name: _last(result) for name, result in results.items() if not isinstance(result, UserError)}
    for report in sorted(graded.values(), key=lambda report: report.scores.score.value, reverse=True):
        table.add_row(
            printable(report.label),
            _with_interval(report.scores.score),
            f"{report.scores.forgetting_quality.value:.4f}",
            report.percent_of_ceiling(" %"),
            f"{report.cost.runs_seconds_mean:.2g}",
            ", ".join(["remark, see above"] * bool(report.remarks) + ["BEWARE, see above"] * is_suspicious(report)),
        )
    for name, result in results.items():
        if isinstance(result, UserError):
            table.add_row(printable(name), "failed", "", "", "", printable(_why(result), most=MOST_OF_A_REASON))
    failed = len(results) - len(graded)
    screen.print(f"\n{counted(len(results), 'method')}, {failed} of them failed:" if failed else "\nAll methods:")
    screen.print(table)


MOST_OF_A_REASON = 90
"""Letters; the whole of it has been told before."""


def _last(result: Report | SequenceReport) -> Report:
    """The report that counts: of a sequence that after its last request."""
    return result if isinstance(result, Report) else result.steps[-1]


def _why(error: UserError) -> str:
    """What went wrong in a run, if that is why a grading failed."""
    return str(getattr(error.__cause__, "complaint", error))


def show_sequence(sequence: SequenceReport) -> None:
    """A row for each request, and one for all at once; F of each request so far tells whether one comes back."""
    screen = make_screen()
    names = ("score", "of ceiling", "F of each request", "retain", "test", "forget", "seconds", "drift")
    table = Table("", *names, box=None, pad_edge=False)
    for report in [*sequence.steps, sequence.at_once]:
        at_once = report is sequence.at_once
        table.add_row(
            "all at once" if at_once else f"{len(report.grading.forget)}. {printable(report.grading.forget[-1])}",
            _with_interval(report.scores.score),
            report.percent_of_ceiling(" %"),
            " ".join(f"{quality:.3f}" for quality in report.scores.forgetting_quality_by_request),
            f"{report.unlearned.retain:.3f} ({report.retrained.retain:.3f})",
            f"{report.unlearned.test:.3f} ({report.retrained.test:.3f})",
            f"{report.unlearned.forget:.3f} ({report.retrained.forget:.3f})",
            f"{report.cost.runs_seconds_mean:.2g} ({report.cost.retrain_seconds:.2g})",
            f"{report.drift:.3f}",
        )
    screen.print(
        f"\n{printable(sequence.at_once.label)}: accuracies and seconds a run, in brackets those of retraining; "
        "score and forget: of all requests so far"
    )
    screen.print(table)
    for report in [*sequence.steps, sequence.at_once]:
        for line in suspicions_of(report):
            screen.print(line)
    for line in dict.fromkeys(line for report in [*sequence.steps, sequence.at_once] for line in remarks_of(report)):
        screen.print(line)


def remarks_of(report: Report) -> Iterator[str]:
    """What is odd about its runs."""
    yield from (f"remark       {printable(remark, most=1000)}" for remark in report.remarks)


def suspicions_of(report: Report) -> Iterator[str]:
    """What an honest method can hardly have done, and what to look at; nothing if all is well, or not known."""
    found = report.plausibility
    if found is None:
        return
    if found.above_ceiling:
        best, own = report.scores.ceiling, report.scores
        yield (
            f"BEWARE       impossible for an honest method, but for chance: score and F ({own.score.value:.3f}, "
            f"{own.forgetting_quality.value:.3f}) are above the ceiling ({best.score.value:.3f}, "
            f"{best.forgetting_quality.value:.3f}), which no method passes without the retrained models."
        )
        if not found.copies:
            nearest = "" if found.nearest is None else f" (the nearest is at {found.nearest:.2f}; copies are below 0.5)"
            yield f"look at      what the method reads: no run is a copy of a single retrained model{nearest}"
    if found.copies:
        some = ", ".join(f"{one.run} of {one.retrained} ({one.distance:.2f})" for one in found.copies[:SHOWN_COPIES])
        more = f" and {len(found.copies) - SHOWN_COPIES} more" if len(found.copies) > SHOWN_COPIES else ""
        kind = "run" if report.method.submission is None else "checkpoint"
        yield (
            f"BEWARE       {len(found.copies)} of its models are copies, or nearly so, of the bank's retrained models: "
            f"{kind} {some}{more}; in brackets the distance, 1 is that of the two nearest retrained models"
        )


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]"


def _reference_cells(reference: Reference) -> tuple[str, str, str, str, str]:
    quality = f"{reference.forgetting_quality.value:.4f}"
    overlap = "" if reference.overlap is None else f"{reference.overlap:.3f}"
    ratios = (f"{reference.retain_ratio:.3f}", f"{reference.test_ratio:.3f}")
    return (_with_interval(reference.score), quality, overlap, *ratios)


def _as_of_line(report: Report) -> str:
    found = report.scores.as_of
    if found is None:
        competition = METRICS[report.grading.metric].competition_models
        if competition is None:
            return f"as of more   not defined for the {report.grading.metric} metric"
        known = report.grading.models >= competition
        return f"as of {competition}    {'there are as many models' if known else 'unknown: score this grading again'}"
    said = f"{as_of_with_interval(report)} of the ceiling of so many models"
    return (
        f"as of {found.models}    {said} (F {found.forgetting_quality.value:.4f} of {found.ceiling:.4f}, by estimates)"
    )


def _top5_line(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> str:
    splits = [split for split in unlearned if split in retrained]  # a bank from before lacks that of the retain set
    shares = [f"{split} {100 * unlearned[split]:.1f} % ({100 * retrained[split]:.1f} %)" for split in splits]
    return f"top-5        {', '.join(shares)}; in brackets the retrained models"


def _values_line(report: Report) -> str:
    changed = f", but {_in_words(report.method.changed)}" if report.method.changed else ""
    trials = report.method.tuned_trials
    if trials is None:
        return f"values       default{changed} (python main.py tune may find better ones)"
    return f"values       tuned ({counted(trials, 'trial')}){changed}: {_in_words(report.method.settings)}"


SHOWN_COPIES = 5
"""More are in the report."""


def _in_words(settings: Mapping[str, Any]) -> str:
    """Hyper-parameters, numbers rounded."""
    texts = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return printable(" ".join(f"{name}={text}" for name, text in texts.items()), most=2000)


def show_outcomes(outcomes: Sequence[TuningResult]) -> None:
    """What searches for hyper-parameters came to."""
    screen = make_screen()
    names = ("method", "default", "best", "trials", "stopped early", "failed", "values")
    table = Table(*names, box=None, pad_edge=False)
    for outcome in outcomes:
        scores = (f"{outcome.published_score:.4f}", f"{outcome.score:.4f}")
        counts = map(str, (outcome.trials, outcome.stopped_early, outcome.failed))
        table.add_row(outcome.method, *scores, *counts, _in_words(outcome.settings))
    screen.print(table)
    for outcome in outcomes:
        if outcome.why_failed:
            most = "failed" if outcome.failed == 1 else f"failed {outcome.failed} times, mostly"
            screen.print(f"{outcome.method} {most}: {printable(outcome.why_failed)}")
    if outcomes:
        screen.print(f"\nsaved in {outcomes[0].path}; python main.py -m {outcomes[0].method} uses them")


def _budget_line(report: Report) -> str:
    if report.cost.budget_fraction_used is None:
        return "time         unknown: the checkpoints were made elsewhere"
    used = f"{report.cost.runs_seconds_mean:.2g} s a run, {report.cost.budget_fraction_used:.2f} of retraining"
    if report.cost.prepare_seconds is not None:
        used += f", after {report.cost.prepare_seconds:.2g} s for each original"
    if report.allowed is None:
        return f"time         {used} (exempt from the budget)"
    return f"time         {used} (allowed: {report.allowed:.3g})"


def _rank_line(report: Report) -> str:
    if report.method.exempt_from_budget:
        return "leaderboard  no rank: a reference, not a method"
    if report.grading.models < MIN_MODELS_FOR_RANK:
        return f"leaderboard  no rank: with fewer than {MIN_MODELS_FOR_RANK} models {WHY_NO_RANK}"
    reports, _ = read_reports(results_folder())
    if report not in reports:  # scored again in a folder elsewhere
        reports.append(report)
    rank, ranked = place_of(report, reports)
    interval = f" (rank {rank.interval})" if ranked > 1 else ""
    return f"leaderboard  {_ordinal(rank.place)} of {ranked}{interval}      python main.py leaderboard"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def print_table(rows: Sequence[Row], wide: bool = False, by: str = "score") -> None:
    """One table of the leaderboard, ranked `by` a number; `wide` with all columns."""
    screen = make_screen(WIDE)
    screen.print(as_rich_table(rows, wide, by))
    for remark in remarks(rows):
        screen.print(remark)
    screen.print()


def print_registries() -> None:
    """Methods, tasks, networks and audits, one line each."""
    screen = make_screen()
    for title, rows in (
        ("methods", {name: _summary(found) for name, found in look_up(registry()).items()}),
        ("tasks", {name: info.summary for name, info in all_tasks().items()}),
        ("networks", {name: _first_line(one) for name, one in NETWORKS.items()} | OTHER_NETWORKS),
        ("audits", {name: _with_options(audit) for name, audit in AUDITS.items()}),
    ):
        screen.print(title)
        table = Table(box=None, show_header=False)
        for name, summary in rows.items():
            table.add_row(Text(f"  {name}"), Text(summary))
        screen.print(table)
        screen.print()
    screen.print("python main.py list METHOD shows a method's hyper-parameters.")


def _first_line(builder: Builder) -> str:
    return (builder.__doc__ or NO_DOCSTRING).strip().partition("\n")[0]


def _with_options(audit: Audit) -> str:
    options = " ".join(f"{name}={value}" for name, value in audit.options().items())
    return f"{audit.summary} (--option {options})" if options else audit.summary


def print_method(name: str) -> None:
    """A method's docstring and hyper-parameters.

    Raises:
        UserError: its file can't be used.
    """
    facts = facts_of(name)
    screen = make_screen()
    screen.print(Text(f"{name}: {facts.docstring or NO_DOCSTRING}\n"))
    table = Table("hyper-parameter", "type", "default", "meaning", box=None)
    for parameter in facts.hyper_parameters.values():
        cells = (parameter.name, parameter.type.__name__, str(parameter.default), parameter.explanation)
        table.add_row(*map(Text, cells))
    screen.print(table)
    for attribute, advice in facts.almost.items():
        screen.print(Text(f"{attribute} is no hyper-parameter: it {advice}."))
    for remark in facts.remarks:
        screen.print(Text(remark))


def _summary(found: MethodFacts | UserError) -> str:
    if isinstance(found, UserError):
        return f"(can't be used: {found})"
    return found.summary or NO_DOCSTRING
