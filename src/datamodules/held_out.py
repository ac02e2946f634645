"""What a trainer does without where the data hold out images, and none of them in-domain."""

from __future__ import annotations

import warnings

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


def do_without_in_domain(trainer: pl.Trainer) -> None:
    """Let a trainer validate out-of-domain alone: no checkpoint is the best by a figure that there is not."""
    warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero")
    warnings.filterwarnings("ignore", "The ``compute`` method of metric ContextAccuracy was called before")
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and str(callback.monitor).startswith("val/in_domain/"):
            callback.save_top_k = 0
