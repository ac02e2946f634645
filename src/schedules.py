"""What changes with the epoch: learning rates that torch does not have, sizes of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

MAX_SIZE = 8192  # pixels on a side of a network's input: a batch of two such images is 400 MB


class CosineFrom(torch.optim.lr_scheduler.LambdaLR):
    """The cosine over `total` epochs, joined at epoch `start`: lr / 2 (1 + cos(pi (start + e) / total)) in epoch e.

    For a stage that continues the schedule of the one before it (docs/method.md, section 6). torch's
    CosineAnnealingLR, started late, would go on from `lr` instead of from the cosine's value there.

    Args:
        optimizer: its `lr` is the rate at epoch 0 of `total`.
        start, total: epochs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, start: int, total: int) -> None:
        super().__init__(optimizer, lambda epoch: (1 + math.cos(math.pi * (start + epoch) / total)) / 2)


def size_schedule(size: int | Sequence[Sequence[int]]) -> dict[int, int]:
    """A size, or a schedule of pairs, as {first epoch: size}.

    Raises:
        ValueError: it is neither.
    """
    sizes = {0: size} if isinstance(size, int) else {int(epoch): int(side) for epoch, side in size}
    sides = sizes.values()
    if 0 not in sizes or list(sizes) != sorted(sizes) or min(sides) < 1 or max(sides) > MAX_SIZE:
        raise ValueError(
            f"datamodule.size is {size}: expected a size of 1 to {MAX_SIZE} pixels, or pairs [first epoch, size] "
            "from epoch 0 on"
        )
    return sizes
