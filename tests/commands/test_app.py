"""The command line as a whole: help, version, what cyclopts refuses, and that each option is declared once."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from commands import COMMANDS, make_app
from tests.command_line import command

REPOSITORY = Path(__file__).parent.parent.parent
SCREEN = {"": 52, "compare": 31}
"""Lines of help at 110 columns; of the other commands 30."""


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as the help is made for."""
    monkeypatch.setenv("COLUMNS", "110")


@cache
def declared() -> dict[str, list[tuple[str, Any]]]:
    """Each flag, with (command, its declaration) of every command that has it."""
    found: dict[str, list[tuple[str, Any]]] = {}
    app = make_app()
    for name in ("", *COMMANDS):
        for argument in (app[name] if name else app).assemble_argument_collection(parse_docstring=True):
            parameter = argument.parameter
            if not argument.show or argument.field_info.is_positional_only:
                continue
            group = str(parameter.group)
            about = (argument.hint, parameter.help, parameter.converter, group, argument.field_info.default)
            for flag in argument.names:
                found.setdefault(flag, []).append((name, about))
    return found


def test_each_option_is_declared_once() -> None:
    """A flag has one type, help, group and default in all commands. Catches copies that drift apart."""
    for flag, places in declared().items():
        assert len({about for _, about in places}) == 1, (flag, places)


def test_commands_have_all_options_of_the_task() -> None:
    """Whatever chooses the problem of a grading chooses it elsewhere. Catches `membership` without --features."""
    found = {flag: {name for name, _ in places} for flag, places in declared().items()}
    everywhere = {"", "tune", "grade", "show", "embed", "membership"}
    for flag in ("--task", "--forget", "--at-once", "--data-dir", "--size", "--train-size", "--test-size"):
        assert everywhere <= found[flag]
    for flag in ("--network", "--features", "--recipe"):
        assert everywhere <= found[flag]
    assert not [flag for flag in found if flag.startswith(("--no-", "--empty-")) and flag != "--no-run"]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_screen(name: str) -> None:
    """No line is too long, there are not too many, every flag is there, and it is quick: no PyTorch."""
    answer = command(*name.split(), "--help")
    lines = answer.stdout.splitlines()
    assert (answer.code, answer.stderr) == (0, "")
    assert len(lines) <= SCREEN.get(name, 30)
    assert max(map(len, lines)) <= 110
    for flag, places in declared().items():
        assert (re.search(rf"(^|[ ,]){flag}\b", answer.stdout, re.MULTILINE) is not None) or name not in {
            place for place, _ in places
        }


def test_help_lists_the_commands() -> None:
    """All of them; and each is a file, and each file one of them."""
    said = command("--help").stdout
    for name, summary in COMMANDS.items():
        assert re.search(rf"\b{name} +{summary}", said)
    helpers = {"__init__", "app", "help", "main_job", "mistakes", "options", "output", "version"}
    helpers |= {"interrupts", "trouble"}
    assert {path.stem for path in (REPOSITORY / "commands").glob("*.py")} == helpers | set(COMMANDS)


def test_defaults_in_the_help_are_those_of_a_grading() -> None:
    """They are written by hand where None stands for the default."""
    from commands.options import usual_grading
    from data import TaskSpec

    usual = usual_grading(TaskSpec())
    said = {flag: " ".join(about[0][1][1].split()) for flag, about in declared().items() if about[0][1][1]}
    for flag, value in (("--originals", usual.originals), ("--models", usual.models), ("--seed", usual.seed)):
        assert f"[default: {value}" in said[flag]
    assert f"[default: {usual.budget}]" in said["--budget"]
    assert f"{usual.metric} (default)" in said["--metric"]
    assert f"{usual.protocol} (default)" in said["--protocol"]
    assert usual.task.name in said["--task"]


def test_version() -> None:
    """That of pyproject.toml."""
    said = command("--version").stdout.strip()
    assert f'version = "{said}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_a_worker_imports_nothing_for_the_command_line() -> None:
    """Every worker imports main.py again."""
    code = "import sys, main; print([name for name in ('commands', 'cyclopts', 'torch') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


REFUSED = [
    ("--modles 3", "There is no option '--modles': did you mean --models"),
    ("-x", "There is no option '-x'"),
    ("--no-published", "There is no option '--no-published': did you mean --published"),
    ("--empty-forget", "There is no option '--empty-forget'"),
    ("tune --protocol full", "There is no option '--protocol'"),
    ("list -m my_method", "There is no option '-m'"),
    ("scor results", "There is no command 'scor': did you mean score?"),
    ("xyzzy", "'xyzzy' is neither an option nor a command"),
    ("-m my_method leaderboard", "The command comes first: python main.py leaderboard"),
    ("-m my_method --forget class:3 class:5", "'class:5' is neither an option nor a command"),
    ("list my_method do_nothing", "python main.py list does not take 'do_nothing'"),
    ("score", "DIRECTORY is missing: python main.py score --help explains it."),
    ("sweep", "FILE is missing: python main.py sweep --help explains it."),
    ("-m", "-m needs a value: python main.py --help shows which."),
    ("-m --json", "-m needs a value"),
    ("tune -m my_method --trials", "--trials needs a value: python main.py tune --help shows which."),
    ("--models many", "--models takes a whole number, not 'many'."),
    ("--models 6.5", "--models takes a whole number, not '6.5'."),
    ("tune -m my_method --trials none", "--trials takes a whole number, not 'none'."),
    ("-m my_method --budget x", "--budget takes a number, not 'x'."),
    ("-m my_method --json=perhaps", "--json"),
    ("tune", "Name a method: -m my_method"),
    ("embed", "Name a method: -m my_method"),
    ("membership", "Name a method: -m my_method"),
    ("membership -m my_method --features resnet81", "resnet81"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=lambda value: value)
def test_what_cannot_be_parsed_is_one_sentence(arguments: str, said: str, results: Path) -> None:
    """On standard error, with exit code 2, without a box or a traceback."""
    answer = command(*arguments.split())
    (line,) = answer.stderr.splitlines()
    assert (answer.code, answer.stdout) == (2, "")
    assert line.startswith("error: ")
    assert line[-1] in ".?"
    assert said in line


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere: exit code 130, and how to go on."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.views.terminal.print_registries", interrupted)
    answer = command("list")
    assert answer.code == 130
    assert answer.stderr == (
        "\nInterrupted. Every finished model and run is saved: type the same command again to go on.\n"
    )


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a user's mistakes become sentences."""

    def broken(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("evaluation.views.terminal.print_registries", broken)
    with pytest.raises(ValueError, match="ours"):
        command("list")


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_certify_tells_by_its_exit_code(holds: bool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1: a certificate that does not hold is no mistake of the user."""

    class Verdict:
        def __init__(self) -> None:
            self.holds = holds

        def __str__(self) -> str:
            return "verdict"

    monkeypatch.setattr("evaluation.certification.verification.certify", lambda path, weights: Verdict())
    answer = command("certify", "certificate.json")
    assert (answer.code, answer.stdout) == (code, "verdict\n")


# ----------------------------------------------------------------------------------------------------------------------
# Completion
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completion() -> str:
    """The script."""
    return command("completion").stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("python main.py -m noisy_f", ["noisy_finetune"]),
        ("python main.py -m my_method,noisy_f", ["my_method,noisy_finetune"]),
        (".venv/bin/python main.py tune --task cifar1", ["cifar10", "cifar100"]),
        ("python main.py -m retrain --network small", ["small_cnn"]),
        ("python main.py --budget", ["--budget", "--budget-seconds"]),
        ("python main.py leader", ["leaderboard"]),
        ("python main.py score --m", ["--metric"]),
        ("python main.py list noisy", ["noisy_finetune"]),
        ("python main.py suite dig", ["digits"]),
        ("python main.py --out ", []),
        ("python other.py --ta", []),
        ("unlearning-kit tune --tri", ["--trials"]),
    ],
)
def test_completion(completion: str, typed: str, offered: list[str]) -> None:
    """In a real shell: commands, options, and names of methods, tasks and networks."""
    words = typed.split(" ")
    quoted = " ".join(map(repr, words))
    line = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _unlearning_kit; echo "${{COMPREPLY[*]}}"'
    answer = subprocess.run(["bash"], input=f"{completion}\n{line}", capture_output=True, text=True, check=True)
    assert answer.stdout.split() == offered, answer.stderr
