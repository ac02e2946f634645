"""Write a mask for every training image while the network goes on, and judge the masks at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.loggers import WandbLogger

from src.data.images import MAX_PIXELS, decode_image
from src.data.manifest import Row, write_manifest
from src.data.mask_files import decode_mask, says_nothing
from src.files import read_json, write_json, write_text, write_whole
from src.masks.judge import iou
from src.masks.pool import MaskPool, task_of
from src.progress import progress

TILE = 128  # side of a picture on the sheet, pixels


class MaskWriter(BasePredictionWriter):
    """From maps to masks/, the manifest with masks, masks.json and masks.png.

    Each rank writes its share; what exists is kept when an interrupted run goes on, and
    made anew when the weights or settings that made it are others.

    Args:
        run_dir: the run's folder.
        track: the track's number.
        threshold: a pixel is foreground where the map, divided by its maximum, exceeds this.
        crf: settings of crf.refine, or None.
        processes: that refine, on each rank.
        truth_dir: true masks, mirroring the data root with .png; None: the masks are not compared.
    """

    def __init__(
        self,
        *,
        run_dir: str,
        track: int,
        threshold: float,
        crf: Mapping[str, float] | None,
        processes: int,
        truth_dir: str | None,
    ) -> None:
        super().__init__(write_interval="batch")
        self.run, self.track = Path(run_dir), track
        self.threshold, self.crf, self.processes = threshold, dict(crf) if crf else None, processes
        self.truth_dir = Path(truth_dir) if truth_dir else None
        self.tiles = self.run / "masks" / ".tiles"
        self.one_at_a_time = Lock()
        self.benchmark: bool | None = None  # cuDNN's setting, while it is off

    def mask_path(self, row: Row) -> str:
        """A mask's path below the run: the data root's tree, with .png."""
        return f"masks/{self.names[row.image_path]}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before predicting: drop masks that other weights made, and have the data module skip the others."""
        if stage != "predict":
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        rows: list[Row] = datamodule.rows
        self.names = mask_names([row.image_path for row in rows])
        if self.truth_dir:
            self.check_truth(rows)
        made_by = self.run / "masks" / ".made_by"
        key = self.key(pl_module)
        if trainer.is_global_zero and (not made_by.exists() or made_by.read_text() != key):
            shutil.rmtree(made_by.parent, ignore_errors=True)
            write_text(made_by, key)  # after the old masks went, before the first new one comes
        for path in made_by.parent.glob(".crashed-*.json") if trainer.is_global_zero else ():
            # Noted before the mask is written: one that was not written after all is made now.
            write_json(path, [name for name in read_json(path) if (self.run / name).exists()])
        trainer.strategy.barrier("masks of other weights are gone")
        missing = [i for i, row in enumerate(rows) if not (self.run / self.mask_path(row)).exists()]
        trainer.strategy.barrier("every rank has seen the same masks")
        datamodule.native_rows = missing
        self.left = len(missing[trainer.global_rank :: trainer.world_size])
        if trainer.is_global_zero:
            kept = len(rows) - len(missing)
            print(f"making {len(missing)} masks{f', {kept} exist' if kept else ''}", flush=True)

    def key(self, pl_module: pl.LightningModule) -> str:
        """What masks depend on: the weights, the decision on the sign, the settings."""
        state = hashlib.sha256(json.dumps([self.threshold, self.crf, list(pl_module.scales)]).encode())  # type: ignore[arg-type]
        for name, value in pl_module.state_dict().items():
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def check_truth(self, rows: list[Row]) -> None:
        assert self.truth_dir is not None
        gone = [path for row in rows if not (path := self.truth_path(row)).exists()]
        if gone:
            raise FileNotFoundError(
                f"{len(gone)} true masks are missing in wsss.truth_dir={self.truth_dir} (first: {gone[0]}): "
                "it must mirror the data root, with .png for the image's own ending (behind it, for images of one stem)"
            )

    def truth_path(self, row: Row) -> Path:
        assert self.truth_dir is not None
        return self.truth_dir / self.names[row.image_path]

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # cuDNN would try its convolutions anew for every size of image, about a second each time.
        self.benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        self.pool = MaskPool(self.processes, self.remember_crash)
        self.crashes = self.run / "masks" / f".crashed-{trainer.global_rank}.json"
        self.begin = self.last = time.monotonic()
        self.done = 0
        rows = trainer.datamodule.rows  # type: ignore[attr-defined]
        self.first = {row.label or 0: i for i, row in reversed(list(enumerate(rows)))}  # a class's first image
        labels = max(self.first, default=0) + 1
        self.map_iou = torch.zeros(labels, 2, dtype=torch.float64)  # sum and number of each class

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Queue a batch's masks; its positions are in it, as Lightning knows none for images batched by size."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        for activation, position in zip(prediction, batch.position.tolist(), strict=True):
            row: Row = datamodule.rows[position]
            values = activation.float().cpu().numpy()
            foreground = values > self.threshold
            image = datamodule.data_root / row.image_path
            label = row.label or 0
            if self.first[label] == position:  # before its mask: a mask that exists is not made again
                self.write_tile(label, position, image, values)
            self.pool.submit(task_of(image, self.run / self.mask_path(row), foreground, self.crf))
            if self.truth_dir:
                overlap = iou(foreground, self.true_mask(row, foreground.shape))
                self.map_iou[label] += torch.tensor([overlap, 1.0], dtype=torch.float64)
        self.say(trainer, len(prediction))

    def say(self, trainer: pl.Trainer, count: int) -> None:
        """A line each ten seconds: how many, how fast, how long."""
        self.done += count
        now = time.monotonic()
        if trainer.is_global_zero and now - self.last >= 10:
            self.last = now
            rate = self.done / (now - self.begin)
            left = (self.left - self.done) / rate
            print(f"masks: {self.done} of {self.left}, {rate:.1f} images/s, {left:.0f} s left", flush=True)

    def true_mask(self, row: Row, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """A true mask of the image's size."""
        path = self.truth_path(row)
        truth = decode_mask(path, max(MAX_PIXELS, shape[0] * shape[1]))
        if truth.shape != shape:
            raise ValueError(f"the true mask {path} is {truth.shape[::-1]}, its image {shape[::-1]} (width, height)")
        return truth

    def write_tile(self, label: int, position: int, image: Path, values: npt.NDArray[np.float32]) -> None:
        """For a class's first image: picture and map side by side, for the sheet, whoever ends this run."""
        picture = cv2.resize(decode_image(image, max_pixels=0), (TILE, TILE), interpolation=cv2.INTER_AREA)
        heat = cv2.applyColorMap((cv2.resize(values, (TILE, TILE)) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
        overlay = cv2.addWeighted(picture, 0.4, heat[..., ::-1].astype(np.uint8), 0.6, 0)
        write_png(self.tiles / f"{label}-{position}.png", np.hstack([picture, overlay]))

    def remember_crash(self, mask: Path) -> None:
        """Note on disk that a mask is the unrefined map, for whoever ends this run."""
        with self.one_at_a_time:
            known = read_json(self.crashes) if self.crashes.exists() else []
            write_json(self.crashes, [*known, str(mask.relative_to(self.run))])

    def restore_benchmark(self) -> None:
        """Give cuDNN the setting back that it had before the predictions."""
        if self.benchmark is not None:
            torch.backends.cudnn.benchmark = self.benchmark
            self.benchmark = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.restore_benchmark()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restore_benchmark()
        self.pool.close()
        # float32 for devices that have no other; sums of at most some thousands of values in [0, 1]
        map_iou = trainer.strategy.reduce(self.map_iou.float().to(pl_module.device), reduce_op="sum").cpu().double()
        trainer.strategy.barrier("every rank has written its masks")
        if trainer.is_global_zero:
            self.judge(trainer, map_iou)
            self.write_sheet(trainer)
        trainer.strategy.barrier("the masks are judged")

    def judge(self, trainer: pl.Trainer, map_iou: torch.Tensor) -> None:
        """Write the manifest with masks, and what a person needs to judge them."""
        rows: list[Row] = trainer.datamodule.rows  # type: ignore[attr-defined]
        write_manifest(
            self.run / f"track{self.track}_train_with_mask_label.json",
            [row._replace(image_name=row.name, image_seg_path=self.mask_path(row)) for row in rows],
        )

        def figures(row: Row) -> tuple[float, float | None, tuple[int, int]]:
            mask = decode_mask(self.run / self.mask_path(row), max_pixels=0)
            truth = self.true_mask(row, mask.shape) if self.truth_dir else None
            return float(mask.mean()), None if truth is None else iou(mask, truth), (mask.shape[0], mask.shape[1])

        with ThreadPoolExecutor(4) as pool:
            measured = list(progress(pool.map(figures, rows), "judging masks", len(rows)))
        share = np.array([area for area, _, _ in measured])
        names = [row.label_name or str(row.label) for row in rows]
        classes = sorted(set(names))
        empty = [row.image_path for row, area in zip(rows, share, strict=True) if area == 0]
        full = [row.image_path for row, area in zip(rows, share, strict=True) if area == 1]
        crashed = sorted({name for path in self.tiles.parent.glob(".crashed-*.json") for name in read_json(path)})
        report: dict[str, Any] = {
            "images": len(rows),
            "foreground_share": float(share.mean()),
            "foreground_share_by_class": by_class(share, names, classes),
            "crf_crashed": len(crashed),
            "crf_crashed_masks": crashed,  # the thresholded map, as the CRF took its process down
            "empty": empty,  # all foreground where images are mixed
            "full": full,
        }
        if warning := says_nothing(float(share.mean()), len(empty) / len(rows), len(full) / len(rows)):
            warnings.warn(f"{self.run}: {warning}", stacklevel=2)
        line = f"{len(rows)} masks: {100 * share.mean():.1f} % foreground, {len(empty)} empty, {len(full)} full"
        if self.truth_dir:
            overlap = np.array([value for _, value, _ in measured], np.float64)
            report["iou"] = float(overlap.mean())
            report["iou_by_class"] = by_class(overlap, names, classes)
            # Of the maps made since the last interruption: maps are not kept.
            label_of = dict(zip(names, (row.label or 0 for row in rows), strict=True))
            totals = {name: map_iou[label_of[name]].tolist() for name in classes}
            report["iou_of_map_by_class"] = {name: round(s / n, 4) for name, (s, n) in totals.items() if n}
            compared = float(map_iou[:, 1].sum())
            of_map = float(map_iou[:, 0].sum()) / compared if compared else None
            report["iou_of_map"] = of_map
            report |= self.trivial(rows, [shape for _, _, shape in measured])
            line += (
                f", IoU {overlap.mean():.3f} (all foreground {report['iou_all_foreground']:.3f}, "
                f"centred box {report['iou_centred_box']:.3f}, the map before the CRF "
                f"{'-' if of_map is None else f'{of_map:.3f}'})"
            )
        write_json(self.run / "masks.json", report)
        print(line + (f", {crashed} left as thresholded maps after a crash of the CRF" if crashed else ""), flush=True)

    def trivial(self, rows: list[Row], shapes: list[tuple[int, int]]) -> dict[str, float]:
        """Mean IoU of the two masks anybody could make: all foreground, and the best of ten centred boxes."""
        whole, boxes = [], np.zeros((len(rows), 10))
        for i, (row, (height, width)) in enumerate(zip(rows, shapes, strict=True)):
            truth = self.true_mask(row, (height, width))
            whole.append(float(truth.mean()))
            for k in range(10):
                side = (k + 1) / 10
                top, left = round(height * (1 - side) / 2), round(width * (1 - side) / 2)
                inside = int(truth[top : height - top, left : width - left].sum())
                area = (height - 2 * top) * (width - 2 * left)
                boxes[i, k] = inside / (area + int(truth.sum()) - inside)
        return {"iou_all_foreground": float(np.mean(whole)), "iou_centred_box": float(boxes.mean(0).max())}

    def write_sheet(self, trainer: pl.Trainer) -> None:
        """masks.png: image, map, mask, a row a class."""
        lines = {}
        for path in sorted(self.tiles.glob("*.png")):
            label, position = map(int, path.stem.split("-"))
            row: Row = trainer.datamodule.rows[position]  # type: ignore[attr-defined]
            mask = decode_mask(self.run / self.mask_path(row), max_pixels=0)
            small = cv2.resize(mask.astype(np.uint8) * 255, (TILE, TILE), interpolation=cv2.INTER_NEAREST_EXACT)
            lines[label] = np.hstack([decode_image(path, max_pixels=0), cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)])
        shutil.rmtree(self.tiles, ignore_errors=True)
        if not lines:
            return
        sheet = np.vstack([lines[label] for label in sorted(lines)]).astype(np.uint8)
        write_png(self.run / "masks.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("masks", [sheet])


def mask_names(paths: Sequence[str]) -> dict[str, str]:
    """A mask's path for each image's: .png for its ending; behind it where that would be another one's too."""
    names = {path: str(PurePosixPath(path).with_suffix(".png")) for path in paths}
    while True:
        counts = Counter(names.values())
        shared = [path for path, name in names.items() if counts[name] > 1 and name != f"{path}.png"]
        if not shared:
            return names
        names |= {path: f"{path}.png" for path in shared}


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as a PNG in one step."""
    with write_whole(path) as file:
        file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def by_class(values: npt.NDArray[np.float64], names: list[str], classes: list[str]) -> dict[str, float]:
    """Mean of the values of each class."""
    place = np.array(names)
    return {name: round(float(values[place == name].mean()), 4) for name in classes}
