"""Starts the command line: `python main.py -m my_method` grades a method. `python main.py --help` lists the rest.

The commands are in `commands/`. Nothing else is imported here, because every worker process imports this file again.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys


def leave_quickly() -> None:
    """On leaving, don't look for garbage: half a second. (The compiler would report what it finds still alive.)"""
    if "torch._dynamo" not in sys.modules:
        gc.freeze()


def main() -> int:
    """Run `python main.py`, or `unlearning-kit` of an installed kit; the exit code."""
    gc.set_threshold(100_000)  # importing PyTorch makes half a million objects, and all of them stay
    atexit.register(leave_quickly)
    try:
        from commands import start
        from commands.interrupts import ignore_interrupts

        code = start(sys.argv[1:])
        ignore_interrupts()
    except KeyboardInterrupt:  # in the tenths of a second before and after `start` cares for it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
