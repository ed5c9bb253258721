"""The page of a suite's leaderboard, from results that are stored."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages import leaderboards
from tests.evaluation.suites.some_results import DIGITS, RESULTS, a_result


def test_what_the_page_says(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table; what tuning gained on either part; what failed, and what is missing."""
    tuned = a_result("finetune", [0.3, 0.31], "tuned", on_tuning_part=0.5)
    published = a_result("finetune", [0.1], on_tuning_part=0.2)
    failed = replace(published.held_out[0], share=0.0, failure="finetune took too long; take less. Its log: /x")
    published = replace(published, held_out=(failed, *published.held_out[1:]))
    for result in (tuned, published, *RESULTS):
        result.save(DIGITS.folder)
    monkeypatch.setattr(sys, "argv", ["page", "--stored", "--out", str(tmp_path / "page.md")])
    leaderboards.main()
    page = (tmp_path / "page.md").read_text()
    assert "| 1 | a | strong | 51.0 [" in page
    assert "Over 1 tuned method the mean gain over the published values is 30.0 points on the tuning part" in page
    means = [100 * leaderboards.over_kinds(result, DIGITS) for result in (published, tuned)]
    assert f"| finetune | 20.0 | 50.0 | {means[0]:.1f} | {means[1]:.1f} |" in page
    assert means[0] == pytest.approx(100 * (0.075 + 0.1 + 0.1 + 0.1) / 4)  # one of the four of the first kind failed
    assert "- `finetune`, published: 1 of 12; the first: finetune took too long\n" in page
    assert "Not graded yet: `my_method`, " in page
    assert "/x" not in page
