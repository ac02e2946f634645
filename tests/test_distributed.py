"""Rows of several processes in the global order."""

from pathlib import Path

import pytest
import torch

from src.distributed import gather, is_rank_zero, rank_and_world_size


def deal(rank: int, world_size: int, folder: str, total: int, counted: bool) -> None:
    """One process, which has every world_size-th of `total` rows; what it gathers goes into a file."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world_size)
    assert rank_and_world_size() == (rank, world_size)
    mine = torch.arange(total * 2).view(total, 2)[rank::world_size]
    torch.save(gather(mine, total if counted else None), f"{folder}/{rank}.pt")


@pytest.mark.parametrize(
    "total, counted",
    [(5, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((6, False), (6, True), (4, True)))],
)
def test_rows_come_back_in_the_global_order(tmp_path: Path, total: int, counted: bool) -> None:
    world_size = 3 if counted else 2
    torch.multiprocessing.spawn(deal, (world_size, str(tmp_path), total, counted), world_size)
    for rank in range(world_size):
        made = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(made, torch.arange(total * 2).view(total, 2))


def test_alone() -> None:
    rows = torch.arange(3)
    assert rank_and_world_size() == (0, 1) and is_rank_zero() and gather(rows, 3) is rows
