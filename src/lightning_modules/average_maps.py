"""Stage `average_maps`: the mean of several wsss runs' maps. There is nothing to train."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn


class AverageMaps(pl.LightningModule):
    """The mean of several networks' maps, each with its own run's normalisation and sign.

    Attributes:
        networks: C2AMs, to be set before predicting; the run exports them, as its masks depend on their weights.
    """

    exported = ("networks",)

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList()

    @property
    def map_settings(self) -> dict[str, Any]:
        """What the maps depend on besides the weights."""
        return {"networks": [network.map_settings for network in self.networks]}

    def predict_step(self, batch: Any, batch_idx: int) -> list[torch.Tensor]:
        """One map (H, W) float32 in [0, 1] per image.

        Raises:
            ValueError: there is no network.
        """
        if not self.networks:
            raise ValueError("stage=average_maps has no networks: name finished runs of wsss with networks=[...]")
        maps = [network.predict_step(batch, batch_idx) for network in self.networks]  # type: ignore[operator] # C2AM's
        return [torch.stack(own).mean(0) for own in zip(*maps, strict=True)]
