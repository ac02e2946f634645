"""Images on their way: one decoded example, and the batches that the modules get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class Sample(NamedTuple):
    """A batch (or, with tensors instead of N-stacks of them, one image).

    Shapes: image (N, H, W, 3) uint8 on the way to the device and (N, 3, H, W) float32 in [0, 1] in a
    module's steps, (N, 2, ...) where a transform makes two views; label and domain (N,) int64, -1 where
    unknown; position (N,) int64, the image's place in its dataset; mask (N, H, W) bool, True on the
    foreground, or None where there are no masks; readable (N,) bool, False where the file could not be decoded and
    the image is black, or None where all could.
    """

    image: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor | None = None
    readable: torch.Tensor | None = None


class Decoded(NamedTuple):
    """One transformed image, as a worker makes it."""

    image: npt.NDArray[np.uint8]
    label: int
    domain: int
    position: int
    mask: npt.NDArray[np.bool_] | None
    readable: bool = True


class Native(NamedTuple):
    """Images at their own size: (N, H, W, 3) uint8, each reflected at its right and bottom to the common H and W.

    height, width (N,) int64 are without that padding; position (N,) is the place in the rows. A worker's single
    image has no N.
    """

    image: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    position: torch.Tensor


def collate(samples: Sequence[Decoded]) -> Sample:
    """Stack samples: images stay (N, H, W, 3) uint8, a quarter of the bytes of float on their way."""
    masks = [sample.mask for sample in samples if sample.mask is not None]
    return Sample(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        label=torch.tensor([sample.label for sample in samples]),
        domain=torch.tensor([sample.domain for sample in samples]),
        position=torch.tensor([sample.position for sample in samples]),
        mask=torch.from_numpy(np.stack(masks)) if masks else None,
        readable=None
        if all(sample.readable for sample in samples)
        else torch.tensor([sample.readable for sample in samples]),
    )


def collate_pairs(pairs: Sequence[tuple[Decoded, Decoded]]) -> Sample:
    """Stack N pairs to a batch of 2N: image i is paired with image (i + N) % 2N."""
    return collate([first for first, _ in pairs] + [second for _, second in pairs])
