"""Pairs of views a second of CPU time: MoCo v2's augmentation here, and the same on PIL images with torchvision.

    python -m benchmarks.views [--images 256] [--rounds 5]

Both read JPEGs of 500x375 (benchmarks.loader's) and make batches of two views at 224 px, in one process, in turn.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.loader import rate, write_images
from src.data.batch import collate
from src.data.datasets import Images
from src.data.manifest import Row

SIZE, BATCH = 224, 32
RECIPE = Path(__file__).parent.parent / "conf/transform/two_views.yaml"


def ours(folder: Path, rows: list[Row]) -> Callable[[], None]:
    """The stage's own loader."""
    images = Images(rows, folder, None, instantiate(OmegaConf.load(RECIPE))(size=SIZE), seed=0)

    def batches() -> None:
        for begin in range(0, len(rows), BATCH):
            collate([images[0, i] for i in range(begin, min(begin + BATCH, len(rows)))])

    return batches


def with_pil(folder: Path, rows: list[Row]) -> Callable[[], None]:
    """The same recipe in the way it is usually written."""
    recipe = OmegaConf.load(RECIPE)
    brightness, contrast, saturation, hue = recipe.jitter

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*recipe.blur_sigma)))

    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=tuple(recipe.scale)),
            transforms.RandomApply(
                [transforms.ColorJitter(brightness, contrast, saturation, hue)], recipe.jitter_probability
            ),
            transforms.RandomGrayscale(recipe.grey),
            transforms.RandomApply([blur], recipe.blur_probability),
            transforms.RandomHorizontalFlip(recipe.horizontal_flip),
            transforms.PILToTensor(),
        ]
    )

    def batches() -> None:
        for begin in range(0, len(rows), BATCH):
            pairs = []
            for row in rows[begin : begin + BATCH]:
                with Image.open(folder / row.image_path) as file:
                    image = file.convert("RGB")
                pairs.append(torch.stack([view(image), view(image)]))
            torch.stack(pairs)

    return batches


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = write_images(Path(name), options.images)
        work = {"this project": ours(Path(name), rows), "PIL and torchvision": with_pil(Path(name), rows)}
        rates: dict[str, list[float]] = {title: [] for title in work}
        for _ in range(options.rounds + 1):
            for title, call in work.items():
                rates[title].append(rate(call, len(rows)))
    medians = {title: statistics.median(measured[1:]) for title, measured in rates.items()}  # the first warms caches
    for title, median in medians.items():
        print(f"{title:>20}  {median:6.0f} pairs/s at {SIZE} px, one core")
    ratios = [a / b for a, b in zip(*(measured[1:] for measured in rates.values()), strict=True)]
    print(f"{statistics.median(ratios):.1f} times as many, median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
