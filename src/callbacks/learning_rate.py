"""The learning rate of every epoch among the metrics."""

from __future__ import annotations

import pytorch_lightning as pl


class LearningRate(pl.Callback):
    """Log the first parameter group's rate (Lightning's own monitor needs a logger, metrics.csv does not)."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("learning_rate", float(trainer.optimizers[0].param_groups[0]["lr"]), sync_dist=False)
