"""A moving average of the weights, which is what is validated and handed on (docs/method.md, section 5)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging

from src.datamodules.nico import datamodule_of
from src.lightning_private import average_on, hand_over_average, restart_average


class MovingAverage(WeightAveraging):
    """EMA of parameters and float buffers after each step, its momentum min(1 - 1 / (k + 1), decay).

    k counts the steps averaged so far, and starts again at 0 in each epoch in which the images change size. Lightning's
    callback keeps the average and validates it, and gives its weights to the module at the end.

    Args:
        decay: upper limit of the momentum, below 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        super().__init__(multi_avg_fn=self.average)

    def average(self, averaged: Any, current: Any, num_averaged: torch.Tensor | int) -> None:
        """Move lists of averaged tensors towards the current ones, in place; integers are copied."""
        momentum = min(1 - 1 / (int(num_averaged) + 1), self.decay)
        with torch.no_grad():
            for old, new in zip(averaged, current, strict=True):
                old.copy_(old.lerp(new, 1 - momentum) if old.is_floating_point() else new)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        average_on(self, trainer)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and trainer.current_epoch in datamodule_of(trainer).sizes:
            restart_average(self)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run that was killed between its last epoch and its end is resumed without on_train_end.
        hand_over_average(self, pl_module)
