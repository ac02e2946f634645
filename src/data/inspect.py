"""What a data set holds, and what is wrong with it: `python -m src.data.inspect data=/photos`.

Counts by class and context, images that cannot be read, and duplicates: across training and test images (accuracy on
those is meaningless), contexts and classes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from src.data.checks import with_contexts
from src.data.duplicates import ALIKE, NEAR, alike_pairs, exact_pairs, fingerprints
from src.data.finding import find_sources
from src.data.images import MAX_PIXELS
from src.data.layouts import Layout
from src.data.loading import cores
from src.data.manifest import Row
from src.data.scan import scan_test, scan_train
from src.data.words import read_data_set
from src.text import in_columns

USAGE = """python -m src.data.inspect data=<folder or CSV>: what a data set holds

  data=/photos                     the layout that is found; track=1 data=/nico: that of conf/track/1.yaml
  track.layout='<class>/<context>' any setting of conf/track
  near=10                          of 63 bits that may differ in two images of one picture; -1: identical bytes only
  max_pixels=100000000             an image with more counts as bad
  shown=5                          names in each list
"""
NUMBERS = {"near": NEAR, "max_pixels": MAX_PIXELS, "shown": 5}


def read_words(words: Sequence[str]) -> tuple[Path, Layout, dict[str, int]]:
    """The data root, layout and numbers that a command line names.

    Raises:
        ValueError: a word that is not one of them, or no data set.
    """
    try:
        root, layout, others = read_data_set(words)
    except ValueError as error:
        raise ValueError(f"{error}\n\n{USAGE}") from error
    unknown = [key for key in others if key not in NUMBERS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a setting of the inspection\n\n{USAGE}")
    try:
        return root, layout, {key: int(others.get(key, default)) for key, default in NUMBERS.items()}
    except ValueError as error:
        raise ValueError(f"{', '.join(NUMBERS)} are whole numbers") from error


def counts(rows: Sequence[Row], contexts: Sequence[str]) -> str:
    """How many images there are of each class and context."""
    seen = Counter((str(row.label_name), context_of(row, contexts)) for row in rows)
    columns = sorted({context for _, context in seen})
    body: list[list[Any]] = []
    for name in sorted({name for name, _ in seen}):
        numbers = [seen[name, column] for column in columns]
        body.append([name, *(numbers if contexts else ()), sum(numbers)])
    total = ["all", *(sum(row[k] for row in body) for k in range(1, len(body[0])))]
    lines = [["class", *(columns if contexts else ()), "all"], *body, total]
    return in_columns([list(map(str, line)) for line in lines])


def context_of(row: Row, contexts: Sequence[str]) -> str:
    """The name of a row's context; "" without."""
    return contexts[row.domain] if isinstance(row.domain, int) else row.domain or ""


def inspect(root: Path, layout: Layout, numbers: Mapping[str, int]) -> list[str]:
    """The report, line by line.

    Raises:
        OSError, ValueError: the data set has no layout that is known.
    """
    sources = find_sources(root, layout)
    rows, labels = scan_train(root, sources, layout.name)
    contexts = with_contexts(rows, root)[1] if rows[0].domain is not None else []
    tests = scan_test(root, sources, layout.name, lambda: labels) if sources.has_test else []
    lines = [f"{root}: {sources.words}"]
    held = sum(row.split == "val" for row in rows)
    truth = "with truth" if any(row.label is not None for row in tests) else "without truth"
    lines.append(
        f"{len(rows) - held} training images, {held} held out by the data set, {len(tests)} test images"
        f"{f' ({truth})' if tests else ''}; {len(labels)} classes, {len(contexts)} contexts"
    )
    by = "by class and context" if contexts else "by class"
    lines += ["", f"training and held-out images {by}", counts(rows, contexts)]
    if any(row.label is not None for row in tests):
        lines += ["", "test images", counts(tests, contexts)]
    return [*lines, "", *findings(root, rows, tests, contexts, numbers)]


def findings(
    root: Path, rows: Sequence[Row], tests: Sequence[Row], contexts: Sequence[str], numbers: Mapping[str, int]
) -> list[str]:
    """What is wrong: images that cannot be read, and duplicates."""
    every, shown, near = [*rows, *tests], numbers["shown"], numbers["near"]
    cv2.setNumThreads(0)
    prints = fingerprints([root / row.image_path for row in every], cores(), numbers["max_pixels"])
    bad = [one.error for one in prints if one.error]
    lines = [f"{len(bad)} of {len(every)} images cannot be read" + (":" if bad else "")]
    lines += [f"  {error}" for error in bad[:shown]] + (["  ..."] if len(bad) > shown else [])
    parts = ["test"] * len(every)
    parts[: len(rows)] = ["held-out" if row.split == "val" else "training" for row in rows]
    labels = {
        "parts": parts,
        "contexts": [context_of(row, contexts) for row in every],
        "classes": [row.label_name or "" for row in every],
    }
    exact = exact_pairs([one.digest for one in prints])
    lines += duplicates("with the same bytes", exact, every, labels, shown)
    if near >= 0:
        alike = alike_pairs(prints, near)
        title = f"that look alike (DCT hash, at most {near} of 63 bits differ; correlation at least {ALIKE})"
        lines += duplicates(title, alike, every, labels, shown)
    return lines


def duplicates(
    title: str, pairs: Sequence[tuple[int, int]], rows: Sequence[Row], labels: Mapping[str, Sequence[str]], shown: int
) -> list[str]:
    """How many pairs there are, and those across parts, contexts and classes with the first names."""
    lines = [f"{len(pairs)} pair(s) of images {title}"]
    for what, names in labels.items():
        across = [(a, b) for a, b in pairs if names[a] and names[b] and names[a] != names[b]]
        if across:
            lines.append(f"  {len(across)} across {what}{ACROSS[what]}:")
            lines += [
                f"    {rows[a].image_path} ({names[a]}), {rows[b].image_path} ({names[b]})" for a, b in across[:shown]
            ]
            lines += ["    ..."] if len(across) > shown else []
    return lines


ACROSS = {
    "parts": ": accuracy on them is meaningless",
    "contexts": ": what is left out would be seen in training",
    "classes": ": one of the labels is wrong",
}


def main() -> None:
    """The command."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(USAGE)
    try:
        print("\n".join(inspect(*read_words(sys.argv[1:]))))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
