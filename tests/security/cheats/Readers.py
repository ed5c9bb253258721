"""Methods that read what they should not, and unlearn as the baseline does if they can't."""

from __future__ import annotations

import gc
import glob
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod


class Readers(MyMethod):
    """Read files, memory or the environment of others. What is found changes the result; else it is the baseline's."""

    which: str = "honest"
    """Which trick."""
    bank: str = ""
    """Where the bank is: anybody who has the kit knows."""
    results: str = ""
    """Where results are."""
    kit: str = ""
    """Where the kit is."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        self.net, self.loaders = net, (retain_loader, forget_loader, val_loader)
        if not getattr(self, self.which)():
            super().run(net, retain_loader, forget_loader, val_loader)

    def honest(self) -> bool:
        """Nothing beside the baseline."""
        return False

    def _load(self, model: int = 0) -> bool:
        """Load a retrained model of the bank: whether there is one."""
        for manifest in glob.glob(f"{self.bank}/*/manifest.json"):
            if json.loads(Path(manifest).read_text())["kind"] == "retrained":
                weights = torch.load(Path(manifest).parent / f"model-{model:05d}.pt", weights_only=True)
                self.net.load_state_dict(weights)
                return True
        return False

    def bank_models(self) -> bool:
        """The retrained models themselves: they get a perfect score."""
        return self._load()

    def bank_models_with_noise(self) -> bool:
        """So that no two files are equal."""
        found = self._load(1)
        with torch.no_grad():
            for weight in self.net.parameters() if found else ():
                weight.add_(torch.randn_like(weight), alpha=1e-5)
        return found

    def bank_models_and_training(self) -> bool:
        """A retrained model, and an epoch more."""
        if self._load():
            super().run(self.net, *self.loaders)
            return True
        return False

    def bank_seeds(self) -> bool:
        """The manifest has the seeds of retrained models: trained again from them, they are the bank's."""
        found = glob.glob(f"{self.bank}/*/manifest.json")
        if found:
            records = json.loads(Path(found[0]).read_text())["files"].values()
            torch.manual_seed(next(record["seed"] for record in records if "seed" in record))
        return bool(found) and not self._start_anew()

    def _start_anew(self) -> None:
        for module in self.net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        super().run(self.net, *self.loaders)

    def bank_outputs(self) -> bool:
        """The logits of the retrained models are what the score compares with."""
        found = glob.glob(f"{self.bank}/*/outputs-*.npz")
        return bool(found) and len(Path(found[0]).read_bytes()) > 0 and not self._start_anew()

    def results_of_others(self) -> bool:
        """What rivals have left: their outputs, notes and weights."""
        return bool(glob.glob(f"{self.results}/**/*.npz", recursive=True)) and not self._start_anew()

    def methods_of_others(self) -> bool:
        """The files of rivals, which may have better ideas."""
        return bool(glob.glob(f"{self.kit}/methods/Timers.py")) and not self._start_anew()

    def environment(self) -> bool:
        """Tokens that whoever grades has in the environment."""
        return "A_TOKEN_OF_THE_ORGANISER" in os.environ and not self._start_anew()

    def other_processes(self) -> bool:
        """Command lines and folders of the processes of others."""
        lines = [Path(entry).read_bytes() for entry in glob.glob("/proc/[0-9]*/cmdline")]
        return any(b"grade.py" in line for line in lines) and not self._start_anew()

    def test_images_in_memory(self) -> bool:
        """A task has its test set; the one that is here should not."""
        gc.unfreeze()
        tests: list[Any] = [thing.test for thing in gc.get_objects() if type(thing).__name__ == "Task"]
        assert tests, "the cheat looks in the wrong place"
        return any(len(split.labels) for split in tests) and not self._start_anew()

    def memory_of_the_room(self) -> bool:
        """The process that this one was forked from, and that times it, has its memory in a file of Linux."""
        try:
            with open(f"/proc/{os.getppid()}/mem", "rb"):
                pass
        except OSError:
            return False
        self._start_anew()
        return True

    def images_of_a_package(self) -> bool:
        """The digits come with scikit-learn, the test images among them."""
        from sklearn.datasets import load_digits

        return len(load_digits().images) == 1797 and not self._start_anew()
