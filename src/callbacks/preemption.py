"""SIGTERM (a cluster's preemption, `kill`): save at the end of the batch, leave with exit code 143."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

EXIT_CODE = 128 + signal.SIGTERM


class Preemption(pl.Callback):
    """Write `path` and stop as soon as any rank was asked to.

    The ranks agree at the end of a batch: a handler that saved at once would leave the others waiting in
    a collective.

    Args:
        path: the checkpoint to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self.ask)  # after Lightning's own handler, which it replaces

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self.leave)  # predictions are written whole, one by one: nothing to save

    def leave(self, signum: int, frame: FrameType | None) -> None:
        """Stop at once."""
        raise SystemExit(EXIT_CODE)

    def ask(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.agreed(trainer):  # the epoch before it wrote last.ckpt at its end
            self.stop(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # An epoch's last batch goes on to its validation and its row of metrics. Gradients that wait for more
        # batches are in no checkpoint.
        last = batch_idx + 1 >= trainer.num_training_batches
        if not last and (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self.agreed(trainer):
            trainer.save_checkpoint(self.path)
            self.stop(trainer)

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked to stop; every rank must ask this at the same place."""
        if trainer.world_size == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(asked, reduce_op="max") > 0)

    def stop(self, trainer: pl.Trainer) -> None:
        """Leave with the exit code of a SIGTERM."""
        if trainer.is_global_zero:
            print(f"asked to stop: {self.path} is written, resume=true continues", flush=True)
        raise SystemExit(EXIT_CODE)
