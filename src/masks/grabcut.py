"""Find the object in a rough mask by the colours inside and outside it: GrabCut (Rother et al., SIGGRAPH 2004)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from src.data.images import Mask
from src.numbers import check_number

SMALLEST = 8  # pixels on the longer side, below which there are too few colours to tell an object by


def cut(
    image: npt.NDArray[np.uint8], foreground: Mask, *, size: int, iterations: int, band: float, least: float
) -> Mask | None:
    """The object in a box or in a rough mask, by OpenCV's GrabCut (docs/method.md, section 3).

    Mixtures of Gaussians describe the colours inside and outside the mask, a minimal cut assigns each pixel to one
    of them, and both are repeated. The mixtures start from the same random numbers for every image and process.

    Args:
        image: (H, W, 3) uint8.
        foreground: (H, W) bool: where the object may be. Everything outside is background, except in a band.
        size: the longer side it is computed at, pixels, at least SMALLEST; a smaller image keeps its size.
        iterations: of mixtures and cut.
        band: width of the band around the mask where the object may be too, as a share of the longer side, in [0, 1].
        least: a result with less than this share of foreground, in [0, 1], counts as nothing.

    Returns:
        (H, W) bool; None if nothing was found, or if the mask is too empty or full to start from.
    """
    height, width = foreground.shape
    factor = min(1.0, size / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    inside = np.asarray(cv2.resize(foreground.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    labels = np.where(grown(inside, round(band * max(small))), cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[inside > 0] = cv2.GC_PR_FGD
    cv2.setRNGSeed(0)  # of this thread; otherwise the state left by the last image would decide
    try:
        cv2.grabCut(pixels, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload] # the rectangle is not used
    except cv2.error:  # no pixel inside, or none outside
        return None
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not found.any() or found.mean() < least:
        return None
    return np.asarray(cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5)


def check_grabcut(*, size: int, iterations: int, band: float, least: float) -> None:
    """Refuse settings of `cut` before there are images; with 0 iterations it is left out.

    Raises:
        ValueError: one is outside of its range.
    """
    check_number("grabcut.size", size, SMALLEST, whole=True)
    check_number("grabcut.iterations", iterations, 0, whole=True)
    check_number("grabcut.band", band, 0, 1)
    check_number("grabcut.least", least, 0, 1)


def grown(mask: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[np.uint8]:
    """A mask (H, W) of 0 and 1, grown by a disc of a radius in pixels."""
    if radius < 1:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask, disc), np.uint8)
