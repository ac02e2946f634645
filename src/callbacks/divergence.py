"""Stop a training whose loss is NaN or infinite, before a checkpoint of it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from src.datamodules.nico import datamodule_of
from src.distributed import gather
from src.files import write_json
from src.numbers import check_number
from src.stopping import request
from src.transfers import Late


class Step(NamedTuple):
    """A batch that was trained on: epoch and step from 1 on, its images' positions (N,), its loss, a scalar."""

    epoch: int
    number: int
    position: torch.Tensor
    loss: torch.Tensor


class Divergence(pl.Callback):
    """Raise ValueError at a loss that is not finite, and name the batch's images; the checkpoints before it stay.

    No step waits for its loss: those of the latest `every_n_steps` batches are sent to the host together and looked at
    a batch later. What was not looked at yet is before a checkpoint is written, before a validation, and at an epoch's
    end: nothing is written of weights that a bad loss has gone into.

    All processes learn of a bad loss of any of them, and stop together. The same all_reduce tells them whether any was
    asked to stop: Preemption looks at `signum`.

    Under 16-mixed a step whose numbers overflow is skipped, and the loss is scaled down for the next one: only SKIPS
    such steps in a row count as divergence.

    Args:
        path: json file for the epoch, the step and the images (of all processes).
        every_n_steps: batches between two looks, at least 1.

    Attributes:
        signum: the signal that any process had received at the last look, 0 for none.

    Raises:
        ValueError: another every_n_steps.
    """

    SKIPS = 20  # from a scale of 2^16 down to below 1

    def __init__(self, path: str, every_n_steps: int) -> None:
        check_number("callbacks.divergence.every_n_steps", every_n_steps, 1, whole=True)
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.number = 0
        self.skipped = 0
        self.signum = 0
        self.steps: list[Step] = []  # not yet sent
        self.sent: tuple[list[Step], Late] | None = None  # their facts: whether each loss is bad, and the signal

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.number = trainer.global_step + 1  # of several batches whose gradients are accumulated, all have it

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.look(trainer)
        loss = outputs["loss"].detach()
        self.steps.append(Step(trainer.current_epoch + 1, self.number, batch.position, loss))
        if batch_idx + 1 >= trainer.num_training_batches:
            self.settle(trainer)
        elif (batch_idx + 1) % self.every_n_steps == 0:
            self.send(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.settle(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.settle(trainer)

    def settle(self, trainer: pl.Trainer) -> None:
        """Look at everything, and wait for it; every process must call this at the same place."""
        self.look(trainer)
        if self.steps:
            self.send(trainer)
            self.look(trainer)

    def send(self, trainer: pl.Trainer) -> None:
        """Have the processes agree on the steps since the last time, on the device."""
        bad = ~torch.isfinite(torch.stack([step.loss for step in self.steps]))
        facts = torch.cat([bad.float(), torch.full((1,), float(request.signum), device=bad.device)])
        self.sent = self.steps, Late(trainer.strategy.reduce(facts, reduce_op="max"))
        self.steps = []

    def look(self, trainer: pl.Trainer) -> None:
        """Read what was sent before."""
        if self.sent is None:
            return
        (steps, facts), self.sent = self.sent, None
        *bad, signum = facts.read().tolist()
        self.signum = int(signum)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        for step, is_bad in zip(steps, bad, strict=True):
            self.skipped = self.skipped + 1 if is_bad else 0
            if self.skipped and not (scaled and self.skipped < self.SKIPS):
                self.end(trainer, step)

    def end(self, trainer: pl.Trainer, step: Step) -> None:
        """Write the images of a batch and raise ValueError."""
        loss = float(trainer.strategy.reduce(step.loss.clone(), reduce_op="mean"))
        train = datamodule_of(trainer).split_paths["train"]
        images = [train[i] for i in gather(step.position).tolist()]
        if trainer.is_global_zero:
            write_json(self.path, {"epoch": step.epoch, "step": step.number, "images": images})
        raise ValueError(
            f"the training has diverged: the loss of step {step.number}, in epoch {step.epoch}, is {loss}; lower the "
            f"learning rate, or set trainer.gradient_clip_val; the images of that batch are listed in {self.path}"
        )
