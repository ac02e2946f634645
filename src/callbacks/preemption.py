"""A training that has to stop (a signal, a limit of time or steps) saves at the end of the batch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, Timer

from src.callbacks.divergence import Divergence
from src.lightning_private import leave_signals_alone
from src.stopping import NAMES, request


class Preemption(pl.Callback):
    """Write `path` and stop as soon as any rank has been asked to, or where Lightning would cut an epoch short.

    The ranks agree at the end of a batch: a handler that saved at once would leave the others waiting in a collective.
    Within an epoch Divergence asks them, every few batches and together with what it asks itself.
    Lightning ends an epoch early for max_time, max_steps and callbacks, and counts it as a whole one: a run resumed
    there would skip the rest of its images.

    Args:
        path: the checkpoint to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.watch: Divergence | None = None
        self.cut = False  # whether Lightning wanted to end an epoch between two steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        leave_signals_alone(trainer)
        if stage != "fit":  # Lightning is going through the list: moving along in it would hide another's setup
            return
        # After the Timer, which Lightning appends, and everything else that may end a training; before the checkpoints.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined] # Lightning adds it
        first = next((i for i, c in enumerate(others) if isinstance(c, Checkpoint)), len(others))
        self.watch = next((callback for callback in others if isinstance(callback, Divergence)), None)
        trainer.callbacks[:] = [*others[:first], self, *others[first:]]  # type: ignore[attr-defined] # Lightning adds it

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        request.deferred = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if signum := self.agreed(trainer):  # the epoch before it wrote last.ckpt at its end
            self.stop(trainer, signum)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # An epoch's last batch goes on to its validation and its row of metrics.
        if batch_idx + 1 >= trainer.num_training_batches:
            return
        if trainer.fit_loop.epoch_loop.done:
            self.cut = True
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            trainer.should_stop = False  # no checkpoint holds gradients that still wait for more batches
        elif (signum := self.last_agreed(trainer)) or self.cut:
            trainer.save_checkpoint(self.path)
            self.stop(trainer, signum)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready < trainer.num_training_batches:
            self.stop(trainer, 0)  # cut elsewhere, such as by a validation within the epoch: the last checkpoint counts

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        request.deferred = False
        if signum := self.agreed(trainer):
            self.stop(trainer, signum)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        request.deferred = False
        if isinstance(exception, SystemExit) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # ranks that this one started do not wait for it

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint.get("callbacks", {}).pop("Timer", None)  # max_time limits one start: the next has all of it

    def agreed(self, trainer: pl.Trainer) -> int:
        """The signal that any rank has received, 0 for none; every rank must call this at the same place."""
        if trainer.world_size == 1:
            return request.signum
        asked = torch.tensor(float(request.signum), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(asked, reduce_op="max"))

    def last_agreed(self, trainer: pl.Trainer) -> int:
        """As `agreed`, some batches late where there are other ranks, and without a wait for the device."""
        return self.agreed(trainer) if self.watch is None or trainer.world_size == 1 else self.watch.signum

    @staticmethod
    def limit(trainer: pl.Trainer) -> str:
        """The setting by which Lightning ends a training early."""
        if 0 <= trainer.max_steps <= trainer.global_step:
            return "trainer.max_steps"
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined] # Lightning adds it
        return "trainer.max_time" if any((timer.time_remaining() or 0) <= 0 for timer in timers) else "a callback"

    def stop(self, trainer: pl.Trainer, signum: int) -> None:
        """Leave, with a signal's exit code or, at a limit of the settings, with 0."""
        if trainer.is_global_zero:
            why = NAMES[signal.Signals(signum)] if signum else self.limit(trainer)
            epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
            where = f"in epoch {epoch} of {trainer.max_epochs}, after step {trainer.global_step}"
            saved = f"{self.path} is written" if self.path.exists() else "there was nothing to save yet"
            print(f"stopped by {why} {where}: {saved}, resume=true continues it", flush=True)
        request.left = True
        raise SystemExit(128 + signum if signum else 0)
