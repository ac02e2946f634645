"""The training images of a manifest: checked, their classes and contexts named, split."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.checks import (
    check_label_map,
    check_labels,
    check_masked_images,
    check_masks,
    name_unseen_classes,
    warn_of_masks,
    with_contexts,
)
from src.data.manifest import Row
from src.data.mask_files import MASKS_AGAIN
from src.data.splits import Split, SplitRule
from src.data.store import ManifestStore
from src.distributed import is_rank_zero


class MaskSource(NamedTuple):
    """A training manifest with image_seg_path, and the folder that these paths are relative to."""

    manifest: Path
    root: Path


class TrainingRows(NamedTuple):
    """Training images.

    Attributes:
        rows: all of them, held-out parts too; a row's domain is its context's id.
        classes, contexts: names by id.
        parts: the split, as indices of `rows`.
    """

    rows: list[Row]
    classes: list[str]
    contexts: list[str]
    parts: Split


def check_training(
    store: ManifestStore,
    rows: Sequence[Row],
    masks: MaskSource | None,
    bad: set[str],
    split: SplitRule,
    check: bool,
    max_pixels: int,
) -> TrainingRows:
    """Check the labels, domains and masks of rows, and split them.

    Args:
        store: of the data set's manifest.
        rows: of that manifest, or of the one with masks.
        masks: where the masks are, or None.
        bad: paths of images that cannot be decoded; they are left out.
        split: the rule.
        check: rows with masks must be of the manifest's images.
        max_pixels: of an image; 0: any number.

    Raises:
        OSError, ValueError: the data are refused.
    """
    path, own = masks.manifest if masks else store.manifest, store.own_label_map
    labels = store.read().labels
    whose = f"the label map {store.label_map}" if own.exists() else f"the manifest {store.manifest}"
    mend = MASKS_AGAIN if masks else "manifest.rebuild=true rewrites the manifest by the map"
    classes = check_label_map(labels, whose, own)
    check_labels(rows, labels, path, whose, mend)
    if masks:
        listed, expected = ({row.image_path for row in some} - bad for some in (rows, store.read().rows))
        check_masked_images(path, listed, store.manifest, expected, check)
        check_masks(rows, path, masks.root)
        if is_rank_zero():
            warn_of_masks(rows, path, masks.root, max_pixels)
    contexts: list[str] = []
    if store.has_contexts:
        rows, contexts = with_contexts(rows, path)
    kept = [row if contexts else row._replace(domain=None) for row in rows if row.image_path not in bad]
    parts = split(kept, contexts)
    if not parts.train:
        raise ValueError(f"the split leaves none of the {len(kept)} images in {path} to train on")
    by_label = [row.label for row in kept if row.label is not None]
    name_unseen_classes(classes, set(by_label), {by_label[i] for i in parts.train}, whose)
    return TrainingRows(kept, classes, contexts, parts)


def check_bad_share(bad: Sequence[str], images: int, listed: Path, most: float) -> None:
    """Say that images cannot be decoded and are left out.

    Args:
        bad: their paths, of so many images; they are listed in a file.
        listed: that file.
        most: share of them.

    Raises:
        ValueError: they are more.
    """
    if len(bad) > most * images:
        raise ValueError(
            f"{len(bad)} of {images} images cannot be decoded (listed in {listed}), more than "
            f"datamodule.max_bad_share={most}: check the data"
        )
    if bad and is_rank_zero():
        warnings.warn(
            f"{len(bad)} images cannot be decoded and are left out (first: {bad[0]}; listed in {listed})", stacklevel=2
        )
