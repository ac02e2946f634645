"""Images that occur twice: the same bytes, or the same picture at another size or quality."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from src.data.images import decode_image, is_shortage
from src.progress import progress

SIDE = 32  # of the grey picture that is transformed, pixels
BITS = 8  # of the lowest frequencies, in each direction
NEAR = 10  # of the 63 bits that may differ in two images of one picture (an even number always does)
FLAT = 4.0  # standard deviation of the grey picture, of 255, below which it has no structure to compare


ALIKE = 0.95  # correlation of the grey pictures of two images of one picture
Grey = npt.NDArray[np.uint8]


class Fingerprint(NamedTuple):
    """What duplicates are found by.

    Attributes:
        digest: of the file's bytes.
        grey: the picture, as `small_grey` makes it; None where it cannot be read.
        bits: its dct_hash; None of one without structure.
        error: why the image cannot be read; "" where it can be.
    """

    digest: str
    grey: Grey | None
    bits: int | None
    error: str


def small_grey(image: npt.NDArray[np.uint8]) -> Grey:
    """A picture (H, W, 3) uint8 RGB in grey, averaged to (32, 32)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


def dct_hash(grey: Grey) -> int | None:
    """The signs of a picture's lowest frequencies: 63 bits that another size or JPEG quality hardly changes.

    The lowest 8 x 8 coefficients of the cosine transform count, except the constant one; a bit is set where a
    coefficient is above their median. This is the pHash of Zauner, "Implementation and benchmarking of perceptual image
    hash functions" (2010), section 3.2.1.

    Args:
        grey: of small_grey.

    Returns:
        The bits as a number below 2^63, or None for a picture without structure, such as one colour.
    """
    if grey.std() < FLAT:
        return None
    low = cv2.dct(grey.astype(np.float32))[:BITS, :BITS].ravel()[1:]
    return int("".join("1" if bit else "0" for bit in low > np.median(low)), 2)


def fingerprint(path: Path, max_pixels: int) -> Fingerprint:
    """A file's fingerprint; an image that cannot be read has its error.

    Raises:
        MemoryError, OSError: the system ran short of memory or of open files.
    """
    try:
        image = decode_image(path, SIDE, max_pixels)
        grey = small_grey(image)
        return Fingerprint(hashlib.sha256(path.read_bytes()).hexdigest(), grey, dct_hash(grey), "")
    except (ValueError, OSError) as error:
        if is_shortage(error):
            raise
        return Fingerprint("", None, None, str(error))


def fingerprints(paths: Sequence[Path], threads: int, max_pixels: int) -> list[Fingerprint]:
    """The fingerprints of files, in their order."""
    with ThreadPoolExecutor(threads) as pool:  # cv2 decodes outside the interpreter's lock
        made = pool.map(lambda path: fingerprint(path, max_pixels), paths)
        return list(progress(made, "reading every image", len(paths)))


def exact_pairs(digests: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of indices of files with the same bytes: each with the first one of its kind; "" matches nothing."""
    first: dict[str, int] = {}
    pairs = ((first.setdefault(digest, i), i) for i, digest in enumerate(digests) if digest)
    return [(a, b) for a, b in pairs if a != b]


def near_pairs(bits: Sequence[int | None], most: int = NEAR) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes that differ in at most `most` bits; None matches nothing.

    All pairs are compared, in blocks of 16 million: a second for 20,000 images, and a hundred for 200,000.
    """
    index = np.array([i for i, one in enumerate(bits) if one is not None], np.int64)
    values = np.array([one for one in bits if one is not None], np.uint64)
    rows = max(1, 2**24 // max(1, len(values)))
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), rows):
        block, rest = values[start : start + rows, None], values[None, start + 1 :]
        a, b = np.nonzero(np.bitwise_count(block ^ rest) <= most)
        later = b >= a  # b counts from the block's second hash on
        pairs += zip(index[start + a[later]].tolist(), index[start + 1 + b[later]].tolist(), strict=True)
    return pairs


def alike_pairs(prints: Sequence[Fingerprint], most: int = NEAR) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of images of one picture whose files differ: their hashes are near, and the small grey
    pictures correlate. Drawings on white, whose low frequencies say little, are near more often than they are alike.
    """
    return [
        (i, j)
        for i, j in near_pairs([one.bits for one in prints], most)
        if prints[i].digest != prints[j].digest and correlation(prints[i].grey, prints[j].grey) >= ALIKE
    ]


def correlation(a: Grey | None, b: Grey | None) -> float:
    """Pearson's, of two small grey pictures with structure."""
    assert a is not None and b is not None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
