"""What is computed in float32 even under bf16-mixed: logarithms, softmax, ranks, norms, heads.

Under autocast a matmul, a linear layer and a convolution run in bfloat16 for inputs of any dtype. It has three
significant digits: logits tie, and a clamp at .9995 gives 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16")
"""Of Lightning's: weights are float32, as averages, heads and norms need it, so that none is purely 16 bits."""


def check_precision(precision: Any) -> None:
    """Raise ValueError for a trainer.precision that is none of PRECISIONS."""
    if str(precision) not in PRECISIONS:
        raise ValueError(f"trainer.precision is {precision}: expected one of {', '.join(PRECISIONS[:3])}")


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations on the device keep their inputs' dtype."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()  # no context that an export of the network would have to understand
    return torch.autocast(device.type, enabled=False)


def widened(value: Any) -> Any:
    """A float tensor in at least float32; anything else unchanged."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of a tensor and more: it computes in float32 (float64 stays) with autocast off."""

    @wraps(function)
    def wide(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, torch.Tensor)
        with without_autocast(first.device):
            return function(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})

    return wide


class Linear(nn.Linear):
    """torch's, with the same keys, computed in the dtype of its weights with autocast off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_features) of any precision to (N, out_features), float32 if the weights are."""
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


class Sequential(nn.Sequential):
    """torch's, with the same keys, computed in the dtype of its weights with autocast off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The modules' output for x of any precision; float32 if their weights are."""
        with without_autocast(x.device):
            made: torch.Tensor = super().forward(x.to(next(self.parameters()).dtype))  # type: ignore[no-untyped-call] # torch's
            return made
