"""The command line: a file for each command; `options.py` has the options that they share, `app.py` starts them.

To add a command `count`:

1. Write `commands/count.py` with a function `command`. Its docstring is what `python main.py count --help` shows.
   Its keyword-only parameters are groups of options, as in `commands/tune.py`; an argument without a flag stands before
   the `/`, as in `commands/score.py`. It returns None, or an exit code. Import what is heavy (PyTorch, evaluation)
   inside the function.
2. Add its name and a few words to `COMMANDS` in `commands/app.py`.

To add an option, add a field to a group in `options.py`; every command that has the group has the option. A flag is
declared once, for all commands (`tests/commands` checks that).
"""

from __future__ import annotations

from commands.app import COMMANDS, make_app, start

__all__ = ["COMMANDS", "make_app", "start"]
