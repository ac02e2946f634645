"""Manifests: JSON lists of images, read, checked entry by entry, and written.

A manifest is a JSON list with one object per image (docs/method.md, section 1):

    training    image_path, label, label_name, domain and domain_name (with contexts), split ("val": always held out),
                image_seg_path and image_name (with masks)
    test        image_path, image_name, and where truth is known label, label_name and domain

`image_path` is relative to the data root.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.files import read_json, write_whole
from src.progress import progress

NO_DOMAIN = -1
"""Domain id of an image whose context is not known."""
REPEATED = ("label_name", "domain_name")
"""Keys with few different values, of which memory holds one each."""
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
    domain_name: str | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        """The image's file name, the key of prediction.json."""
        return self.image_name or self.image_path.rsplit("/", 1)[-1]


def spelled_in(labels: Mapping[str, int], name: str) -> str:
    """How a label map spells a name: letters with accents can be one character or two (NFC, NFD)."""
    if name in labels or name.isascii():
        return name
    same = [one for one in labels if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", name)]
    return same[0] if len(same) == 1 else name


UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What a name must not hold: control characters, ends of lines, and what Python makes of bytes that are not UTF-8."""


def shown(name: str) -> str:
    """A name that may hold anything, as every terminal can show it."""
    return repr(os.fsencode(name).decode("utf-8", "backslashreplace") if UNREADABLE.search(name) else name)


def read_label_map(path: Path) -> dict[str, int]:
    """Read {class name: id}.

    Raises:
        ValueError: not such an object, or two names share an id.
    """
    labels = read_json(path)
    if not isinstance(labels, dict) or not all(type(i) is int and i >= 0 for i in labels.values()):
        raise ValueError(f"the label map {path} is not a JSON object of class names and ids >= 0")
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
                f"entry {i} of {path} gives {row.label_name!r} the label {row.label}, an earlier one "
                f"{ids[row.label_name]}: correct one of them (manifest.rebuild=true rewrites the manifest)"
            )
        elif names.setdefault(row.label, row.label_name) != row.label_name:
            raise ValueError(
                f"entry {i} of {path} gives the label {row.label} to {row.label_name!r}, an earlier one to "
                f"{names[row.label]!r}: correct one of them (manifest.rebuild=true rewrites the manifest)"
            )
    for label in unnamed - names.keys():
        names[label] = str(label) if str(label) not in ids else f"class {label}"
    return {names[label]: label for label in sorted(names)}


REBUILD = "manifest.rebuild=true rewrites the manifest from the images"
"""What repairs a manifest of the training or test images."""


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

    The list's entries are taken out on the way, so that memory does not hold all of them beside their rows.

    Raises:
        ValueError: see read_manifest.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not a manifest: expected a JSON list with one object per image")
    rows: list[Row] = []
    first: dict[str, int] = {}
    twice: list[tuple[int, int]] = []
    for i, entry in enumerate(progress(entries, f"reading {path}")):
        entries[i] = None
        if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str):
            raise ValueError(f"entry {i} of {path} has no image_path")
        for key in REPEATED:
            if type(word := entry.get(key)) is str:
                entry[key] = sys.intern(word)
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
        and (row.domain_name is None or type(row.domain_name) is str)
        and row.split in (None, "val")
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
    if row.split not in (None, "val"):
        return f"has the split {row.split!r:.60}: expected val, or none"
    for key in ("label_name", "image_name", "domain_name"):
        if getattr(row, key) is not None and type(getattr(row, key)) is not str:
            return f"has the {key} {getattr(row, key)!r:.60}: expected a string"
    for path in (row.image_path, row.image_seg_path):
        if path is not None and type(path) is not str:
            return f"has the image_seg_path {path!r:.60}: expected a path"
        if path is not None and path_fault(path) is not None:
            return f"has the path {shown(path)}: {path_fault(path)}"
    raise AssertionError(row)


def path_fault(path: str) -> str | None:
    """What is wrong with a manifest's path, such as that it could leave the root that it is relative to."""
    if path[:1] == "/" or os.path.isabs(path) or path in ("", "."):
        return "paths must be relative to the data root, without .."
    if ".." in path and ".." in re.split(r"[/\\]", path):
        return "paths must be relative to the data root, without .."
    if os.sep == "\\" and "\\" in path:
        return "paths must be relative to the data root, with / between folders"
    if not path.isprintable() and UNREADABLE.search(path):
        return "paths must be relative to the data root, without control characters or invalid Unicode"
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
    keys, words = Row._fields, json.JSONEncoder(ensure_ascii=False).encode
    with write_whole(path) as file:  # line by line: all of them at once would be as large as the rows
        file.write(b"[\n")
        for i, row in enumerate(progress(rows, f"writing {path}")):
            entry = {key: value for key, value in zip(keys, row, strict=True) if value is not None}
            file.write((",\n" * (i > 0) + words(entry)).encode())
        file.write(b"\n]\n")
