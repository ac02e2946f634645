"""How images are dealt out to processes and workers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from src.data.manifest import Row


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


GROUPINGS = ("class", "context", "group")
"""What an epoch can have equally many images of; a group is a class in a context."""


def groups_to_sample(rows: Sequence[Row], sampling: str | None) -> list[int] | None:
    """The group of each row, from 0 on, by one of GROUPINGS; None where every image comes once.

    Raises:
        ValueError: contexts are asked for, and not known.
    """
    if sampling is None:
        return None
    if sampling != "class" and any(row.domain is None for row in rows):
        raise ValueError(
            f"datamodule.sampling={sampling} needs images with contexts, which this data set does not have: use class"
        )
    keys = [(row.label if sampling != "context" else None, row.domain if sampling != "class" else None) for row in rows]
    ids = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [ids[key] for key in keys]


def batch_of(batch_size: int, images: int, world_size: int, train: bool) -> int:
    """The size of the batches that images are dealt out to the processes in, lowered where there are fewer to train on.

    Args:
        batch_size: over all processes.
        images: how many there are.
        world_size: number of processes.
        train: whether each batch has to be full.

    Raises:
        ValueError: they cannot be dealt out.
    """
    given = f"datamodule.batch_size={batch_size}"
    if batch_size % world_size:
        raise ValueError(f"{given} is global and not a multiple of the {world_size} processes: change it")
    if not train and images < world_size:
        raise ValueError(
            f"{images} images are too few to evaluate on {world_size} processes: raise split.fraction, or use one "
            "(trainer=gpu or trainer=cpu)"
        )
    if train and batch_size // world_size < 2:
        raise ValueError(
            f"{given} leaves each of {world_size} process(es) one image or pair: mixing and BatchNorm need at least two"
        )
    if not train or images >= batch_size:
        return batch_size
    lowered = images // world_size * world_size
    if lowered < 2 * world_size:
        raise ValueError(
            f"{images} training image(s) are too few for {world_size} process(es): mixing and BatchNorm need two each"
        )
    from src.distributed import is_rank_zero  # torch, which the inspection of a data set does without

    if is_rank_zero():
        warnings.warn(
            f"{given} is lowered to {lowered}, as this split has {images} training images: consider a smaller batch "
            "and a lower learning rate",
            stacklevel=2,
        )
    return lowered
