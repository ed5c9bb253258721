"""What the server that workers are forked from imports, so that no worker spends seconds on it.

PyTorch imports its compiler (`torch._dynamo`) when the first optimiser is made. (Each worker imports `main.py` again,
which therefore imports hardly anything.) The imports make some million objects, all of which stay: to look for garbage
among them takes half a second, and to destroy them one by one at the end a whole one, in which whoever reads our output
would wait for its end.
"""

import atexit
import gc
import os

gc.disable()
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401

import checkpoints.training  # noqa: E402, F401

gc.freeze()
gc.enable()

_SERVER = os.getpid()


@atexit.register
def _leave_at_once() -> None:
    if os.getpid() == _SERVER:  # a worker that is forked from it ends as any process does
        os._exit(0)
