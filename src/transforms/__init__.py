"""Augmentations of uint8 images and their masks: the only package that imports albumentations.

A transform is a callable (image, mask, seed) -> (image, mask): every random draw comes from `seed`, so a sample does
not depend on the worker, the rank or the order in which it is made.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for its version

import albumentations as A

from src.data.images import Image, Mask
from src.numbers import are_numbers, check_number
from src.transforms.augmix import AugMix
from src.transforms.auto_augment import rand_augment, trivial_augment


class Transform:
    """A pipeline whose steps draw, one after another, from one generator keyed by the sample's seed.

    Attributes:
        min_side: an image may be decoded at a reduced size as long as its shorter side keeps this length.
        views: number of views it makes of an image.
    """

    views = 1

    def __init__(self, steps: list[A.BasicTransform], min_side: int) -> None:
        self.steps, self.min_side = steps, min_side

    def __call__(self, image: Image, mask: Mask | None, seed: int) -> tuple[Image, Mask | None]:
        """Transform one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) bool or None; it follows the image's geometry, by nearest pixel.
            seed: key of all random draws.

        Returns:
            (size, size, 3) uint8 and (size, size) bool or None.
        """
        # One for all steps: with separate generators of the same seed, an image would be flipped if and only if it is,
        # say, turned to grey.
        state = np.random.default_rng(seed), random.Random(seed)
        state[1].random()  # as A.Compose draws, whose checks cost more than a flip: samples stay the same as with it
        made: dict[str, Any] = {"image": image} if mask is None else {"image": image, "mask": mask.view(np.uint8)}
        for step in self.steps:
            step.set_random_state(*state)
            made = step(**made)
        return made["image"], None if mask is None else made["mask"].view(np.bool_)


def setting(name: str) -> str:
    """A setting of the training transform, as it is typed."""
    return f"datamodule.train_transform.{name}"


def check_probabilities(**settings: float) -> None:
    """Raise ValueError for a probability that is not in [0, 1]."""
    for name, value in settings.items():
        check_number(setting(name), value, 0, 1)


def check_jitter(jitter: Sequence[float]) -> None:
    """Raise ValueError for strengths that the jitter of colours does not take."""
    if not are_numbers(jitter, 4, 0) or jitter[3] > 0.5:
        raise ValueError(
            f"{setting('jitter')} is {jitter}: expected four strengths of at least 0, of brightness, contrast, "
            "saturation and hue, the last at most 0.5"
        )


class Crop(A.RandomResizedCrop):  # type: ignore[misc] # albumentations has no types
    """RandomResizedCrop that averages over areas where it shrinks, like evaluation, and interpolates elsewhere.

    albumentations' own `area_for_downscale` repeats pixels on a side that grows while the other one shrinks.

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area that a crop takes; its aspect ratio is in [3/4, 4/3].

    Raises:
        ValueError: other shares.
    """

    def __init__(self, size: int, scale: tuple[float, float]) -> None:
        if not are_numbers(scale, 2, 0, 1, above=True) or scale[0] > scale[1]:
            raise ValueError(
                f"{setting('scale')} is {scale}: expected two shares of the area, above 0 and at most 1, the first not "
                "above the second"
            )
        super().__init__(
            (size, size),
            scale=(scale[0], scale[1]),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST would shift the mask by half a pixel
        )

    def apply(self, img: Image, crop_coords: tuple[int, int, int, int], **params: Any) -> Image:
        """Cut (left, top, right, bottom) out of (H, W, 3) uint8 and resize it to (size, size, 3)."""
        left, top, right, bottom = crop_coords
        return resize(img[top:bottom, left:right], self.size[0])


LARGE = 2**26  # values of an image (22 million pixels) above which its resize saves memory instead of time
HALVED = (1.45, 2.2)  # ratios of the image's side to the result's at which halving replaces averaging
SMALL = 160  # side of the result in pixels, below which averaging is cheap anyway


def resize(image: Image, size: int) -> Image:
    """(H, W, 3) uint8 to (size, size, 3): averages over areas on sides that shrink, interpolates on sides that grow.

    A result that is not small and whose sides shrink to about half is interpolated to twice its size and halved, in
    less than half the time. The mean of two interpolated pixels is the area's mean if sides shrink to exactly half;
    within HALVED a pixel's weight differs by at most a tenth of the largest.
    """
    if size >= SMALL and all(HALVED[0] * size <= side <= HALVED[1] * size for side in image.shape[:2]):
        twice = cv2.resize(image, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
        return cv2.resize(twice, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    height, width = min(image.shape[0], size), min(image.shape[1], size)
    if (height, width) != image.shape[:2]:
        # OpenCV averages float32 in two thirds of the time; for an enormous image that would take gigabytes.
        source = image.astype(np.float32) if image.size <= LARGE else image
        means = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
        image = cv2.convertScaleAbs(means).astype(np.uint8, copy=False)
    if (height, width) != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return np.ascontiguousarray(image)


class Train(Transform):
    """RandomResizedCrop, flips and AugMix (docs/method.md, sections 2, 3 and 5); the rest belongs to other recipes.

    Steps follow the order of the arguments. After the flips, only the colours of an image with a mask are changed, so
    that the two stay aligned.

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area that a crop takes.
        horizontal_flip, vertical_flip: probability of each.
        jitter: strength of brightness, contrast, saturation and hue, at least 0, hue at most 0.5; all 0: no jitter.
        grey: probability of a grey image.
        augmix: settings of AugMix; with 0 chains it is left out.
        randaugment: num_ops and magnitude of RandAugment; with 0 operations it is left out.
        trivialaugment: whether to use TrivialAugment.
        random_erasing: probability of filling a rectangle with noise (Zhong et al., AAAI 2020).

    Raises:
        ValueError: numbers out of range, or two policies at once.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float],
        horizontal_flip: float,
        vertical_flip: float,
        jitter: tuple[float, float, float, float],
        grey: float,
        augmix: Mapping[str, Any],
        randaugment: Mapping[str, int],
        trivialaugment: bool,
        random_erasing: float,
    ) -> None:
        check_number(setting("augmix.chains"), augmix["chains"], 0, whole=True)
        check_number(setting("randaugment.num_ops"), randaugment["num_ops"], 0, whole=True)
        policies = {"augmix.chains": augmix["chains"], "randaugment.num_ops": randaugment["num_ops"],
                    "trivialaugment": trivialaugment}  # fmt: skip
        chosen = [f"{setting(name)}={value}" for name, value in policies.items() if value]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are two policies of augmentation: set all but one to 0 or false")
        check_probabilities(
            horizontal_flip=horizontal_flip, vertical_flip=vertical_flip, grey=grey, random_erasing=random_erasing
        )
        check_jitter(jitter)
        steps: list[A.BasicTransform] = [Crop(size, scale)]
        if horizontal_flip:
            steps.append(A.HorizontalFlip(p=horizontal_flip))
        if vertical_flip:
            steps.append(A.VerticalFlip(p=vertical_flip))
        if any(jitter):
            brightness, contrast, saturation, hue = jitter
            steps.append(A.ColorJitter(brightness, contrast, saturation, hue, p=1.0))
        if grey:
            steps.append(A.ToGray(p=grey))
        if augmix["chains"]:
            steps.append(AugMix(**augmix))
        if randaugment["num_ops"]:
            steps.append(rand_augment(**randaugment))
        if trivialaugment:
            steps.append(trivial_augment())
        if random_erasing:
            steps.append(A.Erasing(fill="random", p=random_erasing))
        # The shorter side of the smallest crop of a square image, at the most oblong ratio (3/4): below
        # `min_side` a crop could be enlarged although the file had the pixels.
        super().__init__(steps, min_side=math.ceil(size / math.sqrt(scale[0] * 0.75)))


class TwoViews(Transform):
    """Two independent views of an image, for contrastive learning (MoCo v2, section 3; docs/method.md, section 4).

    Args:
        size: side of the result in pixels.
        scale: smallest and largest share of the image's area that a crop takes.
        jitter: strength of brightness, contrast, saturation and hue.
        jitter_probability: of the colour jitter.
        grey: probability.
        blur_sigma: smallest and largest standard deviation of the Gaussian blur, in pixels of the result.
        blur_probability: of the blur.
        horizontal_flip: probability.

    Raises:
        ValueError: a setting outside of its range.
    """

    views = 2

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
        check_probabilities(
            jitter_probability=jitter_probability, grey=grey, blur_probability=blur_probability,
            horizontal_flip=horizontal_flip,
        )  # fmt: skip
        check_jitter(jitter)
        if not are_numbers(blur_sigma, 2, 0) or blur_sigma[0] > blur_sigma[1]:
            raise ValueError(
                f"{setting('blur_sigma')} is {blur_sigma}: expected two numbers of at least 0, the first not above the "
                "second"
            )
        brightness, contrast, saturation, hue = jitter
        steps: list[A.BasicTransform] = [
            Crop(size, scale),
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
    """Shorter side resized to size / crop_pct, then the centre crop (docs/method.md, section 9).

    Args:
        size: side of the result in pixels.
        crop_pct: side of the crop as a share of the resized shorter side, in (0, 1].

    Raises:
        ValueError: another share.
    """

    def __init__(self, size: int, *, crop_pct: float) -> None:
        check_number("datamodule.eval_transform.crop_pct", crop_pct, 0, 1, above=True)
        shorter = round(size / crop_pct)
        steps: list[A.BasicTransform] = [
            A.SmallestMaxSize(max_size=shorter, interpolation=cv2.INTER_LINEAR, area_for_downscale="image"),
            A.CenterCrop(size, size),
        ]
        super().__init__(steps, min_side=shorter)

    def __call__(self, image: Image, mask: Mask | None, seed: int) -> tuple[Image, Mask | None]:
        """As in Transform; only the middle of a strip is resized, as its ends would be enlarged for nothing."""
        image, mask = middle(image), None if mask is None else middle(mask)
        return super().__call__(image, mask, seed)


STRIP = 16  # times as long as wide: a longer image is cut before it is resized


def middle(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle of a strip, four times as long as wide: more than any centre crop needs; other images unchanged."""
    for axis, (long, short) in enumerate((image.shape[:2], image.shape[1::-1])):
        if long > STRIP * short:
            cut = (long - 4 * short) // 2  # the same at both ends: the centre does not move
            return np.ascontiguousarray(image.take(np.arange(cut, long - cut), axis))
    return image
