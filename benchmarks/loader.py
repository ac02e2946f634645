"""Training samples a second of CPU time: beside decoding alone, and beside the same pipeline on PIL images.

    python -m benchmarks.loader [--images 256] [--rounds 5]

JPEGs of 500x375 (a smooth random picture with noise, quality 90: about the size of a photo's file) and masks of
one blob, written as stage wsss writes them, lie in a temporary folder. One round reads all of them with each
pipeline, in turn, so that a machine whose speed drifts drifts for all; the table shows the medians over the rounds.

The PIL pipeline is this benchmark's own, in torchvision's terms: RandomResizedCrop of image and mask, flips both ways,
AugMix by PIL's operations (the photometric ones, as here), each chain made a normalised tensor and added up. It ends
with float tensors; the loader's samples become float on the device.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import yaml
from PIL import Image, ImageEnhance, ImageOps
from torchvision import transforms
from torchvision.transforms import functional as F

from benchmarks.pictures import noisy, smooth
from src.data.batch import collate, collate_pairs
from src.data.datasets import Images, Pairs
from src.data.images import decode_image
from src.data.manifest import Row
from src.masks.pool import encode_mask
from src.transforms import Train

CONF = Path(__file__).resolve().parent.parent / "conf"
CROP = yaml.safe_load((CONF / "transform/crop.yaml").read_text())
AUGMIX = CROP["augmix"]
MORE = {name: CROP[name] for name in ("jitter", "grey", "randaugment", "trivialaugment", "random_erasing")}
NORMALISE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
Work = Callable[[], None]


class Line(NamedTuple):
    """A line of the table: our work, and the same on PIL images where that is measured."""

    title: str
    ours: Work
    on_pil: Work | None = None


def write_images(folder: Path, count: int) -> list[Row]:
    """Write pictures and masks and return their rows."""
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = noisy(rng, smooth(rng, (500, 375)))
        cv2.imwrite(str(folder / f"{i}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        mask = np.zeros((375, 500), np.uint8)
        axes = (int(rng.integers(60, 160)), int(rng.integers(50, 140)))
        cv2.ellipse(mask, (250, 190), axes, float(rng.integers(180)), 0, 360, 1, -1)
        (folder / f"{i}.png").write_bytes(encode_mask(mask.astype(bool)))
    return [Row(f"{i}.jpg", label=0, image_seg_path=f"{i}.png") for i in range(count)]


def batches(rows: list[Row], folder: Path, side: int, masks: bool, chains: int, paired: bool = False) -> Work:
    """Read all rows (or pairs) as a worker does, in batches of 32."""
    augmix = AUGMIX | {"chains": chains}
    transform = Train(side, scale=(0.8, 1.0), horizontal_flip=0.5, vertical_flip=0.5, augmix=augmix, **MORE)
    images = Images(rows, folder, folder if masks else None, transform, seed=0)

    pairs = Pairs(images, other_context=False)

    def work() -> None:
        for begin in range(0, len(rows), 32):
            places = range(begin, min(begin + 32, len(rows)))
            if paired:
                collate_pairs([pairs[0, i] for i in places])
            else:
                collate([images[0, i] for i in places])

    return work


def augmix_on_pil(image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
    """AugMix by photometric operations, to a normalised tensor."""
    operations: list[Callable[[Image.Image], Image.Image]] = [
        ImageOps.autocontrast,
        ImageOps.equalize,
        lambda picture: ImageOps.posterize(picture, 4 - int(rng.uniform(0.1, 1) * 0.4)),
        lambda picture: ImageOps.solarize(picture, 256 - int(rng.uniform(0.1, 1) * 25.6)),
        *(
            lambda picture, enhance=enhance: enhance(picture).enhance(0.1 + 0.18 * rng.uniform(0.1, 1))
            for enhance in (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)
        ),
    ]
    weights, share = rng.dirichlet([1.0] * 3), rng.beta(1, 1)
    mixture = torch.zeros(3, image.height, image.width)
    for weight in weights:
        altered = image.copy()
        for _ in range(rng.integers(1, 4)):
            altered = operations[rng.integers(len(operations))](altered)
        mixture += weight * NORMALISE(F.to_tensor(altered))
    return (1 - share) * NORMALISE(F.to_tensor(image)) + share * mixture


def sample_on_pil(image: Image.Image, mask: Image.Image, side: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Crop and flip an image and its mask, and AugMix the image."""
    box = transforms.RandomResizedCrop.get_params(image, [0.8, 1.0], [3 / 4, 4 / 3])
    image = F.resized_crop(image, *box, [side, side], F.InterpolationMode.BILINEAR)
    mask = F.resized_crop(mask, *box, [side, side], F.InterpolationMode.NEAREST)
    for flip in (F.hflip, F.vflip):
        if rng.random() < 0.5:
            image, mask = flip(image), flip(mask)
    return [augmix_on_pil(image, rng), F.to_tensor(mask)]


def batches_on_pil(rows: list[Row], folder: Path, side: int, paired: bool = False) -> Work:
    """What `batches` does with masks and AugMix, on PIL images."""

    def sample(row: Row, rng: np.random.Generator) -> list[torch.Tensor]:
        image = Image.open(folder / row.image_path).convert("RGB")
        return sample_on_pil(image, Image.open(folder / str(row.image_seg_path)).convert("L"), side, rng)

    def work() -> None:
        rng = np.random.default_rng(0)
        for begin in range(0, len(rows), 32):
            firsts = rows[begin : begin + 32]
            made = [sample(row, rng) for row in firsts]
            if paired:
                made += [sample(rows[rng.integers(len(rows))], rng) for _ in firsts]
            torch.utils.data.default_collate(made)

    return work


def rate(work: Work, count: int) -> float:
    """Images a second of one call that handles `count` of them, by the CPU time of this process of one thread."""
    begin = time.process_time()
    work()
    return count / (time.process_time() - begin)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a worker
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_images(folder, options.images)
        size = statistics.mean((folder / row.image_path).stat().st_size for row in rows)

        def decode() -> None:
            for row in rows:
                decode_image(folder / row.image_path)

        table = [Line("decoding alone", decode)]
        for side in (224, 448, 512):
            table.append(Line(f"{side} px", batches(rows, folder, side, masks=False, chains=0)))
            table.append(Line(f"{side} px with mask", batches(rows, folder, side, masks=True, chains=0)))
            table.append(
                Line(
                    f"{side} px with mask and AugMix",
                    batches(rows, folder, side, masks=True, chains=3),
                    batches_on_pil(rows, folder, side),
                )
            )
        table.append(
            Line(
                "512 px, pairs of fdg",
                batches(rows, folder, 512, masks=True, chains=3, paired=True),
                batches_on_pil(rows, folder, 512, paired=True),
            )
        )
        ours: dict[str, list[float]] = {line.title: [] for line in table}
        on_pil: dict[str, list[float]] = {line.title: [] for line in table if line.on_pil}
        for _ in range(options.rounds + 1):
            for line in table:
                ours[line.title].append(rate(line.ours, len(rows)))
                if line.on_pil:
                    on_pil[line.title].append(rate(line.on_pil, len(rows)))
        print(f"{len(rows)} JPEGs of 500x375, {size / 1024:.0f} KB each; medians of {options.rounds} rounds, one core")
        alone = statistics.median(ours["decoding alone"][1:])
        for title, measured in ours.items():
            median = statistics.median(measured[1:])  # the first round warms the caches
            text = f"{title:>28}  {median:7.0f} a second  {100 * median / alone:4.0f} % of decoding alone"
            if title in on_pil:
                published = statistics.median(on_pil[title][1:])
                text += f"  {median / published:4.1f} times the PIL pipeline's {published:.0f}"
            print(text)


if __name__ == "__main__":
    main()
