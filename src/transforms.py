"""Augmentations on uint8 images (and their masks), the only home of albumentations.

A transform is a callable (image, mask, seed) -> (image, mask): every draw comes from `seed`, so that a
sample does not depend on the worker, the rank or the order in which it is made.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for its version

import albumentations as A

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Transform:
    """A pipeline whose steps draw, one after the other, from one generator keyed by the sample's seed.

    Attributes:
        min_side: an image may be decoded at a reduced size as long as its shorter side keeps this length.
    """

    def __init__(self, steps: list[A.BasicTransform], min_side: int) -> None:
        # Compose.set_random_seed would give every step a generator of its own from the same seed, and with
        # it the same first draw: an image would be flipped if and only if it is, say, turned to grey.
        self.pipeline = A.Compose(steps)
        self.min_side = min_side

    def __call__(self, image: Image, mask: Mask | None, seed: int) -> tuple[Image, Mask | None]:
        """Transform one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) bool or None; it follows the image's geometry, by its nearest pixel.
            seed: key of all draws.

        Returns:
            (size, size, 3) uint8 and (size, size) bool or None.
        """
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if mask is None:
            return self.pipeline(image=image)["image"], None
        made: dict[str, Any] = self.pipeline(image=image, mask=mask.view(np.uint8))
        return made["image"], made["mask"].view(np.bool_)


class Train(Transform):
    """RandomResizedCrop, flips and AugMix (method.md, sections 2, 3 and 5).

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area that a crop takes.
        horizontal_flip, vertical_flip: probability of each.
        augmix: settings of AugMix; with 0 chains it is left out.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float],
        horizontal_flip: float,
        vertical_flip: float,
        augmix: Mapping[str, Any],
    ) -> None:
        crop = A.RandomResizedCrop(
            (size, size),
            scale=(scale[0], scale[1]),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST would shift the mask by half a pixel
        )
        steps: list[A.BasicTransform] = [crop]
        if horizontal_flip:
            steps.append(A.HorizontalFlip(p=horizontal_flip))
        if vertical_flip:
            steps.append(A.VerticalFlip(p=vertical_flip))
        if augmix["chains"]:
            steps.append(AugMix(**augmix))
        # The shorter side of the smallest crop of a square image, at the most oblong ratio (3/4): below
        # `min_side` a crop could be enlarged although the file had the pixels.
        super().__init__(steps, min_side=math.ceil(size / math.sqrt(scale[0] * 0.75)))


class TwoViews(Transform):
    """Two independent views of an image, for contrastive learning (MoCo v2, section 3; method.md, section 4).

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area that a crop takes.
        jitter: strength of brightness, contrast, saturation and hue.
        jitter_probability: of the colour jitter.
        grey: probability.
        blur_sigma: smallest and largest standard deviation of the Gaussian blur, in pixels of the result.
        blur_probability: of the blur.
        horizontal_flip: probability.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float],
        jitter: tuple[float, float, float, float],
        jitter_probability: float,
        grey: float,
        blur_sigma: tuple[float, float],
        blur_probability: float,
        horizontal_flip: float,
    ) -> None:
        brightness, contrast, saturation, hue = jitter
        steps: list[A.BasicTransform] = [
            A.RandomResizedCrop((size, size), scale=(scale[0], scale[1]), interpolation=cv2.INTER_LINEAR),
            A.ColorJitter(brightness, contrast, saturation, hue, p=jitter_probability),
            A.ToGray(p=grey),
            A.GaussianBlur(blur_limit=0, sigma_limit=(blur_sigma[0], blur_sigma[1]), p=blur_probability),
            A.HorizontalFlip(p=horizontal_flip),
        ]
        super().__init__(steps, min_side=math.ceil(size / math.sqrt(scale[0] * 0.75)))

    def __call__(self, image: Image, mask: Mask | None, seed: int) -> tuple[Image, Mask | None]:
        """(H, W, 3) uint8 to (2, size, size, 3) uint8; a mask is left out."""
        views = [super(TwoViews, self).__call__(image, None, seed + view)[0] for view in (0, 1)]
        return np.stack(views), None


class Evaluate(Transform):
    """Shorter side resized to size / crop_pct, then the centre crop (method.md, section 9).

    Args:
        size: side of the result in pixels.
        crop_pct: side of the crop as a share of the resized shorter side.
    """

    def __init__(self, size: int, *, crop_pct: float) -> None:
        shorter = round(size / crop_pct)
        steps: list[A.BasicTransform] = [
            A.SmallestMaxSize(max_size=shorter, interpolation=cv2.INTER_LINEAR, area_for_downscale="image"),
            A.CenterCrop(size, size),
        ]
        super().__init__(steps, min_side=shorter)


# AugMix (Hendrycks et al., ICLR 2020). A photometric operation on uint8 is a table of 256 values for each channel, made
# from the channel's histogram; the histogram of its result follows from the table. So a chain of them is one table, a
# blend of chains is one table, and the whole of it costs one pass over the pixels: exactly the result of one
# operation after the other. `level` is the paper's, up to 10.

Table = npt.NDArray[np.uint8]  # (3, 256)
Counts = npt.NDArray[np.int64]  # (3, 256): a histogram of each channel
IDENTITY: Table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))


def autocontrast(counts: Counts, level: float) -> Table:
    """Stretch each channel's values to 0 and 255."""
    low = (counts > 0).argmax(1)[:, None]
    high = 255 - (counts[:, ::-1] > 0).argmax(1)[:, None]
    scale = 255 / np.maximum(high - low, 1)
    stretched = (IDENTITY * scale - low * scale).clip(0, 255).astype(np.uint8)
    return np.where(high > low, stretched, IDENTITY)


def equalize(counts: Counts, level: float) -> Table:
    """Give each channel a flat histogram."""
    total = counts.sum(1, keepdims=True)
    highest = np.take_along_axis(counts, 255 - (counts[:, ::-1] > 0).argmax(1)[:, None], 1)
    step = (total - highest) // 255
    below = counts.cumsum(1) - counts
    flat = ((step // 2 + below) // np.maximum(step, 1)).clip(0, 255).astype(np.uint8)
    return np.where(step > 0, flat, IDENTITY)


def posterize(counts: Counts, level: float) -> Table:
    """Keep the highest bits: 4, and none at level 10."""
    dropped = 4 + int(0.4 * level)
    return IDENTITY & np.uint8(255 >> dropped << dropped)


def solarize(counts: Counts, level: float) -> Table:
    """Invert the values above a threshold that falls from 256 to 0."""
    threshold = 256 - int(25.6 * level)
    return np.where(threshold > IDENTITY, IDENTITY, 255 - IDENTITY)


def rotate(level: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Rotate by up to 30 degrees around the centre."""
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), int(3 * level), 1).astype(
        np.float64, copy=False
    )


def shear_x(level: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Shift rows by up to .3 of their number."""
    return np.array([[1, 0.03 * level, 0], [0, 1, 0]])


def shear_y(level: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Shift columns by up to .3 of their number."""
    return np.array([[1, 0, 0], [0.03 * level, 1, 0]])


def translate_x(level: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Shift the image sideways by up to a third."""
    return np.array([[1, 0, int(level * width / 30)], [0, 1, 0]], np.float64)


def translate_y(level: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Shift the image up or down by up to a third."""
    return np.array([[1, 0, 0], [0, 1, int(level * height / 30)]], np.float64)


Operation = Callable[..., Any]
PHOTOMETRIC: tuple[Operation, ...] = (autocontrast, equalize, posterize, solarize)
GEOMETRIC: tuple[Operation, ...] = (rotate, shear_x, shear_y, translate_x, translate_y)


def histogram(image: Image) -> Counts:
    """Count the values 0 to 255 of each channel of (H, W, 3) uint8."""
    return np.stack([cv2.calcHist([image], [c], None, [256], [0, 256]).ravel() for c in range(3)]).astype(np.int64)


def after(counts: Counts, table: Table) -> Counts:
    """The histogram of what a table makes of an image with the histogram `counts`."""
    places = table + 256 * np.arange(3)[:, None]
    return np.bincount(places.ravel(), counts.ravel(), 3 * 256).reshape(3, 256).astype(np.int64)


def look_up(image: Image, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each channel of (H, W, 3) uint8 through its own row of a table (3, 256), in the table's dtype."""
    return cv2.LUT(image, np.ascontiguousarray(table.T)[None])


def warp(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    """Move the pixels of (H, W, 3) uint8 by a (2, 3) matrix; what comes in from outside is black."""
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def augmix(
    image: Image, chains: Sequence[Sequence[tuple[Operation, float]]], weights: Sequence[float], share: float
) -> Image:
    """(1 - share) image + share * sum_i weights_i chain_i(image) (AugMix, algorithm 1), rounded.

    Args:
        image: (H, W, 3) uint8.
        chains: for each chain its operations and their levels, negative ones for the other direction.
        weights: one a chain, summing to 1.
        share: of the chains' mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    counts: Counts | None = histogram(image)
    blend = (1 - share) * IDENTITY  # of the chains that do not move the image
    moved_chains: list[npt.NDArray[np.float32]] = []
    for chain, weight in zip(chains, weights, strict=True):
        moved, moved_counts, table = image, counts, IDENTITY
        for operation, level in chain:
            if operation in PHOTOMETRIC:
                if moved_counts is None:
                    moved_counts = histogram(moved)
                step = operation(after(moved_counts, table), level)
                table = np.take_along_axis(step, table.astype(np.intp), 1)
            else:
                moved = warp(look_up(moved, table), operation(level, *image.shape[:2]))
                moved_counts, table = None, IDENTITY
        if moved is image:
            blend = blend + share * weight * table
        else:
            moved_chains.append(look_up(moved, (share * weight * table).astype(np.float32)))
    if not moved_chains:
        return look_up(image, np.rint(blend).astype(np.uint8))
    total = look_up(image, blend.astype(np.float32))
    for part in moved_chains:
        total += part
    mixed: Image = np.rint(total).astype(np.uint8)
    return mixed


class AugMix(A.ImageOnlyTransform):  # type: ignore[misc]
    """AugMix with weights ~ Dirichlet(alpha), share ~ Beta(alpha, alpha), levels ~ U(.1, severity).

    An image that comes with a mask gets photometric operations only: the others would part them (method.md, section 9).

    Args:
        chains: how many.
        depth: smallest and largest number of operations of a chain.
        severity: the highest level, in [.1, 10].
        alpha: of both distributions.
    """

    def __init__(self, *, chains: int, depth: Sequence[int], severity: float, alpha: float) -> None:
        super().__init__(p=1.0)
        self.chains, self.depth, self.severity, self.alpha = chains, (depth[0], depth[1]), severity, alpha

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """What may be drawn for this image."""
        return {"operations": PHOTOMETRIC if "mask" in data else PHOTOMETRIC + GEOMETRIC}

    def apply(self, img: Image, operations: Sequence[Operation], **params: Any) -> Image:
        """Draw, and mix."""
        rng = self.random_generator

        def draw() -> tuple[Operation, float]:
            operation, level = operations[rng.integers(len(operations))], rng.uniform(0.1, self.severity)
            return operation, level if operation in PHOTOMETRIC or rng.random() < 0.5 else -level

        chains = [[draw() for _ in range(rng.integers(*self.depth, endpoint=True))] for _ in range(self.chains)]
        weights = rng.dirichlet([self.alpha] * self.chains)
        return augmix(img, chains, weights, rng.beta(self.alpha, self.alpha))
