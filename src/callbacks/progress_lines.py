"""Progress of a training: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from src.callbacks.metrics_file import metrics_of_epoch
from src.callbacks.progress_bar import Bar
from src.numbers import check_number


def progress_bar(seconds: float) -> ProgressBar:
    """The bar that fits where the output goes.

    Args:
        seconds: shortest time between two lines in an epoch, at least 0.

    Raises:
        ValueError: other seconds.
    """
    check_number("callbacks.progress.seconds", seconds, 0)
    return Bar() if sys.stdout.isatty() else ProgressLines(seconds)


class ProgressLines(ProgressBar):
    """A line an epoch with its metrics and the time left, and one every `seconds` within long epochs."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.begin = self.last = 0.0
        self.first_epoch = 0
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = self.last = time.monotonic()
        self.first_epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds:
            self.last = now
            self.say(trainer, f"batch {batch_idx + 1} of {trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = metrics_of_epoch(trainer)
        shown = [name for name in metrics if name.count("/") < 2 or name.endswith("/accuracy")]
        self.last = time.monotonic()
        done = trainer.current_epoch + 1 - self.first_epoch
        left = (self.last - self.begin) / done * ((trainer.max_epochs or 0) - trainer.current_epoch - 1)
        figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in sorted(shown))
        self.say(trainer, f"{figures}  {left:.0f} s left")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last = time.monotonic()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds:
            self.last = now
            total = trainer.num_predict_batches[0]
            of = f" of {total}" if math.isfinite(total) else ""  # batches by the images' size are not counted before
            print(f"predicted batch {batch_idx + 1}{of}", flush=True)

    def say(self, trainer: pl.Trainer, text: str) -> None:
        if self.enabled and trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}", flush=True)
