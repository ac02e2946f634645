"""Pictures of the report: mistakes, disputed images, sheets of runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from src.callbacks.sheet import outlined, read_sheet
from src.prediction.run import OpenImages
from src.prediction.voting import entropy
from src.report.evaluation import Evaluation
from src.report.looks import maps_of
from src.report.where import scaled

SIDE, GAP = 176, 4  # of a picture, and between two, pixels
SHOWN = 9  # pictures of a kind
NAMED = 4  # classes with votes in a caption
OF_A_BATCH = 6  # images of each stage's batch
Picture = npt.NDArray[np.uint8]


class Photo(NamedTuple):
    """Pictures (H, W, 3) uint8 side by side, with a caption."""

    picture: Picture
    caption: str

    @property
    def url(self) -> str:
        """A JPEG as a data URL for an <img>."""
        jpeg = cv2.imencode(".jpg", self.picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def photos_of(evaluation: Evaluation, open_images: OpenImages) -> dict[str, list[Photo]]:
    """The most confident mistakes and the most disputed images, each next to where the member with the greatest weight
    finds evidence for the voted class."""
    test, classes = evaluation.test, evaluation.members[0].classes
    votes, labels = test.votes, test.ballot.labels
    voter = evaluation.members[int(np.argmax(test.ballot.weights))]
    confidence = test.pooled[np.arange(len(labels)), labels]
    shown = ~np.isin(test.images.names, list(test.images.unreadable))  # unreadable ones have no picture
    disputed = np.lexsort((np.arange(len(labels)), confidence, -entropy(test.probabilities)))
    chosen = {"disputed": disputed[shown[disputed]][:SHOWN]} if len(votes) > 1 else {}
    truth = test.images.truth
    if truth is not None:
        mistakes = np.flatnonzero((labels != truth.label) & shown)
        chosen = {"mistakes": mistakes[np.argsort(-confidence[mistakes], kind="stable")][:SHOWN], **chosen}

    def caption(i: int) -> str:
        words = f"{test.images.names[i]}: voted {classes[labels[i]]} ({100 * confidence[i]:.0f} %)"
        if truth is not None:
            words += f", is {classes[truth.label[i]]}" + (f" ({truth.contexts[i]})" if truth.contexts[i] else "")
        return f"{words}; votes: {votes_in_words(votes[:, i], classes)}"

    made, datamodule = {}, open_images(**voter.view)
    for kind, own in chosen.items():
        rows = [test.images.rows[i] for i in own]
        seen = datamodule.pixels(rows, datamodule.last_size)
        maps = maps_of(voter, seen, labels[own], torch.device("cpu")) if rows else None
        looks = None if maps is None else scaled(maps).numpy()
        pictures = datamodule.pixels(rows, SIDE).permute(0, 2, 3, 1).numpy()
        made[kind] = [
            Photo(beside_its_map(picture, None if looks is None else looks[k]), caption(i))
            for k, (picture, i) in enumerate(zip(pictures, own, strict=True))
        ]
    return made


def votes_in_words(votes: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """The commonest votes (M,) for one image, most first, and how many are for other classes: "3 car, 1 bird"."""
    counts = np.bincount(votes, minlength=len(classes))
    order = [k for k in np.argsort(-counts, kind="stable")[:NAMED] if counts[k]]
    rest = len(votes) - int(counts[order].sum())
    return ", ".join([f"{counts[k]} {classes[k]}" for k in order] + ([f"{rest} others"] if rest else []))


def enlarged(activation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A map (h, w) in [0, 1] at SIDE x SIDE."""
    return np.asarray(cv2.resize(activation, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1), np.float32)


def heat(activation: npt.NDArray[np.float32]) -> Picture:
    """A map (h, w) in [0, 1] as a picture of its own, in the colours of charts.colour_bar."""
    levels = np.round(255 * enlarged(activation)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def beside_its_map(picture: Picture, activation: npt.NDArray[np.float32] | None) -> Picture:
    """A picture (SIDE, SIDE, 3), outlined where the map exceeds half of its greatest value, and next to it the map.

    The picture alone without a map.
    """
    if activation is None:
        return picture
    return side_by_side([outlined(picture, enlarged(activation) > 0.5), heat(activation)])


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures (H, W, 3) in a row, with a white gap between two."""
    gap = np.full((len(pictures[0]), GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (gap, picture)][1:])


def photos_in(folder: Path, name: str, about: str = "") -> list[Photo]:
    """The pictures of a run's sheet, with `about` before their words; none if the sheet is missing or damaged."""
    if not (folder / name).is_file():
        return []
    try:
        tiles = read_sheet(folder / name)
    except (OSError, ValueError):
        return []
    run = f"{folder.parent.name}/{folder.name}: {name}"  # what there is to say of an older version's
    return [Photo(tile.picture, f"{about}{tile.words}" if tile.words else run) for tile in tiles]


def batches_of(runs: Sequence[Path]) -> list[Photo]:
    """The first images of the last sheet of one run per stage."""
    sheets: dict[str, list[Photo]] = {}
    for folder in runs:
        names = sorted(f"pictures/{path.name}" for path in (folder / "pictures").glob("*.png"))
        stage = folder.parent.name
        if names and not sheets.get(stage):
            epoch = Path(names[-1]).stem.removeprefix("epoch")  # counted from 0; curves count from 1
            when = f"{stage}, epoch {int(epoch) + 1}: " if epoch.isdecimal() else f"{stage}: "
            sheets[stage] = photos_in(folder, names[-1], when)[:OF_A_BATCH]
    return [photo for photos in sheets.values() for photo in photos]
