"""Folders that hold images: where they lie, how deep, and what their names say."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from src.data.tables import PARTS
from src.data.tree import LeftOut, look_into

DEEPEST = 6  # levels of folders that are looked at
MOSTLY = 0.9  # share of the images in one depth that makes it the tree's; a scan names the others

Holders = Mapping[tuple[str, ...], int]
"""Folders that hold images, as path parts below one, with their numbers of images."""


def part_of(folder: str) -> str | None:
    """Which part a folder holds by its name: train, val or test, as one of its words; None for any other name."""
    words = {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder)}  # TestData is test as well
    found = [part for part, names in PARTS.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def images_by_folder(top: Path, data_root: Path) -> dict[tuple[str, ...], int]:
    """The folders that hold images, in `top` and below, with how many each.

    Raises:
        OSError: a folder cannot be read.
        ValueError: a link leads out of the data root.
    """
    root, ignored = os.path.realpath(data_root), LeftOut(str(top))
    found: dict[tuple[str, ...], int] = {}
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        here = os.path.join(top, *parts)
        inside = look_into(here, root, ignored)
        if inside.images:
            found[parts] = len(inside.images)
        if len(parts) < DEEPEST:
            waiting += [(*parts, name) for name in inside.folders if not is_loop(here, name)]
    return dict(sorted(found.items()))


def is_loop(folder: str, name: str) -> bool:
    """Whether an entry of a folder is a link to the folder, or to one above it."""
    link = os.path.join(folder, name)
    return os.path.islink(link) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


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


def folder_parts(folder: str) -> tuple[str, ...]:
    """A folder below the data root as path parts."""
    return tuple(word for word in folder.split("/") if word not in ("", "."))


def example(held: Holders) -> str:
    """A folder with images, for messages."""
    deepest = max(held, key=len, default=())
    return f"such as {'/'.join(deepest)}/<image>" if deepest else "such as <image>"
