"""The only file that uses Lightning's private names, each with its reason; check it against every new version."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loops.progress import _ProcessedTracker
from torch import nn


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM: its handler talks to the other ranks at any point of this one's work."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign] # no other switch


def batches_done(trainer: pl.Trainer) -> int:
    """Training batches of this epoch that are done; the public `batch_idx` also counts one that has only started."""
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    assert isinstance(progress, _ProcessedTracker)
    return progress.processed


def average_on(averaging: WeightAveraging, trainer: pl.Trainer) -> None:
    """Keep the average on the module's device: by default it stays on the CPU, and each step copies it."""
    averaging._device = trainer.strategy.root_device


def average_to_move(averaging: WeightAveraging, trainer: pl.Trainer) -> nn.Module | None:
    """The average where the latest step is not in it, which is then noted to be; there is no public access to it."""
    if trainer.global_step <= averaging._latest_update_step:
        return None
    assert averaging._average_model is not None
    averaging._latest_update_step = trainer.global_step
    averaging._average_model.n_averaged += 1
    return averaging._average_model.module


def steps_averaged(averaging: WeightAveraging) -> int:
    """How many steps are in the average; the device is asked."""
    return 0 if averaging._average_model is None else int(averaging._average_model.n_averaged)


def restart_average(averaging: WeightAveraging) -> None:
    """Count the averaged steps from 0 again; there is no public access to the count."""
    if averaging._average_model is not None:
        averaging._average_model.n_averaged.zero_()


def hand_over_average(averaging: WeightAveraging, module: pl.LightningModule) -> None:
    """Give the module the averaged weights: on_train_end does, which a run resumed after its last epoch never sees."""
    averaging._copy_average_to_current(module)
