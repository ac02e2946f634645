"""Stop a training whose loss is no number any more, before a checkpoint of it is written."""

from __future__ import annotations

import math

import pytorch_lightning as pl


class Divergence(pl.Callback):
    """Raise ValueError at the end of an epoch whose mean loss is not finite; the checkpoints before it stay."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["train/loss"])
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of epoch {trainer.current_epoch + 1} is {loss}, the training has diverged: "
                "lower the learning rate, or set trainer.gradient_clip_val"
            )
