"""Which masks of a run are shown: the best, a median and the worst of several contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from src.data.manifest import Row
from src.masks.judge import Measured

CONTEXTS = 6  # of a sheet, at most


class Shown(NamedTuple):
    """An image of a sheet: its index among the rows, and a caption for its mask."""

    place: int
    words: str


def shown(rows: Sequence[Row], measured: Sequence[Measured], names: Sequence[str]) -> list[Shown]:
    """Three images for each of up to CONTEXTS contexts, spread over all of them; classes if contexts are unknown.

    Their masks have the greatest, the median (for an even number the higher) and the least IoU or, without true masks,
    share of foreground; fewer than three images appear once each. The choice depends on the masks alone: a run that was
    interrupted shows the same ones.

    Args:
        rows: the images.
        measured: their masks.
        names: of the contexts by id.
    """
    contexts = [names[row.domain] if names and isinstance(row.domain, int) else "" for row in rows]
    of = contexts if len(set(contexts)) > 1 else [class_of(row) for row in rows]
    every = sorted(set(of))
    every = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, CONTEXTS).round().astype(int))]
    with_truth = not np.isnan([one.iou for one in measured]).all()
    found = []
    for name in every:
        own = [i for i in range(len(rows)) if of[i] == name]
        figure = {i: measured[i].iou if with_truth else measured[i].foreground for i in own}
        order = sorted(own, key=lambda i: (-figure[i], rows[i].image_path))
        for rank in dict.fromkeys((0, (len(order) - 1) // 2, len(order) - 1)):
            i = order[rank]
            what = f"{class_of(rows[i])} ({contexts[i]})" if contexts[i] else class_of(rows[i])
            share = f"{100 * measured[i].foreground:.0f} % foreground"
            which = {0: "greatest", len(order) - 1: "least"}.get(rank, "median")
            words = f"IoU {measured[i].iou:.2f} ({which}), {share}" if with_truth else f"{share} ({which})"
            found.append(Shown(i, f"{what}: {words}"))
    return found


def class_of(row: Row) -> str:
    """The name of an image's class, or its id."""
    return row.label_name or str(row.label)
