"""Training samples a second on one core, beside decoding alone in the same process.

    python -m benchmarks.loader [--images 256] [--rounds 5]

JPEGs of 500x375 (a smooth random picture with noise, quality 90: about the size of a photo's file) and PNG
masks of one blob are written to a temporary folder. One round reads all of them with each pipeline, in turn,
so that a machine whose speed drifts drifts for all; the table shows the medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from src.datamodules.nico import Images, collate
from src.images import decode_image
from src.manifest import Row
from src.transforms import Train


def write_images(folder: Path, count: int) -> list[Row]:
    """Write pictures and masks and return their rows."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        picture += rng.normal(0, 6, picture.shape)
        cv2.imwrite(str(folder / f"{i}.jpg"), picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        mask = np.zeros((375, 500), np.uint8)
        axes = (int(rng.integers(60, 160)), int(rng.integers(50, 140)))
        cv2.ellipse(mask, (250, 190), axes, float(rng.integers(180)), 0, 360, 255, -1)
        cv2.imwrite(str(folder / f"{i}.png"), mask)
    return [Row(f"{i}.jpg", label=0, image_seg_path=f"{i}.png") for i in range(count)]


def rate(work: Callable[[], None], count: int) -> float:
    """Images a second of one call that handles `count` of them."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a worker
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_images(folder, options.images)
        size = statistics.mean((folder / row.image_path).stat().st_size for row in rows)

        def load(side: int, masks: bool) -> Callable[[], None]:
            transform = Train(side, scale=(0.8, 1.0), horizontal_flip=0.5, vertical_flip=0.5, augmix={"chains": 0})
            images = Images(rows, folder, folder if masks else None, transform, seed=0)

            def batches() -> None:
                for begin in range(0, len(rows), 32):
                    collate([images[0, i] for i in range(begin, min(begin + 32, len(rows)))])

            return batches

        def decode() -> None:
            for row in rows:
                decode_image(folder / row.image_path)

        work = {"decoding alone": decode}
        for side in (224, 448, 512):
            work[f"{side} px"] = load(side, masks=False)
            work[f"{side} px with mask"] = load(side, masks=True)
        rates: dict[str, list[float]] = {title: [] for title in work}
        for _ in range(options.rounds + 1):
            for title, call in work.items():
                rates[title].append(rate(call, len(rows)))
        print(f"{len(rows)} JPEGs of 500x375, {size / 1024:.0f} KB each; medians of {options.rounds} rounds, one core")
        alone = statistics.median(rates["decoding alone"][1:])
        for title, measured in rates.items():
            median = statistics.median(measured[1:])  # the first round warms the caches
            print(f"{title:>20}  {median:7.0f} images/s  {100 * median / alone:4.0f} % of decoding alone")


if __name__ == "__main__":
    main()
