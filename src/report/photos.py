"""Pictures of the report: mistakes, disputed images, sheets of runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from src.data.images import decode_image
from src.prediction.members import rebuild
from src.prediction.run import OpenImages
from src.prediction.voting import entropy
from src.report.evaluation import Evaluation


def class_activation(module: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor | None:
    """Class activation maps (Zhou et al. 2016): the head's weights of a class over the last feature map.

    Args:
        module: a classifier with `backbone`, a linear `head`, `mean` and `std`.
        image: (N, 3, H, W) float in [0, 1].
        label: (N,) class ids.

    Returns:
        (N, h, w) float32, the cells with evidence for the class divided by their maximum (0 elsewhere); None
        if the backbone has no map, but a transformer's list of tokens.
    """
    with torch.inference_mode():
        features = module.backbone.forward_features((image - module.mean) / module.std)
        if features.ndim != 4 or features.shape[1] != module.head.in_features:
            return None
        maps = torch.einsum("nchw,nc->nhw", features, module.head.weight[label]).float().clamp(min=0)
        return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


SIDE = 176  # of a picture, pixels
SHOWN = 9  # pictures of a kind
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
    """The most confident mistakes and the most disputed images, each next to the activation map of the voted class, by
    the member with the greatest weight."""
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
        counts = np.bincount(votes[:, i], minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return words + "; votes: " + ", ".join(f"{counts[k]} {classes[k]}" for k in order if counts[k])

    module, made, datamodule = rebuild(voter), {}, open_images(**voter.view)
    for kind, own in chosen.items():
        rows = [test.images.rows[i] for i in own]
        seen = datamodule.pixels(rows, datamodule.last_size).float() / 255
        maps = class_activation(module, seen, torch.from_numpy(labels[own])) if rows else None
        pictures = datamodule.pixels(rows, SIDE).permute(0, 2, 3, 1).numpy()
        made[kind] = [
            Photo(overlay(picture, None if maps is None else maps[k].numpy()), caption(i))
            for k, (picture, i) in enumerate(zip(pictures, own, strict=True))
        ]
    return made


def overlay(picture: Picture, activation: npt.NDArray[np.float32] | None) -> Picture:
    """A picture (SIDE, SIDE, 3), and next to it the picture under its activation map (h, w) in [0, 1]."""
    if activation is None:
        return picture
    smooth = cv2.resize(activation, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    heat = cv2.applyColorMap((255 * smooth).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.hstack([picture, cv2.addWeighted(picture, 0.45, np.ascontiguousarray(heat), 0.55, 0)]).astype(np.uint8)


def photo_of(folder: Path, name: str, rows: int | None = None) -> Photo | None:
    """A PNG of a run, its first `rows` of pixels; None if the run has none."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        return Photo(decode_image(path, max_pixels=0)[:rows], f"{folder.parent.name}/{folder.name}: {name}")
    except (OSError, ValueError):  # damaged: treated as missing
        return None


def batches_of(runs: Sequence[Path]) -> list[Photo]:
    """The last sheet of training images of one run per stage."""
    sheets: dict[str, Photo] = {}
    for folder in runs:
        names = sorted(f"pictures/{path.name}" for path in (folder / "pictures").glob("*.png"))
        sheet = photo_of(folder, names[-1]) if names and folder.parent.name not in sheets else None
        if sheet:
            sheets[folder.parent.name] = sheet
    return list(sheets.values())
