"""Which pictures both tracks have, and their files: images, labels, contexts, masks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from src.datamodules.synthetic.contexts import CONTEXTS
from src.datamodules.synthetic.objects import CLASSES
from src.datamodules.synthetic.painting import Pixels
from src.datamodules.synthetic.picture import draw

VERSION = 1  # of the pictures: raise it with every change that alters a byte of the output
JPEG_QUALITY = 92
CELL = {"track1_train": 38, "track1_test": 40, "track2_train": 70, "track2_test": 20}  # images per class and context
TRACK1_UNSEEN = ("outdoor", "water")
TRACK2_OWN = {
    "car": ("autumn", "dim"),
    "hot air balloon": ("grass", "water"),
    "bird": ("autumn", "outdoor"),
    "chair": ("autumn", "grass"),
    "airplane": ("dim", "outdoor"),
    "umbrella": ("dim", "water"),
    "cactus": ("outdoor", "rock"),
    "fish": ("rock", "water"),
}


class Track(NamedTuple):
    """A track's names in the challenge's layout, and its map from class to id."""

    folder: str
    label_map: str
    labels: dict[str, int]


TRACKS = {
    1: Track("public_dg_0416", "dg_label_id_mapping.json", {name: i for i, name in enumerate(CLASSES)}),
    2: Track(
        "public_ood_0412_nodomainlabel",
        "ood_label_id_mapping.json",
        {name: i for i, name in enumerate(reversed(CLASSES))},
    ),
}


class Cell(NamedTuple):
    """A number of pictures of one class in one context."""

    class_name: str
    context: str
    images: int


def plan(scale: float = 1.0, strays: int | None = None) -> dict[tuple[int, str], list[Cell]]:
    """What the data set of this scale holds: the cells of each (track, "train" or "test").

    `strays` training images of each class of track 2 are in contexts other than its own, dealt in turn; None: so
    many that nine tenths are in its own.
    """
    count = {key: max(1, round(number * scale)) for key, number in CELL.items()}
    cells: dict[tuple[int, str], list[Cell]] = {(track, split): [] for track in TRACKS for split in ("train", "test")}
    for place_in_list, (name, own) in enumerate(TRACK2_OWN.items()):
        for context in CONTEXTS:
            split = "test" if context in TRACK1_UNSEEN else "train"
            cells[1, split].append(Cell(name, context, count[f"track1_{split}"]))
        others = [context for context in CONTEXTS if context not in own]
        cells[2, "train"] += [Cell(name, context, count["track2_train"]) for context in own]
        cells[2, "test"] += [Cell(name, context, count["track2_test"]) for context in others]
        elsewhere = 2 * count["track2_train"] // 9 if strays is None else strays
        for turn in range(4):
            context = others[(place_in_list + turn) % 4]
            cells[2, "train"].append(Cell(name, context, (elsewhere + 3 - turn) // 4))
    return cells


def place_of(track: int, split: str, cell: Cell, number: int, key: str) -> str:
    """An image's path below the data root, as the challenge names it; `number` counts a folder's pictures from 1."""
    folder = TRACKS[track].folder
    flat = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest() + ".jpg"
    if split == "test":
        return f"{folder}/public_test_flat/{flat}"
    if track == 2:
        return f"{folder}/train/{cell.class_name}/{flat}"
    return f"{folder}/train/{cell.context}/{cell.class_name}/{cell.context}_{number:06d}.jpg"


def write(path: Path, suffix: str, pixels: Pixels, *flags: int) -> None:
    """Encode pixels to a file; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(suffix, pixels, flags)[1].tobytes())


def write_split(root: Path, track: int, split: str, cells: list[Cell], seed: int) -> Iterator[int]:
    """Write a split's pictures, masks and truth below `root`; yields the number so far after every picture."""
    rows: list[dict[str, Any]] = []
    for cell in cells:
        for number in range(1, cell.images + 1):
            index = len(rows)
            rng = np.random.default_rng([seed, track, ("train", "test").index(split), index])
            picture, mask = draw(rng, cell.class_name, cell.context)
            path = place_of(track, split, cell, number, f"{seed} {track} {split} {index}")
            write(root / "data" / path, ".jpg", picture[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            write(root / "truth" / "masks" / path.replace(".jpg", ".png"), ".png", mask)
            rows.append(
                {
                    "image_path": path,
                    "image_name": path.rpartition("/")[2],
                    "label": TRACKS[track].labels[cell.class_name],
                    "label_name": cell.class_name,
                    "domain": cell.context,
                }
            )
            yield index + 1
    truth = sorted(rows, key=lambda row: str(row["image_path"]))
    (root / "truth" / f"track{track}_{split}_truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def write_track(root: Path, track: int, cells: dict[tuple[int, str], list[Cell]], seed: int, progress: bool) -> None:
    """Write one track below `root`, its progress on a single line that is redrawn on a terminal."""
    start, redraw = time.perf_counter(), progress and sys.stdout.isatty()
    counts = {split: sum(cell.images for cell in cells[track, split]) for split in ("train", "test")}
    for split, total in counts.items():
        for done in write_split(root, track, split, cells[track, split], seed):
            if redraw and done % 50 == 0:
                print(f"\rtrack {track}: {split} {done}/{total}", end="", flush=True)
    (root / "data" / TRACKS[track].label_map).write_text(json.dumps(TRACKS[track].labels, indent=1) + "\n")
    if progress:
        line = f"track {track}: {counts['train']} training and {counts['test']} test images"
        print(f"{chr(13) if redraw else ''}{line}, {time.perf_counter() - start:.1f} s", flush=True)


def is_complete(out: Path, card: dict[str, Any]) -> bool:
    """True when `out` holds the data set that `card` describes, False when it holds none.

    Raises:
        FileExistsError: `out` holds something else, which is never overwritten.
    """
    data, card_path = out / "data", out / "synthetic.json"
    if not card_path.exists():
        for folder in (data, out / "truth"):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise FileExistsError(f"{folder} was not made by this command; choose another OUT or move it away")
    if not card_path.exists() or not data.exists():
        return False
    found = json.loads(card_path.read_text())
    differing = [f"{key}={found.get(key)}, not {value}" for key, value in card.items() if found.get(key) != value]
    if differing:
        raise FileExistsError(
            f"{out} holds a synthetic data set with {'; '.join(differing)}; remove {data} to make it again"
        )
    images = sum(1 for _ in data.rglob("*.jpg"))
    if images != card["images"]:
        raise FileExistsError(f"{data} has {images} of its {card['images']} images; remove it to make it again")
    return True


def generate(out: Path, seed: int = 0, scale: float = 1.0, progress: bool = True, strays: int | None = None) -> None:
    """Write the data set of both tracks below `out`, or nothing if it is already there.

    Args:
        out: receives `data`, `truth` and `synthetic.json`; other entries are left alone.
        seed: not negative; the same seed gives the same bytes on the same versions of numpy and OpenCV.
        scale: multiplies the number of pictures; greater than 0.
        progress: print what happens, one line per track.
        strays: training images of each class of track 2 in contexts other than its own; None: nearly a tenth. The
            fewer, the more the background gives the class away in training.

    Raises:
        ValueError: a seed or strays below 0, or a scale that is not above 0.
        FileExistsError: `out` holds an incomplete data folder, or one of another origin, seed, scale or version.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, but must not be negative")
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}, but must be greater than 0")
    if strays is not None and strays < 0:
        raise ValueError(f"strays is {strays}, but must not be negative")
    cells = plan(scale, strays)
    images = sum(cell.images for split in cells.values() for cell in split)
    card = {"version": VERSION, "seed": seed, "scale": scale, "images": images}
    if is_complete(out, card):
        if progress:
            print(f"{out} already holds this data set (seed {seed}, {images} images): nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # on pictures of this size, handing work to threads costs more than it saves
    try:
        write_all(out, cells, card, progress)
    finally:
        cv2.setNumThreads(threads)


def write_all(out: Path, cells: dict[tuple[int, str], list[Cell]], card: dict[str, Any], progress: bool) -> None:
    """Write both tracks to a folder inside `out`, and move them into place when they are complete."""
    with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=out) as scratch:
        root = Path(scratch)
        for track in TRACKS:
            write_track(root, track, cells, card["seed"], progress)
        (root / "synthetic.json").write_text(json.dumps(card, indent=1) + "\n")
        # The card first: from here on what is in `out` is ours. The data last: if it is there, so is everything.
        os.replace(root / "synthetic.json", out / "synthetic.json")
        if (out / "truth").exists():  # left by a run that was stopped here, or next to data that a user removed
            shutil.rmtree(out / "truth")
        os.replace(root / "truth", out / "truth")
        os.replace(root / "data", out / "data")  # refused by the system if somebody filled the folder meanwhile
