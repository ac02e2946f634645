"""The pictures of docs/gallery.md, drawn from what `make demo` leaves: `python -m benchmarks.gallery`.

    python -m benchmarks.gallery [--demo demo] [--out docs/images/gallery]

Each picture is made by the functions that train: nothing is painted for it. Weights that a training draws are fixed
here, and named above the pictures.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from src.cli import instantiate as build
from src.data.datasets import BySize, padded
from src.data.images import Mask, decode_image
from src.data.mask_files import decode_mask
from src.files import read_json, write_whole
from src.fourier import low_pass, mix_amplitude
from src.masks.crf import refine
from src.masks.grabcut import cut
from src.mixing.background import fill, grow
from src.mixing.cutmix import boxes_of, cutmix
from src.mixing.fmix import fmix, highest, low_frequency
from src.mixing.foreground import mix_regions
from src.mixing.mixup import mixup
from src.mixing.spectrum import spectrum
from src.report import plots
from src.report.comparison.page import curve_figure
from src.report.comparison.runs import read
from src.runs.records import read_config, read_finished
from src.runs.weights import load_weights

SIDE = 112  # pixels of a picture, about those of the demo's images
SCALE = 2  # a pixel's side in the file
CONF = Path(__file__).parent.parent / "conf"
CAR, BIRD = ("car", "grass", 6), ("bird", "autumn", 4)
"""The pair that is mixed: class, context, number."""
LOOKED_AT = (("umbrella", "autumn", 4), ("fish", "rock", 3), ("airplane", "dim", 5))
"""Images whose masks are made step by step."""
Picture = npt.NDArray[np.uint8]
Row = Mapping[str, Picture]
"""Pictures (H, W, 3) by what stands above them."""


class Shown(NamedTuple):
    """An image (3, SIDE, SIDE) float32 in [0, 1] with its true mask (SIDE, SIDE) bool."""

    image: torch.Tensor
    mask: torch.Tensor


def path_of(demo: Path, name: tuple[str, str, int]) -> tuple[Path, Path]:
    """A training image of the demo's track 1, and its true mask."""
    place = Path("public_dg_0416/train") / name[1] / name[0] / f"{name[1]}_{name[2]:06d}.jpg"
    return demo / "data" / place, demo / "truth/masks" / place.with_suffix(".png")


def shown(demo: Path, name: tuple[str, str, int]) -> Shown:
    """The middle square of an image and its mask."""
    image, mask = (square(one) for one in (decode_image(path_of(demo, name)[0]), decode_mask(path_of(demo, name)[1])))
    return Shown(torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(mask > 0))


def square(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle square of (H, W, ...) at SIDE pixels; a mask (bool) keeps its values."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    cutting = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if cutting.dtype == bool:
        return np.asarray(cv2.resize(cutting.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)) > 0
    return np.asarray(cv2.resize(cutting, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def pixels(image: torch.Tensor) -> Picture:
    """(3, H, W) float to (H, W, 3) uint8, what lies outside of [0, 1] clipped."""
    return np.asarray(image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


def black_and_white(mask: npt.NDArray[np.generic]) -> Picture:
    """A mask or map (H, W) in [0, 1] as grey levels."""
    return np.asarray(np.repeat((255 * mask.astype(np.float32)).round().astype(np.uint8)[..., None], 3, 2))


def mixes(own: Shown, other: Shown, mean: Sequence[float]) -> dict[str, Picture]:
    """A car and a bird, mixed by every strategy, with the weights of the car's and the bird's label."""
    x, mask = torch.stack([own.image, other.image]), torch.stack([own.mask, other.mask])
    partner, side, draws = torch.tensor([1, 0]), x.shape[2], torch.Generator().manual_seed(3)
    most, least = torch.tensor(0.7), torch.tensor(0.3)
    pasted, of_box = cutmix(x, partner, boxes_of(torch.tensor([0.7]), side, side, torch.tensor([[0.3, 0.7]])))
    blobs = highest(low_frequency(torch.randn(1, side, side, generator=draws), 3.0), torch.tensor([0.6]))
    cut_up, of_blobs = fmix(x, partner, blobs)
    behind = background_steps(own, other)["result"]
    styled = mix_amplitude(torch.stack([torch.from_numpy(behind).permute(2, 0, 1) / 255, x[1]]), partner, most, 1.0)
    made = {
        "image": x, "partner": x[[1, 0]],
        "mixup\n0.7 car + 0.3 bird": mixup(x, partner, most),
        f"cutmix\n{float(of_box[0]):.1f} car + {1 - float(of_box[0]):.1f} bird": pasted,
        f"fmix\n{float(of_blobs[0]):.1f} car + {1 - float(of_blobs[0]):.1f} bird": cut_up,
        "foreground\n0.7 car + 0.3 bird": mix_regions(x, mask, partner, most, least, torch.tensor(mean).view(3, 1, 1)),
        "spectrum\n0.7 car + 0.3 bird": spectrum(x, partner, most, least, 0.5),
        "amplitude\ncar": mix_amplitude(x, partner, most, 1.0),
    }  # fmt: skip
    pictures = {name: pixels(images[0]) for name, images in made.items()}
    return pictures | {"background\ncar": behind, "background_amplitude\ncar": pixels(styled[0])}


def background_steps(own: Shown, other: Shown) -> dict[str, Picture]:
    """What `background` does: the partner's object is removed, the hole is filled, the own object stands before it."""
    hole = grow(other.mask[None], 0.03)
    filled = fill(other.image[None], hole)[0]
    grey = torch.full_like(filled, 0.5)
    return {
        "image": pixels(own.image), "its mask": black_and_white(own.mask.numpy()), "partner": pixels(other.image),
        "its object removed": pixels(torch.where(hole, grey, other.image)), "filled": pixels(filled),
        "result": pixels(torch.where(own.mask, own.image, filled)),
    }  # fmt: skip


def frequency_steps(own: Shown, other: Shown, ratio: float) -> dict[str, Picture]:
    """Low and high frequencies of two images, and the exchange: `spectrum` with lam_l = 0, lam_h = 1.

    High frequencies are shown around a middle grey.
    """
    x = torch.stack([own.image, other.image])
    low = low_pass(x, ratio)
    zero, one, partner = torch.tensor(0.0), torch.tensor(1.0), torch.tensor([1, 0])
    exchanged = spectrum(x, partner, zero, one, ratio)
    return {
        "low frequencies": pixels(low[0]), "high frequencies": pixels(x[0] - low[0] + 0.5),
        "partner: low": pixels(low[1]), "partner: high": pixels(x[1] - low[1] + 0.5),
        "own high, partner's low": pixels(exchanged[0]), "partner's high, own low": pixels(exchanged[1]),
    }  # fmt: skip


def mask_steps(
    image: Picture, true_mask: Mask, activation: npt.NDArray[np.float32], settings: Mapping[str, Any]
) -> dict[str, Picture]:
    """From a map to a mask as stage wsss makes it.

    Args:
        image, true_mask, activation: (H, W, 3) uint8, (H, W) bool, (H, W) in [0, 1].
        settings: of MaskWriter: threshold, grabcut, crf.
    """
    above = activation > settings["threshold"]
    found = cut(image, above, **settings["grabcut"])
    found = above if found is None else found
    steps = {"map > {threshold}": above, "GrabCut": found, "CRF: the mask": refine(image, found, **settings["crf"])}
    heat = np.asarray(cv2.applyColorMap(np.uint8(255 * activation), cv2.COLORMAP_VIRIDIS)[..., ::-1])
    made = {"image": image, "C2AM map": heat}
    made |= {name.format(**settings): black_and_white(mask) for name, mask in steps.items()}
    return {name: square(picture) for name, picture in made.items()} | {"true mask": black_and_white(square(true_mask))}


def maps_of(run: Path, images: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
    """The maps (H, W) in [0, 1] of a finished wsss run."""
    config = read_config(run)
    module = build(OmegaConf.create(config["module"])).eval()
    load_weights(run / "weights.safetensors", {part: getattr(module, part) for part in module.exported})
    module.inverted.fill_(bool(read_finished(run)["metrics"]["sign/inverted"]))
    with torch.inference_mode():
        batches = [BySize.stack([padded(image, i)]).on_device() for i, image in enumerate(images)]
        return [module.predict_step(batch, 0)[0].numpy() for batch in batches]


def views_of(images: Sequence[Picture], count: int, make: Callable[..., Any]) -> list[dict[str, Picture]]:
    """An image and pairs of views of it in each row, as stage moco draws them."""
    transform = make(size=SIDE)
    rows = []
    for i, image in enumerate(images):
        pairs = [transform(image, None, 100 * i + 10 * k)[0] for k in range(count)]
        views = {f"pair {k}, view {v + 1}": pair[v] for k, pair in enumerate(pairs, 1) for v in (0, 1)}
        rows.append({"image": square(image)} | views)
    return rows


def vote_bars(votes: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Accuracy of votes by context, side by side.

    Args:
        votes: by title, {context: (accuracy, low, high)} as shares.
    """
    figure, axes = plots.axes_of(8, 2.8)
    contexts = list(next(iter(votes.values())))
    width = 0.8 / len(votes)
    for i, (title, bars) in enumerate(votes.items()):
        places = np.arange(len(contexts)) + (i - (len(votes) - 1) / 2) * width
        value, low, high = (100 * np.array([bars[name][k] for name in contexts]) for k in range(3))
        axes.bar(places, value, 0.92 * width, color=plots.COLOURS[i], label=title)
        axes.errorbar(places, value, [value - low, high - value], fmt="none", color=plots.INK, linewidth=1, capsize=2)
    axes.set_xticks(range(len(contexts)), contexts)
    axes.set(ylabel="accuracy, %", ylim=(0, 104))
    axes.tick_params(length=0)
    axes.yaxis.grid(True, color=plots.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, ncols=len(votes), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def bars_of(vote: Path) -> dict[str, tuple[float, float, float]]:
    """Accuracies with their intervals of a kept vote's test images, by context, and of its in-domain images."""
    figures = read_json(vote / "figures.json")
    keys = {key.removeprefix("accuracy/"): key for key in figures["test"] if key.startswith("accuracy/")}
    keys = {name: key for name, key in keys.items() if not name.endswith("_interval")}
    parts = [("in-domain", figures["in_domain"], "accuracy"), *((n, figures["test"], key) for n, key in keys.items())]
    return {name: (part[key], *part[f"{key}_interval"]) for name, part, key in parts}


def strip(rows: Sequence[Row]) -> Figure:
    """Rows of pictures of SIDE pixels, words above them."""
    gap, head = 6, 10 + 9 * max(words.count("\n") + 1 for row in rows for words in row)
    width, height = max(map(len, rows)) * (SIDE + gap) + gap, len(rows) * (SIDE + head + gap)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100 * SCALE)
    for i, row in enumerate(rows):
        for k, (words, picture) in enumerate(row.items()):
            bottom = height - (i + 1) * (SIDE + head + gap) + gap
            axes = figure.add_axes(((gap + k * (SIDE + gap)) / width, bottom / height, SIDE / width, SIDE / height))
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            axes.text(0, 1.03, words, transform=axes.transAxes, fontsize=5.8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """A figure as a PNG of 256 colours: a third of the bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100 * SCALE)
    image = Image.open(file).convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE)
    with write_whole(path) as out:
        image.save(out, format="png", optimize=True)


def pictures(demo: Path) -> dict[str, Figure]:
    """Every picture of the gallery by its name."""
    own, other = shown(demo, CAR), shown(demo, BIRD)
    wsss = next((demo / "logs/track1/wsss").glob("*/finished.json")).parent
    paths = [path_of(demo, name) for name in LOOKED_AT]
    images, true = [decode_image(image) for image, _ in paths], [decode_mask(mask) for _, mask in paths]
    settings = read_config(wsss)["callbacks"]["masks"]
    mean = read_config(wsss)["pixels"]["mean"]
    mixed = list(mixes(own, other, mean).items())
    classes = sorted(path.name for path in (demo / "data/public_dg_0416/train/rock").iterdir())
    contexts = sorted(path.name for path in (demo / "data/public_dg_0416/train").iterdir())
    drawn = [
        {f"{name}, {context}": square(decode_image(path_of(demo, (name, context, 1))[0])) for name in classes}
        for context in contexts
    ]
    views = instantiate(OmegaConf.load(CONF / "transform/two_views.yaml"))
    runs, _ = read(demo / "logs/track1", ["baseline/*", "finetune/*", "fdg/*"])
    key = "val/in_domain/accuracy"
    votes = {"plain training": "baselines", "recipe=background": "background", "the published chain": "all"}
    return {
        "data": strip(drawn),
        "mixing": strip([dict(mixed[:5]), dict(mixed[5:])]),
        "background": strip([background_steps(own, other)]),
        "frequencies": strip([frequency_steps(own, other, 0.2)]),
        "masks": strip(
            [mask_steps(*steps, settings) for steps in zip(images, true, maps_of(wsss, images), strict=True)]
        ),
        "views": strip(views_of(images[:2], 3, views)),
        "curves": curve_figure(key, {run.name: run.curves[key] for run in runs}),
        "contexts": vote_bars({title: bars_of(demo / "results/track1/votes" / vote) for title, vote in votes.items()}),
    }


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what `make demo` made")
    parser.add_argument("--out", type=Path, default=Path("docs/images/gallery"), help="where the pictures go")
    options = parser.parse_args()
    if not (options.demo / "results/track1/votes/all").is_dir():
        parser.exit(1, f"error: {options.demo} holds no finished demo: run `make demo` first\n")
    torch.set_num_threads(1)
    for name, figure in pictures(options.demo).items():
        path = options.out / f"{name}.png"
        save(figure, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
