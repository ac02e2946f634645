"""AugMix (Hendrycks et al., ICLR 2020): its twelve operations, chained and mixed.

Their strengths are in docs/method.md, section 5; `level` is the paper's, up to 10. Six of the operations on uint8
images are a table of 256 values for each channel, some made from the channels' histograms, and the histogram of a
table's result follows from the table. So a chain of tables is one table, a blend of such chains is one table, and all
of it costs one pass over the pixels. Colour and sharpness look at more than one value, and the others move pixels:
each of these takes its own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt

from src.data.images import Image
from src.numbers import are_numbers, check_number

Table = npt.NDArray[np.uint8]  # (3, 256)
Counts = npt.NDArray[np.int64]  # (3, 256): a histogram of each channel
IDENTITY: Table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
CHANNEL = 256 * np.arange(3)[:, None]
"""Where a channel's row of a table begins in the whole of it."""
GREY = np.array([19595, 38470, 7471]) / 65536
"""Weights of red, green and blue in PIL's grey (ITU-R 601-2)."""
CUT_OFF = -0.499
"""Added before OpenCV rounds, where PIL truncates."""


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


def factor(level: float) -> float:
    """Share of the image that is left by colour, contrast, brightness and sharpness: .1 + 1.8 level / 10.

    The published quirk (docs/method.md, section 5): at level 1 it is at most .28, so the result is nearly grey, flat,
    black or blurred; the unchanged image would be 1, at level 5.
    """
    return 0.1 + 1.8 * level / 10


def towards(ground: npt.NDArray[Any] | float, level: float) -> Table:
    """The table of ground + factor (value - ground), truncated as PIL does; ground: a value, or one per channel."""
    blend = np.float32(ground) + np.float32(factor(level)) * (IDENTITY - np.float32(ground))
    return np.asarray(blend.clip(0, 255).astype(np.uint8))


def contrast(counts: Counts, level: float) -> Table:
    """Towards the mean of the image's grey values."""
    mean = float((counts @ np.arange(256) / counts.sum(1)) @ GREY)
    return towards(float(int(mean + 0.5)), level)


def brightness(level: float) -> Table:
    """Towards black."""
    return towards(0.0, level)


def posterize(level: float) -> Table:
    """Keep the highest bits: 4 at most, none at level 10."""
    dropped = 4 + int(0.4 * level)
    return IDENTITY & np.uint8(255 >> dropped << dropped)


def solarize(level: float) -> Table:
    """Invert the values above a threshold that falls from 256 to 0."""
    threshold = 256 - int(25.6 * level)
    return np.where(threshold > IDENTITY, IDENTITY, 255 - IDENTITY)


def colour(image: Image, level: float) -> Image:
    """Towards the image's grey: (H, W, 3) uint8 RGB to the same; PIL's to one value, which it cuts off twice."""
    kept = factor(level)
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = kept * np.eye(3) + (1 - kept) * GREY
    matrix[:, 3] = CUT_OFF
    return cv2.transform(image, matrix).astype(np.uint8, copy=False)


def sharpness(image: Image, level: float) -> Image:
    """Towards the image smoothed by PIL's filter, which leaves borders as they are; (H, W, 3) uint8 to the same."""
    kept = factor(level)
    made = image.copy()
    if min(image.shape[:2]) > 2:
        # PIL's kernel is 5 in the centre and 1 around it, over 13: 9 parts the mean of 3 x 3, and 4 parts the pixel.
        mixed = cv2.addWeighted(
            cv2.blur(image, (3, 3)), 9 * (1 - kept) / 13, image, 4 * (1 - kept) / 13 + kept, CUT_OFF
        )
        made[1:-1, 1:-1] = mixed[1:-1, 1:-1]
    return made


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
BY_COUNTS: tuple[Operation, ...] = (autocontrast, equalize, contrast)  # (counts, level) to a table
BY_LEVEL: tuple[Operation, ...] = (brightness, posterize, solarize)  # level to a table
BY_PIXELS: tuple[Operation, ...] = (colour, sharpness)  # (image, level) to an image
GEOMETRIC: tuple[Operation, ...] = (shear_x, shear_y, translate_x, translate_y)  # (level, H, W) to a matrix
PHOTOMETRIC = BY_COUNTS + BY_LEVEL + BY_PIXELS
OPERATIONS: dict[str, Operation] = {operation.__name__: operation for operation in PHOTOMETRIC + GEOMETRIC}
"""By the names used in a configuration."""


def histogram(image: Image) -> Counts:
    """Count the values 0 to 255 of each channel of (H, W, 3) uint8."""
    return np.stack([cv2.calcHist([image], [c], None, [256], [0, 256]).ravel() for c in range(3)]).astype(np.int64)


def after(counts: Counts, table: Table) -> Counts:
    """The histogram after a table is applied to an image with the histogram `counts`."""
    bins = table + CHANNEL
    return np.bincount(bins.ravel(), counts.ravel(), 3 * 256).reshape(3, 256).astype(np.int64)


def look_up(image: Image, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each channel of (H, W, 3) uint8 through its own row of a table (3, 256), in the table's dtype."""
    return cv2.LUT(image, np.ascontiguousarray(table.T)[None])


def warp(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    """Move the pixels of (H, W, 3) uint8 by a (2, 3) matrix; the outside is black."""
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


class Altered:
    """An image on its way through a chain: pixels, and a table yet to be applied to them.

    Args:
        image: (H, W, 3) uint8.
        counts: its histogram, if known.
    """

    def __init__(self, image: Image, counts: Counts | None = None) -> None:
        self.image, self.counts, self.table = image, counts, IDENTITY

    def apply(self, operation: Operation, level: float) -> None:
        """Apply one operation: to the table if it is one itself, else to the pixels."""
        if operation in BY_LEVEL or operation in BY_COUNTS:
            if operation in BY_LEVEL:
                step = operation(level)
            else:
                self.counts = histogram(self.image) if self.counts is None else self.counts
                step = operation(after(self.counts, self.table), level)
            self.table = step.ravel()[self.table + CHANNEL]  # take_along_axis, in a third of the time
            return
        pixels = self.pixels()
        if operation in BY_PIXELS:
            self.image = operation(pixels, level)
        else:
            self.image = warp(pixels, operation(level, *pixels.shape[:2]))
        self.counts, self.table = None, IDENTITY

    def pixels(self) -> Image:
        """The image as it is now."""
        return self.image if self.table is IDENTITY else look_up(self.image, self.table).astype(np.uint8, copy=False)


def augmix(
    image: Image, chains: Sequence[Sequence[tuple[Operation, float]]], weights: Sequence[float], share: float
) -> Image:
    """(1 - share) image + share * sum_i weights_i chain_i(image) (AugMix, algorithm 1), rounded.

    Args:
        image: (H, W, 3) uint8.
        chains: for each chain its operations and their levels, negative ones for the other direction.
        weights: one per chain, summing to 1.
        share: of the chains' mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    counts = histogram(image) if any(o in BY_COUNTS for chain in chains for o, _ in chain) else None
    blend, weight_so_far = (1 - share) * IDENTITY, 1 - share  # of the chains that are one table
    others: list[tuple[Image, float]] = []
    for chain, weight in zip(chains, weights, strict=True):
        altered = Altered(image, counts)
        for operation, level in chain:
            altered.apply(operation, level)
        if altered.image is image:
            blend, weight_so_far = blend + share * weight * altered.table, weight_so_far + share * weight
        else:
            others.append((altered.pixels(), share * weight))
    if not others:
        return look_up(image, np.rint(blend).astype(np.uint8)).astype(np.uint8, copy=False)
    total = look_up(image, (blend / max(weight_so_far, 1e-12)).astype(np.float32))
    for pixels, weight in others:
        weight_so_far += weight
        cv2.accumulateWeighted(pixels, total, weight / max(weight_so_far, 1e-12))  # the mean so far, of float32
    return cv2.convertScaleAbs(total).astype(np.uint8, copy=False)


class AugMix(A.ImageOnlyTransform):  # type: ignore[misc] # albumentations has no types
    """AugMix with weights ~ Dirichlet(alpha), share ~ Beta(alpha, alpha), levels ~ U(.1, severity).

    An image with a mask gets photometric operations only, as the others would separate the two
    (docs/method.md, section 9).

    Args:
        operations: names from OPERATIONS, drawn uniformly.
        chains: how many, at least 1.
        depth: smallest and largest number of operations in a chain, at least 0.
        severity: the highest level, in [.1, 10].
        alpha: of both distributions, above 0.

    Raises:
        ValueError: an unknown name, no operation for an image with a mask, or a number outside of its range.
    """

    def __init__(
        self, *, operations: Sequence[str], chains: int, depth: Sequence[int], severity: float, alpha: float
    ) -> None:
        super().__init__(p=1.0)
        unknown = [str(name) for name in operations if name not in OPERATIONS]
        if unknown:
            raise ValueError(f"augmix.operations names {', '.join(unknown)}: expected some of {', '.join(OPERATIONS)}")
        self.operations = tuple(OPERATIONS[name] for name in operations)
        self.photometric = tuple(operation for operation in self.operations if operation in PHOTOMETRIC)
        if not self.operations:
            raise ValueError("augmix.operations is empty: name some, or leave AugMix out with augmix.chains=0")
        check_number("augmix.chains", chains, 1, whole=True)
        if not are_numbers(depth, 2, 0, whole=True) or depth[0] > depth[1]:
            raise ValueError(
                f"augmix.depth is {depth}: expected two whole numbers of at least 0, the first not above the second"
            )
        check_number("augmix.severity", severity, 0.1, 10)
        check_number("augmix.alpha", alpha, 0, above=True)
        self.chains, self.depth, self.severity, self.alpha = chains, (depth[0], depth[1]), severity, alpha

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The operations that may be drawn for this image.

        Raises:
            ValueError: it has a mask, and every operation would separate the two.
        """
        if "mask" not in data:
            return {"operations": self.operations}
        if not self.photometric:
            raise ValueError(
                "augmix.operations only has operations that move pixels, which would separate images and masks: name a "
                "photometric one too, or leave AugMix out with augmix.chains=0"
            )
        return {"operations": self.photometric}

    def apply(self, img: Image, operations: Sequence[Operation], **params: Any) -> Image:
        """Draw, and mix."""
        rng = self.random_generator

        def draw() -> tuple[Operation, float]:
            operation, level = operations[rng.integers(len(operations))], rng.uniform(0.1, self.severity)
            return operation, level if operation in PHOTOMETRIC or rng.random() < 0.5 else -level

        chains = [[draw() for _ in range(rng.integers(*self.depth, endpoint=True))] for _ in range(self.chains)]
        weights = rng.dirichlet([self.alpha] * self.chains)
        return augmix(img, chains, weights, rng.beta(self.alpha, self.alpha))
