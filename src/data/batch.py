"""Images on their way: an example from a worker, batches of pixels as they travel, batches as the modules see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class Example(NamedTuple):
    """One transformed image, as a worker makes it: pixels (V, size, size, 3) of V views, mask (size, size)."""

    pixels: npt.NDArray[np.uint8]
    label: int
    domain: int
    position: int
    mask: npt.NDArray[np.bool_] | None
    readable: bool = True


class PixelBatch(NamedTuple):
    """A batch on its way to the device, uint8: a quarter of the bytes of float.

    Attributes:
        pixels: (N, V, H, W, 3) uint8, one or two views of each image.
        label, domain: (N,) int64, -1 where unknown.
        position: (N,) int64, the image's index in its dataset.
        mask: (N, H, W) bool, True on the foreground; None where there are no masks.
        readable: (N,) bool, False where the file could not be decoded and the image is black; None where all could.
    """

    pixels: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor | None
    readable: torch.Tensor | None

    def on_device(self) -> Batch | TwoViewBatch:
        """The batch as the modules see it."""
        views, facts = to_float(self.pixels), (self.label, self.domain, self.position)
        if views.shape[1] == 2:
            return TwoViewBatch(views[:, 0], views[:, 1], *facts)
        return Batch(views.squeeze(1), *facts, self.mask, self.readable)


class Batch(NamedTuple):
    """A batch in a module's steps: image (N, 3, H, W) float32 in [0, 1], the rest as of PixelBatch."""

    image: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor | None = None
    readable: torch.Tensor | None = None


class TwoViewBatch(NamedTuple):
    """Two views (N, 3, H, W) float32 in [0, 1] of each image, the rest as of PixelBatch."""

    first: torch.Tensor
    second: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor
    position: torch.Tensor


class FullSizePixels(NamedTuple):
    """Images at their own size on their way to the device.

    Attributes:
        pixels: (N, H, W, 3) uint8, each image reflected at its right and bottom to the common H and W.
        height, width: (N,) int64, without that padding.
        position: (N,) int64, the image's index in the rows.

    A worker's single image has no N.
    """

    pixels: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    position: torch.Tensor

    def on_device(self) -> FullSizeBatch:
        """The batch as the modules see it."""
        return FullSizeBatch(to_float(self.pixels), self.height, self.width, self.position)


class FullSizeBatch(NamedTuple):
    """Images at their own size in a module's steps: image (N, 3, H, W) float32 in [0, 1], the rest as before."""

    image: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    position: torch.Tensor


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float32 in [0, 1], in channels_last order."""
    return pixels.movedim(-1, -3).to(torch.float32).div_(255)


def collate(examples: Sequence[Example]) -> PixelBatch:
    """Stack examples."""
    masks = [example.mask for example in examples if example.mask is not None]
    readable = [example.readable for example in examples]
    return PixelBatch(
        pixels=torch.from_numpy(np.stack([example.pixels for example in examples])),
        label=torch.tensor([example.label for example in examples]),
        domain=torch.tensor([example.domain for example in examples]),
        position=torch.tensor([example.position for example in examples]),
        mask=torch.from_numpy(np.stack(masks)) if masks else None,
        readable=None if all(readable) else torch.tensor(readable),
    )


def collate_pairs(pairs: Sequence[tuple[Example, Example]]) -> PixelBatch:
    """Stack N pairs to a batch of 2N: image i is paired with image (i + N) % 2N."""
    return collate([first for first, _ in pairs] + [second for _, second in pairs])
