"""Hand the original back: the floor that every method has to rise above."""

from __future__ import annotations

from torch import nn

from methods.BaseMethod import BaseMethod, Loader


class DoNothing(BaseMethod):
    """Leave the original as it is.

    All runs from one original are equal, so every forget example distinguishes them from retrained models: F is 0.
    """

    leaves_original = True
    deterministic = True
    exempt_from_budget = True

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
