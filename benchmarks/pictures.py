"""Drawn pictures whose files are about as large as a photo's: smooth random colours with noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def smooth(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int] = (16, 12), below: int = 255
) -> npt.NDArray[np.float32]:
    """Random colours in [0, below) at the centres of cells, and smoothly between them.

    Args:
        rng: draws.
        size: width and height.
        cells: their numbers in both directions.
        below: the colours' upper limit.

    Returns:
        (H, W, 3) float32.
    """
    coarse = rng.integers(0, below, (cells[1], cells[0], 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)


def noisy(rng: np.random.Generator, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A picture (H, W, 3) of values around [0, 255] with a camera's noise, as uint8."""
    return (picture + rng.normal(0, 6, picture.shape)).astype(np.float32).clip(0, 255).astype(np.uint8)
