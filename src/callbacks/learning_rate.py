"""The learning rate of every epoch among the metrics."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class LearningRate(pl.Callback):
    """Log the first parameter group's rate, the mean over the epoch's steps.

    Lightning's own monitor needs a logger, and metrics.csv is not one.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        pl_module.log("learning_rate", rate, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
