"""What the server that workers are forked from imports, so that no worker spends seconds on it.

PyTorch imports its compiler (`torch._dynamo`) when the first optimiser is made; each worker imports `main.py`, hence
typer. The imports make some million objects, all of which stay: to look for garbage among them takes half a second.
"""

import gc

gc.disable()
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401
import typer  # noqa: E402, F401

import checkpoints.training  # noqa: E402, F401

gc.enable()
