"""Write a mask for every training image while the network predicts the next, and judge the masks at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter

from src.callbacks.panels import log_figures, log_picture
from src.callbacks.sheet import Tile, outlined, square, write_sheet
from src.data.datasets import BySize, padded
from src.data.images import Mask, decode_image
from src.data.manifest import write_manifest
from src.data.mask_files import decode_mask
from src.datamodules.nico import datamodule_of
from src.files import read_json, write_json, write_text, write_whole
from src.masks.crf import check_crf
from src.masks.files import MaskFiles
from src.masks.grabcut import check_grabcut
from src.masks.judge import Measured, doubts, iou, judge, line_of, measure_all
from src.masks.pool import MaskPool, task_of
from src.masks.shown import shown
from src.numbers import check_number

TILE = 128  # side of a picture on the sheet, pixels
COLUMNS = 3  # of images there: of a context the best, a median and the worst
LOOKED_AT = 32  # images whose mirror image and crop get masks too
VIEWS_OF = ".views-"  # prefix of the folder with those, in the run
Picture = npt.NDArray[np.uint8] | Mask
VIEWS: dict[str, Callable[[Picture], Picture]] = {
    "flip": lambda picture: picture[:, ::-1],
    "crop": lambda picture: picture[: 7 * len(picture) // 8 or None, : 7 * picture.shape[1] // 8 or None],
}
"""Views of an image or mask (H, W, ...): its mirror image, and all but an eighth of each side. Where a mask follows the
object, that of a view is the view of the mask."""


class MaskWriter(BasePredictionWriter):
    """From maps to masks/, the manifest with masks, masks.json and masks.png.

    Each rank writes its share. Existing masks are kept when an interrupted run is resumed, and
    made again when the weights or settings that made them have changed.

    Args:
        run_dir: the run's folder.
        data_name: the data set's name, in that of the manifest.
        threshold: a pixel is foreground where the map, in [0, 1], exceeds this.
        grabcut: settings of grabcut.cut, which comes first; with 0 iterations it is left out.
        crf: settings of crf.refine, or None.
        processes: number of them that refine, on each rank, at least 1.
        truth_dir: true masks, mirroring the data root with .png; None: the masks are not compared.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(
        self,
        *,
        run_dir: str,
        data_name: str,
        threshold: float,
        grabcut: Mapping[str, Any],
        crf: Mapping[str, Any] | None,
        processes: int,
        truth_dir: str | None,
    ) -> None:
        check_number("callbacks.masks.threshold", threshold, 0, 1)
        check_number("callbacks.masks.processes", processes, 1, whole=True)
        check_grabcut(**grabcut)
        if crf:
            check_crf(**crf)
        super().__init__(write_interval="batch")
        self.run, self.data_name = Path(run_dir), data_name
        self.threshold, self.processes = threshold, processes
        self.grabcut, self.crf = dict(grabcut) if grabcut["iterations"] else None, dict(crf) if crf else None
        self.truth_dir = Path(truth_dir) if truth_dir else None
        self.one_at_a_time = Lock()
        self.benchmark: bool | None = None  # cuDNN's setting, while it is off
        self.rows_left: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before predicting: drop masks that other weights made; the data module asks for the rows that are left."""
        if stage != "predict":
            return
        self.files = MaskFiles(self.run, datamodule_of(trainer).rows, self.truth_dir)
        made_by = self.run / "masks" / ".made_by"
        key = self.key(pl_module)
        if trainer.is_global_zero and (not made_by.exists() or made_by.read_text() != key):
            shutil.rmtree(made_by.parent, ignore_errors=True)
            write_text(made_by, key)  # after the old masks went, before the first new one comes
        for leftover in made_by.parent.rglob(".*.tmp") if trainer.is_global_zero else ():
            leftover.unlink()  # of a process that was killed while it wrote
        for views in self.run.glob(f"{VIEWS_OF}*") if trainer.is_global_zero else ():
            shutil.rmtree(views)  # of a process that was killed while it judged
        for path in made_by.parent.glob(".crashed-*.json") if trainer.is_global_zero else ():
            # Noted before the mask is written: if it was not written after all, it is made now.
            write_json(path, [name for name in read_json(path) if (self.run / name).exists()])
        trainer.strategy.barrier("masks of other weights are gone")
        self.rows_left = self.files.missing()
        trainer.strategy.barrier("every rank has seen the same masks")
        self.left = len(self.rows_left[trainer.global_rank :: trainer.world_size])
        if trainer.is_global_zero:
            kept = len(self.files.rows) - len(self.rows_left)
            print(f"making {len(self.rows_left)} masks{f', {kept} exist' if kept else ''}", flush=True)

    def key(self, pl_module: pl.LightningModule) -> str:
        """What masks depend on: the weights, the decision on the sign, the settings."""
        settings = [self.threshold, self.grabcut, self.crf, pl_module.map_settings]
        state = hashlib.sha256(json.dumps(settings).encode())
        for name, value in pl_module.state_dict().items():
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # cuDNN would try its convolutions again for every size of image, about a second each time.
        self.benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        self.pool = MaskPool(self.processes, self.remember_crash, self.count_nothing)
        self.found_nothing = 0
        self.crashes = self.run / "masks" / f".crashed-{trainer.global_rank}.json"
        self.begin = self.last = time.monotonic()
        self.done = 0
        labels = max((row.label or 0 for row in self.files.rows), default=0) + 1
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
        data_root = datamodule_of(trainer).data_root
        for activation, position in zip(prediction, batch.position.tolist(), strict=True):
            row = self.files.rows[position]
            values = activation.float().cpu().numpy()
            foreground = values > self.threshold
            image = data_root / row.image_path
            label = row.label or 0
            self.pool.submit(task_of(image, self.files.path(row), foreground, self.crf, self.grabcut))
            if self.truth_dir:
                overlap = iou(foreground, self.files.true_mask(row, foreground.shape))
                self.map_iou[label] += torch.tensor([overlap, 1.0], dtype=torch.float64)
        self.say(trainer, len(prediction))

    def say(self, trainer: pl.Trainer, count: int) -> None:
        """A line every ten seconds: how many, how fast, how much longer."""
        self.done += count
        now = time.monotonic()
        if trainer.is_global_zero and now - self.last >= 10:
            self.last = now
            rate = self.done / (now - self.begin)
            left = (self.left - self.done) / rate
            print(f"masks: {self.done} of {self.left}, {rate:.1f} images/s, {left:.0f} s left", flush=True)

    def remember_crash(self, mask: Path) -> None:
        """Note on disk that a mask is the unrefined map, for the process that finishes this run."""
        with self.one_at_a_time:
            known = read_json(self.crashes) if self.crashes.exists() else []
            write_json(self.crashes, [*known, str(mask.relative_to(self.run))])

    def count_nothing(self, mask: Path) -> None:
        """Count a mask in whose image GrabCut found nothing."""
        with self.one_at_a_time:
            self.found_nothing += 1

    def restore_benchmark(self) -> None:
        """Restore cuDNN's setting from before the predictions."""
        if self.benchmark is not None:
            torch.backends.cudnn.benchmark = self.benchmark
            self.benchmark = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.restore_benchmark()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restore_benchmark()
        self.pool.close()
        # float32 for devices that have no other; sums of a few thousand values in [0, 1] at most
        map_iou = trainer.strategy.reduce(self.map_iou.float().to(pl_module.device), reduce_op="sum").cpu().double()
        nothing = torch.tensor(self.found_nothing, device=pl_module.device)
        found_nothing = int(trainer.strategy.reduce(nothing, reduce_op="sum"))
        trainer.strategy.barrier("every rank has written its masks")
        if trainer.is_global_zero:
            if left := self.files.missing():  # trainer.limit_predict_batches
                print(f"{len(left)} of {len(self.files.rows)} images have no mask: there is no manifest with masks")
            else:
                measured = measure_all(self.files)
                report = self.conclude(measured, map_iou, found_nothing, self.stability(trainer, pl_module))
                log_figures(trainer, {f"masks/{key}": value for key, value in report.items()})
                self.write_sheet(measured, trainer, pl_module)
        trainer.strategy.barrier("the masks are judged")

    @torch.no_grad()
    def stability(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Mean IoU of the masks of some images' views with the views of their masks, as {"iou_<view>": ...}."""
        rows = self.files.rows[:: max(1, len(self.files.rows) // LOOKED_AT)][:LOOKED_AT]
        data_root, pool = datamodule_of(trainer).data_root, MaskPool(self.processes)
        with tempfile.TemporaryDirectory(prefix=VIEWS_OF, dir=self.run) as name:
            folder = Path(name)
            for i, row in enumerate(rows):
                image = decode_image(data_root / row.image_path, max_pixels=0)
                for view, seen in VIEWS.items():
                    picture = np.ascontiguousarray(seen(image), np.uint8)
                    write_png(folder / f"{i}-{view}.png", picture)
                    foreground = map_of(picture, trainer, pl_module) > self.threshold
                    made = folder / f"{i}-{view}-mask.png"
                    pool.submit(task_of(folder / f"{i}-{view}.png", made, foreground, self.crf, self.grabcut))
            pool.close()
            overlaps: dict[str, list[float]] = {f"iou_{view}": [] for view in VIEWS}
            for i, row in enumerate(rows):
                mask = self.files.read(row)
                for view, seen in VIEWS.items():
                    made = folder / f"{i}-{view}-mask.png"
                    if made.exists():  # a signal stops the pool
                        overlaps[f"iou_{view}"].append(iou(np.asarray(seen(mask)), decode_mask(made)))
        return {view: float(np.mean(values)) for view, values in overlaps.items() if values}

    def conclude(
        self, measured: Sequence[Measured], map_iou: torch.Tensor, found_nothing: int, stability: Mapping[str, float]
    ) -> dict[str, Any]:
        """Write the manifest with masks and masks.json, and print a summary; what is in masks.json."""
        rows = [row._replace(image_name=row.name, image_seg_path=self.files.relative(row)) for row in self.files.rows]
        write_manifest(self.run / f"{self.data_name}_train_with_mask_label.json", rows)
        crashed = sorted({name for path in (self.run / "masks").glob(".crashed-*.json") for name in read_json(path)})
        report = {**judge(self.files, measured, crashed, found_nothing, map_iou), **stability}
        for doubt in doubts(report):
            warnings.warn(f"{self.run}: {doubt}", stacklevel=2)
        write_json(self.run / "masks.json", report)
        print(line_of(report), flush=True)
        return report

    def write_sheet(self, measured: Sequence[Measured], trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """masks.png: images with the outline of their mask, map and mask, and words; a row for each context."""
        tiles = []
        data = datamodule_of(trainer)
        for place, words in shown(self.files.rows, measured, data.contexts):
            row = self.files.rows[place]
            image = decode_image(data.data_root / row.image_path, max_pixels=0)
            levels = (255 * map_of(image, trainer, pl_module)).round().astype(np.uint8)
            heat = cv2.applyColorMap(square(levels, TILE), cv2.COLORMAP_VIRIDIS)[..., ::-1].astype(np.uint8)
            mask = square(self.files.read(row).astype(np.uint8) * 255, TILE)
            picture = outlined(square(image, TILE), mask[..., 0] > 127)
            tiles.append(Tile(np.hstack([picture, heat, mask]), words))
        log_picture(trainer, "masks", write_sheet(self.run / "masks.png", tiles, COLUMNS))


@torch.no_grad()
def map_of(image: npt.NDArray[np.uint8], trainer: pl.Trainer, pl_module: pl.LightningModule) -> npt.NDArray[np.float32]:
    """The map (H, W) in [0, 1] that a module predicts for a single image (H, W, 3)."""
    batch = trainer.strategy.batch_to_device(BySize.stack([padded(image, 0)]))
    with trainer.precision_plugin.forward_context():
        return np.asarray(pl_module.predict_step(batch, 0)[0].float().cpu().numpy(), np.float32)


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as a PNG in one step."""
    with write_whole(path) as file:
        file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
