"""Refine a foreground map by the image's edges with a dense CRF (Krähenbühl & Koltun, NeurIPS 2011)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels

from src.numbers import check_number

NARROWEST = 0.01
"""Of a kernel's ranges: far smaller ones overflow the C code's coordinates, and crash it."""


def refine(
    image: npt.NDArray[np.generic],
    foreground: npt.NDArray[np.generic],
    *,
    gt_prob: float,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    iterations: int,
) -> npt.NDArray[np.bool_]:
    """The most probable labelling given a foreground map and the image (docs/method.md, section 3).

    Args:
        image: (H, W, 3), uint8 or float in [0, 255]; may be read-only or strided.
        foreground: (H, W), bool, or float in [0, 1], where more than one half is foreground (NaN is not).
        gt_prob: how much the map is trusted, in (0.5, 1).
        gaussian_sxy, gaussian_compat: range in pixels and weight of the smoothness kernel; as of the next, ranges are
            at least NARROWEST and weights at least 0.
        bilateral_sxy, bilateral_srgb, bilateral_compat: ranges in pixels and grey levels, and weight, of the
            appearance kernel.
        iterations: of mean-field inference, at least 0.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: image and map differ in size.
    """
    height, width = foreground.shape
    if image.shape != (height, width, 3):
        raise ValueError(f"the image has shape {image.shape}, its map {foreground.shape}: expected (H, W, 3), (H, W)")
    # The C code reads raw memory: uint8, contiguous, writable. A NaN in the unary would spread everywhere.
    pixels = np.array(np.nan_to_num(image), dtype=np.uint8, order="C")
    labels = (np.nan_to_num(foreground.astype(np.float32)) > 0.5).astype(np.int32)
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_from_labels(labels, 2, gt_prob=gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=pixels, compat=bilateral_compat)
    marginals = np.asarray(crf.inference(iterations))
    return np.asarray(marginals.argmax(0).reshape(height, width) == 1)


def check_crf(
    *,
    gt_prob: float,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    iterations: int,
) -> None:
    """Refuse settings of `refine` before there are images.

    Raises:
        ValueError: one is outside of its range.
    """
    check_number("crf.gt_prob", gt_prob, 0.5, 1, above=True, below=True)
    ranges = {"gaussian_sxy": gaussian_sxy, "bilateral_sxy": bilateral_sxy, "bilateral_srgb": bilateral_srgb}
    for name, value in ranges.items():
        check_number(f"crf.{name}", value, NARROWEST)
    check_number("crf.gaussian_compat", gaussian_compat, 0)
    check_number("crf.bilateral_compat", bilateral_compat, 0)
    check_number("crf.iterations", iterations, 0, whole=True)
