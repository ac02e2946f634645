"""Name masks after their images, and decode them, made here or elsewhere."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from src.data.headers import read_header, turned
from src.data.images import MAX_PIXELS, decode, decode_reduced, most_bytes, read_bytes

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, which is no one's choice: max_pixels is, by the header
MASKS_AGAIN = "make the masks again with the stage that made them, such as stage=grabcut or stage=wsss"
AGAIN = f"replace it, or {MASKS_AGAIN}"


def names_of(path: str) -> tuple[str, str]:
    """The two paths that an image's mask may have: .png for the image's extension, and .png appended to it."""
    return str(PurePosixPath(path).with_suffix(".png")), f"{path}.png"


def mask_names(paths: Sequence[str]) -> dict[str, str]:
    """A mask's path for each image's, of `names_of`: the first, or the second where two images share a stem."""
    names = {path: names_of(path)[0] for path in paths}
    while True:
        counts = Counter(names.values())
        shared = [path for path, name in names.items() if counts[name] > 1 and name != names_of(path)[1]]
        if not shared:
            return names
        names |= {path: names_of(path)[1] for path in shared}


def decode_mask(path: Path | str, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.bool_]:
    """Decode a mask to (H, W) bool, True on the foreground, by what its values mean.

    0 and 1: 1 is foreground. 0 and 255, or grey levels between them: what exceeds 127 (of 16 bits: 32767). A palette
    of colours whose first is black, as Pascal VOC has: every index but 0 and 255, which is void. A picture of one
    colour with a varying opacity: its opacity.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded, or its values can be read in two ways.
    """
    data = read_bytes(path, most_bytes(max_pixels), AGAIN)
    header = read_header(data)
    if header is None or header.refused:
        raise ValueError(f"the mask {path} cannot be decoded: write it again as an 8-bit PNG of 0 and 255")
    if max_pixels and header.height * header.width > max_pixels:
        raise ValueError(f"the mask {path} has {header.width}x{header.height} pixels, more than {max_pixels}")
    depth, colours = (data[24], data[25]) if header.kind == "PNG" else (0, -1)
    lossy = header.kind == "JPEG" or data[12:16] == b"VP8 "
    values: npt.NDArray[Any] | None = None
    if colours == 0 and depth <= 8:  # the usual ones, and ours
        layer = values = decode(data, cv2.IMREAD_GRAYSCALE, header)
    else:
        if colours == 3 or header.kind in ("GIF", "BMP", "TIFF"):
            values = palette_values(data)
        if values is None and colours != 3:
            values = decode(data, cv2.IMREAD_COLOR_BGR if lossy else cv2.IMREAD_UNCHANGED, header)
            values = values if values is None else turned(values, header.orientation)
        layer = values if values is None else one_layer(values, LOSS if lossy else 0)
    if values is None:
        raise ValueError(f"the mask {path} cannot be decoded: write it again as an 8-bit PNG of 0 and 255")
    mask = None if layer is None else foreground_of(layer, lossy)
    if mask is None:
        raise ValueError(
            f"the mask {path} has values or colours that can be read in several ways: save it as an 8-bit PNG, 0 on "
            "the background and 255 on the foreground"
        )
    return mask


LOSS = 40  # by which the channels of a grey picture may differ after a compression that loses something


def palette_values(data: bytes) -> npt.NDArray[Any] | None:
    """What the palette of an image's file makes of it: grey levels (H, W) uint8, or where there are colours the
    foreground as 0 and 255, or (H, W, 3) where that is not known; None without a palette, or if it is broken."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode != "P":
                return None
            index = np.asarray(ImageOps.exif_transpose(picture))
            palette = np.zeros((256, 3), np.uint8)
            colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette[: len(colours)] = colours
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError):
        return None
    seen = palette[np.flatnonzero(np.bincount(index.ravel(), minlength=256))]
    if (seen == seen[:, :1]).all():
        return np.asarray(palette[index, 0])
    if palette[0].any() or (data[:3] == b"GIF" and len(seen) > 2):  # GIFs are written with the indices in use alone
        return np.asarray(palette[index])
    return ((index > 0) & (index < 255)).astype(np.uint8) * 255


def one_layer(values: npt.NDArray[Any], loss: int) -> npt.NDArray[Any] | None:
    """The layer (H, W) of a picture that says what is foreground; None where several differ by more than `loss`."""
    if values.ndim == 2:
        return values
    colour, opacity = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
    if opacity is not None and (opacity != opacity.flat[0]).any():
        return opacity if (colour == colour[:1, :1]).all() else None
    return colour[..., colour.shape[2] // 2] if (np.ptp(colour, 2) <= loss).all() else None


def foreground_of(values: npt.NDArray[Any], lossy: bool) -> npt.NDArray[np.bool_] | None:
    """Grey levels (H, W) as foreground; None where they can be read in two ways, or where a loss blurred 0 and 1."""
    if values.dtype not in (np.uint8, np.uint16):
        return None
    full_only = np.asarray(values == 255)
    if values.dtype == np.uint8 and cv2.countNonZero(values) == np.count_nonzero(full_only) > 0:
        return full_only  # 0 and 255 alone, as ours are: a tenth of the histogram's price
    levels = 256 if values.dtype == np.uint8 else 65536
    seen = np.flatnonzero(cv2.calcHist([np.ascontiguousarray(values)], [0], None, [levels], [0, levels]))
    highest = int(seen[-1])
    full = 255 if highest <= 255 else 65535
    if highest <= 1 and not (highest and lossy):
        return np.asarray(values == 1)
    if highest <= full // 2:  # indices of classes, say
        return None
    low, high = seen[(seen > 0) & (seen <= full // 2)], seen[seen > full // 2]
    if len(low) and low[-1] < 64 and high.tolist() == [255] and not lossy:
        return None  # indices of classes, with 255 as void
    return np.asarray(values > full // 2)


NEARLY = (0.02, 0.7)
"""Mean share of foreground below and above which a set of masks separates less than a centred box would."""


def says_nothing(share: float, empty: float, full: float) -> str:
    """What is wrong with a set of masks that are nearly all background or foreground, "" if nothing is.

    Args:
        share: mean share of foreground.
        empty, full: shares of the masks without foreground and without background.
    """
    if NEARLY[0] <= share <= NEARLY[1] and empty + full <= 0.5:
        return ""
    return (
        f"the masks are {100 * share:.1f} % foreground on average, {100 * empty:.0f} % of them empty and "
        f"{100 * full:.0f} % full: they do not separate objects from backgrounds, and mixing by context becomes plain "
        "mixup; look at them before using them"
    )


def decode_pair(
    image_path: Path, mask_path: Path, min_side: int, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Decode an image as decode_image does, and its mask at the size of the result.

    Where the image is reduced by a factor, a pixel of it is the mean of a square of the file's pixels; it is
    foreground where half of that square or more is. (An image that EXIF turns has its cut-off squares at other
    sides, which shifts its mask by less than one of the result's pixels.)

    Raises:
        FileNotFoundError, ValueError: as decode_image; the mask is not of the image's size.
    """
    image, factor, sizes = decode_reduced(image_path, min_side, max_pixels)
    mask = decode_mask(mask_path, max_pixels)
    height, width = mask.shape
    if (height, width) not in sizes:
        hint = " of the images as EXIF turns them" if (width, height) in sizes else ""
        raise ValueError(
            f"the mask {mask_path} is {width}x{height} pixels, its image {image_path} {sizes[0][1]}x{sizes[0][0]}: "
            f"make the masks again{hint}"
        )
    if factor > 1:
        # The squares at the right and the bottom may be cut off.
        whole_squares = cv2.copyMakeBorder(
            mask.astype(np.uint8) * 255, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE
        )
        mask = np.asarray(cv2.resize(whole_squares, image.shape[1::-1], interpolation=cv2.INTER_AREA)) > 127
    return image, mask
