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

    def ask(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:
            asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
            stop = bool(trainer.strategy.reduce(asked, reduce_op="max") > 0)
        else:
            stop = self.asked
        # An epoch's last batch goes on to its validation and its row of metrics; the next batch stops.
        if stop and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)
            if trainer.is_global_zero:
                print(f"asked to stop: wrote {self.path}, resume=true continues", flush=True)
            raise SystemExit(EXIT_CODE)
