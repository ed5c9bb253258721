"""competition.yaml: what `init` writes can be read; mistakes are one sentence."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from data import UserError
from evaluation.competition.folder import Folder
from evaluation.competition.settings import make_competition, read_seed, read_settings
from tests.evaluation.competition.conftest import DEADLINE, Contest


def test_what_init_writes(tmp_path: object) -> None:
    """It can be read as it is; every comment that is an entry can be, too; seeds are secret, and never the same."""
    folder, other = Folder(tmp_path / "one"), Folder(tmp_path / "other")  # type: ignore[operator]
    for one in (folder, other):
        make_competition(one, DEADLINE)
    settings = read_settings(folder)
    assert (settings.deadline, settings.sandbox, settings.task.name) == (DEADLINE, True, "digits")
    text = folder.settings.read_text()
    folder.settings.write_text(
        text.replace("  # train_size", "  train_size")
        .replace("# budget_s", "budget_s")
        .replace("  # recipe", "  recipe")
        .replace("budget: 0.2", "budget: 2e-1")  # which YAML takes for a text
        .replace("largest_zip: 4096", "largest_zip: 4e3")
    )
    assert (read_settings(folder).budget, read_settings(folder).largest_zip) == (0.2, 4000)
    assert read_settings(folder).task.recipe == (("epochs", 60),)
    assert read_settings(folder).budget_seconds == 3
    assert read_seed(folder) != read_seed(other)
    assert stat.S_IMODE(folder.seed.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.private.stat().st_mode) == 0o700
    before = folder.seed.read_text()
    with pytest.raises(UserError, match="has a competition already"):
        make_competition(folder, DEADLINE)
    assert folder.seed.read_text() == before
    folder.seed.write_text("1\n")
    with pytest.raises(UserError, match="has no secret seed any more"):
        read_seed(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_dya": "3"}, "unknown entry 'per_dya'; it may have title, task"),
        ({"task": "{name: digits, epochs: 3}"}, "task has an unknown entry 'epochs'; it may have name"),
        ({"task": "{name: digits, forget: ['class:1']}"}, "task has an unknown entry 'forget'"),
        ({"task": "digits"}, "task"),
        ({"task": "{name: digits, recipe: [epochs]}"}, "recipe"),
        ({"deadline": "2026-03-10T13:00:00"}, "deadline"),
        ({"deadline": "tomorrow"}, "deadline"),
        ({"deadline": "2026-03-10"}, "deadline"),
        ({"per_day": "0"}, "per_day"),
        ({"per_day": "two"}, "per_day"),
        ({"models": "3"}, "metric needs at least"),
        ({"models": "1000000000000"}, "models"),
        ({"budget": ".nan"}, "budget"),
        ({"budget_seconds": "-1"}, "budget_seconds"),
        ({"metric": "best"}, "--metric is one of"),
        ({"public": "[]"}, "public"),
        ({"public": "random:12"}, "public"),
        ({"hidden": "['confuse:0.1']"}, "can't be hidden; use random:, class:"),
        ({"hidden": "['random:0.1@7']"}, "is hidden, and drawn by the secret seed: leave out the @"),
        ({"hidden": "['random:0.1@x']"}, "is hidden, and drawn by the secret seed"),
        ({"hidden": "['class:3:0.5@7']"}, "is hidden, and drawn by the secret seed"),
        ({"hidden": "['group:person_id:3']"}, "can't be hidden"),
        ({"sandbox": "maybe"}, "sandbox"),
        ({"cleared": "[xyz]"}, "cleared"),
        ({"title": "!!python/object/apply:os.system [id]"}, "not YAML"),
        ({"title": "[" * 2000}, "it is"),
    ],
)
def test_mistakes_are_named(changes: dict[str, str], said: str, make_contest: Callable[..., Contest]) -> None:
    """One sentence, which names the file and the entry."""
    contest = make_contest(**changes)
    with pytest.raises(UserError) as error:
        read_settings(contest.folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_settings(tmp_path: object) -> None:
    """The sentence says how to make them."""
    with pytest.raises(UserError, match="competition init"):
        read_settings(Folder(tmp_path / "nothing"))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("written", "is_same"),
    [
        ("2026-03-10T12:00:00Z", True),
        ('"2026-03-10T12:00:00+00:00"', True),
        ("2026-03-10T07:00:00-05:00", True),
        ("2026-03-10T12:00:00+01:00", False),
    ],
)
def test_deadlines_have_a_zone(written: str, is_same: bool, make_contest: Callable[..., Contest]) -> None:
    """Quoted or not."""
    assert (make_contest(deadline=written).settings.deadline == DEADLINE) == is_same
