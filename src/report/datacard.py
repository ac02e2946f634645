"""The data behind a prediction: how many images of each class in each context, how they are split, their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.files import read_json
from src.prediction.image_sets import Truth
from src.prediction.run import OpenImages
from src.report.evaluation import Evaluation
from src.report.plots import Block
from src.report.tables import Table, percent, titles_of
from src.runs.records import read_split


def training_truth(evaluation: Evaluation, open_images: OpenImages) -> Truth | None:
    """Labels and contexts of the images that the first member was trained on; None where they are no longer listed."""
    try:
        training = open_images(part="train", on_bad_image="stop", check=False)
        training.prepare_data()
        training.setup()
        chosen = set(read_split(evaluation.members[0].folder)["train"])
    except (OSError, ValueError):
        return None
    rows = [row for row in training.rows if row.image_path in chosen]
    names = training.contexts
    contexts = [names[row.domain] if names and isinstance(row.domain, int) and row.domain >= 0 else "" for row in rows]
    return Truth(np.array([row.label for row in rows], np.int64), contexts) if rows else None


def data_facts(evaluation: Evaluation, training: Truth | None, masks: Table) -> dict[str, str]:
    """The data card in two lines, by name: images, classes, contexts, split; and the masks, if the chain has any.

    Args:
        evaluation: the vote.
        training: what its members were trained on, if that is known.
        masks: of masks_table.
    """
    facts, classes = {}, len(evaluation.members[0].classes)
    if training is not None:
        contexts = contexts_in(training)
        where = f" in {', '.join(contexts[:8])}{', ...' if len(contexts) > 8 else ''}" if contexts else ""
        facts["Data"] = f"{len(training.label):,} training images of {classes} classes{where}"
        facts["Data"] += "".join(f"; {len(one.images.rows):,} held out" for one in evaluation.held_out)
    if len(masks) > 1:
        facts["Masks"] = f"of {masks[-1][0]}: {masks[-1][2]} % foreground"
        facts["Masks"] += f", IoU {masks[-1][3]} % with the true ones" if masks[-1][3] != "-" else ""
    return facts


def counts_of(truth: Truth, contexts: Sequence[str], num_classes: int) -> npt.NDArray[np.int64]:
    """Images of each class (rows) in each of `contexts` (columns): (K, C)."""
    made = np.zeros((num_classes, len(contexts)), np.int64)
    index = {name: i for i, name in enumerate(contexts)}
    for label, context in zip(truth.label.tolist(), truth.contexts, strict=True):
        if context in index:
            made[label, index[context]] += 1
    return made


def contexts_in(truth: Truth) -> list[str]:
    """The contexts' names, without that of unknown ones."""
    return sorted(set(truth.contexts) - {""})


def data_table(parts: Mapping[str, Truth], num_classes: int) -> Table:
    """A row per part of the data: images, classes that have any, contexts, images of the rarest and commonest class."""
    table = [["", "images", "classes", "images per class", "contexts"]]
    for title, truth in parts.items():
        by_class = np.bincount(truth.label, minlength=num_classes)
        filled = by_class[by_class > 0]
        spread = f"{filled.min():,}" + (f" to {filled.max():,}" if filled.max() > filled.min() else "")
        contexts = ", ".join(contexts_in(truth)) or "not labelled"
        table.append([title, f"{len(truth.label):,}", str(len(filled)), spread, contexts])
    return table


def parts_of(evaluation: Evaluation, training: Truth | None) -> dict[str, Truth]:
    """The parts of the data whose labels are known, by title: trained on, held out, test."""
    titles = titles_of(evaluation)
    parts = {} if training is None else {"trained on": training}
    for one in (*evaluation.held_out, evaluation.test):
        if one.images.truth is not None:
            parts[titles[one.images.name] + (", held out" if one is not evaluation.test else "")] = one.images.truth
    return parts


def count_blocks(training: Truth, num_classes: int) -> list[Block]:
    """Training images by class and context for plots.grid; none without contexts."""
    names = contexts_in(training)
    counts = counts_of(training, names, num_classes)
    return [Block("trained on", names, np.where(counts > 0, counts, np.nan))] if names else []


def accuracy_blocks(evaluation: Evaluation, titles: Mapping[str, str]) -> list[Block]:
    """The vote's accuracy in percent by class and context, for plots.grid: the test images, then held-out ones."""
    blocks = []
    for one in (evaluation.test, *evaluation.held_out):
        names = contexts_in(one.images.truth) if one.images.truth else []
        if not names or one.images.truth is None:
            continue
        truth, classes = one.images.truth, len(evaluation.members[0].classes)
        images = counts_of(truth, names, classes)
        right = [(label, name) for label, name, hit in zip(*truth, one.hits, strict=True) if hit]
        hits = counts_of(Truth(np.array([label for label, _ in right], np.int64), [name for _, name in right]), names,
                         classes)  # fmt: skip
        shares = np.where(images > 0, 100 * hits / np.maximum(images, 1), np.nan)
        blocks.append(Block(titles[one.images.name], names, shares, images))
    return blocks


def masks_table(runs: Sequence[Path]) -> Table:
    """Masks of the chain: their number, share of foreground, and overlap with the true ones where those are known.

    Args:
        runs: of the chain; those without a masks.json are passed over, and so is a damaged one.
    """
    table = [["masks of", "images", "foreground, %", "IoU with the true masks, %"]]
    for folder in runs:
        try:
            facts: dict[str, Any] = read_json(folder / "masks.json")
            words = [f"{facts['images']:,}", percent(facts["foreground_share"]), percent(facts.get("iou"))]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        table.append([f"{folder.parent.name}/{folder.name}", *words])
    return table if len(table) > 1 else []
