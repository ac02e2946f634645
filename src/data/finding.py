"""Where a data set's images are: as its settings say; what these leave open is inferred from the folders."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.data.folders import Holders, below, example, folder_parts, images_by_folder, main_depth, part_of
from src.data.layouts import FLAT, LAYOUTS, Layout, Part, Sources
from src.data.manifest import read_label_map, spelled_in
from src.data.tables import PARTS, columns_of, read_table
from src.data.tree import EXTENSIONS, listing

MASKS = ("mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "seg")
NO_CLASS = ("unknown", "unlabeled", "unlabelled", "images", "imgs", "img", "all", "data", "0")


def find_sources(data_root: Path, layout: Layout) -> Sources:
    """Where a data set's images are: by its layout, and by the folders where that leaves something open.

    Raises:
        FileNotFoundError: no such data root.
        ValueError: its folders fit no layout, or several; the setting that decides is named.
    """
    layout.check()
    layout = in_short(layout)
    if not data_root.is_dir():
        what = "is no folder" if data_root.exists() else "does not exist"
        raise FileNotFoundError(
            f"the data root {data_root} {what}: put the data set there or set data_root=<folder>; "
            f"{layout.name} expects {expected_of(layout)}"
        )
    if layout.table is not None:
        return table_source(data_root, layout, layout.table)
    sources = folder_sources(data_root, layout)
    check_apart(data_root, sources)
    return sources


def in_short(layout: Layout) -> Layout:
    """A layout whose folders are spelled as the scan spells them: `train` for `./train/`."""
    given = {key: getattr(layout, key) for key in ("train_dir", "val_dir", "test_dir", "label_map", "table")}
    return layout._replace(**{key: posixpath.normpath(value) for key, value in given.items() if value})


def table_source(data_root: Path, layout: Layout, table: str) -> Sources:
    """The table, and the user's label map of its classes."""
    lines = read_table(data_root / table)
    classes = {str(line.label) for line in lines if line.part == "train"}
    label_map = layout.label_map if layout.label_map is not None else label_map_in(data_root, classes)
    return Sources(None, None, None, label_map, table, lines)


def check_apart(data_root: Path, sources: Sources) -> None:
    """Raise ValueError where the images of a part are those of another one, links followed."""
    parts = [("training", sources.train), ("held-out", sources.val), ("test", sources.test)]
    there = [(kind, part, Path(os.path.realpath(data_root / part.folder))) for kind, part in parts if part]
    for (one, a, above), (other, b, under) in itertools.permutations(there, 2):
        if not under.is_relative_to(above):
            continue
        deeper = len(under.relative_to(above).parts) + b.levels - a.levels
        if deeper == 0 or (deeper > 0 and a.layout.endswith("/**")) or (b.layout.endswith("/**") and deeper < 0):
            raise ValueError(
                f"the {other} images {data_root / b.folder} are {one} images as well ({data_root / a.folder}): "
                "move one of these folders out of the other, or name others with track.train_dir=, track.val_dir= "
                "and track.test_dir="
            )


def folder_sources(data_root: Path, layout: Layout) -> Sources:
    """The parts that settings name, or that are found."""
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
    held = images_by_folder(data_root / folder, data_root) if (data_root / folder).is_dir() else {}
    depth = main_depth(held)
    return Part(folder, FLAT if depth in (None, 0) else layout)


def found_sources(data_root: Path, layout: Layout) -> Sources:
    """The parts and their layout, as the folders of a data root tell them."""
    held, tables = images_by_folder(data_root, data_root), tables_in(data_root)
    if not held and not tables:
        raise ValueError(f"no image found in {data_root} or below: {looked_for()}; found {listing(data_root)}")
    if tables and len(held) < 2:  # one folder of images is no layout: it tells no classes
        if len(tables) > 1:
            raise ValueError(f"{data_root} holds several tables of images: choose one with track.table={tables[0]}")
        return table_source(data_root, layout, tables[0])
    try:
        folders, passed_over = part_folders(data_root, layout, held)
        inside = {which: below(held, *folder_parts(folder)) for which, folder in folders.items()}
        train = folders["train"]
        chosen = layout.layout or layout_of(data_root, train, inside["train"])
    except ValueError as error:
        raise ValueError(
            f"{error}; or data={data_root / tables[0]}, a table there" if tables else str(error)
        ) from error
    if tables:
        raise ValueError(
            f"{data_root} holds images in folders ({Part(train, chosen).expected}) and a table of images: choose with "
            f"data={data_root / tables[0]} or track.layout='{chosen}' track.train_dir={train}"
        )
    if "val" in folders and chosen != "<class>/**" and main_depth(inside["val"]) != main_depth(inside["train"]):
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
    for which, folder in given.items():
        if folder and not (data_root / folder).is_dir():
            raise ValueError(
                f"there is no folder {folder} in {data_root}, which track.{which}_dir names: found {listing(data_root)}"
            )
    if layout.train_dir is not None:
        return {which: folder for which, folder in given.items() if folder}, []
    top, inner = unwrapped(held)
    named, passed_over = named_parts(data_root, top, inner)
    folders = {"train": "/".join(top) or "."} | named
    return folders | {which: folder for which, folder in given.items() if folder}, passed_over


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

    A class may be called train: a single such name among class folders is one.

    Raises:
        ValueError: two folders of one part, no training images, or folders that may be classes or contexts as well.
    """
    first = sorted({parts[0] for parts in held if parts})
    kinds: dict[str, list[str]] = {}
    for name in first:
        if (part := part_of(name)) is not None:
            kinds.setdefault(part, []).append(name)
    others = [name for name in first if part_of(name) is None]
    alike = all(parts[1:] == () for parts in held if parts)  # no folder below any: these are classes, if not parts
    if not kinds or (alike and list(kinds) == ["train"]):
        return {}, []
    where = data_root.joinpath(*top)
    if alike or (others and (len(kinds) == 1 or "train" not in kinds)):
        raise ValueError(unclear(where, top, kinds, others, alike))
    settings = "say which are which with track.train_dir=, track.val_dir= and track.test_dir="
    twice = [names for names in kinds.values() if len(names) > 1]
    if twice:
        raise ValueError(f"{where} has both {twice[0][0]} and {twice[0][1]}: {settings}")
    if "train" not in kinds:
        raise ValueError(f"{where} has no folder of training images among {', '.join(first)}: {settings}")
    if len(others) > len(kinds):
        raise ValueError(unclear(where, top, kinds, others, alike))
    return {part: "/".join([*top, names[0]]) for part, names in kinds.items()}, ["/".join([*top, n]) for n in others]


def unclear(
    where: Path, top: Sequence[str], kinds: Mapping[str, Sequence[str]], others: Sequence[str], alike: bool
) -> str:
    """What to say where folders that are called as parts lie among others."""
    named = [name for part in PARTS for name in kinds.get(part, ())]
    meant = f"track.train_dir={'/'.join(top) or '.'} track.layout="
    meant += "'<class>' (all of them are classes)" if alike else "'<context>/<class>' (all of them are contexts)"
    if alike:
        parts = "move the folders of the classes into a folder train (the others are parts)"
    else:
        dirs = {part: names[0] for part, names in kinds.items()}
        dirs.setdefault("train", others[0])
        words = [f"track.{part}_dir={'/'.join([*top, dirs[part]])}" for part in PARTS if part in dirs]
        parts = f"{' '.join(words)} (those folders are parts)"
    more = f" and other folders with images ({', '.join(others[:4])}{', ...' if len(others) > 4 else ''})"
    return f"{where} holds {', '.join(named)}{more if others else ''}: set {meant}, or {parts}"


def layout_of(data_root: Path, folder: str, held: Holders) -> str:
    """The layout of the training images in a folder.

    Raises:
        ValueError: they fit none, or two.
    """
    top, depth = data_root / folder, main_depth(held)
    firsts = sorted({parts[0] for parts in held if parts})
    images = [name for name in firsts if name.lower() in NO_CLASS]
    if len(images) == 1 and len(firsts) > 1 and all(name.lower() in MASKS for name in firsts if name not in images):
        beside = " and ".join(f"{name}/" for name in firsts if name not in images)
        raise ValueError(
            f"{top} holds {beside} beside {images[0]}/, which look like masks of these images: choose the images with "
            f"data={top / images[0]}, or track.layout= if the folders are contexts or classes"
        )
    if depth == 1:
        return "<class>"
    if depth != 2:
        several = sorted({parts[0] for parts in held if len(parts) > 2 and part_of(parts[1]) == "train"})
        if len(several) > 1:
            choices = " or ".join(f"data={top / name}" for name in several[:4])
            raise ValueError(
                f"{top} holds several data sets, with a folder of training images each: choose {choices} (of the "
                "challenge's two: track=1 or track=2)"
            )
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
    if depth == 0 or not held:
        return Part(folder, FLAT)
    if depth is None and layout != "<class>/**":
        raise ValueError(
            f"the test images in {folder} lie in several depths ({example(held)}): lay them out as the training images "
            "are, or all of them flat"
        )
    if depth == 1 and len(held) == 1 and not {parts[0] for parts in held} & classes and says_nothing(next(iter(held))):
        return Part("/".join([folder, *next(iter(held))]), FLAT)  # test/unknown/, test/test/
    return Part(folder, "<class>" if depth == 1 and layout != "<class>/**" else layout)


def says_nothing(parts: Sequence[str]) -> bool:
    """Whether the only folder of test images is no class's by its name."""
    return part_of(parts[0]) is not None or parts[0].casefold() in NO_CLASS


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
            labels = read_label_map(path)
            # One of this name is meant, and is refused where it lacks a class.
            if path.name == "label_map.json" or (
                classes and all(spelled_in(labels, name) in labels for name in classes)
            ):
                found.append(path.name)
        except (OSError, ValueError):
            if path.name == "label_map.json":
                raise
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
