"""Key the training step's draws, so that they do not depend on what was drawn before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from src.data.sampler import keyed_seed


class KeyedRandomness(pl.Callback):
    """Seed torch before each training batch with (seed, epoch, batch, rank): a resumed run draws the same.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(keyed_seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))
