"""Checks of a data set before a training: manifest against tree, labels, masks, shared memory."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from src.data.manifest import Row, spelled_in
from src.data.mask_files import MASKS_AGAIN, decode_mask, says_nothing
from src.data.tree import refuse_outside
from src.files import read_json
from src.progress import progress


def check_links(data_root: Path, paths: Sequence[str]) -> None:
    """Raise ValueError where a manifest's path reaches out of `data_root` through a link."""
    root = os.path.realpath(data_root)
    for folder in sorted({os.path.dirname(path) for path in paths}):
        refuse_outside(os.path.join(data_root, folder), root)
    for path in progress(paths, f"looking at the files in {data_root}"):  # one lstat each, their folders were followed
        full = f"{data_root}{os.sep}{path}"
        if os.path.islink(full):
            refuse_outside(full, root)


def check_against_tree(path: Path, rows: Sequence[Row], scanned: Sequence[Row], meanings: bool = False) -> None:
    """Raise ValueError where a manifest and its tree no longer list the same images.

    Args:
        path: of the manifest.
        rows: its own.
        scanned: those of the tree, or of the table.
        meanings: compare class, context and part as well: they may be read in another way, or be another table's.
    """
    listed, present = {row.image_path for row in rows}, {row.image_path for row in scanned}
    gone, new = sorted(listed - present), sorted(present - listed)
    if gone or new:
        parts = [f"{len(gone)} of its images are gone (first: {gone[0]})"] if gone else []
        parts += [f"{len(new)} images are not in it (first: {new[0]})"] if new else []
        known = any(row.label is not None for row in rows) and not any(row.label is not None for row in scanned)
        # Images that are gone cannot be used as they are.
        other = "" if gone else ", manifest.check=false uses it as it is"
        raise ValueError(
            f"{path} no longer matches its tree: {' and '.join(parts)}; "
            f"manifest.rebuild=true rewrites it{' (without its labels)' if known else ''}{other}"
        )
    by_path = {row.image_path: row for row in scanned} if meanings else {}
    for row in rows if meanings else ():
        both = zip(meaning_of(row, row), meaning_of(by_path[row.image_path], row), strict=True)
        differing = [(old, now) for old, now in both if old != now]
        if differing:
            old, now = (", ".join(words) for words in zip(*differing, strict=True))
            raise ValueError(
                f"{path} no longer matches its data set: {row.image_path} was of {old} and is of {now}; "
                "manifest.rebuild=true rewrites it, manifest.check=false uses it as it is"
            )


def meaning_of(row: Row, listed: Row) -> tuple[str, str, str]:
    """What an image is: its class (where its entry `listed` in the manifest names one), context and part, in words."""
    context = "no context" if row.domain is None else f"the context {context_name(row)}"
    return (
        f"the class {row.label_name}" if listed.label_name else "",
        context,
        "the held-out part" if row.split == "val" else "the others",
    )


def context_name(row: Row) -> str:
    """The name of an image's context: its own, or the folder above the class folder."""
    if isinstance(row.domain, str):
        return row.domain
    return row.domain_name or "".join(row.image_path.split("/")[-3:-2])


MASKS_LOOKED_AT = 200  # of somebody else's, before a training: a second
PREFETCH = 2  # batches that each worker prepares ahead, as torch has it


def check_shared_memory(workers: int, bytes_per_batch: int, folder: Path = Path("/dev/shm")) -> None:
    """Raise ValueError where the batches that workers prepare ahead do not fit into the shared memory.

    They travel through it: in a container, where it is small, training would stop halfway, or hang.

    Args:
        workers: processes of this loader.
        bytes_per_batch: of its batches.
        folder: where the system has its shared memory; elsewhere than on Linux there is no such folder.
    """
    needed = workers * PREFETCH * bytes_per_batch
    if not workers or not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{workers} data-loading worker(s) with batches of {bytes_per_batch / 2**20:.1f} MB need "
            f"{needed / 2**20:.1f} MB of shared memory, and {folder} has {free / 2**20:.1f} MB: make it larger "
            "(docker run --shm-size=8g), or lower datamodule.num_workers (0 needs none) or datamodule.batch_size"
        )


def check_label_map(labels: Mapping[str, int], whose: str, own: Path) -> list[str]:
    """The class names by id.

    Args:
        labels: {class name: id}.
        whose: what the ids come from, for messages.
        own: path of the user's label map, whether it exists or not.

    Raises:
        ValueError: the ids are not 0 to K - 1.
    """
    ids = sorted(labels.values())
    if ids == list(range(len(labels))):
        return sorted(labels, key=labels.__getitem__)
    wrong = next((i for k, i in enumerate(ids) if i != k), -1)
    mend = (
        "correct them, then start with manifest.rebuild=true"
        if own.exists()
        else f"put a label map with all classes in {own}, or let manifest.rebuild=true number the class folders"
    )
    raise ValueError(f"the ids of {whose} are not 0 to {len(labels) - 1} ({ids.index(wrong)} is missing): {mend}")


def check_labels(rows: Sequence[Row], labels: Mapping[str, int], path: Path, whose: str, mend: str) -> None:
    """Raise ValueError for a row whose label is not a class, or not that of its class's name.

    Args:
        rows: of the manifest `path`.
        labels: {class name: id}, with the ids 0 to K - 1.
        whose: what the ids come from, for messages.
        mend: what to do about a name with another id.
    """
    for i, row in enumerate(rows):
        if row.label is None or row.label >= len(labels):
            raise ValueError(
                f"entry {i} of {path} ({row.image_path}) has the label {row.label}: expected an id below "
                f"{len(labels)}, the number of classes in {whose}"
            )
        name = row.label_name
        if name is None or row.label in (labels.get(name), labels.get(spelled_in(labels, name))):
            continue
        raise ValueError(
            f"entry {i} of {path} gives {name!r} the label {row.label}, {whose} {labels.get(name)}: correct one of "
            f"them ({mend})"
        )


def name_unseen_classes(classes: Sequence[str], listed: set[int], trained: set[int], whose: str) -> None:
    """Warn of classes that the network has an output for and no image to learn from.

    Args:
        classes: names by id.
        listed, trained: ids of the classes that have images, and that have images to train on.
        whose: what the ids come from.
    """
    empty = [name for i, name in enumerate(classes) if i not in listed]
    held_out = [name for i, name in enumerate(classes) if i in listed and i not in trained]
    for names, what in (
        (empty, "no image"),
        (held_out, "images only in the held-out part (split=), and will not be learned"),
    ):
        if names:
            count, verb = (f"{len(names)} classes", "have") if len(names) > 1 else ("the class", "has")
            more = ", ..." if len(names) > 8 else ""
            listed_names = ", ".join(map(repr, names[:8]))
            warnings.warn(f"{count} {listed_names}{more} of {whose} {verb} {what}", stacklevel=2)


def check_masks(rows: Sequence[Row], path: Path, mask_root: Path) -> None:
    """Raise ValueError or FileNotFoundError where a row of the manifest with masks `path` has no mask."""
    missing = [row for row in rows if row.image_seg_path is None]
    if missing:
        raise ValueError(f"{path} has no image_seg_path for {missing[0].image_path}: {MASKS_AGAIN}")
    paths = [str(row.image_seg_path) for row in rows]
    check_links(mask_root, paths)
    gone = [name for name in progress(paths, "looking for the masks") if not (mask_root / name).exists()]
    if gone:
        raise FileNotFoundError(
            f"{len(gone)} masks of {path} are missing below {mask_root} (first: {gone[0]}): "
            f"set mask_root, or {MASKS_AGAIN}"
        )


def warn_of_masks(rows: Sequence[Row], path: Path, mask_root: Path, max_pixels: int) -> None:
    """Warn of masks that separate nothing, by what the run that made them measured or else by a sample of them."""
    share, empty, full = math.nan, 0.0, 0.0
    if mask_root == path.parent:
        with suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):  # no such file, or another's
            measured = read_json(path.parent / "masks.json")
            empty, full = (len(measured[part]) / measured["images"] for part in ("empty", "full"))
            share = float(measured["foreground_share"])
    if math.isnan(share):
        order = np.random.default_rng(0).permutation(len(rows))[:MASKS_LOOKED_AT]
        paths = [mask_root / str(rows[i].image_seg_path) for i in order]
        shares = np.array([decode_mask(one, max_pixels).mean() for one in progress(paths, "looking at some masks")])
        share, empty, full = float(shares.mean()), float((shares == 0).mean()), float((shares == 1).mean())
    if warning := says_nothing(share, empty, full):
        warnings.warn(f"{path}: {warning}", stacklevel=2)


def check_masked_images(path: Path, listed: set[str], manifest: Path, expected: set[str], check: bool) -> None:
    """Compare a manifest with masks with the manifest: other images would silently make another split.

    Args:
        path: the manifest with masks, which lists the images `listed`.
        manifest: the manifest, which lists the images `expected`.
        check: raise ValueError where they differ; else warn.
    """
    lacking, others = sorted(expected - listed), sorted(listed - expected)
    if not lacking and not others:
        return
    found = f"{path} lacks {len(lacking)} images of {manifest} and lists {len(others)} others"
    if check:
        raise ValueError(
            f"{found} (first: {(lacking + others)[0]}): {MASKS_AGAIN}; if it leaves out "
            "images that cannot be decoded, set datamodule.on_bad_image=skip here too; manifest.check=false uses "
            "it as it is"
        )
    warnings.warn(f"{found}: its images are used", stacklevel=2)


def with_contexts(rows: Sequence[Row], path: Path) -> tuple[list[Row], list[str]]:
    """Rows whose domains are 0 to C - 1, and the contexts' names by these.

    A context's name is the row's domain_name; in a manifest without these the folder above the class folder, as the
    challenge lays it out, or the id itself where that folder is not one context's alone.

    Raises:
        ValueError: a row of the manifest `path` has no context's id.
    """
    folders: dict[int, set[str]] = {}
    domains: list[int] = []
    for i, row in enumerate(rows):
        if not isinstance(row.domain, int):
            raise ValueError(
                f"entry {i} of {path} ({row.image_path}) has the domain {row.domain!r}: expected a context's id"
            )
        parts = row.image_path.rsplit("/", 3)
        folders.setdefault(row.domain, set()).add(row.domain_name or (parts[-3] if len(parts) > 2 else ""))
        domains.append(row.domain)
    ids = sorted(folders)
    counts = Counter(name for names in folders.values() for name in names)
    alone = [next(iter(folders[i])) if len(folders[i]) == 1 else "" for i in ids]
    names = [name if name and counts[name] == 1 else str(i) for name, i in zip(alone, ids, strict=True)]
    if ids == list(range(len(ids))):
        return list(rows), names
    index = {domain: i for i, domain in enumerate(ids)}  # ids may have gaps, as years have
    return [row._replace(domain=index[domain]) for row, domain in zip(rows, domains, strict=True)], names
