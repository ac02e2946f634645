"""Stage `distil`: one network that learns the mean prediction of several finished ones (docs/method.md, section 8).

In each step the teachers see the same pixels as the student, crop, augmentation and mixing included, and their mean
probabilities are its labels (Hinton et al. 2015; "consistent teaching": Beyer et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from src.data.batch import Batch
from src.lightning_modules.classifier import Classifier, Network
from src.losses import distillation
from src.numbers import check_number


class Teacher(NamedTuple):
    """A network in evaluation mode, and the side of the square images that it was trained on, in pixels."""

    network: Network
    size: int


class Distillation(Classifier):
    """A Classifier whose labels are its teachers' mean probabilities; the images' own labels only validate it.

    Attributes:
        teachers: to be set before training. They are not part of the module: neither its checkpoints nor its weights
            contain them.

    Args:
        temperature: of the teachers' and the student's predictions, above 0; 1: the labels are those of a soft vote.
        settings: those of Classifier; label_smoothing is 0.

    Raises:
        ValueError: temperature is out of its range, or labels are smoothed.
    """

    def __init__(self, *, temperature: float, **settings: Any) -> None:
        check_number("module.temperature", temperature, 0, above=True)
        super().__init__(**settings)
        if self.label_smoothing:
            raise ValueError("module.label_smoothing is for images' own labels, which stage=distil does not use: set 0")
        self.temperature = temperature
        self.teachers: Sequence[Teacher] = ()  # a plain sequence, which nn.Module does not register

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.teachers:
            raise ValueError("stage=distil has no teachers: name finished runs with teachers=[...]")
        for teacher in self.teachers:
            teacher.network.to(self.device).requires_grad_(False).eval()

    @torch.no_grad()
    def taught(self, image: torch.Tensor) -> torch.Tensor:
        """The teachers' logits (M, N, K) float32 for images (N, 3, H, W) in [0, 1], each at its own size."""
        seen = {size: resized(image, size) for size in {teacher.size for teacher in self.teachers}}
        return torch.stack([teacher.network(seen[teacher.size]) for teacher in self.teachers])

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        mixed = self.mixed(batch)
        loss = distillation(self(mixed.image), self.taught(mixed.image), self.temperature)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.label), sync_dist=True)
        self.log_mixed(mixed)
        return loss


def resized(image: torch.Tensor, size: int) -> torch.Tensor:
    """Square images (N, 3, H, H) at another side: bilinear, smoothed before they shrink; unchanged at their own."""
    if image.shape[-1] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
