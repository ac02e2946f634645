"""Figures for judging the masks of a run: masks.json, and a line for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from src.data.images import Mask
from src.data.manifest import Row
from src.data.mask_files import says_nothing
from src.masks.files import MaskFiles
from src.progress import progress


class Measured(NamedTuple):
    """One mask: its share of foreground, its border's, IoU with the true one (NaN without), height and width."""

    foreground: float
    border: float
    iou: float
    shape: tuple[int, int]


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def border_share(mask: Mask) -> float:
    """Share of foreground on a frame of a seventh of the shorter side (c2am.border_mean's frame: of the height)."""
    margin = max(1, min(mask.shape) // 7)
    frame = np.ones(mask.shape, bool)
    frame[margin:-margin, margin:-margin] = False
    return float(mask[frame].mean())


def measure_all(files: MaskFiles) -> list[Measured]:
    """Each row's mask, all of which exist, measured."""

    def measure(row: Row) -> Measured:
        mask = files.read(row)
        overlap = iou(mask, files.true_mask(row, mask.shape)) if files.truth_dir else np.nan
        return Measured(float(mask.mean()), border_share(mask), overlap, (mask.shape[0], mask.shape[1]))

    with ThreadPoolExecutor(4) as pool:
        return list(progress(pool.map(measure, files.rows), "judging masks", len(files.rows)))


def judge(
    files: MaskFiles,
    measured: Sequence[Measured],
    crashed: Sequence[str],
    found_nothing: int,
    map_iou: torch.Tensor,
) -> dict[str, Any]:
    """The content of masks.json.

    Args:
        files: the masks.
        measured: each of them.
        crashed: masks that are the thresholded map, because refining took its process down.
        found_nothing: number of masks in whose image GrabCut found nothing, among those made since the last
            interruption.
        map_iou: (K, 2) by label: sum and number of the maps' IoU before refinement, of the maps made since the last
            interruption, as maps are not kept.
    """
    rows = files.rows
    share = np.array([one.foreground for one in measured])
    names = [row.label_name or str(row.label) for row in rows]
    report: dict[str, Any] = {
        "images": len(rows),
        "foreground_share": float(share.mean()),
        "foreground_share_by_class": by_class(share, names),
        "border_share": float(np.mean([one.border for one in measured])),
        "grabcut_found_nothing": found_nothing,
        "crf_crashed": len(crashed),
        "crf_crashed_masks": list(crashed),
        "empty": [row.image_path for row, area in zip(rows, share, strict=True) if area == 0],
        "full": [row.image_path for row, area in zip(rows, share, strict=True) if area == 1],
    }
    if files.truth_dir:
        report |= compare(files, measured, names, map_iou)
    return report


def compare(files: MaskFiles, measured: Sequence[Measured], names: list[str], map_iou: torch.Tensor) -> dict[str, Any]:
    """IoU with the true masks: of the masks, of the maps before refinement, and of two trivial masks."""
    overlap = np.array([one.iou for one in measured])
    label_of = dict(zip(names, (row.label or 0 for row in files.rows), strict=True))
    totals = {name: map_iou[label_of[name]].tolist() for name in sorted(label_of)}
    compared = float(map_iou[:, 1].sum())
    return {
        "iou": float(overlap.mean()),
        "iou_by_class": by_class(overlap, names),
        "iou_of_map_by_class": {name: round(s / n, 4) for name, (s, n) in totals.items() if n},
        "iou_of_map": float(map_iou[:, 0].sum()) / compared if compared else None,
        **trivial(files, [one.shape for one in measured]),
    }


def trivial(files: MaskFiles, shapes: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Mean IoU of two trivial masks: all foreground, and the best of ten centred boxes."""
    whole, boxes = [], np.zeros((len(files.rows), 10))
    for i, (row, (height, width)) in enumerate(zip(files.rows, shapes, strict=True)):
        truth = files.true_mask(row, (height, width))
        whole.append(float(truth.mean()))
        for k in range(10):
            side = (k + 1) / 10
            top, left = round(height * (1 - side) / 2), round(width * (1 - side) / 2)
            inside = int(truth[top : height - top, left : width - left].sum())
            area = (height - 2 * top) * (width - 2 * left)
            union = area + int(truth.sum()) - inside
            boxes[i, k] = inside / union if union else 1.0  # both empty, as in `iou`: a box of .1 of 8 pixels
    return {"iou_all_foreground": float(np.mean(whole)), "iou_centred_box": float(boxes.mean(0).max())}


def by_class(values: npt.NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """Mean of the values of each class."""
    own = np.array(names)
    return {name: round(float(values[own == name].mean()), 4) for name in sorted(set(names))}


def line_of(report: dict[str, Any]) -> str:
    """masks.json in a line."""
    share = 100 * report["foreground_share"]
    line = (
        f"{report['images']} masks: {share:.1f} % foreground, {len(report['empty'])} empty, {len(report['full'])} full"
    )
    if "iou" in report:
        of_map = "-" if report["iou_of_map"] is None else f"{report['iou_of_map']:.3f}"
        line += (
            f", IoU {report['iou']:.3f} (all foreground {report['iou_all_foreground']:.3f}, centred box "
            f"{report['iou_centred_box']:.3f}, the map before refinement {of_map})"
        )
    if report["grabcut_found_nothing"]:
        line += f", {report['grabcut_found_nothing']} in whose image GrabCut found nothing"
    if report["crf_crashed"]:
        line += f", {report['crf_crashed']} left as thresholded maps after a crash"
    return line


def doubts(report: Mapping[str, Any]) -> list[str]:
    """The signs in a masks.json that a centred box would do better; empty if there are none."""
    empty, full = (len(report[part]) / report["images"] for part in ("empty", "full"))
    found = [says_nothing(report["foreground_share"], empty, full)]
    if report.get("border_share", 0) > report["foreground_share"]:
        found.append(
            f"{100 * report['border_share']:.0f} % of the images' borders are foreground, and of the whole images "
            f"{100 * report['foreground_share']:.0f} %: the masks mark the background, or have the wrong sign"
        )
    if "iou" in report and report["iou"] < report["iou_centred_box"]:
        found.append(
            f"IoU {report['iou']:.3f} with the true masks, of a centred box {report['iou_centred_box']:.3f}: the masks "
            "are worse than such boxes"
        )
    return [sentence for sentence in found if sentence]
