"""Masks a second with one process and with two, and the main process's memory over a thousand images.

    python -m benchmarks.masks [--images 1000]

Pictures of 375x500 (a smooth random ground, a bright blob, noise) with a rough map of the blob go through
masks.MaskPool with the published settings of the CRF. The map stands for the network, which is not run here. At the
end, what training pays to decode such a mask.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

from benchmarks.pictures import noisy, smooth
from benchmarks.soak import resident
from src.data.mask_files import decode_mask
from src.masks.pool import MaskPool, encode_mask, task_of

SETTINGS = yaml.safe_load((Path(__file__).resolve().parent.parent / "conf/crf/dense.yaml").read_text())


def picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (375, 500, 3) uint8 and a rough map (375, 500) bool of its blob."""
    image = smooth(rng, (500, 375), cells=(8, 6), below=120)
    blob, rough = np.zeros((375, 500), np.uint8), np.zeros((375, 500), np.uint8)
    axes = (int(rng.integers(60, 160)), int(rng.integers(50, 140)))
    cv2.ellipse(blob, (250, 190), axes, 30, 0, 360, 1, -1)
    cv2.ellipse(rough, (260, 180), (axes[0] + 15, axes[1] - 15), 20, 0, 360, 1, -1)
    return noisy(rng, image + 110 * blob[..., None]), rough.astype(bool)


def make(folder: Path, maps: list[np.ndarray], count: int, processes: int, report: bool) -> float:
    """Masks a second, the start of the processes not counted."""
    pool = MaskPool(processes)
    for i in range(processes):  # they start, and import
        pool.submit(task_of(folder / "0.jpg", folder / f"warm{i}.png", maps[0], None))
    while not all((folder / f"warm{i}.png").exists() for i in range(processes)):
        time.sleep(0.05)
    begin = time.perf_counter()
    for i in range(count):
        pool.submit(
            task_of(folder / f"{i % len(maps)}.jpg", folder / f"{processes}-{i}.png", maps[i % len(maps)], SETTINGS)
        )
        if report and (i + 1) % (count // 5) == 0:
            print(f"  after {i + 1:5d} images the main process holds {resident(os.getpid()):.0f} MiB", flush=True)
    pool.close()
    return count / (time.perf_counter() - begin)


def decoding(data: bytes) -> float:
    """Seconds to decode a PNG."""
    begin = time.perf_counter()
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, maps = Path(name), []
        for i in range(32):
            image, rough = picture(rng)
            cv2.imwrite(str(folder / f"{i}.jpg"), image)
            maps.append(rough)
        one = make(folder, maps, options.images // 5, 1, report=False)
        print(f"one process: {one:.2f} masks/s")
        two = make(folder, maps, options.images, 2, report=True)
        print(f"two processes: {two:.2f} masks/s, {two / one:.2f} times as many")
        size = sum(path.stat().st_size for path in folder.glob("2-*.png")) / options.images
        others = {path.suffix for path in folder.iterdir()} - {".png", ".jpg"}
        mask = decode_mask(folder / "2-0.png")
        written = {"as stage wsss writes it": encode_mask(mask)}
        written["by OpenCV's default"] = cv2.imencode(".png", mask * np.uint8(255))[1].tobytes()
        for title, data in written.items():
            milliseconds = 1000 * statistics.median(decoding(data) for _ in range(200))
            print(f"a mask {title}: {len(data)} bytes, decoded in {milliseconds:.2f} ms")
        print(f"on disk: masks of {size / 1024:.1f} KiB each, files of other kinds: {sorted(others) or 'none'}")


if __name__ == "__main__":
    main()
