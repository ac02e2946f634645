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

    All processes look at the mean of their losses, and stop together. Under 16-mixed a step whose numbers overflow is
    skipped, and the loss is scaled down for the next one: only SKIPS such steps in a row count as divergence.

    Args:
        path: json file for the epoch, the step and the images (of all processes).
    """

    SKIPS = 20  # from a scale of 2^16 down to below 1

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.number = 0
        self.skipped = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.number = trainer.global_step + 1  # of several batches whose gradients are accumulated, all have it

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # On a GPU this waits for the step. Checking the previous step would wait just as long, behind this one's work.
        loss = float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean"))
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.skipped = 0 if math.isfinite(loss) else self.skipped + 1
        if not self.skipped or (scaled and self.skipped < self.SKIPS):
            return
        train = datamodule_of(trainer).split_paths["train"]
        images = [train[i] for i in gather(batch.position).tolist()]
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            write_json(self.path, {"epoch": epoch, "step": self.number, "images": images})
        raise ValueError(
            f"the training has diverged: the loss of step {self.number}, in epoch {epoch}, is {loss}; lower the "
            f"learning rate, or set trainer.gradient_clip_val; the images of that batch are listed in {self.path}"
        )
