"""The one LightningDataModule: a manifest in, batches out. Every stage uses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from src.data.batch import Batch, FullSizeBatch, FullSizePixels, PixelBatch, TwoViewBatch, collate, collate_pairs
from src.data.checks import PREFETCH, check_links, check_shared_memory
from src.data.datasets import BySize, ChoosesRows, FullSizeImages, Images, Pairs, Transform, start_worker
from src.data.layouts import Layout
from src.data.loading import GROUPINGS, batch_of, cores, groups_to_sample
from src.data.manifest import Row, read_manifest
from src.data.mask_files import MASKS_AGAIN
from src.data.sampler import KeyedSampler
from src.data.splits import HELD_OUT, Split, SplitRule, no_split
from src.data.store import ManifestStore
from src.data.training import MaskSource, check_bad_share, check_training
from src.datamodules.held_out import do_without_in_domain
from src.distributed import is_rank_zero
from src.lightning_private import batches_done
from src.numbers import check_number, is_number
from src.schedules import size_schedule


@dataclass(kw_only=True, eq=False, repr=False)
class NicoDataModule(pl.LightningDataModule):
    """Training, validation and prediction data of one data set.

    Args:
        data_root: the user's tree of images.
        manifest_dir: where the manifests are, or are made when missing.
        track: the data set's name, and where its images lie (conf/track).
        batch_size: global, divided by the ranks.
        num_workers: processes that decode, for each rank; no more are started than there are cores.
        timeout: seconds that a batch of theirs may take; 0: any time.
        seed: key of order and augmentation.
        max_pixels: an image of more, by its header, counts as one that cannot be decoded; 0: any number.
        rebuild: rewrite the manifests.
        check: compare the manifests with the tree, and the masks' manifest with the other.
        part: "train" (and validate on its held-out parts) or "test" (predict).
        size: side of the network's input in pixels; or a schedule of pairs [first epoch, size], the first from 0.
        eval_transform: called with `size`, makes the transform of evaluation.

    The rest is of part "train" alone:
        split: a rule (rows, context names) -> Split (conf/split); None: the images are listed, not split.
        train_transform: as eval_transform.
        persistent_workers: keep the workers between epochs.
        sampling: an epoch has equally many images of each "class", "context" or "group" (a class in a context); None:
            every image once.
        pairs: train on pairs: each image with one of "any_context" or of "other_context"; None: on single images.
        masks: a training manifest with image_seg_path, or None.
        mask_root: what image_seg_path is relative to; None: the manifest's own folder.
        native_pixels: of a batch of images at their own size, at least 1: then each is alone.
        on_bad_image: "stop" at an image that cannot be decoded, or "skip": decode every image once
            beforehand and leave such images out.
        max_bad_share: share of such images, in [0, 1], above which "skip" stops too.

    Filled in by `setup`: rows (of part "train" all of them, whatever the split), classes and contexts by id, and parts:
    the split, as indices of the rows.
    """

    data_root: Path
    manifest_dir: Path
    track: dict[str, Any]
    batch_size: int
    num_workers: int
    timeout: float
    seed: int
    max_pixels: int
    rebuild: bool
    check: bool
    part: str = "test"
    size: int | Sequence[Sequence[int]] | None = None
    eval_transform: Callable[..., Transform] | None = None
    split: SplitRule | None = None
    train_transform: Callable[..., Transform] | None = None
    persistent_workers: bool = False
    sampling: str | None = None
    pairs: str | None = None
    masks: str | None = None
    mask_root: str | None = None
    native_pixels: int = 1
    on_bad_image: str = "stop"
    max_bad_share: float = 1.0

    def __post_init__(self) -> None:
        super().__init__()
        self.check_arguments()
        self.workers = min(self.num_workers, cores())
        transforms = [made for made in (self.train_transform, self.eval_transform) if made is not None]
        self.sizes = {} if self.size is None and not transforms else size_schedule(self.size)
        for transform in transforms:
            transform(size=self.last_size)  # it refuses settings before anything is read or written
        self.data_root, self.layout = Path(self.data_root), Layout(**self.track)
        self.store = ManifestStore(self.data_root, Path(self.manifest_dir), self.layout, self.part, self.rebuild)
        self.mask_source: MaskSource | None = None
        if self.masks and self.masks != "none":
            manifest = Path(self.masks)
            self.mask_source = MaskSource(manifest, Path(self.mask_root or manifest.parent))
        self.skip = self.on_bad_image == "skip" and self.part == "train"
        self.tolerant = False
        self.rows: list[Row] = []
        self.classes: list[str] = []
        self.contexts: list[str] = []
        self.parts = Split([], [], [])
        self.resume_at: tuple[int, int] = (0, 0)

    def check_arguments(self) -> None:
        """Raise ValueError for arguments that nothing can be done with."""
        for name, least in (("batch_size", 1), ("num_workers", 0), ("max_pixels", 0), ("native_pixels", 1)):
            check_number(f"datamodule.{name}", getattr(self, name), least, whole=True)
        if not is_number(self.timeout, 0):
            raise ValueError(f"datamodule.timeout is {self.timeout}: expected seconds, or 0 for any time")
        check_number("datamodule.max_bad_share", self.max_bad_share, 0, 1)
        if self.part not in ("train", "test"):
            raise ValueError(f"datamodule.part is {self.part!r}: expected train or test")
        if self.on_bad_image not in ("stop", "skip"):
            raise ValueError(f"datamodule.on_bad_image is {self.on_bad_image!r}: expected stop or skip")
        if self.sampling not in (None, *GROUPINGS):
            raise ValueError(f"datamodule.sampling is {self.sampling!r}: expected {', '.join(GROUPINGS)} or null")
        if self.pairs not in (None, "any_context", "other_context"):
            raise ValueError(f"datamodule.pairs is {self.pairs!r}: expected any_context, other_context or null")

    # ----------------------------------------------------------------------------------------- rows

    def prepare_data(self) -> None:
        """Make what is missing on disk: the manifest, a label map beside it, the record of whose they are, the list of
        bad images. Nothing is written where the data or the settings are refused; every process may call it at once.
        """
        if self.rows:  # Lightning calls this again, and the tree is the same; or `show` gave other rows
            return
        listing = self.store.prepare(self.check, self.rehearse)
        if self.layout.is_found and self.split and is_rank_zero():
            print(f"data {self.data_root}: {self.store.sources.words}", flush=True)
        if listing.home.note:
            warnings.warn(listing.home.note, stacklevel=2)
        if self.skip:
            self.store.list_bad_images(max(self.num_workers, 1), self.max_pixels)

    def rehearse(self) -> None:
        """Do what `setup` does, for its errors, before anything is written."""
        if self.skip:  # which images those are is not known yet
            return
        try:
            self.load(set())
        finally:
            self.rows = []

    def setup(self, stage: str | None = None) -> None:
        """Read the manifests and split the training rows; cheap and the same on every rank."""
        if self.rows:
            return
        cv2.setNumThreads(0)
        self.load(self.store.read_bad_images() if self.skip else set())

    def load(self, bad: set[str]) -> None:
        """Take the rows of the manifest, or of the masks' one, check them, and split those of training.

        Args:
            bad: paths of the images that cannot be decoded.
        """
        listing = self.store.read()
        path = self.mask_source.manifest if self.mask_source else self.store.manifest
        self.rows = read_manifest(path, MASKS_AGAIN) if self.mask_source else list(listing.rows)
        if not self.rows:
            raise ValueError(f"the manifest {path} lists no image")
        check_links(self.data_root, [row.image_path for row in self.rows])
        if self.part == "train":
            if self.skip:
                unreadable = [row.image_path for row in self.rows if row.image_path in bad]
                check_bad_share(unreadable, len(self.rows), self.store.bad_images, self.max_bad_share)
            self.rows, self.classes, self.contexts, self.parts = check_training(
                self.store, self.rows, self.mask_source, bad, self.split or no_split, self.check, self.max_pixels
            )

    @property
    def split_paths(self) -> dict[str, list[str]]:
        """Image paths of each part of the split, as a run stores them."""
        return {part: [self.rows[i].image_path for i in indices] for part, indices in self.parts._asdict().items()}

    def show(self, rows: Sequence[Row], data_root: Path) -> None:
        """Predict `rows`, which lie below `data_root`, whatever the manifest lists; unreadable ones are marked."""
        self.rows, self.data_root, self.tolerant = list(rows), data_root, True

    def pixels(self, rows: Sequence[Row], size: int, tolerant: bool = False) -> torch.Tensor:
        """Images as networks of a size see them in evaluation: (N, 3, size, size) uint8.

        With `tolerant` those that cannot be read are left out, with a warning.
        """
        assert self.eval_transform is not None
        images = Images(
            rows, self.data_root, None, self.eval_transform(size=size), self.seed, None, tolerant, self.max_pixels
        )
        examples = [images[0, i] for i in range(len(rows))]
        bad = [row.image_path for row, one in zip(rows, examples, strict=True) if not one.readable]
        if bad and is_rank_zero():
            warnings.warn(f"{len(bad)} training images cannot be read and are not mixed in ({bad[0]})", stacklevel=2)
        made = [torch.from_numpy(one.pixels[0]) for one in examples if one.readable]
        return torch.stack(made).permute(0, 3, 1, 2) if made else torch.empty((0, 3, size, size), dtype=torch.uint8)

    # --------------------------------------------------------------------------------------- loaders

    def size_at(self, epoch: int) -> int:
        """Side of the network's input in an epoch."""
        return self.sizes[max(first for first in self.sizes if first <= epoch)]

    @property
    def last_size(self) -> int:
        """Side of the network's input at the training's end, and in prediction."""
        return self.size_at(max(self.sizes))

    @property
    def rank_and_world_size(self) -> tuple[int, int]:
        """This process's rank and how many there are; alone without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def loader(
        self, rows: Sequence[Row], transform: Callable[..., Transform] | None, train: bool, sizes: Mapping[int, int]
    ) -> DataLoader[Any]:
        """A loader of this rank's share of `rows`, each epoch at its size."""
        assert transform is not None
        rank, world_size = self.rank_and_world_size
        share = batch_of(self.batch_size, len(rows), world_size, train) // world_size
        sampler = KeyedSampler(
            len(rows), seed=self.seed, batch_size=share, shuffle=train, drop_last=train,
            rank=rank, num_replicas=world_size, groups=groups_to_sample(rows, self.sampling) if train else None,
        )  # fmt: skip
        if train:
            sampler.resume(*self.resume_at)
        (_, first), *later = ((epoch, transform(size=size)) for epoch, size in sizes.items())
        mask_root = self.mask_source.root if train and self.mask_source else None
        images = Images(rows, self.data_root, mask_root, first, self.seed, dict(later), self.tolerant, self.max_pixels)
        paired = train and self.pairs is not None
        pixels = share * (2 if paired else first.views) * max(sizes.values()) ** 2
        check_shared_memory(self.workers, pixels * (4 if mask_root else 3))
        return DataLoader(
            Pairs(images, self.pairs == "other_context") if paired else images,
            batch_size=share,
            sampler=sampler,
            persistent_workers=self.persistent_workers and self.workers > 0,
            collate_fn=collate_pairs if paired else collate,
            **self.loading,
        )

    @property
    def loading(self) -> dict[str, Any]:
        """What every loader has: its workers."""
        return {
            "num_workers": self.workers,
            "timeout": self.timeout if self.workers else 0,
            "prefetch_factor": PREFETCH if self.workers else None,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            "worker_init_fn": start_worker,
            # The loader draws a seed for its workers from this, not from the generator that the training
            # draws from; what it draws is not used, examples have seeds of their own.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        rows = [self.rows[i] for i in self.parts.train]
        return self.loader(rows, self.train_transform, train=True, sizes=self.sizes)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader per held-out part, in the order of splits.HELD_OUT; none where nothing is held out."""
        parts = [getattr(self.parts, name) for name in HELD_OUT]
        while parts and not parts[-1]:
            parts.pop()
        if parts and not parts[0] and self.trainer:
            do_without_in_domain(self.trainer)
        rows = [[self.rows[i] for i in part] for part in parts]
        return [
            self.loader(part, self.eval_transform, train=False, sizes=self.sizes) if part else DataLoader([])  # type: ignore[arg-type] # a list is a data set
            for part in rows
        ]

    def train_part_dataloader(self) -> DataLoader[Any]:
        """The images trained on, once each and without augmentation: for what is decided over all of them."""
        rows = [self.rows[i] for i in self.parts.train]
        return self.loader(rows, self.eval_transform, train=False, sizes={0: self.last_size})

    def predict_dataloader(self) -> DataLoader[Any] | BySize:
        """The test images at the network's size; of part "train", images at their own: all, or those that a callback
        of the trainer has left to do."""
        if self.part == "test":
            return self.loader(self.rows, self.eval_transform, train=False, sizes={0: self.last_size})
        callbacks = self.trainer.callbacks if self.trainer else []  # type: ignore[attr-defined] # Lightning's, untyped
        chosen = next((one.rows_left for one in callbacks if isinstance(one, ChoosesRows)), range(len(self.rows)))
        rank, world_size = self.rank_and_world_size
        mine = [(0, index) for index in chosen][rank::world_size]
        images = FullSizeImages(self.rows, self.data_root, self.max_pixels)
        return BySize(DataLoader(images, batch_size=None, sampler=mine, **self.loading), self.native_pixels)

    def on_after_batch_transfer(
        self, batch: PixelBatch | FullSizePixels, dataloader_idx: int
    ) -> Batch | TwoViewBatch | FullSizeBatch:
        """Pixels to images, on the device."""
        return batch.on_device()

    # ---------------------------------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, int]:
        """Where in the order of the images a checkpoint was written."""
        assert self.trainer is not None
        done = batches_done(self.trainer)
        whole = done >= self.trainer.num_training_batches
        return {"epoch": self.trainer.current_epoch + whole, "batches": 0 if whole else done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume_at = (state["epoch"], state["batches"])


def datamodule_of(trainer: pl.Trainer) -> NicoDataModule:
    """The data module that a trainer fits or predicts with."""
    datamodule: NicoDataModule = trainer.datamodule  # type: ignore[attr-defined] # Lightning sets it, and types it not
    return datamodule
