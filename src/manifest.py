"""Manifests: from a tree of images to JSON lists, splits of them, and the checks both need.

A manifest is a JSON list with one object an image (method.md, section 1):

    training    image_path, label, label_name, domain (track 1), image_seg_path and image_name (with masks)
    test        image_path, image_name, and where truth is known label and domain

`image_path` is relative to the data root. Everything here is a pure function of files and arguments.
"""

from __future__ import annotations

import difflib
import json
import os
import posixpath
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from src.files import read_json, write_text
from src.progress import progress
from src.tree import EXTENSIONS, LAYOUTS, LINKED, THUMBNAILS, LeftOut, images_below, look_into, refuse_outside

NO_DOMAIN = -1
"""Domain id of an image whose context is not known."""
LAST_ID = 2**63 - 1
"""Greatest id of a class or context: more do not fit in an int64 tensor."""


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
    """Find the images `depth` folders below data_root/folder; one warning says what else lies there.

    Returns:
        Sorted tuples of path parts below `folder`, the file name last. Files with another extension or in
        another depth are no images of this tree.

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
    does not: in the order of their names, or as numbers where all of them are. A context's id is its place in the
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


def spelled_in(labels: Mapping[str, int], name: str) -> str:
    """How a label map spells a name: letters with accents can be one character or two (NFC, NFD)."""
    if name in labels or name.isascii():
        return name
    same = [one for one in labels if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", name)]
    return same[0] if len(same) == 1 else name


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


UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What a name must not hold: control characters, ends of lines, and what Python makes of bytes that are no UTF-8."""


def check_names(top: Path, images: Sequence[tuple[str, ...]], known: Mapping[str, int]) -> None:
    """Raise ValueError for names that could not be told apart, or not be written down.

    Args:
        top: where the images lie.
        images: path parts below it.
        known: the user's label map: classes that it names beside each other are meant.
    """
    for parts in images:
        for name in parts:
            if not name.isprintable() and UNREADABLE.search(name):
                raise ValueError(
                    f"the name {shown(name)} in {shown(str(Path(top, *parts).parent))} holds a control character or "
                    "bytes that are no UTF-8: rename it"
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


def shown(name: str) -> str:
    """A name that may hold anything, as every terminal can show it."""
    return repr(os.fsencode(name).decode("utf-8", "backslashreplace") if UNREADABLE.search(name) else name)


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


def labels_of(rows: Sequence[Row], path: Path) -> dict[str, int]:
    """The label map that the rows of the training manifest `path` imply, by id; a class without a name is its id.

    Raises:
        ValueError: a class has two ids, or an id two classes.
    """
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    unnamed: set[int] = set()
    for i, row in enumerate(rows):
        if row.label is None:
            continue
        if row.label_name is None:
            unnamed.add(row.label)
        elif ids.setdefault(row.label_name, row.label) != row.label:
            raise ValueError(
                f"entry {i} of {path} gives {row.label_name!r} the label {row.label}, an entry before it "
                f"{ids[row.label_name]}: correct one of them (manifest.rebuild=true writes the manifest anew)"
            )
        elif names.setdefault(row.label, row.label_name) != row.label_name:
            raise ValueError(
                f"entry {i} of {path} gives the label {row.label} to {row.label_name!r}, an entry before it to "
                f"{names[row.label]!r}: correct one of them (manifest.rebuild=true writes the manifest anew)"
            )
    for label in unnamed - names.keys():
        names[label] = str(label) if str(label) not in ids else f"class {label}"
    return {names[label]: label for label in sorted(names)}


REBUILD = "manifest.rebuild=true writes the manifest again from the images"
"""What mends a manifest of the training or test images."""


def read_manifest(path: Path, mend: str = REBUILD) -> list[Row]:
    """Read a manifest and check every entry; keys that are not a Row's are ignored.

    Args:
        path: the file.
        mend: what to do, other than by hand, about images that are listed twice; "" where there is nothing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: broken JSON; an entry without image_path or of another type; a path that is absolute or climbs
            with `..`; an image that is listed twice.
    """
    return rows_from(read_json(path), path, mend)


def rows_from(entries: Any, path: Path, mend: str) -> list[Row]:
    """The rows of a manifest's JSON; `path` is where it was read, `mend` as in read_manifest.

    Raises:
        ValueError: see read_manifest.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{path} is no manifest: expected a JSON list with one object an image")
    rows: list[Row] = []
    first: dict[str, int] = {}
    twice: list[tuple[int, int]] = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str):
            raise ValueError(f"entry {i} of {path} has no image_path")
        row = Row._make(map(entry.get, Row._fields))
        image, mask = cleaned(row.image_path), row.image_seg_path
        if image is not row.image_path or type(mask) is str:
            row = row._replace(image_path=image, image_seg_path=cleaned(mask) if type(mask) is str else mask)
        if not well_formed(row):
            raise ValueError(f"entry {i} of {path} {fault_of(row)}")
        before = first.setdefault(image, i)
        if before != i:
            twice.append((before, i))
        rows.append(row)
    if twice:
        raise ValueError(listed_twice(path, rows, twice, mend))
    return rows


def cleaned(path: str) -> str:
    """A manifest's path as the scan spells it: without `.` folders and empty ones; itself where nothing changes."""
    return posixpath.normpath(path) if path[-1:] == "/" or "//" in path or "/." in path or path[:1] == "." else path


def well_formed(row: Row) -> bool:
    """Whether a row's values are what they should be, in one look; `fault_of` says what is wrong."""
    label, domain, path = row.label, row.domain, row.image_path
    return (
        (label is None or (type(label) is int and 0 <= label <= LAST_ID))
        and (domain is None or type(domain) is str or (type(domain) is int and 0 <= domain <= LAST_ID))
        and (row.label_name is None or type(row.label_name) is str)
        and (row.image_name is None or type(row.image_name) is str)
        and path_fault(path) is None
        and (row.image_seg_path is None or (type(row.image_seg_path) is str and path_fault(row.image_seg_path) is None))
    )


def fault_of(row: Row) -> str:
    """What is wrong with a row that is not well formed, as the end of a sentence."""
    for key, kind in (("label", "an id"), ("domain", "an id or a name")):
        value = getattr(row, key)
        if value is None or (key == "domain" and type(value) is str):
            continue
        if type(value) is not int or not 0 <= value <= LAST_ID:
            text = repr(value) if len(repr(value)) < 60 else repr(value)[:50] + "..."
            return f"has the {key} {text}: expected {kind} (ids are whole numbers from 0 on)"
    for key in ("label_name", "image_name"):
        if getattr(row, key) is not None and type(getattr(row, key)) is not str:
            return f"has the {key} {getattr(row, key)!r:.60}: expected a text"
    for path in (row.image_path, row.image_seg_path):
        if path is not None and type(path) is not str:
            return f"has the image_seg_path {path!r:.60}: expected a path"
        if path is not None and path_fault(path) is not None:
            return f"has the path {shown(path)}: {path_fault(path)}"
    raise AssertionError(row)


def path_fault(path: str) -> str | None:
    """What is wrong with a manifest's path, one that could leave the root that it is relative to among them."""
    if path[:1] == "/" or os.path.isabs(path) or path in ("", "."):
        return "paths must be relative to the data root, without .."
    if ".." in path and ".." in re.split(r"[/\\]", path):
        return "paths must be relative to the data root, without .."
    if os.sep == "\\" and "\\" in path:
        return "paths must be relative to the data root, with / between folders"
    if not path.isprintable() and UNREADABLE.search(path):
        return "paths must be relative to the data root, without control characters or what is no Unicode"
    return None


def listed_twice(path: Path, rows: Sequence[Row], twice: Sequence[tuple[int, int]], mend: str) -> str:
    """What to say of images that a manifest lists more than once; one under two labels or contexts comes first."""
    order = ("label", "label_name", "domain", "image_seg_path", "image_name")

    def differing(pair: tuple[int, int]) -> list[str]:
        return [key for key in order if getattr(rows[pair[0]], key) != getattr(rows[pair[1]], key)]

    before, after = min(twice, key=lambda pair: not differing(pair))
    keys = differing((before, after))
    values = [getattr(rows[place], keys[0]) for place in (before, after)] if keys else []
    how = f" with the {keys[0]} {values[0]!r} and then {values[1]!r}" if keys else ""
    return (
        f"{path} lists {len({rows[i].image_path for _, i in twice})} image(s) more than once (first: "
        f"{rows[before].image_path}, entries {before} and {after}{how}), which would count more than once: keep one "
        f"entry of each{f' ({mend})' if mend else ''}"
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
        known = any(row.label is not None for row in rows) and not any(row.label is not None for row in scanned)
        # Images that are gone cannot be used as they are.
        other = "" if gone else ", manifest.check=false uses it as it is"
        raise ValueError(
            f"{path} no longer matches its tree: {' and '.join(parts)}; "
            f"manifest.rebuild=true writes it anew{' (without its labels)' if known else ''}{other}"
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
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    contexts: Sequence[Any] | str | float | None,
    fraction: float,
    seed: int,
) -> Split:
    """Hold out whole contexts (out-of-domain) and a stratified share of the others (in-domain).

    Args:
        rows: training rows; `domain` is a place in `names`.
        names: the contexts' names, in the order of their ids.
        contexts: names of the contexts to leave out; a single one need not stand in a list, and a number or boolean
            (as yaml reads a name like 2016 or true) is the context of that name.

    Raises:
        ValueError: no context given, an unknown one, all of them, or a track without contexts.
    """
    if not names:
        raise ValueError(
            "split=leave_context_out needs images with contexts, which this track has not: use split=holdout"
        )
    wanted = [contexts] if isinstance(contexts, str | int | float) else list(contexts or [])
    found = [context_meant(word, names) for word in wanted]
    if None in found or not found or len(set(found)) >= len(names):
        raise ValueError(f"split.contexts is {wanted}: name one or more, not all, of the contexts {', '.join(names)}")
    left_out = {names.index(name) for name in found if name is not None}
    out = [i for i, row in enumerate(rows) if row.domain in left_out]
    rest = [i for i, row in enumerate(rows) if row.domain not in left_out]
    train, held = stratified([rows[i] for i in rest], fraction, seed)
    return Split([rest[i] for i in train], [rest[i] for i in held], out)


def context_meant(word: Any, names: Sequence[str]) -> str | None:
    """The context that a setting's value means: its name, or the one name that reads as its number; None without."""
    if str(word) in names:
        return str(word)
    if isinstance(word, str):
        same = [name for name in names if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", word)]
    elif isinstance(word, bool):
        same = [name for name in names if name.casefold() == str(word).casefold()]
    else:
        same = [name for name in names if re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", name, re.I) and number(name) == word]
    return same[0] if len(same) == 1 else None


def number(word: str) -> float | None:
    """A word's value as a number, None where it has none."""
    try:
        return float(word)
    except ValueError:
        return None


def no_split(rows: Sequence[Row], contexts: Sequence[str]) -> Split:
    """Train on everything: for a final run, whose accuracy nobody can know from these images."""
    return Split(list(range(len(rows))), [], [])
