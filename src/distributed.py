"""The processes of a training: which one this is, and all of their rows in the global batch's order."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Whether this process speaks for all; known from the launcher's environment before there is a process group."""
    return not getattr(rank_zero_only, "rank", 0)


def check_launch(world_size: int) -> None:
    """Refuse processes of torchrun or srun that would each train the whole run by themselves, into the same files.

    Args:
        world_size: the trainer's.

    Raises:
        ValueError: more processes were started.
    """
    started = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # with such a name Lightning is on its own
        started = max(started, os.environ.get("SLURM_STEP_NUM_TASKS", "1"), key=int)
    if int(started) > world_size:
        raise ValueError(
            f"{started} processes were started, and the training has {world_size}: set trainer=ddp, trainer.devices to "
            "the processes of a machine and trainer.num_nodes to the machines; or start one process"
        )


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
