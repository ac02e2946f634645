"""Manifests: from a tree of images to JSON lists, splits of them, and the checks both need.

A manifest is a JSON list with one object an image (method.md, section 1):

    training    image_path, label, label_name, domain (track 1), image_seg_path and image_name (with masks)
    test        image_path, image_name, and where truth is known label and domain

`image_path` is relative to the data root. Everything here is a pure function of files and arguments.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from src.files import read_json, write_text
from src.progress import progress

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
NO_DOMAIN = -1
"""Domain id of an image whose context is not known."""


class Row(NamedTuple):
    """One image of a manifest. Optional keys that a manifest lacks are None."""

    image_path: str
    label: int | None = None
    label_name: str | None = None
    domain: int | str | None = None
    image_name: str | None = None
    image_seg_path: str | None = None

    @property
    def name(self) -> str:
        """The image's file name, the key of prediction.json."""
        return self.image_name or Path(self.image_path).name


class Sample(NamedTuple):
    """A batch (or, with tensors instead of N-stacks of them, one image).

    Shapes: image (N, H, W, 3) uint8 on the way to the device and (N, 3, H, W) float32 in [0, 1] in a
    module's steps, (N, 2, ...) where a transform makes two views; label and domain (N,) int64, -1 where
    unknown; position (N,) int64, the image's place in its dataset; mask (N, H, W) bool, True on the
    foreground, or None where there are no masks; readable (N,) bool, False where the file could not be decoded and
    the image is black, or None where all could.
    """

    image: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor | None = None
    readable: torch.Tensor | None = None


class Layout(NamedTuple):
    """Where a track's images lie under the data root, and how (conf/track/*.yaml)."""

    id: int
    train_dir: str
    test_dir: str
    label_map: str
    has_contexts: bool

    @property
    def expected(self) -> str:
        return f"{self.train_dir}/{'<context>/' if self.has_contexts else ''}<class>/<image>"


class Split(NamedTuple):
    """Places in the list of training rows, sorted: the part to train on and the held-out parts."""

    train: list[int]
    in_domain: list[int]
    out_of_domain: list[int]


HELD_OUT = ("in_domain", "out_of_domain")
"""Names of the held-out parts, in the order of the validation data loaders."""

SplitRule = Callable[[Sequence[Row], Sequence[str]], Split]


# --------------------------------------------------------------------------------------------- scanning


def scan_images(data_root: Path, folder: str, depth: int, title: str) -> list[tuple[str, ...]]:
    """Find the images `depth` folders below data_root/folder.

    Returns:
        Sorted tuples of path parts below `folder`, the file name last. Files with another extension or in
        another depth are no images of this tree and are left alone.

    Raises:
        ValueError: a link in the tree leads out of the data root.
    """
    top, root = str(data_root / folder), os.path.realpath(data_root)
    refuse_outside(top, root)
    folders: list[tuple[str, ...]] = [()]
    for _ in range(depth):
        folders = sorted(
            (*parts, entry.name) for parts in folders for entry in entries_of((top, *parts), root) if entry.is_dir()
        )
    return sorted(
        (*parts, entry.name)
        for parts in progress(folders, f"scanning {title}")
        for entry in entries_of((top, *parts), root)
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS
    )


def scan_folder(folder: Path) -> list[str]:
    """Paths, relative to any folder, of the images in it and below, sorted; hidden files are left alone.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it, or a link that leads out of it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    root, top = os.path.realpath(folder), str(folder)
    folders, found = [top], []
    while folders:
        for entry in entries_of((folders.pop(),), root):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_file() and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append(os.path.relpath(entry.path, top))
    if not found:
        raise ValueError(
            f"no image found in {folder} or below: expected files with an extension of {' '.join(sorted(EXTENSIONS))}"
        )
    return sorted(found)


def entries_of(parts: tuple[str, ...], root: str) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, hidden files left out and links that leave `root` refused."""
    with os.scandir(os.path.join(*parts)) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                if entry.is_symlink():
                    refuse_outside(entry.path, root)
                yield entry


def refuse_outside(path: str, root: str) -> None:
    """Raise ValueError where `path`, links followed, is not below `root` (a real path)."""
    real = os.path.realpath(path)
    if real != root and not real.startswith(root + os.sep):
        raise ValueError(
            f"{path} leads out of the data root {root} (to {real}): "
            "move the images below the data root, or set data_root to the folder that holds them"
        )


def scan_train(data_root: Path, layout: Layout) -> tuple[list[Row], dict[str, int]]:
    """Build a track's training rows and label map from its tree.

    The label map is read from `layout.label_map` where that file exists, and made from the sorted class
    folders where it does not. A context's id is its place in the sorted list of context folders.

    Raises:
        FileNotFoundError, ValueError: the tree has another layout, or the label map does not fit it.
    """
    top = data_root / layout.train_dir
    check_layout(data_root, top, f"track {layout.id} expects {layout.expected}")
    images = scan_images(data_root, layout.train_dir, 1 + layout.has_contexts, f"track {layout.id} training images")
    if not images:
        raise ValueError(
            f"no image found for track {layout.id}: expected {data_root}/{layout.expected} "
            f"with an extension of {' '.join(sorted(EXTENSIONS))}, found {listing(top)} in {top}"
        )
    warn_empty_classes(top, images, layout)
    map_path = data_root / layout.label_map
    class_names = sorted({parts[-2] for parts in images})
    labels = read_label_map(map_path) if map_path.exists() else {name: i for i, name in enumerate(class_names)}
    missing = [name for name in class_names if name not in labels]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"the label map {map_path} lacks the class {missing[0]!r}{more} of {top}: "
            "add it, or delete the file to have one made from the class folders"
        )
    contexts = sorted({parts[0] for parts in images}) if layout.has_contexts else []
    domain = {name: i for i, name in enumerate(contexts)}
    rows = [
        Row(
            image_path="/".join((layout.train_dir, *parts)),
            label=labels[parts[-2]],
            label_name=parts[-2],
            domain=domain[parts[0]] if layout.has_contexts else None,
        )
        for parts in images
    ]
    return rows, labels


def scan_test(data_root: Path, layout: Layout) -> list[Row]:
    """Build a track's test rows from its flat folder.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no image in it.
    """
    top = data_root / layout.test_dir
    check_layout(data_root, top, f"track {layout.id} expects its test images in {layout.test_dir}")
    names = scan_images(data_root, layout.test_dir, 0, f"track {layout.id} test images")
    if not names:
        raise ValueError(f"no test image found in {top}: found {listing(top)}")
    return [Row(image_path=f"{layout.test_dir}/{name}", image_name=name) for (name,) in names]


def check_layout(data_root: Path, top: Path, expected: str) -> None:
    """Raise FileNotFoundError where the data root, or the folder `top` in it, does not exist."""
    if not data_root.is_dir():
        raise FileNotFoundError(
            f"the data root {data_root} does not exist: put the data set there or set data_root=<folder>; {expected}"
        )
    if not top.is_dir():
        raise FileNotFoundError(f"the data root {data_root} has another layout: {expected}, found {listing(data_root)}")


def listing(folder: Path) -> str:
    """The first names in a folder, for an error's text."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def warn_empty_classes(train_top: Path, images: Sequence[tuple[str, ...]], layout: Layout) -> None:
    """Warn for each class folder without an image."""
    filled = {parts[:-1] for parts in images}
    for path in sorted(train_top.glob("*/*" if layout.has_contexts else "*")):
        if path.is_dir() and path.relative_to(train_top).parts not in filled:
            warnings.warn(f"the class folder {path} holds no image", stacklevel=2)


# ------------------------------------------------------------------------------------- reading, writing


def read_label_map(path: Path) -> dict[str, int]:
    """Read {class name: id}.

    Raises:
        ValueError: not such an object, or two names share an id.
    """
    labels = read_json(path)
    if not isinstance(labels, dict) or not all(type(i) is int and i >= 0 for i in labels.values()):
        raise ValueError(f"the label map {path} is no JSON object of class names and ids >= 0")
    names: dict[int, str] = {}
    for name, i in labels.items():
        if i in names:
            raise ValueError(f"the label map {path} gives the id {i} to two classes, {names[i]!r} and {name!r}")
        names[i] = name
    return labels


def labels_of(rows: Sequence[Row]) -> dict[str, int]:
    """The label map that a training manifest implies, from its label_name and label."""
    labels = {row.label_name: row.label for row in rows if row.label_name is not None and row.label is not None}
    return {str(name): labels[name] for name in sorted(labels)}


def read_manifest(path: Path) -> list[Row]:
    """Read a manifest and check every entry; keys that are not a Row's are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: broken JSON, an entry without image_path or of another type, or a path that is absolute
            or climbs with `..`.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is no manifest: expected a JSON list with one object an image")
    rows = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str):
            raise ValueError(f"entry {i} of {path} has no image_path")
        row = Row._make(entry.get(key) for key in Row._fields)
        if row.label is not None and (type(row.label) is not int or row.label < 0):
            raise ValueError(f"entry {i} of {path} has the label {row.label!r}: expected an id >= 0")
        check_relative(row.image_path, path, i)
        if row.image_seg_path is not None:
            check_relative(row.image_seg_path, path, i)
        rows.append(row)
    return rows


def check_relative(image_path: str, manifest: Path, entry: int) -> None:
    """Raise ValueError for a path that could leave the root it is relative to."""
    if os.path.isabs(image_path) or ".." in image_path.split("/") or "\\" in image_path or "\0" in image_path:
        raise ValueError(
            f"entry {entry} of {manifest} has the path {image_path!r}: "
            "paths must be relative to the data root, without .."
        )


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a manifest, without the keys that are None."""
    keys = Row._fields
    entries = [{key: value for key, value in zip(keys, row, strict=True) if value is not None} for row in rows]
    write_text(path, "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n")


def check_links(data_root: Path, paths: Sequence[str]) -> None:
    """Raise ValueError where a manifest's path reaches out of `data_root` through a link."""
    root = os.path.realpath(data_root)
    for folder in sorted({os.path.dirname(path) for path in paths}):
        refuse_outside(os.path.join(data_root, folder), root)
    for path in paths:  # one lstat an image; the folders above were followed once each
        full = os.path.join(data_root, path)
        if os.path.islink(full):
            refuse_outside(full, root)


def check_against_tree(path: Path, rows: Sequence[Row], scanned: Sequence[Row]) -> None:
    """Raise ValueError where a manifest and its tree no longer list the same images."""
    listed, present = {row.image_path for row in rows}, {row.image_path for row in scanned}
    gone, new = sorted(listed - present), sorted(present - listed)
    if gone or new:
        parts = [f"{len(gone)} of its images are gone (first: {gone[0]})"] if gone else []
        parts += [f"{len(new)} images are not in it (first: {new[0]})"] if new else []
        raise ValueError(
            f"{path} no longer matches its tree: {' and '.join(parts)}; "
            "manifest.rebuild=true writes it anew, manifest.check=false uses it as it is"
        )


# ----------------------------------------------------------------------------------------------- splits


def groups_of(rows: Sequence[Row]) -> list[list[int]]:
    """Places of the rows of each (label, domain), sorted by label, domain, then path."""
    groups: dict[tuple[int, str], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: rows[i].image_path):
        label, domain = rows[i].label, rows[i].domain
        groups.setdefault((NO_DOMAIN if label is None else label, str(domain)), []).append(i)
    return [groups[key] for key in sorted(groups)]


def stratified(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Hold out `fraction` of the rows, the same share of every (label, domain) group as far as counts allow.

    A group keeps at least one training row. The result depends on the paths and the seed alone, not on the
    rows' order; what rounding takes from one group it gives to the next, so that the total is exact.

    Returns:
        (train, held out): sorted places in `rows`.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split.fraction is {fraction}: expected a share in (0, 1); split=none holds nothing out")
    rng = np.random.default_rng(seed)
    held: list[int] = []
    seen = 0
    for group in groups_of(rows):
        seen += len(group)
        count = min(len(group) - 1, max(0, round(fraction * seen) - len(held)))
        held += [group[i] for i in rng.permutation(len(group))[:count]]
    held_set = set(held)
    return [i for i in range(len(rows)) if i not in held_set], sorted(held)


def holdout(rows: Sequence[Row], contexts: Sequence[str], *, fraction: float, seed: int) -> Split:
    """Hold out a share of the training images, stratified by class and context (in-domain validation)."""
    train, held = stratified(rows, fraction, seed)
    return Split(train, held, [])


def leave_context_out(
    rows: Sequence[Row], names: Sequence[str], *, contexts: Sequence[str], fraction: float, seed: int
) -> Split:
    """Hold out whole contexts (out-of-domain) and a stratified share of the others (in-domain).

    Args:
        rows: training rows; `domain` is a place in `names`.
        names: the contexts' names, in the order of their ids.
        contexts: names of the contexts to leave out.

    Raises:
        ValueError: no context given, an unknown one, all of them, or a track without contexts.
    """
    if not names:
        raise ValueError(
            "split=leave_context_out needs images with contexts, which this track has not: use split=holdout"
        )
    contexts = [spelled(context, names) for context in ([contexts] if isinstance(contexts, str) else contexts)]
    unknown = [name for name in contexts if name not in names]
    if unknown or not contexts or len(set(contexts)) >= len(names):
        raise ValueError(
            f"split.contexts is {list(contexts)}: name one or more, not all, of the contexts {', '.join(names)}"
        )
    left_out = {names.index(name) for name in contexts}
    out = [i for i, row in enumerate(rows) if row.domain in left_out]
    rest = [i for i, row in enumerate(rows) if row.domain not in left_out]
    train, held = stratified([rows[i] for i in rest], fraction, seed)
    return Split([rest[i] for i in train], [rest[i] for i in held], out)


def spelled(context: object, names: Sequence[str]) -> str:
    """A context as its folder spells it: a yaml file reads 2016, 0.5 and true as a number or a truth value."""
    for name in [] if isinstance(context, str) else names:
        with suppress(ValueError):
            if name.lower() == str(context).lower() or (type(context) is not bool and float(name) == context):
                return name
    return str(context)


def no_split(rows: Sequence[Row], contexts: Sequence[str]) -> Split:
    """Train on everything: for a final run, whose accuracy nobody can know from these images."""
    return Split(list(range(len(rows))), [], [])
