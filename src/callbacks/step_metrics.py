"""The loss and the speed between epochs, for loggers."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from src.numbers import check_number
from src.transfers import Late


class StepMetrics(pl.Callback):
    """Give loggers the mean loss of the latest steps, and the images a second: all processes' together.

    The losses are added up where they are computed, and read once in `every_n_steps`, a batch later: no step waits for
    its loss here.
    metrics.csv has a row for each epoch, and none of this.

    Args:
        every_n_steps: batches between two points, at least 1.

    Raises:
        ValueError: another every_n_steps.
    """

    def __init__(self, every_n_steps: int) -> None:
        check_number("callbacks.steps.every_n_steps", every_n_steps, 1, whole=True)
        self.every_n_steps = every_n_steps
        self.point: tuple[Late, float, int] | None = None  # mean loss, images a second, step; not yet logged
        self.restart()

    def restart(self) -> None:
        """Begin to add up."""
        self.total: torch.Tensor | None = None
        self.steps = self.images = 0
        self.begin = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restart()  # a validation, and the workers' start, are no training

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.loggers:
            return
        self.say(trainer)
        loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches  # Lightning has divided it
        self.total = loss.clone() if self.total is None else self.total + loss
        self.steps += 1
        self.images += len(batch.position) * trainer.world_size
        if self.steps < self.every_n_steps and batch_idx + 1 < trainer.num_training_batches:
            return
        mean = Late(trainer.strategy.reduce(self.total / self.steps, reduce_op="mean"))
        self.point = mean, self.images / (time.monotonic() - self.begin), trainer.global_step
        self.restart()
        if batch_idx + 1 >= trainer.num_training_batches:
            self.say(trainer)

    def say(self, trainer: pl.Trainer) -> None:
        """Log the point that is on its way."""
        if self.point:
            mean, speed, step = self.point
            for logger in trainer.loggers:
                logger.log_metrics({"step/loss": float(mean.read()), "step/images_per_second": speed}, step=step)
            self.point = None
