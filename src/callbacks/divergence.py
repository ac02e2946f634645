"""Stop a training whose loss is no number any more, before a checkpoint of it is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from src.files import write_json


class Step(NamedTuple):
    """A step whose loss has not been looked at: its number from 1, the loss, and the places of its images."""

    number: int
    loss: torch.Tensor
    position: torch.Tensor


class Divergence(pl.Callback):
    """Raise ValueError at a loss that is not finite, and name the batch's images; the checkpoints before it stay.

    All processes look at the mean of their losses, and stop together.

    Args:
        path: json file for the epoch, the step and the images (of all processes).
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.number = 0
        self.last: Step | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.number = trainer.global_step + 1  # of several batches whose gradients are accumulated, all have it

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The step before: its loss is there, so that looking at it does not make the device wait.
        step = Step(self.number, outputs["loss"].detach(), batch.position)
        self.check(trainer)
        self.last = step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Raise where the loss of the last step is not finite; every process must ask this at the same place."""
        step, self.last = self.last, None
        if step is None:
            return
        loss = float(trainer.strategy.reduce(step.loss.clone(), reduce_op="mean"))
        if math.isfinite(loss):
            return
        places = trainer.strategy.all_gather(step.position.to(trainer.strategy.root_device)).flatten().tolist()
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        images = [datamodule.split_paths["train"][place] for place in places]
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            write_json(self.path, {"epoch": epoch, "step": step.number, "images": images})
        raise ValueError(
            f"the loss of step {step.number}, in epoch {epoch}, is {loss}, the training has diverged: lower the "
            f"learning rate, or set trainer.gradient_clip_val; the images of that batch are listed in {self.path}"
        )
