"""`competition.yaml`, typed; and the secret seed that hidden forget requests and their gradings are drawn by."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from data import TaskSpec, UserError
from data.documents import DocumentError, read_text, read_yaml
from data.files import write_atomically, writing_to
from evaluation.competition.folder import Folder
from evaluation.metrics import DEFAULT_METRIC
from evaluation.spec import GradingSpec
from evaluation.texts import with_numbers

HIDDEN_KINDS = ("random", "class", "where", "file")
"""Kinds of requests that can be hidden: `group` always takes the first groups, `confuse` changes what is trained on."""

TEMPLATE = """\
# A contest of unlearning methods; docs/competition.md is the guide.
# You may publish this file, but never the folder private/.

title: A contest of unlearning methods

# What is graded. Fields as in the config.yaml of a grading. Teams can compute what kit and data make public: take data
# of your own (name: folder, data_dir: ...) for a contest that matters.
task:
  name: digits
  # data_dir: /data/images
  # train_size: 400
  # network: small_cnn
  # recipe: {epochs: 60}

# Forget requests of the public part, each graded by itself; a score is the mean over them. Teams see these scores.
public: ["random:0.15"]

# Forget requests of the private part, graded after the deadline. Images are drawn by the seed in private/seed, which
# nobody has seen: random:0.15, class:3:0.5. Or by you: file:private/mine.npy (indices of training images).
# [] for none: the public part is then the whole.
hidden: ["random:0.15", "random:0.1"]

originals: 2          # original models, each graded by itself
models: 64            # runs from each, and retrained models that they are compared with
budget: 0.2           # the most seconds of a run, as a fraction of retraining
# budget_seconds: 3   # the same in seconds, which does not depend on the machine
metric: official
seed: 0               # of the public gradings

per_day: 5            # submissions of a team and day (UTC) that are graded; more have to wait for the next day
deadline: {deadline}   # ISO time with its zone; a file counts from when `grade` first sees it

# Methods run without network, and without files of yours. false: they run as you, and can read and write all of it.
sandbox: true

# Largest files, in MB.
largest_method: 1
largest_zip: 4096

# By the beginning of their SHA-256, as in the audit trail: what you have looked at, and what you have found to be fair
# although it is marked, or unfair.
cleared: []
disqualified: []
"""

Count = Annotated[int, Meta(ge=1, le=10**6)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{12,64}$")]
Megabytes = Annotated[float, Meta(gt=0, le=1e7)]
NUMBERS = ("budget", "budget_seconds", "largest_method", "largest_zip")
"""Entries that may be written like 1e-1, which YAML takes for a text."""
Texts = Annotated[list[Annotated[str, Meta(min_length=1, max_length=10_000)]], Meta(max_length=100)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `competition.yaml` may say; `TEMPLATE` explains each field."""

    title: Annotated[str, Meta(min_length=1, max_length=200)]
    task: TaskSpec
    public: Annotated[Texts, Meta(min_length=1)]
    hidden: Texts = []
    originals: Count = 2
    models: Count = 64
    budget: Annotated[float, Meta(gt=0, le=1e6)] = 0.2
    budget_seconds: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    metric: str = DEFAULT_METRIC
    seed: Annotated[int, Meta(ge=0, le=2**62)] = 0
    per_day: Count = 5
    deadline: Annotated[datetime, Meta(tz=True)]
    sandbox: bool = True
    largest_method: Megabytes = 1
    largest_zip: Megabytes = 4096
    cleared: list[Digest] = []
    disqualified: list[Digest] = []

    def grading(self, task: TaskSpec, seed: int) -> GradingSpec:
        """How one request is graded; the method is yet to be named. Raises `UserError` if it can't be."""
        return GradingSpec(
            "",
            task,
            originals=self.originals,
            models=self.models,
            metric=self.metric,
            seed=seed,
            budget=self.budget,
            budget_seconds=self.budget_seconds,
        )


def read_settings(folder: Folder) -> Settings:
    """What `competition.yaml` says.

    Raises:
        UserError: it is not there, is not YAML, or says something that is not understood.
    """
    path = folder.settings
    try:
        values = read_yaml(path)
        _check_entries(values)
        values |= {name: with_numbers(values[name]) for name in NUMBERS if name in values}
        settings = msgspec.convert(_as_fields(values), Settings)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: python main.py competition init {folder.root} makes it.") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    except (DocumentError, ValueError, TypeError) as error:  # a msgspec.ValidationError is a ValueError
        raise UserError(f"{path} can't be used: {' '.join(str(error).split()).rstrip('.')}.") from error
    settings.grading(settings.task, 0)
    for text in settings.hidden:
        if text.partition(":")[0] not in HIDDEN_KINDS:
            raise UserError(f"{path}: {text!r} can't be hidden; use {', '.join(f'{kind}:' for kind in HIDDEN_KINDS)}.")
        if re.search(r"^(random|class):.*@\w*$", text):
            raise UserError(
                f"{path}: {text!r} is hidden, and drawn by the secret seed: leave out the @ and what follows."
            )
    return settings


def _check_entries(values: Any) -> None:
    """Say which entry is not known, in words that name those that are."""
    if not isinstance(values, dict):
        raise DocumentError("it is no list of entries, like `title: My contest`")
    known = {"it": (values, Settings.__struct_fields__)}
    if isinstance(values.get("task"), dict):
        known["task"] = (values["task"], ("name", "train_size", "test_size", "data_dir", "network", "recipe", "size"))
    for where, (entries, names) in known.items():
        for name in entries:
            if name not in names:
                raise DocumentError(f"{where} has an unknown entry {name!r}; it may have {', '.join(names)}")


def _as_fields(values: dict[str, Any]) -> dict[str, Any]:
    task = values.get("task")
    if not isinstance(task, dict) or not isinstance(task.get("recipe") or {}, dict):
        return values
    return {**values, "task": {**task, "recipe": list((task.get("recipe") or {}).items())}}


def make_competition(folder: Folder, deadline: datetime) -> None:
    """Write `competition.yaml`, a secret seed, and the folder that teams hand in to.

    Raises:
        UserError: there is a competition already.
    """
    if folder.settings.exists() or folder.seed.exists():
        raise UserError(f"{folder.root} has a competition already: edit {folder.settings}, or name another folder.")
    with writing_to(folder.root):
        folder.submissions.mkdir(parents=True, exist_ok=True)
        folder.private.mkdir(mode=0o700, exist_ok=True)
    folder.private.chmod(0o700)

    def write_seed(beside: Path) -> None:
        beside.chmod(0o600)
        beside.write_text(f"{secrets.token_hex(32)}\n")

    write_atomically(folder.seed, write_seed)
    text = TEMPLATE.replace("{deadline}", deadline.isoformat(timespec="seconds"))
    write_atomically(folder.settings, lambda beside: beside.write_text(text))


def read_seed(folder: Folder) -> str:
    """The secret seed.

    Raises:
        UserError: it is gone, or no seed.
    """
    try:
        text = read_text(folder.seed, 1000).strip()
    except (OSError, DocumentError):
        text = ""
    if len(text) < 32 or not text.isalnum():
        raise UserError(
            f"{folder.seed} has no secret seed any more: restore it, for hidden requests are drawn by it, or, if "
            f"nothing hidden has been graded, write a new one (python -c 'import secrets; "
            "print(secrets.token_hex(32))')."
        )
    return text
