"""The processes of a training: which one this is, and all of their rows in the global batch's order."""

from __future__ import annotations

import torch
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Whether this process speaks for all; known from the launcher's environment before there is a process group."""
    return not getattr(rank_zero_only, "rank", 0)


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(rows: torch.Tensor, total: int | None = None) -> torch.Tensor:
    """All ranks' rows, (n, ...) to (total, ...), without gradient, in the global order.

    In that order rank r has every world_size-th row from r on, as KeyedSampler deals them out.

    Args:
        rows: this rank's, on its device.
        total: how many rows there are; None: every rank has the same number.
    """
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return rows
    count = len(rows) if total is None else -(-total // world_size)
    if len(rows) < count:  # the padding of shorter ranks comes last in the global order
        rows = torch.cat([rows, rows.new_zeros((count - len(rows), *rows.shape[1:]))])
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size)]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)[:total]
