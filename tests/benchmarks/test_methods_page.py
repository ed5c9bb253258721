"""docs/methods.md has a row for every method, and tells of it what its file tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pages.methods_page import examples_used, guarantee, idea, published, source
from data import TaskSpec, load
from methods import all_method_handlers

PAGE = Path(__file__).parent.parent.parent / "docs" / "methods.md"


@pytest.mark.parametrize("name", all_method_handlers())
@pytest.mark.usefixtures("described")
def test_has_one_row_that_is_up_to_date(name: str) -> None:
    """Catches a method that was registered, or whose docstring or claims were changed, without making the page anew."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"python -m benchmarks.pages.methods_page --out docs/methods.md ({name})"
    cells = [cell.strip() for cell in rows[0].split("|")]
    assert cells[2:4] == [idea(name), source(name)]
    assert cells[5:7] == [guarantee(name), published(name)]


def test_knows_nothing_of_methods_that_are_not_there() -> None:
    """Catches a row that is left of a method that was renamed, or is no longer registered."""
    rows = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == list(all_method_handlers())


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("do_nothing", []),
        ("my_method", ["retain"]),
        ("gradient_ascent", ["forget"]),
        ("neg_grad_plus", ["retain", "forget"]),
        ("amnesiacs", ["retain", "validation"]),
        ("transpose", ["retain", "forget", "validation"]),
    ],
)
def test_sees_what_a_method_reads(name: str, sets: list[str]) -> None:
    """Catches a watched data set that misses a way to read, or that takes its length for reading."""
    assert examples_used(name, load(TaskSpec("digits", train_size=100))) == sets
