"""Stage `grabcut`: a centred box for GrabCut to start from. There is nothing to train."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from src.numbers import is_number


class CentredBox(pl.LightningModule):
    """The same map for every image: 1 in a box in its centre, 0 around it.

    Args:
        share: of each side that the box covers, above 0 and below 1.

    Raises:
        ValueError: share is out of its range.
    """

    exported = ()

    def __init__(self, *, share: float) -> None:
        if not is_number(share, 0, 1, above=True, below=True):
            raise ValueError(f"module.share is {share}: expected a number above 0 and below 1, as background is needed")
        super().__init__()
        self.share = share

    @property
    def map_settings(self) -> dict[str, Any]:
        """What the maps depend on."""
        return {"share": self.share}

    def predict_step(self, batch: Any, batch_idx: int) -> list[torch.Tensor]:
        """One map (H, W) float32 of 0 and 1 per image."""
        return [self.box(*size) for size in zip(batch.height.tolist(), batch.width.tolist(), strict=True)]

    def box(self, height: int, width: int) -> torch.Tensor:
        """(height, width) float32, 1 in the box; its margins are rounded to pixels."""
        top, left = (round(side * (1 - self.share) / 2) for side in (height, width))
        made = torch.zeros(height, width)
        made[top : height - top, left : width - left] = 1
        return made
