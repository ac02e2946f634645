"""Decode images and masks with OpenCV; a file that is cut off or unreadable is an error, never grey pixels."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from src.data.headers import Header, read_header, turned
from src.progress import progress

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W), True on the foreground
MAX_PIXELS = 100_000_000
"""Pixels of an image, at most, where nothing else is said: 300 MB."""
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says of a bad file, an error says here
ADVICE = "replace or remove it; in training, datamodule.on_bad_image=skip leaves such images out"


def read_bytes(path: Path | str, most: int = 0, advice: str = ADVICE) -> bytes:
    """A regular file's content; anything else of that name is an error (a pipe would wait for ever).

    Args:
        path: a file.
        most: bytes it may have; 0: any number.
        advice: what to do about a file that cannot be read.

    Raises:
        FileNotFoundError: no such file, or a link to none.
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than `most`.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            if most and status.st_size > most:
                raise ValueError(
                    f"{path} has {status.st_size / 2**20:.0f} MB, more than an image of datamodule.max_pixels can "
                    f"have: {advice}"
                )
            with open(path, "rb") as file:
                return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if os.path.islink(path):
                raise FileNotFoundError(
                    f"{path} is a link to {os.readlink(path)}, which does not exist: fetch it (git annex get, git lfs "
                    f"pull), or {advice}"
                ) from error
            raise FileNotFoundError(
                f"{path} does not exist: check data_root, or put it back; in training, datamodule.on_bad_image=skip "
                "leaves such images out"
            ) from error
        if error.errno in SHORTAGES:
            raise OSError(
                f"{path} cannot be opened ({error.strerror}): the system ran short; close other programs or lower "
                "datamodule.num_workers"
            ) from error
        right = "change its permissions (chmod), or " if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise OSError(f"{path} cannot be read ({error.strerror or error}): {right}{advice}") from error
    kind = next((name for test, name in KINDS if test(status.st_mode)), "something else")
    raise ValueError(f"{path} is {kind}, not an image file: {advice}")


SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_shortage(error: BaseException) -> bool:
    """Whether an error in reading a file is due to a shortage in the system, and not to the file."""
    cause = error.__cause__ or error
    return isinstance(cause, OSError) and cause.errno in SHORTAGES


KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width of an image that is decoded at 1 / factor of its size."""
    return -(-size[0] // factor), -(-size[1] // factor)


def decode_image(path: Path | str, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8 RGB, EXIF rotation applied, whatever its mode.

    Transparent pixels are composed on white, 16-bit values scaled to 8 bits; an animation gives its first frame,
    several pages the first one.

    Args:
        path: an image file.
        min_side: where > 0, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (which its DCT gives for
            less than the full price) as long as its shorter side stays at or above this.
        max_pixels: that the image may have by its header, which is read before anything is decoded; 0: any number.

    Raises:
        OSError, ValueError: as read_bytes; the file cannot be decoded completely, or is too large.
        MemoryError: the image is not too large, but there is no memory for it.
    """
    return decode_reduced(path, min_side, max_pixels)[0]


def decode_reduced(
    path: Path | str, min_side: int, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.uint8], int, list[tuple[int, int]]]:
    """As decode_image, with the factor 1, 2, 4 or 8 by which it was reduced, and the whole image's height and width.

    For an image that is square only once it is reduced, both orders: it does not show whether EXIF turned it.
    """
    data = read_bytes(path, most_bytes(max_pixels))
    header = checked_header(data, path, max_pixels)
    size, factor = (header.height, header.width), 1
    if header.alpha or header.deep or header.top:
        image: npt.NDArray[np.generic] | None = decode_unusual(data, header)
    else:
        flag = cv2.IMREAD_COLOR_RGB
        if header.kind == "JPEG" and min_side:
            factor = max((f for f in REDUCED if min(size) // f >= min_side), default=1)
            if factor > 1:
                flag |= REDUCED[factor] & ~cv2.IMREAD_COLOR_BGR
        image = decode(data, flag, header)
    if image is None:
        other = ", or a TIFF whose compression is not read" if header.kind == "TIFF" else ""
        raise ValueError(f"{path} cannot be decoded (empty, cut off, or no image{other}): {ADVICE}")
    seen = (image.shape[0], image.shape[1])
    sizes = [one for one in (size, size[::-1]) if reduced(one, factor) == seen] if factor > 1 else [seen]
    return np.asarray(image, np.uint8), factor, sizes


def most_bytes(max_pixels: int) -> int:
    """Bytes of a file of so many pixels, at most: 8 per pixel (16 bits, RGBA), and as much again for the rest."""
    return max_pixels and 16 * max_pixels + 2**26


def checked_header(data: bytes, path: Path | str, max_pixels: int) -> Header:
    """The image's header.

    Raises:
        ValueError: there is none, its pixels would be misread, or are too many.
    """
    header = read_header(data)
    if header is None:
        if data.startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a Git LFS pointer to an image: fetch it (git lfs pull), or {ADVICE}")
        raise ValueError(f"{path} cannot be decoded (empty, cut off, or no image): {ADVICE}")
    if header.refused:
        raise ValueError(
            f"{path} cannot be decoded: it {header.refused}; convert it to an 8-bit PNG or JPEG, or {ADVICE}"
        )
    if max_pixels and header.height * header.width > max_pixels:
        raise ValueError(
            f"{path} has {header.width}x{header.height} pixels, more than datamodule.max_pixels={max_pixels}: make it "
            f"smaller, raise that setting, or {ADVICE}"
        )
    return header


def decode(data: bytes, flag: int, header: Header | None = None) -> npt.NDArray[np.generic] | None:
    """cv2.imdecode, None for anything it cannot decode (for an empty or enormous image it would raise).

    Raises:
        MemoryError: for lack of memory.
    """
    image = None
    try:
        # A PNM in text need not have an end of its last line; OpenCV wants one.
        whole = data + b"\n" if re.match(rb"P[123]\s", data) else data
        image = cv2.imdecode(np.frombuffer(whole, np.uint8), flag)
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM or "memory" in str(error):
            raise MemoryError(f"an image of {len(data)} bytes") from error
    if image is None and header:
        # OpenCV answers the same for a bad file and where it got no memory: is there what decoding takes?
        try:
            np.empty(8 * header.height * header.width, np.uint8)
        except MemoryError as error:  # numpy's own kind cannot be sent from a worker
            raise MemoryError(f"an image of {header.width}x{header.height} pixels") from error
    return image


def decode_unusual(data: bytes, header: Header) -> npt.NDArray[np.uint8] | None:
    """Decode an image with transparency, 16 bits a value or another white to (H, W, 3) uint8 RGB."""
    image: Any = decode(data, cv2.IMREAD_UNCHANGED, header)
    if image is None:
        return None
    key = None if header.key is None else image == header.key
    top = header.top or (65535 if image.dtype == np.uint16 else 255)
    if top != 255:
        table = (np.arange(np.iinfo(image.dtype).max + 1, dtype=np.uint32).clip(0, top) * 255 + top // 2) // top
        image = table.astype(np.uint8)[image]
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if key is not None:
            image[key] = 255
    elif image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    else:
        image = on_white(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), header.premultiplied)
    # With this flag OpenCV leaves the rotation of all but TIFF to us.
    return turned(np.asarray(image, np.uint8), header.orientation)


def on_white(image: npt.NDArray[np.generic], premultiplied: bool) -> npt.NDArray[np.uint8]:
    """Compose (H, W, 4) uint8 RGBA on white; `premultiplied` where colours are multiplied with alpha already."""
    alpha = image[..., 3].astype(np.uint16)
    made = np.empty((*image.shape[:2], 3), np.uint8)
    for channel in range(3):  # one after the other: a third of the memory
        colour = image[..., channel].astype(np.uint16)
        if premultiplied:
            made[..., channel] = np.minimum(colour + (255 - alpha), 255)
        else:
            made[..., channel] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return made


def find_bad_images(data_root: Path, paths: Sequence[str], threads: int = 4, max_pixels: int = MAX_PIXELS) -> list[str]:
    """Decode every image completely and return the paths of those that cannot be decoded, whatever is wrong with them.

    Raises:
        MemoryError, OSError: the system ran short of memory or of open files, which is no image's fault.
    """

    def bad(path: str) -> bool:
        try:
            decode_image(data_root / path, max_pixels=max_pixels)
        except (ValueError, OSError) as error:
            if is_shortage(error):
                raise
            return True
        return False

    with ThreadPoolExecutor(threads) as pool:  # cv2 decodes outside the interpreter's lock
        flags: Iterator[bool] = pool.map(bad, paths)
        return [
            path for path, flag in zip(paths, progress(flags, "decoding every image", len(paths)), strict=True) if flag
        ]
