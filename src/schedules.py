"""Learning rates by epoch that torch does not have."""

from __future__ import annotations

import math

import torch


class CosineFrom(torch.optim.lr_scheduler.LambdaLR):
    """The cosine over `total` epochs, joined at epoch `start`: lr / 2 (1 + cos(pi (start + e) / total)) in epoch e.

    For a stage that continues the schedule of the one before it (docs/method.md, section 6). torch's
    CosineAnnealingLR, started late, would go on from `lr` instead of from the cosine's value there.

    Args:
        optimizer: its `lr` is the schedule's beginning, at epoch 0 of `total`.
        start, total: epochs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, start: int, total: int) -> None:
        super().__init__(optimizer, lambda epoch: (1 + math.cos(math.pi * (start + epoch) / total)) / 2)
