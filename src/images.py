"""Decode images and masks with OpenCV; a file that is cut off or unreadable is an error, never grey pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from src.progress import progress


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG's frame header, before its rotation; None for other formats."""
    if data[:2] != b"\xff\xd8":
        return None
    i = 2
    while i + 9 < len(data) and data[i] == 0xFF:
        marker = data[i + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[i + 5 : i + 7], "big"), int.from_bytes(data[i + 7 : i + 9], "big")
        i += 2 + int.from_bytes(data[i + 2 : i + 4], "big")
    return None


REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width of an image that is decoded at 1 / factor of its size."""
    return -(-size[0] // factor), -(-size[1] // factor)


def decode_image(path: Path | str, min_side: int = 0) -> npt.NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8 RGB, EXIF rotation applied, whatever its mode.

    Args:
        path: an image file.
        min_side: where > 0, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (which its DCT gives for
            less than the full price) as long as its shorter side stays at or above this.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be decoded completely.
    """
    return decode_reduced(path, min_side)[0]


def decode_reduced(path: Path | str, min_side: int) -> tuple[npt.NDArray[np.uint8], int, list[tuple[int, int]]]:
    """As decode_image, with the factor 1, 2, 4 or 8 by which it was reduced, and the whole image's height and width.

    Of an image that is square only when it is reduced, both orders: it does not tell whether EXIF turned it.
    """
    with open(path, "rb") as file:
        data = file.read()
    flag, factor = cv2.IMREAD_COLOR_RGB, 1
    size = jpeg_size(data) if min_side else None
    if size:
        factor = max((f for f in REDUCED if min(size) // f >= min_side), default=1)
        if factor > 1:
            flag |= REDUCED[factor] & ~cv2.IMREAD_COLOR_BGR
    image = decode(data, flag)
    if image is None:
        raise ValueError(
            f"{path} cannot be decoded (empty, cut off, or no image): "
            "replace or remove it; in training, datamodule.on_bad_image=skip leaves such images out"
        )
    seen = (image.shape[0], image.shape[1])
    sizes = [one for one in (size, size[::-1]) if reduced(one, factor) == seen] if size and factor > 1 else [seen]
    return np.asarray(image, np.uint8), factor, sizes


def decode(data: bytes, flag: int) -> npt.NDArray[np.generic] | None:
    """cv2.imdecode, None for all that it cannot decode (of an empty or an enormous image it would raise)."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def decode_mask(path: Path | str) -> npt.NDArray[np.bool_]:
    """Decode a mask to (H, W) bool, True on the foreground, for what its values mean.

    0 and 1: 1 is foreground. 0 and 255, or grey levels between them: what exceeds 127 (of 16 bits: 32767). A palette
    of colours, as Pascal VOC has: every index but 0 and 255, which is void. A picture of one colour with a varying
    opacity: its opacity.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded, or its values can be read in two ways.
    """
    with open(path, "rb") as file:
        data = file.read()
    depth, colours = (data[24], data[25]) if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 else (8, 0)
    if colours == 3:
        values = palette_values(data)
    elif colours == 0 and depth <= 8:  # the usual ones, and ours
        values = decode(data, cv2.IMREAD_GRAYSCALE)
    else:
        values = decode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError(f"the mask {path} cannot be decoded: write it again as an 8-bit PNG of 0 and 255")
    if values.dtype == np.bool_:
        return np.asarray(values, np.bool_)
    layer = one_layer(values)
    mask = None if layer is None else foreground_of(layer)
    if mask is None:
        raise ValueError(
            f"the mask {path} has values or colours that can be read in several ways: write it as an 8-bit PNG, 0 on "
            "the background and 255 on the foreground"
        )
    return mask


def palette_values(data: bytes) -> npt.NDArray[np.generic] | None:
    """A palette PNG's grey levels (H, W) uint8, or where it has colours, its foreground (H, W) bool; None if broken."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            index = np.asarray(picture, np.int64)
            palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None
    seen = palette[np.unique(index).clip(max=len(palette) - 1)]
    if (seen == seen[:, :1]).all():
        return np.asarray(palette[index.clip(max=len(palette) - 1), 0])
    return np.asarray((index > 0) & (index < 255))


def one_layer(values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The layer (H, W) of a picture that says what is foreground; None where several differ."""
    if values.ndim == 2:
        return values
    colour, opacity = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
    if opacity is not None and (opacity != opacity.flat[0]).any():
        return opacity if (colour == colour[:1, :1]).all() else None
    return colour[..., 0] if (colour == colour[..., :1]).all() else None


def foreground_of(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Grey levels (H, W) as foreground; None where they can be read in two ways."""
    if values.dtype not in (np.uint8, np.uint16):
        return None
    highest, full = int(values.max(initial=0)), 255 if values.max(initial=0) <= 255 else 65535
    if highest <= 1:
        return np.asarray(values == 1)
    if highest <= full // 2:  # indices of classes, say
        return None
    mask = np.asarray(values > full // 2)
    low = values[~mask]
    if low.any() and highest == 255 and full == 255 and (values[mask] == 255).all() and int(low.max()) < 64:
        return None  # indices of classes, with 255 as void
    return mask


NEARLY = (0.02, 0.9)
"""Mean share of foreground below and above which a set of masks separates nothing."""


def says_nothing(share: float, empty: float, full: float) -> str:
    """What is wrong with a set of masks that are nearly all background or foreground, "" where nothing is.

    Args:
        share: mean share of foreground.
        empty, full: shares of the masks without foreground and without background.
    """
    if NEARLY[0] <= share <= NEARLY[1] and max(empty, full) <= 0.5:
        return ""
    return (
        f"the masks are {100 * share:.1f} % foreground on average, {100 * empty:.0f} % of them empty and "
        f"{100 * full:.0f} % full: they tell no object from its background, and mixing by context is then plain mixup; "
        "look at them before they are used"
    )


def decode_pair(
    image_path: Path, mask_path: Path, min_side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Decode an image as decode_image does, and its mask at the size of the result.

    Where the image is reduced by a factor, a pixel of it is the mean of a square of the file's pixels; it is
    foreground where half of that square or more is. (An image that EXIF turns has its cut-off squares at other
    sides, which shifts its mask by less than one of the result's pixels.)

    Raises:
        FileNotFoundError, ValueError: as decode_image; the mask is not of the image's size.
    """
    image, factor, sizes = decode_reduced(image_path, min_side)
    mask = decode_mask(mask_path)
    height, width = mask.shape
    if (height, width) not in sizes:
        raise ValueError(
            f"the mask {mask_path} is {width}x{height} pixels, its image {image_path} {sizes[0][1]}x{sizes[0][0]}: "
            "make the masks anew"
        )
    if factor > 1:
        # The squares at the right and the bottom may be cut off.
        whole_squares = cv2.copyMakeBorder(
            mask.astype(np.uint8) * 255, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE
        )
        mask = np.asarray(cv2.resize(whole_squares, image.shape[1::-1], interpolation=cv2.INTER_AREA)) > 127
    return image, mask


def find_bad_images(data_root: Path, paths: Sequence[str], threads: int = 4) -> list[str]:
    """Decode every image completely and return the paths of those that cannot be."""

    def bad(path: str) -> bool:
        try:
            decode_image(data_root / path)
        except (ValueError, OSError):
            return True
        return False

    with ThreadPoolExecutor(threads) as pool:  # cv2 decodes outside the interpreter's lock
        flags: Iterator[bool] = pool.map(bad, paths)
        return [
            path for path, flag in zip(paths, progress(flags, "decoding every image", len(paths)), strict=True) if flag
        ]
