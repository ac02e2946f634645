"""Where the rows of `python -m benchmarks.gpu` are measured: drawn images, the real configuration, a batch at hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from benchmarks.gpu_meter import timed
from benchmarks.loader import write_images
from src import cli
from src.data.batch import PixelBatch
from src.data.manifest import write_manifest
from src.data.splits import Split
from src.datamodules.nico import NicoDataModule
from src.overrides import literal

Figures = dict[str, Any]
TREE = "public_dg_0416/train"
WORKERS = 16


class Repeated:
    """A loader that gives one batch again and again: what training takes when it does not wait for data."""

    def __init__(self, batch: PixelBatch, batch_size: int) -> None:
        self.batch, self.batch_size = batch, batch_size

    def __len__(self) -> int:
        return 100_000

    def __iter__(self) -> Iterator[PixelBatch]:
        return itertools.repeat(self.batch, len(self))


class AtHand(NicoDataModule):
    """The data module with one batch of its own loader, in pinned memory."""

    def train_dataloader(self) -> Any:
        batch = next(iter(super().train_dataloader()))
        if torch.cuda.is_available():
            batch = PixelBatch(*(part if part is None else part.pin_memory() for part in batch))
        return Repeated(batch, self.batch_size)


class Bench:
    """Where rows are measured.

    Args:
        folder: an empty one, for drawn images and what trainings write.
        tiny: sizes for a test on a CPU, in float32.
        seconds: that the repeats of one figure take, about.
        known: the rows that have been measured, which others are set against.
    """

    def __init__(self, folder: Path, tiny: bool, seconds: float, known: Mapping[str, Figures]) -> None:
        self.folder, self.tiny, self.seconds, self.known = folder, tiny, 0.0 if tiny else seconds, known
        self.device = torch.device("cpu" if tiny or not torch.cuda.is_available() else "cuda")
        self.images = 128 if tiny else 16384  # of an epoch: the drawn ones again and again
        classes, contexts = (8, 4) if tiny else (60, 6)
        drawn, rows = folder / "drawn", []
        drawn.mkdir()
        for i, row in enumerate(write_images(drawn, classes * contexts)):
            label, context = i % classes, i // classes
            name = f"class{label:02}"
            path = f"{TREE}/context{context}/{name}/{row.image_path}"
            (folder / path).parent.mkdir(parents=True)
            (drawn / row.image_path).rename(folder / path)
            rows.append(row._replace(image_path=path, label=label, label_name=name, domain=context))
        write_manifest(folder / "masks.json", rows)

    def configure(self, *words: str) -> DictConfig:
        """The configuration as train.py composes it, of the drawn images with their masks."""
        where = "scale=demo" if self.tiny else f"trainer={'gpu' if self.device.type == 'cuda' else 'cpu'}"
        small = ["datamodule.size=32", "datamodule.batch_size=16"] if self.tiny else []
        shared = [
            f"data_root={self.folder}", f"manifest_dir={self.folder}/json", f"logs_dir={self.folder}/logs",
            f"masks={self.folder}/masks.json", f"mask_root={self.folder}/drawn", "init=none", "track=1", "split=none",
            "changes=null", "callbacks.progress=null", "callbacks.pictures=null", "callbacks.neighbours=null",
            "trainer.enable_progress_bar=false",
        ]  # fmt: skip
        return cli.composed("train", where, *shared, *words, *small)

    def data(self, cfg: DictConfig, at_hand: bool = True) -> NicoDataModule:
        """The data module, its images repeated to an epoch's; fills in what train.py does of the data."""
        cfg.datamodule.num_workers = 0 if at_hand else 1 if self.tiny else WORKERS
        if at_hand:
            cfg.datamodule._target_ = f"{__name__}.AtHand"
        datamodule: NicoDataModule = cli.instantiate(cfg.datamodule)
        datamodule.prepare_data()
        datamodule.setup()
        datamodule.rows = list(itertools.islice(itertools.cycle(datamodule.rows), self.images))
        datamodule.parts = Split(list(range(self.images)), [], [])
        cfg.dataset = {
            "num_classes": len(datamodule.classes),
            "contexts": literal(datamodule.contexts),
            "images": self.images,
            "context_information": None,
        }
        return datamodule

    def figure(self, row: str, key: str) -> float:
        """A figure of a row; NaN where it is not measured."""
        return float(self.known.get(row, {}).get(key, "nan"))

    def autocast(self) -> torch.autocast:
        """As the trainer's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def timed(self, work: Callable[[], Any], window: int = 5) -> float:
        """Seconds a call."""
        return timed(work, self.device, self.seconds / 2, 1 if self.tiny else window, 1 if self.tiny else 3)
