"""Training images as the network sees them, as a PNG in the run and a panel of the logger."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torchvision.utils import make_grid, save_image

from src.callbacks.panels import log_picture
from src.data.batch import Batch
from src.files import write_whole


class Pictures(pl.Callback):
    """Save the first batch of every `every_n_epochs`-th epoch, after mixing.

    The module has `training_images(batch)`, (N, 3, H, W) in [0, 1].

    Args:
        folder: where the PNGs go.
        every_n_epochs: how often.
        count: images per sheet.
    """

    def __init__(self, folder: str, every_n_epochs: int, count: int) -> None:
        self.folder, self.every_n_epochs, self.count = Path(folder), every_n_epochs, count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx or trainer.current_epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        # The step that follows repeats the draws made here: the sheet shows that very batch, and a run
        # with pictures ends with the weights of one without.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            images = pl_module.training_images(batch)[: self.count]  # type: ignore[operator] # every stage's module has it
        grid = make_grid(images.detach().float().cpu().clamp(0, 1), nrow=8)
        with write_whole(self.folder / f"epoch{trainer.current_epoch:03d}.png") as file:
            save_image(grid, file, format="png")
        log_picture(trainer, "train/images", grid.mul(255).round().byte().permute(1, 2, 0).numpy())
