"""The only home of Lightning's private names, each with its reason; check it against every new version of Lightning."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loops.progress import _ProcessedTracker


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


def restart_average(averaging: WeightAveraging) -> None:
    """Count the averaged steps from 0 again; there is no public access to the count."""
    if averaging._average_model is not None:
        averaging._average_model.n_averaged.zero_()


def hand_over_average(averaging: WeightAveraging, module: pl.LightningModule) -> None:
    """Give the module the averaged weights: on_train_end does, which a run resumed after its last epoch never sees."""
    averaging._copy_average_to_current(module)
