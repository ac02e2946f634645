"""Make an optimiser from its settings, and refuse numbers that no training can have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

SETTINGS = ("lr", "momentum", "weight_decay")
"""Numbers of an optimiser that are finite and not negative."""


def make_optimizer(
    factory: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], parameters: Iterable[Any], setting: str
) -> torch.optim.Optimizer:
    """An optimiser of parameters, or of groups of them with settings of their own.

    Args:
        factory: from parameters to an optimiser.
        parameters: parameters or groups.
        setting: where its numbers stand, for the message, such as "module.optimizer".

    Raises:
        ValueError: a number that is negative, infinite or NaN (torch lets NaN pass), or one that the optimiser refuses.
    """
    try:
        optimizer = factory(parameters)
    except (ValueError, TypeError) as error:  # torch's own sentence, without our place in it
        raise ValueError(f"{setting} is refused: {error}") from error
    for group in optimizer.param_groups:
        for name in SETTINGS:
            value = group.get(name, 0.0)
            if not isinstance(value, torch.Tensor) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{setting}.{name} is {value}: expected a finite number, at least 0")
    return optimizer
