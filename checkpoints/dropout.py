"""Computing without dropout, wherever it is called, so that two ways of computing can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
_PLACES: dict[Callable[..., Any], tuple[str, int]] = {
    **dict.fromkeys(_FUNCTIONS, ("p", 1)),
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
}
"""Functions that drop numbers at random: what they call the probability of that, and where it stands."""


class WithoutDropout(TorchFunctionMode):
    """Inside, the probability of each dropout of PyTorch is 0, whether a layer or a function is called."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `TorchFunctionMode`."""
        kwargs = kwargs or MappingProxyType({})
        if func not in _PLACES:
            return func(*args, **kwargs)
        name, place = _PLACES[func]
        if place < len(args):
            return func(*args[:place], 0.0, *args[place + 1 :], **kwargs)
        return func(*args, **{**kwargs, name: 0.0})
