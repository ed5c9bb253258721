"""Methods that use `prepare`, which has no budget, for what is the task of `run`."""

from __future__ import annotations

import gc
import os
import sys
import time

import torch
from torch import Tensor, nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod


class Preparers(MyMethod):
    """Look for the request while preparing, when there should be none; what is found changes the result."""

    which: str = "honest"
    """Which trick."""

    def prepare(self, net: nn.Module, train_loader: Loader, val_loader: Loader) -> dict[str, Tensor]:
        """See `BaseMethod.prepare`."""
        return {"found": torch.tensor(bool(getattr(self, self.which)()))}

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        if bool(self.prepared["found"]):
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        super().run(net, retain_loader, forget_loader, val_loader)

    def honest(self) -> bool:
        """Nothing."""
        return False

    def finds_the_request(self) -> bool:
        """Who knows it can train retrained models in advance, as long as it likes."""
        gc.unfreeze()
        tasks = [thing for thing in gc.get_objects() if type(thing).__name__ == "Task"]
        frame = sys._getframe()
        while frame is not None:  # the variables of whoever called it
            tasks += [value for value in frame.f_locals.values() if type(value).__name__ == "Task"]
            frame = frame.f_back
        assert tasks, "the cheat looks in the wrong place"
        return any(len(task.forget_indices) for task in tasks)

    def never_ends(self) -> bool:
        """Training 32 models, for one."""
        while True:
            time.process_time()

    def waits(self) -> bool:
        """The same, without using the processor."""
        time.sleep(3600)
        return False

    def ends(self) -> bool:
        """It takes the process with it."""
        os._exit(0)
