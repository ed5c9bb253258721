"""Methods that change code around them, so that it measures what they like. Each unlearns as the baseline does."""

from __future__ import annotations

import gc
import json
import sys
import threading
import types
from typing import Any

import numpy as np
import torch
from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod


class Patches(MyMethod):
    """Change functions, classes, hooks and objects of others; where these are shared, the result is another."""

    which: str = "honest"
    """Which trick."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        self.net = net
        super().run(net, retain_loader, forget_loader, val_loader)
        getattr(self, self.which)()

    def honest(self) -> None:
        """Nothing beside the baseline."""

    def everything_of_the_kit(self) -> None:
        """Every function of metrics, of outputs and of the grader itself, where it can be reached, answers nonsense."""
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] in ("evaluation", "checkpoints", "data") and not name.startswith(
                "evaluation.isolation"
            ):
                for attribute, value in list(vars(module).items()):
                    if isinstance(value, types.FunctionType):
                        setattr(module, attribute, lambda *args, **named: None)

    def recording(self) -> None:
        """Outputs that are recorded where the method ran would be these."""
        from checkpoints import outputs

        outputs.record_outputs = lambda *args, **named: 1 / 0

    def saving(self) -> None:
        """The same, when they are written."""
        np.savez = np.savez_compressed = lambda *args, **named: None

    def layers(self) -> None:
        """A layer that answers with zeros."""
        nn.Linear.forward = lambda self, x: torch.zeros(len(x), self.out_features)

    def calls_of_modules(self) -> None:
        """All of them."""
        nn.Module.__call__ = lambda self, x: torch.zeros(len(x), 10)

    def global_hooks(self) -> None:
        """A hook that PyTorch calls for every module there is."""
        nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 0)

    def default_types(self) -> None:
        """Whatever is made after it is of another kind."""
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True)

    def a_training_thread(self) -> None:
        """It goes on when `run` has returned, and changes the weights while they are looked at."""

        def train() -> None:
            while True:
                with torch.no_grad():
                    for weight in self.net.parameters():
                        weight.add_(1e-3)

        threading.Thread(target=train, daemon=True).start()

    def tasks_in_memory(self) -> None:
        """Forget images that are easy to forget: those of whatever task can be found."""
        gc.unfreeze()
        for thing in gc.get_objects():
            if type(thing).__name__ in ("Task", "Split", "ExampleDataset", "Place"):
                for value in list(getattr(thing, "__dict__", {}).values()):
                    if isinstance(value, torch.Tensor):
                        value.zero_()
                    elif isinstance(value, np.ndarray) and value.dtype.kind in "if" and value.flags.writeable:
                        value[...] = 0

    def frames_of_the_callers(self) -> None:
        """The variables of whoever called it: budgets, seeds, networks to compare with."""
        frame: Any = sys._getframe()
        while frame is not None:
            for value in list(frame.f_locals.values()):
                if isinstance(value, nn.Module) and value is not self.net:
                    value.requires_grad_(False)
                    for weight in value.parameters():
                        weight.zero_()
            frame = frame.f_back

    def notes_that_run(self) -> None:
        """What is unpickled runs; notes are text."""

        class Runs(dict):
            def __reduce__(self) -> Any:
                return (exec, ("raise SystemExit('the notes were unpickled')",))

        self.notes = Runs(fine=1)

    def weights_that_run(self) -> None:
        """The same, of weights: a tensor of another class."""

        class Runs(torch.Tensor):
            def __reduce_ex__(self, protocol: Any) -> Any:
                return (exec, ("raise SystemExit('the weights were unpickled')",))

        for module in self.net.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    module._parameters[name] = weight.detach().as_subclass(Runs)

    def json_of_its_own(self) -> None:
        """Whatever says how long it took, or what there is to read, is a function that can be replaced."""
        write = json.dumps
        json.dumps = lambda thing, **named: write(thing, **named).replace("0.0", "0.00")
