"""Rows of a manifest as datasets: decoded and transformed in the workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from src.data.batch import Example, FullSizePixels
from src.data.images import MAX_PIXELS, Image, Mask, decode_image, is_shortage
from src.data.manifest import NO_DOMAIN, Row
from src.data.mask_files import decode_pair
from src.data.sampler import keyed_seed


class Transform(Protocol):
    """From a decoded image and its mask to the network's input, as src/transforms has it.

    Attributes:
        min_side: an image may be decoded at a reduced size as long as its shorter side keeps this length.
        views: how many it makes of an image.
    """

    min_side: int
    views: int

    def __call__(self, image: Image, mask: Mask | None, seed: int) -> tuple[Image, Mask | None]:
        """(H, W, 3) uint8 and (H, W) bool to the same of a size, (views, size, size, 3) where there are several views.

        Every draw comes from `seed`.
        """
        ...


@runtime_checkable
class ChoosesRows(Protocol):
    """A callback that says which images are left to predict: indices of the rows."""

    rows_left: list[int]


def epoch_and_index(key: tuple[int, int] | int) -> tuple[int, int]:
    """A dataset's key; a plain index, as of the sampler that Lightning puts in for overfit_batches, is of epoch 0."""
    return key if isinstance(key, tuple) else (0, key)


class Images(Dataset[Example]):
    """Rows of a manifest, decoded and transformed; a key is (epoch, index).

    Args:
        rows: the images.
        data_root: what image_path is relative to.
        mask_root: what image_seg_path is relative to; None leaves masks alone.
        transform: from the decoded image to the network's size.
        seed: key of the augmentation, with epoch and index.
        later: transforms that take over from an epoch on.
        tolerant: a file that cannot be decoded is a black image that is marked, as in prediction; else an error.
        max_pixels: of an image's file, at most; 0: any number.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        data_root: Path,
        mask_root: Path | None,
        transform: Transform,
        seed: int,
        later: Mapping[int, Transform] | None = None,
        tolerant: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows, self.data_root, self.mask_root = rows, data_root, mask_root
        self.max_pixels = max_pixels
        self.transform, self.seed, self.later = transform, seed, later or {}
        self.tolerant = tolerant

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int] | int) -> Example:
        epoch, index = epoch_and_index(key)
        return self.make(epoch, index, keyed_seed(self.seed, epoch, index))

    def make(self, epoch: int, index: int, seed: int) -> Example:
        """Image `index` as `epoch` transforms it, with `seed` for all draws."""
        row = self.rows[index]
        started = [first for first in self.later if first <= epoch]
        transform = self.later[max(started)] if started else self.transform
        path, mask, readable = self.data_root / row.image_path, None, True
        if self.mask_root is None:
            try:
                image = decode_image(path, transform.min_side, self.max_pixels)
            except (ValueError, OSError) as error:
                if not self.tolerant or is_shortage(error):
                    raise
                image, readable = np.zeros((transform.min_side, transform.min_side, 3), np.uint8), False
        else:
            mask_path = self.mask_root / str(row.image_seg_path)
            image, mask = decode_pair(path, mask_path, transform.min_side, self.max_pixels)
            if not mask.any():
                mask[:] = True  # nothing was found: all foreground, so that the image still takes part in mixing
        image, mask = transform(image, mask, seed)
        domain = row.domain if isinstance(row.domain, int) else NO_DOMAIN
        pixels = image if transform.views > 1 else image[None]
        return Example(pixels, NO_DOMAIN if row.label is None else row.label, domain, index, mask, readable)


class Pairs(Dataset[tuple[Example, Example]]):
    """Each image with one of a uniformly drawn context (docs/method.md, section 6); a key is (epoch, index).

    Args:
        images: the images.
        other_context: never the image's own context.

    Raises:
        ValueError: `other_context` without two contexts to choose from.
    """

    def __init__(self, images: Images, other_context: bool) -> None:
        domains = [row.domain if isinstance(row.domain, int) else NO_DOMAIN for row in images.rows]
        self.images, self.other_context = images, other_context
        self.of_context = {domain: np.flatnonzero(np.array(domains) == domain) for domain in sorted(set(domains))}
        if other_context and len(self.of_context) < 2:
            raise ValueError(
                "datamodule.pairs=other_context needs training images of at least two contexts (track 1): "
                "set datamodule.pairs=any_context"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Example, Example]:
        epoch, index = epoch_and_index(key)
        first = self.images[key]
        rng = np.random.default_rng(keyed_seed("pair", self.images.seed, epoch, index))
        contexts = [domain for domain in self.of_context if not self.other_context or domain != first.domain]
        partner = int(rng.choice(self.of_context[contexts[rng.integers(len(contexts))]]))
        # A seed of its own: an image that is drawn several times in an epoch is augmented in several ways.
        return first, self.images.make(epoch, partner, int(rng.integers(2**63)))


PAD_TO = 64  # sides stay multiples of 32 at half scale: whole cells for an output stride of 8, 16 or 32


class FullSizeImages(Dataset[FullSizePixels]):
    """Rows decoded at their own size and padded to the next multiple of PAD_TO; a key is (epoch, index).

    Padding multiplies the pixels of a strip: one that it would make larger than STRIP pixels is refused.
    """

    STRIP = 2**24

    def __init__(self, rows: Sequence[Row], data_root: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.rows, self.data_root, self.max_pixels = rows, data_root, max_pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> FullSizePixels:
        path = self.data_root / self.rows[key[1]].image_path
        image = decode_image(path, max_pixels=self.max_pixels)
        height, width = image.shape[:2]
        pixels = (height + -height % PAD_TO) * (width + -width % PAD_TO)
        if pixels > max(self.STRIP, 2 * height * width):
            raise ValueError(
                f"{path} is a strip of {width}x{height} pixels: for its mask {pixels} pixels would be computed; cut it "
                "into pieces or remove it"
            )
        return padded(image, key[1])


def padded(image: npt.NDArray[np.uint8], position: int) -> FullSizePixels:
    """An image (H, W, 3) reflected to the next multiple of PAD_TO, with its position in the rows."""
    height, width = image.shape[:2]
    whole = cv2.copyMakeBorder(image, 0, -height % PAD_TO, 0, -width % PAD_TO, cv2.BORDER_REFLECT_101)
    return FullSizePixels(torch.from_numpy(whole), torch.tensor(height), torch.tensor(width), torch.tensor(position))


class BySize:
    """Batches of images of one padded size: an image's result never depends on its batch.

    Args:
        loader: yields single images.
        pixels: of a batch, at most (one image of more is a batch of its own).
    """

    def __init__(self, loader: DataLoader[FullSizePixels], pixels: int) -> None:
        self.loader, self.pixels = loader, pixels

    def __iter__(self) -> Iterator[FullSizePixels]:
        waiting: dict[torch.Size, list[FullSizePixels]] = {}
        for single in self.loader:
            size = single.pixels.shape
            batch = waiting.setdefault(size, [])
            batch.append(single)
            if (len(batch) + 1) * size[0] * size[1] > self.pixels:
                yield self.stack(waiting.pop(size))
        for batch in waiting.values():
            yield self.stack(batch)

    @staticmethod
    def stack(batch: Sequence[FullSizePixels]) -> FullSizePixels:
        """Single images to a batch."""
        return FullSizePixels(*(torch.stack(parts) for parts in zip(*batch, strict=True)))


def start_worker(worker_id: int) -> None:
    """Make a worker use one thread: several would compete for the cores of the other workers."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all: the main process answers it
