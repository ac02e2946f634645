"""From a tree of images, or a table of them, to the rows of a manifest."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from src.data.layouts import Part, Sources
from src.data.manifest import UNREADABLE, Row, read_label_map, shown, spelled_in
from src.data.tables import Line
from src.data.tree import EXTENSIONS, LINKED, THUMBNAILS, LeftOut, images_below, listing, look_into, refuse_outside
from src.progress import progress


def scan_images(data_root: Path, part: Part, title: str, label_map: str | None = None) -> list[tuple[str, ...]]:
    """Find a part's images; one warning says what else lies in its folder, but for the label map.

    Returns:
        Sorted tuples of path parts below the part's folder, the file name last. Files with another extension or in
        another depth are not images of this tree.

    Raises:
        OSError: a folder cannot be read.
        ValueError: a link in the tree leads out of the data root.
    """
    top, root = os.path.normpath(data_root / part.folder), os.path.realpath(data_root)
    refuse_outside(top, root)
    left_out = LeftOut(top, used=str(data_root / label_map) if label_map else None)
    folders: list[tuple[str, ...]] = [()]
    its_place = f"{part.layout}/<image>".removeprefix("/")
    for _ in range(part.levels):
        found = [(parts, look_into(os.path.join(top, *parts), root, left_out)) for parts in folders]
        for parts, inside in found:
            for name in inside.images:
                left_out.add(f"image(s) not deep enough; expected {its_place}", os.path.join(top, *parts, name))
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
                if part.layout.endswith("/**"):
                    images.append(tuple(os.path.relpath(path, top).split(os.sep)))
                else:
                    left_out.add(f"image(s) too deep; expected {its_place}", path)
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                left_out.add("folder(s) named like an image", deeper)
    left_out.warn(title)
    return sorted(images)


def list_part(data_root: Path, part: Part, name: str, which: str, label_map: str | None) -> list[Line]:
    """The images of a part's folder, with the class and context that their folders tell.

    Args:
        data_root: the user's tree of images.
        part: where in it.
        name: the data set's.
        which: train, val or test.
        label_map: the user's, below the data root.

    Raises:
        FileNotFoundError, ValueError: the tree has another layout, or no image.
    """
    top = data_root / part.folder
    kind = {"train": "training", "val": "held-out", "test": "test"}[which]
    check_folder(data_root, top, f"{name} expects {part.expected}")
    images = scan_images(data_root, part, f"{name} {kind} images", label_map)
    if not images:
        raise ValueError(
            f"no {kind} image found for {name}: expected {data_root}/{part.expected} "
            f"with an extension of {' '.join(sorted(EXTENSIONS))}, found {listing(top)} in {top}"
        )
    levels = part.layout.split("/") if part.layout else []
    lines = []
    for parts in images:
        meant = dict(zip(levels, parts, strict=False))  # the file's name, and folders of **, mean nothing
        path = posixpath.join(*(word for word in (part.folder,) if word != "."), *parts)
        lines.append(Line(path, meant.get("<class>"), meant.get("<context>"), which))
    return lines


def scan_train(data_root: Path, sources: Sources, name: str) -> tuple[list[Row], dict[str, int]]:
    """Build a data set's training rows, those of its held-out folder among them, and its label map.

    The label map is read from `sources.label_map` where that file exists, and made from the classes where it does
    not: in the order of their names, numerically if all are numbers. A context's id is its index in the sorted list of
    contexts.

    Raises:
        FileNotFoundError, ValueError: the tree has another layout, or the label map does not fit it.
    """
    map_name = sources.label_map
    map_path = data_root / map_name if map_name else None
    known = read_label_map(map_path) if map_path and map_path.exists() else None
    if sources.table:
        top = data_root / sources.table
        lines = [line for line in sources.lines if line.part != "test"]
        if not any(line.part == "train" for line in lines):
            raise ValueError(f"{top} lists no training image: its column split names none as train")
        check_names(top, table_names(lines), known or {}, 2)
    else:
        assert sources.train is not None
        top = data_root / sources.train.folder
        parts = [(which, part) for which, part in (("train", sources.train), ("val", sources.val)) if part]
        lines = [line for which, part in parts for line in list_part(data_root, part, name, which, map_name)]
        for _, part in parts:
            check_names(data_root / part.folder, inside(lines, part), known or {}, part.levels)
        if sources.val:  # Car in one and car in the other are one class as well
            check_names(data_root, [(line.context or "", line.label or "", "") for line in lines], known or {}, 2)
        warn_empty_classes(top, inside(lines, sources.train), sources.train)
    class_names = sorted({str(line.label) for line in lines})
    labels = known if known is not None else {name: i for i, name in enumerate(in_order(class_names))}
    spelling = {name: spelled_in(labels, name) for name in class_names}
    missing = [name for name in class_names if spelling[name] not in labels]
    if missing:
        assert map_path is not None
        raise ValueError(lacks_classes(map_path, labels, missing, top))
    contexts = sorted({line.context for line in lines if line.context is not None})
    domain = {name: i for i, name in enumerate(contexts)}
    rows = [
        Row(
            image_path=line.path,
            label=labels[spelling[str(line.label)]],
            label_name=spelling[str(line.label)],
            domain=None if line.context is None else domain[line.context],
            # the folder above the class folder says it, as the challenge lays it out
            domain_name=None if line.path.split("/")[-3:-2] == [line.context] else line.context,
            split="val" if line.part == "val" else None,
        )
        for line in lines
    ]
    return rows, labels


def inside(lines: Sequence[Line], part: Part) -> list[tuple[str, ...]]:
    """The paths of lines below a part's folder, as parts."""
    prefix = "" if part.folder == "." else part.folder + "/"
    return [tuple(line.path.removeprefix(prefix).split("/")) for line in lines if line.path.startswith(prefix)]


def scan_test(data_root: Path, sources: Sources, name: str, labels: Callable[[], Mapping[str, int]]) -> list[Row]:
    """Build a data set's test rows: with truth where their folders or their table tell it.

    Args:
        data_root: the user's tree of images.
        sources: where they are.
        name: the data set's.
        labels: gives the label map of training, where there is truth.

    Raises:
        FileNotFoundError, ValueError: no such folder, no image in it, or one of a class that training does not have.
    """
    if sources.table:
        top = data_root / sources.table
        lines = [line for line in sources.lines if line.part == "test"]
        if not lines:
            raise ValueError(f"{top} lists no test image")
        paths = [tuple(line.path.split("/")) for line in lines]
        check_names(top, table_names(lines), {}, 2)
    else:
        assert sources.test is not None
        top = data_root / sources.test.folder
        lines = list_part(data_root, sources.test, name, "test", sources.label_map)
        paths = inside(lines, sources.test)
        check_names(top, paths, {}, sources.test.levels)
    ids = labels() if any(line.label is not None for line in lines) else {}
    spelling = {line.label: spelled_in(ids, line.label) for line in lines if line.label is not None}
    strange = sorted(given for given, spelled in spelling.items() if spelled not in ids)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ValueError(
            f"{top} has test images of the class {strange[0]!r}{more}, which training does not have "
            f"({', '.join(list(ids)[:5])}{', ...' if len(ids) > 5 else ''}): move them away, add training images, or "
            f"put the images straight into the test folder where that is no class"
        )
    short = {parts[-1] for parts in paths}  # names alone, where they tell the images apart
    return [
        Row(
            image_path=line.path,
            image_name=parts[-1] if len(short) == len(paths) else "/".join(parts),
            label=None if line.label is None else ids[spelling[line.label]],
            label_name=None if line.label is None else spelling[line.label],
            domain=line.context,
        )
        for line, parts in zip(lines, paths, strict=True)
    ]


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


def table_names(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """The names in a table's lines, as check_names takes them: context and label first."""
    return [(line.context or "", line.label or "", *line.path.split("/")) for line in lines]


def check_names(top: Path, images: Sequence[tuple[str, ...]], known: Mapping[str, int], levels: int) -> None:
    """Raise ValueError for names that could not be told apart, or not be written down.

    Args:
        top: where the images lie.
        images: path parts below it.
        known: the user's label map: classes that it names separately are meant.
        levels: of the first parts, which are names of classes and contexts.
    """
    for parts in images:
        for name in parts:
            if not name.isprintable() and UNREADABLE.search(name):
                raise ValueError(
                    f"the name {shown(name)} in {shown(str(Path(top, *parts).parent))} holds a control character or "
                    "bytes that are not UTF-8: rename it"
                )
    kind = "folders" if top.is_dir() else "names"
    for level in range(levels):
        twins: dict[str, str] = {}
        for name in sorted({parts[level] for parts in images}):
            other = twins.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
            if other != name and not (name in known and other in known):
                how = (
                    "their case" if name.isascii() and other.isascii() else "their case or accents (Unicode's NFC, NFD)"
                )
                raise ValueError(
                    f"the {kind} {other!r} ({other!a}) and {name!r} ({name!a}) in {top} differ only in "
                    f"{how}: rename one of them, or move the images of one into the other"
                )


def check_folder(data_root: Path, top: Path, expected: str) -> None:
    """Raise FileNotFoundError where the folder `top` in the data root does not exist."""
    if not top.is_dir():
        raise FileNotFoundError(f"the data root {data_root} has another layout: {expected}, found {listing(data_root)}")


def warn_empty_classes(train_top: Path, images: Sequence[tuple[str, ...]], part: Part) -> None:
    """Warn for each class folder without an image."""
    levels = part.levels
    filled = {parts[:levels] for parts in images}
    for path in sorted(train_top.glob("/".join("*" * levels))):
        parts = path.relative_to(train_top).parts
        known = not any(part.startswith(".") or part.lower() in THUMBNAILS for part in parts)
        if known and path.is_dir() and parts not in filled:
            warnings.warn(f"the class folder {path} holds no image", stacklevel=2)
