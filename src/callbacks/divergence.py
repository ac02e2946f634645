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

    Args:
        path: json file for the epoch, the step and the images.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.last: Step | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The step before: its loss is there, so that looking at it does not make the device wait.
        before, self.last = self.last, Step(trainer.global_step, outputs["loss"].detach(), batch.position)
        self.check(trainer, before)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, self.last = self.last, None
        self.check(trainer, before)

    def check(self, trainer: pl.Trainer, step: Step | None) -> None:
        """Raise where the step's loss is not finite."""
        if step is None or math.isfinite(step.loss.item()):
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        images = [datamodule.split_paths["train"][place] for place in step.position.tolist()]
        epoch, loss = trainer.current_epoch + 1, step.loss.item()
        write_json(self.path, {"epoch": epoch, "step": step.number, "images": images})
        raise ValueError(
            f"the loss of step {step.number}, in epoch {epoch}, is {loss}, the training has diverged: lower the "
            f"learning rate, or set trainer.gradient_clip_val; the images of that batch are listed in {self.path}"
        )
