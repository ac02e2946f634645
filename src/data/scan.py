"""From a tree of images to the rows of a manifest."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from src.data.manifest import UNREADABLE, Row, read_label_map, shown, spelled_in
from src.data.tree import EXTENSIONS, LAYOUTS, LINKED, THUMBNAILS, LeftOut, images_below, look_into, refuse_outside
from src.progress import progress


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


def scan_images(data_root: Path, folder: str, depth: int, title: str) -> list[tuple[str, ...]]:
    """Find the images `depth` folders below data_root/folder; one warning says what else lies there.

    Returns:
        Sorted tuples of path parts below `folder`, the file name last. Files with another extension or in
        another depth are not images of this tree.

    Raises:
        OSError: a folder cannot be read.
        ValueError: a link in the tree leads out of the data root.
    """
    top, root = str(data_root / folder), os.path.realpath(data_root)
    refuse_outside(top, root)
    left_out = LeftOut(top)
    folders: list[tuple[str, ...]] = [()]
    for _ in range(depth):
        found = [(parts, look_into(os.path.join(top, *parts), root, left_out)) for parts in folders]
        for parts, inside in found:
            for name in inside.images:
                left_out.add(f"image(s) above their place; it is {LAYOUTS[depth]}", os.path.join(top, *parts, name))
        folders = sorted((*parts, name) for parts, inside in found for name in inside.folders)
    images = []
    for parts in progress(folders, f"scanning {title}"):
        inside = look_into(os.path.join(top, *parts), root, left_out)
        images += [(*parts, name) for name in inside.images]
        for name in inside.folders:
            deeper = os.path.join(top, *parts, name)
            if os.path.islink(deeper):
                left_out.add(LINKED, deeper)
                continue
            for path in images_below(deeper, root, left_out):
                left_out.add(f"image(s) in deeper folders; their place is {LAYOUTS[depth]}", path)
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                left_out.add("folder(s) named like an image", deeper)
    left_out.warn(title)
    return sorted(images)


def scan_folder(folder: Path) -> list[str]:
    """Paths, relative to any folder, of the images in it and below, sorted; one warning says what else lies there.

    Raises:
        FileNotFoundError: no such folder.
        OSError: a folder cannot be read.
        ValueError: no image in it, or a link that leads out of it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    left_out = LeftOut(str(folder), "images")
    found = images_below(str(folder), os.path.realpath(folder), left_out)
    left_out.warn(f"images in {folder}")
    if not found:
        raise ValueError(
            f"no image found in {folder} or below: expected files with an extension of {' '.join(sorted(EXTENSIONS))}"
        )
    return sorted(os.path.relpath(path, folder) for path in found)


def scan_train(data_root: Path, layout: Layout) -> tuple[list[Row], dict[str, int]]:
    """Build a track's training rows and label map from its tree.

    The label map is read from `layout.label_map` where that file exists, and made from the class folders where it
    does not: in the order of their names, or as numbers where all of them are. A context's id is its index in the
    sorted list of context folders.

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
    known = read_label_map(map_path) if map_path.exists() else None
    check_names(top, images, known or {})
    labels = known if known is not None else {name: i for i, name in enumerate(in_order(class_names))}
    spelling = {name: spelled_in(labels, name) for name in class_names}
    missing = [name for name in class_names if spelling[name] not in labels]
    if missing:
        raise ValueError(lacks_classes(map_path, labels, missing, top))
    contexts = sorted({parts[0] for parts in images}) if layout.has_contexts else []
    domain = {name: i for i, name in enumerate(contexts)}
    rows = [
        Row(
            image_path="/".join((layout.train_dir, *parts)),
            label=labels[spelling[parts[-2]]],
            label_name=spelling[parts[-2]],
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
    check_names(top, names, {})
    return [Row(image_path=f"{layout.test_dir}/{name}", image_name=name) for (name,) in names]


def in_order(names: Sequence[str]) -> list[str]:
    """Names of classes in the order of their ids: by value (2 before 10) where all are numbers, else by letters."""
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def lacks_classes(map_path: Path, labels: Mapping[str, int], missing: Sequence[str], top: Path) -> str:
    """What to say of class folders that a user's label map does not name."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    close = difflib.get_close_matches(missing[0].casefold(), [name.casefold() for name in labels], 1, 0.8)
    similar = [name for name in labels if name.casefold() in close]
    hint = f" (it has {similar[0]!r})" if similar else ""
    return (
        f"the label map {map_path} lacks the class {missing[0]!r}{more} of {top}{hint}: add it with the next id, "
        f"{max(labels.values(), default=-1) + 1}, or remove the file to have one made from the class folders, "
        "and start with manifest.rebuild=true"
    )


def check_names(top: Path, images: Sequence[tuple[str, ...]], known: Mapping[str, int]) -> None:
    """Raise ValueError for names that could not be told apart, or not be written down.

    Args:
        top: where the images lie.
        images: path parts below it.
        known: the user's label map: classes that it names separately are meant.
    """
    for parts in images:
        for name in parts:
            if not name.isprintable() and UNREADABLE.search(name):
                raise ValueError(
                    f"the name {shown(name)} in {shown(str(Path(top, *parts).parent))} holds a control character or "
                    "bytes that are not UTF-8: rename it"
                )
    for level in range(max(map(len, images), default=1) - 1):
        twins: dict[str, str] = {}
        for name in sorted({parts[level] for parts in images}):
            other = twins.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
            if other != name and not (name in known and other in known):
                how = (
                    "their case" if name.isascii() and other.isascii() else "their case or accents (Unicode's NFC, NFD)"
                )
                raise ValueError(
                    f"the folders {other!r} ({other!a}) and {name!r} ({name!a}) in {top} differ in {how} "
                    "alone: rename one of them, or move the images of one into the other"
                )


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
        parts = path.relative_to(train_top).parts
        known = not any(part.startswith(".") or part.lower() in THUMBNAILS for part in parts)
        if known and path.is_dir() and parts not in filled:
            warnings.warn(f"the class folder {path} holds no image", stacklevel=2)
