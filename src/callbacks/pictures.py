"""Training images as the network sees them and what they are mixed from, as a PNG in the run and a logger's panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from src.callbacks.panels import log_picture
from src.callbacks.sheet import Picture, Tile, square, write_sheet
from src.data.batch import Batch, TwoViewBatch
from src.datamodules.nico import datamodule_of
from src.numbers import check_number

SIDE = 128  # of what the network sees, pixels; what it is mixed from has half of it
COLUMNS = 8


class Pictures(pl.Callback):
    """Save the first batch of every `every_n_epochs`-th epoch, after mixing.

    The module has `training_images(batch)` (src/lightning_modules/__init__.py). Where images are mixed, each stands
    over its own image and its partner's, and over the masks of the two if there are any; under it are its labels with
    their weights.

    Args:
        folder: where the PNGs go.
        every_n_epochs: how often, at least 1.
        count: images per sheet, at least 1, counting two views of one as two.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(self, folder: str, every_n_epochs: int, count: int) -> None:
        check_number("callbacks.pictures.every_n_epochs", every_n_epochs, 1, whole=True)
        check_number("callbacks.pictures.count", count, 1, whole=True)
        self.folder, self.every_n_epochs, self.count = Path(folder), every_n_epochs, count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch | TwoViewBatch, batch_idx: int
    ) -> None:
        if batch_idx or trainer.current_epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        # The step that follows repeats the draws made here: the sheet shows that very batch, and a run
        # with pictures ends with the weights of one without.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            seen = pl_module.training_images(batch)  # type: ignore[operator] # every stage's module has it
        data = datamodule_of(trainer)
        tiles = tiles_of(batch, seen, self.count, data.classes, data.contexts)
        sheet = write_sheet(
            self.folder / f"epoch{trainer.current_epoch:03d}.png", tiles, COLUMNS * len(batch.label) // len(seen.image)
        )
        log_picture(trainer, "train/images", sheet)


def tiles_of(
    batch: Batch | TwoViewBatch, seen: Any, count: int, classes: Sequence[str], contexts: Sequence[str]
) -> list[Tile]:
    """The first images of a batch as tiles.

    Args:
        batch: of N images.
        seen: a Mixed of V versions of each image, one after the other: (V * N, 3, H, W).
        count: tiles times V, at most.
        classes, contexts: names by id.
    """
    labels, domains = batch.label.tolist(), batch.domain.tolist()
    versions = len(seen.image) // len(labels)
    partners, weights = seen.partner.tolist(), seen.lam.float().expand(len(labels)).tolist()
    mixed = partners != list(range(len(labels)))
    names = [words_of(k, d, classes, contexts) for k, d in zip(labels, domains, strict=True)]
    masks = getattr(batch, "mask", None) if mixed else None
    tiles = []
    for i, partner in enumerate(partners[: max(1, count // versions)]):
        parts = [np.hstack([picture_of(seen.image[versions * i + v], SIDE) for v in range(versions)])]
        if mixed:
            assert isinstance(batch, Batch)
            thumbs = [picture_of(batch.image[k], SIDE // 2) for k in (i, partner)]
            if masks is not None:
                thumbs += [square(masks[k].cpu().numpy().astype(np.uint8) * 255, SIDE // 2) for k in (i, partner)]
            rows = [np.hstack(thumbs[k : k + 2 * versions]) for k in range(0, len(thumbs), 2 * versions)]
            parts += [np.pad(row, ((0, 0), (0, parts[0].shape[1] - row.shape[1]), (0, 0))) for row in rows]
        alone = partner == i
        words = names[i] if alone else f"{weights[i]:.2f} {names[i]} + {1 - weights[i]:.2f} {names[partner]}"
        tiles.append(Tile(np.vstack(parts), words))
    return tiles


def words_of(label: int, domain: int, classes: Sequence[str], contexts: Sequence[str]) -> str:
    """An image's class and, where it is known, its context: "car (grass)"."""
    name = classes[label] if 0 <= label < len(classes) else str(label)
    return f"{name} ({contexts[domain]})" if 0 <= domain < len(contexts) else name


def picture_of(image: torch.Tensor, side: int) -> Picture:
    """An image (3, H, W) in [0, 1] as a square picture."""
    pixels = (255 * image.detach().float().cpu().clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    return square(np.ascontiguousarray(pixels), side)
