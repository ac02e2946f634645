"""What callbacks give the loggers of a training: pictures where a logger shows them, and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger


def log_picture(trainer: pl.Trainer, name: str, picture: npt.NDArray[np.uint8]) -> None:
    """Give W&B and TensorBoard a picture (H, W, 3) of the present step."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
            logger.experiment.flush()


def log_figures(trainer: pl.Trainer, figures: Mapping[str, Any]) -> None:
    """Give every logger those of the figures that are numbers, at the present step."""
    numbers = {name: float(value) for name, value in figures.items() if type(value) in (int, float)}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
        logger.save()
