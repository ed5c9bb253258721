"""The leaderboard of a suite, as a page: `python -m benchmarks.pages.leaderboards --out docs/leaderboard-digits.md`.

Tunes every method by as many trials on the tuning part of the suite, grades it on the held-out part with tuned and with
published values, and writes the table as Markdown, with what tuning gained on either part. Three to four hours on
two cores; if interrupted, the same command continues. With `--stored` it grades nothing, and writes what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from checkpoints.devices import choose_device, describe_device
from checkpoints.server import start_server
from checkpoints.workers import default_workers
from evaluation.catalogue.lookup import registry
from evaluation.console import Console
from evaluation.isolation.handle import room_workers
from evaluation.spec import choose_methods
from evaluation.suites.conduct import grade_on_suite
from evaluation.suites.result import SuiteResult, comparable, read_results
from evaluation.suites.suite import Suite, read_suite
from evaluation.texts import counted, in_markdown
from evaluation.views.leaderboard import current_codes
from evaluation.views.suites import Row, as_markdown, rows_of

SHOWN = 12
"""Methods in the table of what tuning gained."""


def main() -> None:
    """Grade, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--methods", default="all", help="a,b; default: all that are registered")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stored", action="store_true", help="grade nothing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    suite, device = read_suite(options.suite), choose_device(options.device)
    if not options.stored:
        start_server()
        with room_workers(default_workers(device), device) as workers:
            grade_on_suite(suite, choose_methods(options.methods), options.trials, workers, Console())
    results, others = comparable(read_results(suite)[0])
    rows = rows_of(results, current_codes(result.method for result in results))
    command = f"python -m benchmarks.pages.leaderboards --suite {options.suite} --trials {options.trials}"
    about = f"{suite.about[0].upper()}{suite.about[1:]}"
    parts = [
        f"# Leaderboard: suite {suite.name}",
        f"{about}. Made by `{command} --out {options.out}` on {describe_device(device)}. "
        "[What a suite is](suites.md), and what its numbers mean.",
        as_markdown(suite, rows, others),
        _missing(rows),
        "\n".join(_flattery(suite, rows)),
        "\n".join(_failures(rows)),
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n\n".join(part for part in parts if part) + "\n")
    print(f"written to {options.out}")


def over_kinds(result: SuiteResult, suite: Suite) -> float:
    """The mean share with equal weights for the kinds, as the tuning part has them."""
    return fmean(result.share_of_kind(kind) for kind in suite.kinds)


def _flattery(suite: Suite, rows: Sequence[Row]) -> Iterator[str]:
    """What tuning gained on the part that it saw, and on the one that it did not."""
    lines, gains = [], []
    for row in rows:
        if not {"tuned", "published"} <= set(row.results):
            continue
        tuned, published = row.results["tuned"], row.results["published"]
        if tuned.on_tuning_part is None or published.on_tuning_part is None:
            continue
        if len(tuned.failures) == len(tuned.held_out):  # there is nothing that could have been flattered
            continue
        seen = published.on_tuning_part, tuned.on_tuning_part
        unseen = over_kinds(published, suite), over_kinds(tuned, suite)
        gains.append((seen[1] - seen[0], unseen[1] - unseen[0]))
        cells = [f"{100 * one:.1f}" for one in (*seen, *unseen)]
        lines.append(f"| {in_markdown(tuned.method)} | {' | '.join(cells)} |")
    if not lines:
        return
    on_seen, on_unseen = (100 * fmean(gain) for gain in zip(*gains, strict=True))
    yield "## How much the tuning part flatters"
    yield ""
    yield (
        "Mean share of the ceiling in per cent, with equal weights for the kinds. On the tuning part each setting is "
        "tried once, with other models than those that grade, and the best of all is what stands here: some of its "
        f"advantage is luck. Over {counted(len(gains), 'tuned method')} the mean gain over the published values is "
        f"{on_seen:.1f} points on the tuning part and {on_unseen:.1f} points on the held-out part."
    )
    yield ""
    yield "| method | tuning part, published | tuning part, tuned | held out, published | held out, tuned |"
    yield f"|{'---|' * 5}"
    yield from lines[:SHOWN]


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    """Which gradings failed, and why: of each result the first reason."""
    lines = []
    for row in rows:
        for rule, result in row.results.items():
            if result.failures:
                many = f"{len(result.failures)} of {len(result.held_out)}"
                # The path of the log on this machine does not belong on the page, nor advice for whoever ran it.
                reason = result.failures[0].failure.partition(";")[0].split(" Its log:")[0]
                lines.append(f"- `{result.method}`, {rule}: {many}; the first: {in_markdown(reason)}")
    if lines:
        yield "## Failed, and counted as 0"
        yield ""
        yield from lines


def _missing(rows: Sequence[Row]) -> str:
    """Which methods have not been graded."""
    graded = {row.ranked.method for row in rows}
    names = [f"`{name}`" for name in registry() if name not in graded]
    return f"Not graded yet: {', '.join(names)}." if names else ""


if __name__ == "__main__":
    main()
