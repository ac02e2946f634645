"""The learning rate of every epoch among the metrics."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytorch_lightning as pl


class LearningRate(pl.Callback):
    """Log the first parameter group's rate, the mean over the epoch's steps, before metrics.csv gets the epoch's row.

    Lightning's own monitor needs a logger, and metrics.csv is not one. The rates are added up here: a number that is
    logged in each step goes to the device in each step.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rates = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append(float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.rates:
            pl_module.log("learning_rate", fmean(self.rates), sync_dist=True)
