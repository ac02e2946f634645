"""Images a second from a slow disk: files as they are, resized once to a shorter side of 576 px, or in tar files.

    python -m benchmarks.slow_disk

Bytes are those of JPEGs written here (benchmarks.pictures, in three sizes); the rest is arithmetic for
a network disk with 16 readers, as many as the workers of one GPU: an open takes 5 ms, beside other readers' opens, and
all share 100 MB/s. A tar file (what webdataset and litdata read in one go) has a thousand images.
"""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.pictures import noisy, smooth

OPEN, BANDWIDTH, READERS, IN_TAR = 0.005, 100e6, 16, 1000
"""Seconds, bytes a second, readers, images."""
SIZES = ((500, 375), (1000, 750), (1500, 1125))
SHORTER = 576


def bytes_of(size: tuple[int, int], shorter: int = 0) -> int:
    """Of a JPEG of quality 90 of a picture (W, H), its shorter side reduced to `shorter` before, if that is above 0."""
    rng = np.random.default_rng(0)
    picture = noisy(rng, smooth(rng, size))
    if shorter and min(size) > shorter:
        scale = shorter / min(size)
        small = (round(size[0] * scale), round(size[1] * scale))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return len(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def rate(size: int, in_file: int = 1) -> float:
    """Images a second, of `size` bytes each and `in_file` of them in a file."""
    return min(BANDWIDTH / size, READERS * in_file / (OPEN + in_file * size / BANDWIDTH))


def main() -> None:
    """Print the table."""
    for size in SIZES:
        for shorter in (0, SHORTER):
            count = bytes_of(size, shorter)
            kind = f"shorter side at most {shorter}" if shorter else "as it is"
            print(
                f"{size[0]:>5}x{size[1]:<4}  {kind:24}  {count / 1024:4.0f} KB  {rate(count):5.0f} images/s as files, "
                f"{rate(count, IN_TAR):5.0f} in tar files"
            )


if __name__ == "__main__":
    main()
