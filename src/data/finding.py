"""Where a data set's images are: as its settings say; what these leave open is inferred from the folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.data.layouts import FLAT, LAYOUTS, Layout, Part, Sources
from src.data.manifest import read_label_map
from src.data.tables import PARTS, columns_of
from src.data.tree import EXTENSIONS, LeftOut, listing, look_into

DEEPEST = 6  # levels of folders that are looked at
MOSTLY = 0.9  # share of the images in one depth that makes it the tree's; a scan names the others


def find_sources(data_root: Path, layout: Layout) -> Sources:
    """Where a data set's images are: by its layout, and by the folders where that leaves something open.

    Raises:
        FileNotFoundError: no such data root.
        ValueError: its folders fit no layout, or several; the setting that decides is named.
    """
    layout.check()
    if not data_root.is_dir():
        raise FileNotFoundError(
            f"the data root {data_root} does not exist: put the data set there or set data_root=<folder>; "
            f"{layout.name} expects {expected_of(layout)}"
        )
    if layout.table is not None:
        return Sources(None, None, None, layout.label_map, layout.table)
    if not layout.is_found:
        assert layout.train_dir is not None and layout.layout is not None
        val = Part(layout.val_dir, layout.layout) if layout.val_dir else None
        # Flat, as the challenge's: a test folder with folders in it is looked into.
        test = test_part(data_root, layout.test_dir, layout.layout) if layout.test_dir else None
        return Sources(Part(layout.train_dir, layout.layout), val, test, layout.label_map)
    return found_sources(data_root, layout)


def expected_of(layout: Layout) -> str:
    """What a data set's settings expect below its data root, for messages."""
    if layout.table is not None:
        return f"the table {layout.table}"
    return Part(layout.train_dir or ".", layout.layout or "<class>").expected


def test_part(data_root: Path, folder: str, layout: str) -> Part:
    """The test images of a folder: in folders as those of training, or flat."""
    held = images_by_folder(data_root / folder) if (data_root / folder).is_dir() else {}
    depth = main_depth(held)
    return Part(folder, FLAT if depth in (None, 0) else layout)


def part_of(folder: str) -> str | None:
    """Which part a folder holds by its name: train, val or test, as one of its words; None for any other name."""
    words = set(re.split(r"[^a-z]+", folder.casefold()))
    found = [part for part, names in PARTS.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


Holders = Mapping[tuple[str, ...], int]
"""Folders that hold images, as path parts below one, with their numbers of images."""


def images_by_folder(top: Path) -> dict[tuple[str, ...], int]:
    """The folders that hold images, in `top` and below, with how many each."""
    root, ignored = os.path.realpath(top), LeftOut(str(top))
    found: dict[tuple[str, ...], int] = {}
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        try:
            inside = look_into(os.path.join(top, *parts), root, ignored)
        except ValueError:  # a link that leads out: the scan says so
            continue
        if inside.images:
            found[parts] = len(inside.images)
        if len(parts) < DEEPEST:
            waiting += [(*parts, name) for name in inside.folders]
    return dict(sorted(found.items()))


def below(held: Holders, *first: str) -> dict[tuple[str, ...], int]:
    """The part of it that lies in a folder, seen from there."""
    return {parts[len(first) :]: count for parts, count in held.items() if parts[: len(first)] == first}


def main_depth(held: Holders) -> int | None:
    """How many folders deep nearly all images lie; None without images, or if they lie at several depths."""
    depths: Counter[int] = Counter()
    for parts, count in held.items():
        depths[len(parts)] += count
    ranked = depths.most_common(1)
    return ranked[0][0] if ranked and ranked[0][1] >= MOSTLY * depths.total() else None


def found_sources(data_root: Path, layout: Layout) -> Sources:
    """The parts and their layout, as the folders of a data root tell them."""
    held, tables = images_by_folder(data_root), tables_in(data_root)
    if not held and not tables:
        raise ValueError(f"no image found in {data_root} or below: {looked_for()}; found {listing(data_root)}")
    if tables and len(held) < 2:  # one folder of images is no layout: it tells no classes
        if len(tables) > 1:
            raise ValueError(f"{data_root} holds several tables of images: choose one with track.table={tables[0]}")
        return Sources(None, None, None, layout.label_map, tables[0])
    folders, passed_over = part_folders(data_root, layout, held)
    inside = {which: below(held, *folder_parts(folder)) for which, folder in folders.items()}
    train = folders["train"]
    chosen = layout.layout or layout_of(data_root, train, inside["train"])
    if tables:
        raise ValueError(
            f"{data_root} holds images in folders ({Part(train, chosen).expected}) and a table of images: choose with "
            f"data={data_root / tables[0]} or track.layout='{chosen}' track.train_dir={train}"
        )
    if "val" in folders and main_depth(inside["val"]) != main_depth(inside["train"]):
        raise ValueError(
            f"the images of {data_root / folders['val']} are not laid out like those of {data_root / train} "
            f"({chosen}/<image>): use one layout for both, or move the folder away (split= then holds images out)"
        )
    level = class_level(chosen)
    classes = {parts[level] for parts in inside["train"] if len(parts) > level}
    return Sources(
        train=Part(train, chosen),
        val=Part(folders["val"], chosen) if "val" in folders else None,
        test=found_test(folders["test"], inside["test"], chosen, classes) if "test" in folders else None,
        label_map=layout.label_map or label_map_in(data_root, classes),
        passed_over=passed_over,
    )


def part_folders(data_root: Path, layout: Layout, held: Holders) -> tuple[dict[str, str], list[str]]:
    """The folders of the parts that there are, by settings or by their names; and folders with images of no part."""
    given = {"train": layout.train_dir, "val": layout.val_dir, "test": layout.test_dir}
    if layout.train_dir is not None:
        return {which: folder for which, folder in given.items() if folder}, []
    top, inner = unwrapped(held)
    named, passed_over = named_parts(data_root, top, inner)
    folders = {"train": "/".join(top) or "."} | named
    return folders | {which: folder for which, folder in given.items() if folder}, passed_over


def folder_parts(folder: str) -> tuple[str, ...]:
    """A folder below the data root as path parts."""
    return tuple(word for word in folder.split("/") if word not in ("", "."))


def class_level(layout: str) -> int:
    """The index of the class's folder among those of an image."""
    return layout.split("/").index("<class>")


def unwrapped(held: Holders) -> tuple[tuple[str, ...], Holders]:
    """The folder that everything lies in, such as the one that an archive brought along, and what it holds."""
    top: tuple[str, ...] = ()
    while True:
        first = {parts[:1] for parts in held}
        inside = below(held, *next(iter(first))) if len(first) == 1 else {}
        # The last folder is a class's, and one that is called train is a part.
        if len(inside) < 2 or () in inside or part_of(next(iter(first))[0]):
            return top, held
        top, held = (*top, *next(iter(first))), inside


def named_parts(data_root: Path, top: Sequence[str], held: Holders) -> tuple[dict[str, str], list[str]]:
    """The folders train, val and test, where the first level of folders is that of the parts; and the others there.

    A class may be called train: a single such name among others is a class, or a context.

    Raises:
        ValueError: two folders of one part, no training images, or as many folders of other names.
    """
    first = sorted({parts[0] for parts in held if parts})
    kinds: dict[str, list[str]] = {}
    for name in first:
        if (part := part_of(name)) is not None:
            kinds.setdefault(part, []).append(name)
    others = [name for name in first if part_of(name) is None]
    if not kinds or (others and (len(kinds) == 1 or "train" not in kinds)):
        return {}, []
    where = data_root.joinpath(*top)
    settings = "say which are which with track.train_dir=, track.val_dir= and track.test_dir="
    twice = [names for names in kinds.values() if len(names) > 1]
    if twice:
        raise ValueError(f"{where} has both {twice[0][0]} and {twice[0][1]}: {settings}")
    if "train" not in kinds:
        raise ValueError(f"{where} has no folder of training images among {', '.join(first)}: {settings}")
    if len(others) > len(kinds):
        raise ValueError(
            f"{where} holds the parts {', '.join(names[0] for names in kinds.values())} and other folders with images "
            f"({', '.join(others[:4])}{', ...' if len(others) > 4 else ''}): say where the training images are with "
            f"track.train_dir={'/'.join([*top, kinds['train'][0]])} (those folders are parts) or "
            f"track.train_dir={'/'.join(top) or '.'} track.layout='<class>' (they are classes)"
        )
    return {part: "/".join([*top, names[0]]) for part, names in kinds.items()}, ["/".join([*top, n]) for n in others]


def layout_of(data_root: Path, folder: str, held: Holders) -> str:
    """The layout of the training images in a folder.

    Raises:
        ValueError: they fit none, or two.
    """
    top, depth = data_root / folder, main_depth(held)
    if depth == 1:
        return "<class>"
    if depth != 2:
        by_depth = Counter(len(parts) for parts in held)
        found = ", ".join(f"{count} folder(s) with images {depth} deep" for depth, count in sorted(by_depth.items()))
        raise ValueError(
            f"the folders of {top} fit no layout: {looked_for()}; found {found or 'nothing'} ({example(held)})"
        )
    above: dict[str, set[str]] = {}
    for parts in held:
        if len(parts) == 2:
            above.setdefault(parts[1], set()).add(parts[0])
    shared = [name for name, folders in above.items() if len(folders) > 1]
    if len(shared) >= len(above) / 2 and shared:
        return "<context>/<class>"
    firsts = sorted({parts[0] for parts in held if parts})
    raise ValueError(
        f"the folders of {top} can be read in several ways ({example(held)}): the {len(firsts)} folders "
        f"{', '.join(firsts[:3])}{', ...' if len(firsts) > 3 else ''} may be contexts "
        "(track.layout='<context>/<class>'), classes with contexts below (track.layout='<class>/<context>') or "
        "classes with folders that say nothing (track.layout='<class>/**')"
    )


def found_test(folder: str, held: Holders, layout: str, classes: set[str]) -> Part:
    """The test part: laid out as the training images, or flat, perhaps in one folder more.

    Args:
        folder: of the test images.
        held: what it holds.
        layout: of the training images.
        classes: their names.
    """
    depth = main_depth(held)
    if depth == 0 or depth is None:
        return Part(folder, FLAT)
    if depth == 1 and len(held) == 1 and not {parts[0] for parts in held} & classes:
        return Part("/".join([folder, *next(iter(held))]), FLAT)  # test/unknown/, test/test/
    return Part(folder, "<class>" if depth == 1 and layout != "<class>/**" else layout)


def tables_in(data_root: Path) -> list[str]:
    """The CSVs in a data root that list images with labels."""
    return [path.name for path in sorted(data_root.glob("*.[cC][sS][vV]")) if {"path", "label"} <= columns_of(path)]


def label_map_in(data_root: Path, classes: set[str]) -> str | None:
    """The user's label map: the one JSON in the data root that gives all classes an id.

    Raises:
        ValueError: several do.
    """
    found = []
    for path in sorted(data_root.glob("*.json")):
        try:
            if classes and classes <= read_label_map(path).keys():
                found.append(path.name)
        except (OSError, ValueError):
            continue
    if len(found) > 1:
        raise ValueError(
            f"{data_root} has several label maps that name all classes ({', '.join(found)}): choose one with "
            f"track.label_map={found[0]}"
        )
    return found[0] if found else None


def looked_for() -> str:
    """The layouts, for messages."""
    shown = ", ".join(f"{layout}/<image>" for layout in LAYOUTS[:2])
    return (
        f"expected {shown}, both with or without folders train, val, test above, or a CSV of path and label; images "
        f"have an extension of {' '.join(sorted(EXTENSIONS))}"
    )


def example(held: Holders) -> str:
    """A folder with images, for messages."""
    deepest = max(held, key=len, default=())
    return f"such as {'/'.join(deepest)}/<image>" if deepest else "such as <image>"
