"""Which commands there are, and how a command line is run; `commands/__init__.py` says how to add one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from commands import main_job
from commands.help import CompactHelp
from commands.version import version
from data.errors import UserError

COMMANDS = {
    "list": "methods and tasks, or one method",
    "leaderboard": "rank what has been graded",
    "tune": "search for better hyper-parameters",
    "score": "score stored outputs again",
    "grade": "grade a zip of checkpoints",
    "show": "draw a contact sheet of a task",
    "embed": "draw how networks see images",
    "history": "draw what runs have recorded",
    "audit": "ask more of a grading's outputs",
    "membership": "attack the forget set",
    "certify": "check a certificate",
    "sweep": "make a figure over a grid",
    "notebook": "make the notebook for Kaggle",
    "schema": "print the JSON schema of reports",
    "completion": "complete words in your shell",
}
"""The commands beside the main job, and what `python main.py --help` says of each, in its order."""


def make_app() -> App:
    """The command line. A command's file is imported when it is called, or listed."""
    # Lists are made by repeating a flag, and of a single value the last one counts.
    usual = Parameter(negative=(), allow_repeating=True, consume_multiple=False, json_list=False, json_dict=False)
    app = App(
        name="python main.py",
        usage="python main.py -m METHOD [OPTIONS]   or   python main.py COMMAND [OPTIONS]",
        version=version,
        default_parameter=usual,
        group_commands=Group("Commands", sort_key=100),
        group_arguments=Group("Argument", sort_key=0),
        help_formatter=CompactHelp(COMMANDS),
        help_format="plaintext",
        # Errors are for `start`, as are exit codes.
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    app.default(main_job.command)
    for name in COMMANDS:
        app.command(f"commands.{name}:command", name=name, default_parameter=usual)
    return app


def start(arguments: Sequence[str]) -> int:
    """Run a command line, and return its exit code.

    A user's mistake is one sentence and exit code 2; Ctrl-C says how to go on; our bugs keep their traceback.
    """
    try:
        return make_app()(list(arguments)) or 0
    except UserError as error:
        message = str(error)
    except CycloptsError as error:
        from commands.mistakes import sentence

        message = sentence(error, COMMANDS)
    except BrokenPipeError:  # whoever reads our output, like `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from commands.mistakes import of_registry

        found = of_registry(error)
        if found is None:
            raise
        message = found
    except KeyboardInterrupt:
        saved = "Every finished model and run is saved: type the same command again to go on."
        print(f"\nInterrupted. {saved}", file=sys.stderr)
        return 130
    print(f"error: {message}", file=sys.stderr)
    return 2
