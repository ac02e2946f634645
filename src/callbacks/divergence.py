"""Stop a training whose loss is NaN or infinite, before a checkpoint of it is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.datamodules.nico import datamodule_of
from src.distributed import gather
from src.files import write_json


class Divergence(pl.Callback):
    """Raise ValueError at a loss that is not finite, and name the batch's images; the checkpoints before it stay.

    All processes look at the mean of their losses, and stop together.

    Args:
        path: json file for the epoch, the step and the images (of all processes).
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.number = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.number = trainer.global_step + 1  # of several batches whose gradients are accumulated, all have it

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # On a GPU this waits for the step. A look at the step before would wait just as long, behind this one's work.
        loss = float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean"))
        if math.isfinite(loss):
            return
        train = datamodule_of(trainer).split_paths["train"]
        images = [train[i] for i in gather(batch.position).tolist()]
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            write_json(self.path, {"epoch": epoch, "step": self.number, "images": images})
        raise ValueError(
            f"the loss of step {self.number}, in epoch {epoch}, is {loss}, the training has diverged: lower the "
            f"learning rate, or set trainer.gradient_clip_val; the images of that batch are listed in {self.path}"
        )
