"""Which of several runs made the best masks, with true masks or without: `python -m src.masks.compare logs/track1`.

Without true masks three signs count alike, each a mean IoU: of the masks of mirrored images with the mirrored masks, of
the masks of cropped images with the cropped masks, and of the masks with those of other makers. Runs that a centred box
would do better than are out. Runs that differ in the seed alone are one maker's, and so is the mean of their maps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.data.images import Mask
from src.data.manifest import read_manifest
from src.files import read_json
from src.masks.files import MaskFiles
from src.masks.judge import doubts, iou
from src.text import in_columns, method_of

LOOKED_AT = 200
"""Images whose masks are compared, evenly spread over those that all runs have."""
OPTIONAL = ("border_share", "iou_flip", "iou_crop", "iou", "iou_centred_box")
"""Figures of masks.json that it may lack."""


class Maker(NamedTuple):
    """A run with masks: its folder, its masks.json, and its masks by image path."""

    folder: Path
    report: dict[str, Any]
    files: MaskFiles

    @property
    def name(self) -> str:
        """Stage and run."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def digests(self, file: str, key: str) -> set[str]:
        """The digests of weights that a file of the run has under a key; none without it."""
        path = self.folder / file
        described = read_json(path) if path.is_file() else {}
        found = described.get(key, []) if isinstance(described, dict) else None
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ValueError(f"{path} is damaged: its {key} is no list of digests; leave the run out, or make it again")
        return set(found)


def read_makers(folders: Sequence[Path], truth: Path | None) -> list[Maker]:
    """The runs with masks in or below some folders.

    Raises:
        FileNotFoundError: there is none, or a true mask is missing.
        ValueError: a file of theirs is damaged, or they have no image in common.
    """
    makers: dict[Path, Maker] = {}  # by their real folders, each once
    for folder in folders:
        found = sorted(folder.rglob("masks.json"))
        if not found:
            raise FileNotFoundError(
                f"there is no run with masks in {folder}: make some with stage=grabcut or stage=wsss, and name their "
                "folders or one above them"
            )
        for path in found:
            run = path.parent.resolve()
            if run in makers:
                continue
            manifests = sorted(path.parent.glob("*_train_with_mask_label.json"))
            if not manifests:
                raise ValueError(f"{path.parent} has no whole set of masks: resume its run with resume=true")
            report = read_report(path)
            makers[run] = Maker(path.parent, report, MaskFiles(path.parent, read_manifest(manifests[0]), truth))
    several = list(makers.values())
    if not shared(several):
        raise ValueError(f"the runs {' and '.join(str(maker.folder) for maker in several[:2])} have no image in "
                         "common: compare one track")  # fmt: skip
    return several


def read_report(path: Path) -> dict[str, Any]:
    """A masks.json; of the figures that may be missing, those that are null are left out.

    Raises:
        ValueError: it is damaged.
    """
    report = read_json(path)
    if isinstance(report, dict):
        report = {key: value for key, value in report.items() if value is not None or key not in OPTIONAL}
        lists = all(isinstance(report.get(name), list) for name in ("empty", "full"))
        shares = [report.get("foreground_share"), *(report[name] for name in OPTIONAL if name in report)]
        images = report.get("images")
        whole = type(images) is int and images > 0 and lists and ("iou" not in report or "iou_centred_box" in report)
        if whole and all(is_share(value) for value in shares):
            return report
    raise ValueError(
        f"{path} is damaged: expected images, foreground_share, empty and full, and shares from 0 to 1; leave the "
        "run out, or remove this file and finished.json, and the run's own command with resume=true makes both again"
    )


def is_share(value: Any) -> bool:
    """Whether a value is a number from 0 to 1, but for rounding."""
    return type(value) in (int, float) and -1e-6 <= value <= 1 + 1e-6


def kinds_of(makers: Sequence[Maker]) -> list[frozenset[str]]:
    """Who made each run's masks: the run but for its seed; of average_maps, the runs among these that it averages."""
    names = [method_of(maker.name) for maker in makers]
    weights = [maker.digests("finished.json", "weights_sha256") for maker in makers]
    averaged = [maker.digests("split.json", "maps_from") for maker in makers]
    return [
        frozenset(other for other, own in zip(names, weights, strict=True) if own & of) or frozenset([name])
        for name, of in zip(names, averaged, strict=True)
    ]


def shared(makers: Sequence[Maker]) -> list[str]:
    """Paths of LOOKED_AT of the images that all runs have masks for."""
    common = sorted(set.intersection(*({row.image_path for row in maker.files.rows} for maker in makers)))
    return (
        [common[i] for i in np.unique(np.linspace(0, len(common) - 1, LOOKED_AT).round().astype(int))] if common else []
    )


def agreements(masks: Sequence[Sequence[Mask]], kinds: Sequence[frozenset[str]]) -> dict[str, list[float]]:
    """Mean IoU of each run's masks with those of other runs.

    Args:
        masks: of each run, those of the same images.
        kinds: who made them. Runs that differ in the seed alone have the same; those that share some say nothing about
            each other.

    Returns:
        By run, "seeds": with the same maker's other seeds; "others": with other makers', each of them counting alike;
        NaN where there is none.
    """
    pairs = np.array([[np.mean([iou(x, y) for x, y in zip(a, b, strict=True)]) for b in masks] for a in masks])
    found: dict[str, list[float]] = {"seeds": [], "others": []}
    for i, own in enumerate(kinds):
        of_kind: dict[frozenset[str], list[float]] = {}
        for j, other in enumerate(kinds):
            if j != i and (other == own or not other & own):
                of_kind.setdefault(other, []).append(float(pairs[i, j]))
        means = {other: float(np.mean(values)) for other, values in of_kind.items()}
        found["seeds"].append(means.pop(own, np.nan))
        found["others"].append(float(np.mean(list(means.values()))) if means else np.nan)
    return found


def table(makers: Sequence[Maker], truth: bool) -> tuple[list[list[str]], int | None]:
    """The table of runs, its head first, and the best one's number; None: a centred box does better than each."""
    paths = shared(makers)
    rows = [{row.image_path: row for row in maker.files.rows} for maker in makers]
    masks = [[maker.files.read(own[path]) for path in paths] for maker, own in zip(makers, rows, strict=True)]
    columns: dict[str, list[float]] = {
        "foreground": [maker.report["foreground_share"] for maker in makers],
        "border": [maker.report.get("border_share", np.nan) for maker in makers],
        "flip": [maker.report.get("iou_flip", np.nan) for maker in makers],
        "crop": [maker.report.get("iou_crop", np.nan) for maker in makers],
        **agreements(masks, kinds_of(makers)),
    }
    signs = np.array([columns["flip"], columns["crop"], columns["others"]])
    score = np.nan_to_num(signs).mean(0).tolist()  # a sign that a run of an older version lacks does not speak for it
    if truth:
        true = [
            makers[0].files.true_mask(rows[0][path], mask.shape) for path, mask in zip(paths, masks[0], strict=True)
        ]
        score = [float(np.mean([iou(a, b) for a, b in zip(own, true, strict=True)])) for own in masks]
    columns["IoU" if truth else "score"] = score
    sound = [i for i, maker in enumerate(makers) if not doubts(maker.report)]
    best = max(sound, key=lambda i: score[i], default=None)
    lines = [
        [maker.name, *(("-" if np.isnan(values[i]) else f"{values[i]:.3f}") for values in columns.values()),
         "" if i in sound else "worse than a box"]
        for i, maker in enumerate(makers)
    ]  # fmt: skip
    return [["run", *columns, ""], *lines], best


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when an input is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="runs with masks, or folders above them: logs/track1")
    parser.add_argument("--truth", type=Path, help="true masks, which mirror the data root, with .png")
    options = parser.parse_args(words)
    try:
        makers = read_makers(options.runs, options.truth)
        lines, best = table(makers, options.truth is not None)
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(in_columns(lines))
    for maker in makers:
        for doubt in doubts(maker.report):
            print(f"{maker.name}: {doubt}")
    if best is None:
        print("take none of them: a centred box would do better")
    else:
        manifest = next(makers[best].folder.glob("*_train_with_mask_label.json"))
        print(f"take {makers[best].name}: masks={manifest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
