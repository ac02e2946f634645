"""A CSV that lists images: path, label[, context][, split]."""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.manifest import UNREADABLE, cleaned, path_fault, shown
from src.data.tree import CONVERT, EXTENSIONS

PARTS = {
    "train": ("train", "training", "tr", "trainset", "traindata"),
    "val": ("val", "valid", "validation", "dev", "valset", "valdata"),
    "test": ("test", "testing", "eval", "evaluation", "testset", "testdata"),
}
"""Words for the parts, of folders and in a table."""
COLUMNS = ("path", "label", "context", "split")
SEPARATORS = (",", ";", "\t")


class Line(NamedTuple):
    """One image of a table."""

    path: str
    label: str | None
    context: str | None
    part: str


def separator_of(header: str) -> str:
    """What separates the columns of a table: what makes path and label of the first line, or the most frequent."""
    ours = [mark for mark in SEPARATORS if set(COLUMNS[:2]) <= set(names_in(header, mark))]
    return ours[0] if ours else max(SEPARATORS, key=header.count)


def names_in(header: str, separator: str) -> list[str]:
    """The names of the columns, in small letters."""
    return [name.strip().casefold() for name in next(csv.reader([header], delimiter=separator), [])]


def columns_of(path: Path) -> set[str]:
    """The columns of a CSV that are ours, by its first line; none of a file that cannot be read."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:  # read_table says what is wrong
            header = file.readline(10_000)
    except (OSError, ValueError):
        return set()
    return set(names_in(header, separator_of(header)))


def read_table(path: Path) -> list[Line]:
    """The images of a CSV, whose paths are relative to its folder.

    The separator is a comma, a semicolon or a tab; the names of the columns are read without regard to case. A row
    without `split` is a training image.

    Raises:
        FileNotFoundError: no such file, or images are missing.
        ValueError: columns are missing, or a row is not an image's.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as such") from error
    except OSError as error:
        raise FileNotFoundError(f"the table {path} cannot be read ({error.strerror})") from error
    first = (text.splitlines() or [""])[0]
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(first), strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path} is not a CSV of images ({error or 'it is empty'}): expected the columns path, label"
                         "[, context][, split]") from error  # fmt: skip
    names = [name.strip().casefold() for name in header]
    lacking = [name for name in COLUMNS[:2] if name not in names]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if lacking or twice:
        what = f"no column {lacking[0]!r}" if lacking else f"two columns {twice[0]!r}"
        raise ValueError(
            f"{path} has {what}: expected path, label[, context][, split], found {', '.join(header) or 'nothing'}"
        )
    index = {name: names.index(name) for name in COLUMNS if name in names}
    lines = [
        line_of(path, number, row, index, len(header)) for number, row in enumerate(rows, 2) if any(map(str.strip, row))
    ]
    check_listed(path, lines)
    return lines


def check_listed(path: Path, lines: Sequence[Line]) -> None:
    """Raise ValueError or FileNotFoundError for the lines of the table `path` that are no images, and for none."""
    missing = [line.path for line in lines if not os.path.isfile(path.parent / line.path)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(lines)} images of {path} are missing (first: {path.parent / missing[0]}): "
            "paths are relative to the table's folder"
        )
    if not lines:
        raise ValueError(f"{path} lists no image")
    other = [line.path for line in lines if posixpath.splitext(line.path)[1].lower() not in EXTENSIONS]
    if other:
        raise ValueError(
            f"{len(other)} of the {len(lines)} files of {path} have no image's extension (first: {other[0]}): "
            f"expected {' '.join(sorted(EXTENSIONS))}"
            + ("; convert such images to JPEG or PNG" if posixpath.splitext(other[0])[1].lower() in CONVERT else "")
        )
    first: dict[str, Line] = {}
    twice = [(first[line.path], line) for line in lines if first.setdefault(line.path, line) is not line]
    if twice:
        a, b = max(twice, key=lambda pair: pair[0] != pair[1])  # one that says two things comes first
        said = [f"{name} {x!r} and {y!r}" for name, x, y in zip(COLUMNS, a, b, strict=True) if x != y]
        raise ValueError(
            f"{path} lists {len({line.path for _, line in twice})} image(s) more than once (first: {a.path}"
            f"{', with ' + ', '.join(said) if said else ''}): keep one row of each"
        )


def line_of(path: Path, number: int, row: list[str], index: dict[str, int], columns: int) -> Line:
    """One row of a table as an image, where the first row has so many columns.

    Raises:
        ValueError: it is not one.
    """
    where = f"line {number} of {path}"
    if len(row) <= max(index.values()):
        raise ValueError(f"{where} has {len(row)} columns: the first line asks for at least {max(index.values()) + 1}")
    if any(map(str.strip, row[columns:])):
        raise ValueError(
            f"{where} has {len(row)} columns and the first line {columns}: put a text that holds the separator in "
            'quotes ("..."), or take the rest away'
        )
    values = {name: row[i].strip() for name, i in index.items()}
    for name in ("label", "context"):
        if UNREADABLE.search(values.get(name, "")):
            raise ValueError(
                f"{where} has the {name} {shown(values[name])}, which holds a control character: remove it"
            )
    image = cleaned(values["path"])
    if path_fault(image) is not None:
        raise ValueError(f"{where} has the path {shown(values['path'])}: {path_fault(image)}")
    word = values.get("split", "").casefold() or "train"
    part = next((part for part, words in PARTS.items() if word in words), None)
    if part is None:
        raise ValueError(f"{where} has the split {values['split']!r}: expected train, val or test, or nothing")
    label = values["label"] or None
    if label is None and part != "test":
        raise ValueError(f"{where} ({image}) has no label, and only test images may lack it")
    context = values.get("context") or None
    if context is None and "context" in index and part != "test":
        raise ValueError(f"{where} ({image}) has no context: fill the column in, or leave it out")
    return Line(image, label, context, part)
