"""Which commands there are, and how a command line is run; `commands/__init__.py` says how to add one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from commands import interrupts, main_job, trouble
from commands.help import CompactHelp
from commands.version import version
from data.errors import UserError

COMMANDS = {
    "list": "methods and tasks, or one method",
    "leaderboard": "rank what has been graded",
    "check": "find what spoils scores",
    "compare": "say which method is better",
    "tune": "search for better hyper-parameters",
    "suite": "grade on many forget sets",
    "score": "score stored outputs again",
    "grade": "grade a zip of checkpoints",
    "unlearn": "unlearn a model of yours",
    "evaluate": "look at a model of yours",
    "show": "draw a contact sheet of a task",
    "embed": "draw how networks see images",
    "history": "draw what runs have recorded",
    "audit": "ask more of a grading's outputs",
    "membership": "attack the forget set",
    "certify": "check a certificate",
    "sweep": "make a figure over a grid",
    "competition": "run a contest of methods",
    "notebook": "make the notebook for Kaggle",
    "schema": "explain the JSON of reports",
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

    A user's mistake is one sentence and exit code 2, and so is what the system refuses; Ctrl-C says how to go on; our
    bugs keep their traceback.
    """
    with interrupts.stopping_in_order():
        try:
            code = make_app()(list(arguments)) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # at the exit, Python would only say that it can't
            return code
        except UserError as error:
            message = str(error)
        except CycloptsError as error:
            from commands.mistakes import sentence

            message = sentence(error, COMMANDS)
        except BrokenPipeError:  # whoever reads our output, like `head`, has had enough
            _drop_output()
            return 1
        except OSError as error:
            if interrupts.lies_behind(error):  # it came while something cleaned up after Ctrl-C
                interrupts.tell_interrupted()
                return interrupts.EXIT_CODE
            refused = trouble.sentence(error)
            if refused is None:
                raise
            message = refused
        except KeyboardInterrupt:
            interrupts.tell_interrupted()
            return interrupts.EXIT_CODE
        except Exception as error:
            from commands.mistakes import of_registry

            found = of_registry(error)
            if found is None:
                raise
            message = found
        _drop_output()
        with contextlib.suppress(OSError):
            print(f"error: {message}", file=sys.stderr, flush=True)
        return 2


def _drop_output() -> None:
    """Forget what is printed and not yet written, if that is not possible any more: Python would try it again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except AttributeError:  # there is no standard output
        pass
