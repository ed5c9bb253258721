"""`python main.py competition init|grade|page DIR`: run a contest of methods that strangers hand in."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from commands.options import GRADING, RUN, WHOLE, QuietOptions, RunOptions
from data.errors import UserError, unknown_name

if TYPE_CHECKING:
    from evaluation.competition.folder import Folder

ACTIONS = ("init", "grade", "page")
DAYS = 30
"""From `init` to the deadline that it writes."""


def command(
    action: Annotated[str, Parameter(help="init: make one. grade: grade what came in. page: print the leaderboard.")],
    directory: Annotated[Path, Parameter(help="The folder of the competition.")],
    /,
    *,
    final: Annotated[bool, GRADING] = False,
    workers: Annotated[int | None, RUN, WHOLE] = None,
    device: Annotated[str, RUN] = "auto",
    output: QuietOptions = QuietOptions(),
) -> int | None:
    """Run a contest of methods that strangers hand in: docs/competition.md is the guide.

    Args:
        final: Close now, before the deadline, and grade the hidden requests.
        workers: Processes on each device. [default: one per core; on a GPU at most four]
        device: cpu; cuda:1; cuda:0,cuda:1 (both); auto: a GPU if any.
    """
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    if action == "grade":
        return grade(directory, final, RunOptions(workers=workers, device=device, quiet=output.quiet, yes=True))
    if final or workers is not None or device != "auto":
        raise UserError(f"--final, --workers and --device are for python main.py competition grade {directory}.")
    from evaluation.competition.folder import Folder

    if action == "init":
        make(Folder(directory))
    else:
        show_page(Folder(directory))
    return None


def make(folder: Folder) -> None:
    """Write the files of a new competition, and say what comes next."""
    from evaluation.competition.settings import make_competition

    deadline = datetime.now(timezone.utc).replace(hour=23, minute=59, second=0, microsecond=0) + timedelta(days=DAYS)
    make_competition(folder, deadline)
    print(f"edit {folder.settings}; teams hand in to {folder.submissions}/<team>/; never publish {folder.private}/")
    print(f"python main.py competition grade {folder.root}    as often as you like, and once after the deadline")


def grade(directory: Path, final: bool, run: RunOptions) -> int:
    """Grade all that is to be graded; the exit code is 2 if something is left that the kit could not grade."""
    from checkpoints.server import start_server

    start_server()
    from evaluation.competition.conduct import conduct
    from evaluation.competition.folder import Folder
    from evaluation.competition.settings import read_settings

    folder = Folder(directory)
    settings = read_settings(folder)
    places = run.places()
    complete = conduct(folder, settings, lambda: run.pool(places), run.console(), _now, final)
    if not complete:
        print("error: some submissions were not graded, for a reason that is not theirs; see above.", file=sys.stderr)
    return 0 if complete else 2


def show_page(folder: Folder) -> None:
    """Print the leaderboard, and what was left out of it on standard error."""
    from evaluation.competition.page import as_markdown
    from evaluation.competition.ranking import Standing
    from evaluation.competition.settings import read_settings
    from evaluation.competition.trail import read_trail

    standing = Standing(folder, read_settings(folder), read_trail(folder.trail), _now())
    print(as_markdown(standing), end="")
    for remark in standing.remarks:
        print(remark, file=sys.stderr)


def _now() -> datetime:
    return datetime.now(timezone.utc)
