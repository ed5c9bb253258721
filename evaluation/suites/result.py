"""What a method came to on a suite: a record for each rule, as JSON in the suite's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from data.documents import parse_json, read_text
from data.files import write_atomically
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.quantities import AtLeastOne, Count, Name, NotNegative, Share, Text
from evaluation.report import NOT_A_REPORT
from evaluation.suites.number import mean_over_kinds
from evaluation.suites.suite import Suite
from evaluation.texts import counted

FORMAT = 1
"""Version of the files."""

Rule = Literal["tuned", "self-tuned", "published"]
"""By which rule values were chosen, after AlgoPerf's (mlcommons/algorithmic-efficiency, docs/DOCUMENTATION.md): by a
number of trials on the tuning part, the same for all methods; by the method itself, within its budget; or by whoever
published it."""


@dataclass(frozen=True)
class HeldOut:
    """What became of one held-out grading."""

    kind: Name
    request: Name
    share: NotNegative
    """Of the ceiling: 1 is a perfect method. 0 if the grading failed."""
    overlap: Share
    """See `Scores.overlap`; 0 if the grading failed."""
    retain_ratio: NotNegative
    test_ratio: NotNegative
    budget_used: NotNegative
    """Mean seconds of a run over the seconds of retraining."""
    failure: Text = ""
    """Why it failed; empty if it did not."""


@dataclass(frozen=True)
class SuiteResult:
    """A method on a suite, by one rule."""

    method: Name
    rule: Rule
    trials: Count | None
    """Of the search on the tuning part; None by the other rules."""
    settings: dict[str, Any]
    """The values that were found."""
    exempt_from_budget: bool
    code: Text
    """Hash of the method's code."""
    bank: Text
    """Hash of the models that it was compared with: results of other models are not comparable."""
    models: AtLeastOne
    """N of each grading."""
    held_out: tuple[HeldOut, ...]
    on_tuning_part: NotNegative | None
    """Share of the ceiling on the tuning part with the same values, where that is known: how much it flatters."""
    seconds: NotNegative
    """That the held-out gradings took."""
    created: Text
    """ISO 8601, UTC."""
    format: int = FORMAT

    @property
    def shares(self) -> list[float]:
        """Of the ceiling, of each held-out grading."""
        return [part.share for part in self.held_out]

    @property
    def share(self) -> Estimate:
        """The number: the mean share of the ceiling over the held-out gradings."""
        return mean_over_kinds(self.shares, self._kinds)

    @property
    def overlap(self) -> Estimate:
        """The mean overlap over the held-out gradings; its interval may exceed 1."""
        return mean_over_kinds([part.overlap for part in self.held_out], self._kinds)

    def share_of_kind(self, kind: str) -> float:
        """The mean share of the ceiling over the held-out gradings of one kind."""
        shares = [part.share for part in self.held_out if part.kind == kind]
        return sum(shares) / len(shares)

    @property
    def budget_used(self) -> float:
        """The largest share of retraining that a run took, mean over the runs of a grading."""
        return max(part.budget_used for part in self.held_out)

    @property
    def failures(self) -> list[HeldOut]:
        """The gradings that failed."""
        return [part for part in self.held_out if part.failure]

    @property
    def label(self) -> str:
        """The rule in words."""
        return self.rule if self.trials is None else f"{self.rule}, {counted(self.trials, 'trial')}"

    @property
    def _kinds(self) -> list[str]:
        return [part.kind for part in self.held_out]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; with what follows from the rest."""
        return {**asdict(self), "share": asdict(self.share), "overlap": asdict(self.overlap)}

    def save(self, folder: Path) -> None:
        """Write it, in place of an earlier result of the method by this rule."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_atomically(folder / f"{self.method}-{self.rule}.json", lambda beside: beside.write_text(text))


def read_results(suite: Suite) -> tuple[list[SuiteResult], list[Path]]:
    """The results in a suite's folder, and the files that are none and should be."""
    results, unreadable = [], []
    for path in sorted(suite.folder.glob("*.json")):
        try:
            results.append(_from_json(read_text(path), suite))
        except (OSError, *NOT_A_REPORT):
            unreadable.append(path)
    return results, unreadable


def _from_json(text: str, suite: Suite) -> SuiteResult:
    """Raises one of `NOT_A_REPORT` if it is something else, or of another suite."""
    result = msgspec.convert(parse_json(text), SuiteResult)
    if result.format != FORMAT:
        raise ValueError(f"it has format {result.format}")
    datetime.fromisoformat(result.created)
    if [(part.kind, part.request) for part in result.held_out] != [(one.kind, one.request) for one in suite.held_out]:
        raise ValueError("it is of other gradings")
    return result


def comparable(results: Sequence[SuiteResult]) -> tuple[list[SuiteResult], int]:
    """Those that were compared with the models of the last one, and how many were not."""
    if not results:
        return [], 0
    bank = max(results, key=lambda result: result.created).bank
    same = [result for result in results if result.bank == bank]
    return same, len(results) - len(same)
