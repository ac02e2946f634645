"""The mistakes of a vote as a table with pictures, and photographs with captions as one sheet, for dashboards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from src.prediction.run import OpenImages
from src.report.evaluation import Evaluation
from src.report.photos import SIDE, Photo, Picture

SHOWN = 100
"""Mistakes in a dashboard's table."""


class Mistake(NamedTuple):
    """An image that the vote got wrong.

    Attributes:
        picture: (SIDE, SIDE, 3) uint8.
        image: its name.
        is_class, context: the truth; "" where the context is not known.
        voted: the class that was elected.
        confidence: the members' probability of it, weighted as they voted, in [0, 1].
        agreement: share of the members that chose it, in [0, 1].
        true_probability: their probability of the true class, in [0, 1].
    """

    picture: Picture
    image: str
    is_class: str
    context: str
    voted: str
    confidence: float
    agreement: float
    true_probability: float


def mistakes_of(evaluation: Evaluation, open_images: OpenImages, most: int = SHOWN) -> list[Mistake]:
    """The most confident mistakes on images that can be read, the most confident first; none without truth."""
    test, classes = evaluation.test, evaluation.members[0].classes
    truth, elected = test.images.truth, test.ballot.labels
    if truth is None:
        return []
    everyone, probability = np.arange(len(elected)), test.pooled
    confidence, agreement = probability[everyone, elected], (test.votes == elected).mean(0)
    readable = ~np.isin(test.images.names, list(test.images.unreadable))
    wrong = np.flatnonzero((elected != truth.label) & readable)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    datamodule = open_images(**evaluation.members[0].view)
    pictures = datamodule.pixels([test.images.rows[i] for i in wrong], SIDE).permute(0, 2, 3, 1).numpy()
    return [
        Mistake(picture, test.images.names[i], classes[truth.label[i]], truth.contexts[i], classes[elected[i]],
                float(confidence[i]), float(agreement[i]), float(probability[i, truth.label[i]]))
        for picture, i in zip(pictures, wrong, strict=True)
    ]  # fmt: skip


def sheet(photos: Sequence[Photo], columns: int = 3) -> Figure:
    """Photographs on one sheet, row by row, each above its caption."""
    rows, (height, width) = -(-len(photos) // columns), photos[0].picture.shape[:2]
    figure = Figure(figsize=(4 * columns, (4 * height / width + 0.55) * rows), layout="constrained")
    for place, photo in enumerate(photos, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(photo.picture)
        axes.set_axis_off()
        caption = "\n".join(textwrap.wrap(photo.caption, 52))
        axes.text(0, -0.03, caption, transform=axes.transAxes, va="top", fontsize=8)
    return figure
