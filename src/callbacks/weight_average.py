"""A moving average of the weights, which is what is validated and handed on (docs/method.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from src.averages import follow
from src.datamodules.nico import datamodule_of
from src.lightning_private import average_on, average_to_move, hand_over_average, restart_average, steps_averaged
from src.numbers import check_number


class MovingAverage(WeightAveraging):
    """EMA of parameters and float buffers after each step, its momentum min(1 - 1 / (k + 1), decay).

    k counts the steps averaged so far, and starts again at 0 in each epoch in which the images change size. Lightning's
    callback keeps the average and validates it, and gives its weights to the module at the end; its own way of moving
    it asks the device for k in each step, and launches some kernels for each tensor.

    Args:
        decay: upper limit of the momentum, in [0, 1].

    Raises:
        ValueError: another decay.
    """

    def __init__(self, decay: float) -> None:
        check_number("callbacks.average.decay", decay, 0, 1)
        self.decay = decay
        self.count = 0  # k; torch's own count, which checkpoints have, is on the device
        super().__init__()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        average_on(self, trainer)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.count = steps_averaged(self)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and trainer.current_epoch in datamodule_of(trainer).sizes:
            restart_average(self)
            self.count = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        average = average_to_move(self, trainer)
        if average is not None:
            follow(tensors_of(average), tensors_of(pl_module), self.momentum(self.count))
            self.count += 1

    def momentum(self, count: int) -> float:
        """Weight of the average in the step after `count` averaged ones."""
        return min(1 - 1 / (count + 1), self.decay)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run that was killed between its last epoch and its end is resumed without on_train_end.
        hand_over_average(self, pl_module)


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers."""
    return chain(module.parameters(), module.buffers())
