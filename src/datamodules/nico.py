"""The one LightningDataModule: a manifest in, batches of Samples out. Every stage uses it."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import DataLoader

from src.data.batch import Native, Sample, collate, collate_pairs
from src.data.checks import MASKS_AGAIN, MASKS_LOOKED_AT, PREFETCH, check_against_tree, check_links, check_shared_memory
from src.data.datasets import BySize, Images, NativeImages, Pairs, Transform, start_worker
from src.data.images import MAX_PIXELS, find_bad_images
from src.data.manifest import Row, labels_of, read_label_map, read_manifest, spelled_in, write_manifest
from src.data.mask_files import decode_mask, says_nothing
from src.data.ownership import Home, home_of, manifests_in, write_record
from src.data.sampler import KeyedSampler
from src.data.scan import Layout, scan_test, scan_train
from src.data.splits import HELD_OUT, Split, SplitRule
from src.files import digest_files, read_json, write_json
from src.locks import locked

AnyBatch = TypeVar("AnyBatch", Sample, Native)
MAX_SIZE = 8192  # pixels of a network's input on a side: a batch of two such images is 400 MB


class Listing(NamedTuple):
    """What a data set holds: its manifest, on disk or to be written.

    Attributes:
        home: the folder of its manifests.
        rows: the manifest's.
        labels: {class name: id}; {} of test images.
        new: whether the manifest on disk is another one, or missing.
    """

    home: Home
    rows: list[Row]
    labels: dict[str, int]
    new: bool


class NicoDataModule(pl.LightningDataModule):
    """Training, validation and prediction data of one track.

    Args:
        data_root: the user's tree of images.
        manifest_dir: where the manifests are, or are made when missing.
        track: the track's layout (conf/track).
        part: "train" (and validate on its held-out parts) or "test" (predict).
        split: a rule (rows, context names) -> Split (conf/split); None for part "test".
        train_transform, eval_transform: called with `size`, make the transforms.
        size: side of the network's input in pixels; or a schedule of pairs [first epoch, size], the first from 0.
        batch_size: global, divided by the ranks.
        num_workers: processes that decode, for each rank.
        timeout: seconds that a batch of theirs may take; 0: any time.
        persistent_workers: keep them between epochs.
        seed: key of order and augmentation.
        pairs: train on pairs: each image with one of "any_context" or of "other_context"; None: on single images.
        masks: a training manifest with image_seg_path, or None.
        mask_root: what image_seg_path is relative to; None: the manifest's own folder.
        native_pixels: of a batch of images at their own size.
        on_bad_image: "stop" at an image that cannot be decoded, or "skip": decode every image once
            beforehand and leave such images out.
        max_bad_share: share of such images above which "skip" stops too.
        max_pixels: an image of more, by its header, counts as one that cannot be decoded; 0: any number.
        rebuild: write the manifests anew.
        check: compare the manifests with the tree, and the masks' manifest with the other.
    """

    def __init__(
        self,
        *,
        data_root: str,
        manifest_dir: str,
        track: dict[str, Any],
        part: str,
        split: SplitRule | None,
        train_transform: Callable[..., Transform],
        eval_transform: Callable[..., Transform],
        size: int | Sequence[Sequence[int]],
        batch_size: int,
        num_workers: int,
        timeout: float,
        persistent_workers: bool,
        seed: int,
        pairs: str | None,
        masks: str | None,
        mask_root: str | None,
        native_pixels: int,
        on_bad_image: str,
        max_bad_share: float,
        rebuild: bool,
        check: bool,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("max_pixels", max_pixels, 0)
        ):  # fmt: skip
            if type(value) is not int or value < least:
                raise ValueError(f"datamodule.{name} is {value}: expected a whole number of at least {least}")
        if not timeout >= 0:
            raise ValueError(f"datamodule.timeout is {timeout}: expected seconds, or 0 for any time")
        if on_bad_image not in ("stop", "skip"):
            raise ValueError(f"datamodule.on_bad_image is {on_bad_image!r}: expected stop or skip")
        if pairs not in (None, "any_context", "other_context"):
            raise ValueError(f"datamodule.pairs is {pairs!r}: expected any_context, other_context or null")
        self.data_root, self.manifest_dir = Path(data_root), Path(manifest_dir)
        self.layout, self.part = Layout(**track), part
        self.split_rule = split
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.sizes = {0: size} if isinstance(size, int) else {int(epoch): int(side) for epoch, side in size}
        sides = self.sizes.values()
        if 0 not in self.sizes or list(self.sizes) != sorted(self.sizes) or min(sides) < 1 or max(sides) > MAX_SIZE:
            raise ValueError(
                f"datamodule.size is {size}: expected a size of 1 to {MAX_SIZE} pixels, or pairs [first epoch, size] "
                "from epoch 0 on"
            )
        self.batch_size, self.seed, self.pairs = batch_size, seed, pairs
        self.timeout = timeout
        self.num_workers, self.persistent_workers = num_workers, persistent_workers and num_workers > 0
        self.masks = Path(masks) if masks and masks != "none" else None
        self.mask_root = Path(mask_root) if mask_root else self.masks.parent if self.masks else None
        self.on_bad_image, self.max_bad_share = on_bad_image, max_bad_share
        self.rebuild, self.check, self.max_pixels = rebuild, check, max_pixels
        self.native_pixels = native_pixels
        self.native_rows: list[int] | None = None
        self.tolerant = False
        self.listing: Listing | None = None
        self.scanned: tuple[list[Row], dict[str, int]] | None = None
        self.rows: list[Row] = []
        self.classes: list[str] = []
        self.contexts: list[str] = []
        self.bad_images: list[str] = []
        self.split = Split([], [], [])
        self.resume_at: tuple[int, int] = (0, 0)

    # ------------------------------------------------------------------------------------- manifests

    @property
    def folder(self) -> Path:
        """Where this data set's manifests are, or are made (`data_sets`)."""
        return (self.listing.home if self.listing else self.home()).folder

    @property
    def manifest(self) -> Path:
        """Path of this part's manifest, whether it exists or not."""
        return self.folder / f"track{self.layout.id}_{self.part}_label.json"

    @property
    def label_map(self) -> Path:
        """The user's label map, below the data root, or where there is none the one that lies beside the manifests."""
        own = self.data_root / self.layout.label_map
        return own if own.exists() else self.folder / f"track{self.layout.id}_label_map.json"

    def home(self) -> Home:
        """The folder of this data set's manifests, as things are now."""
        return home_of(self.manifest_dir, self.data_root, self.layout.id, self.rebuild)

    def prepare_data(self) -> None:
        """Make what is missing on disk: the manifest, a label map beside it, the record of whose they are, the list of
        bad images. Nothing is written where the data or the settings are refused.

        Every process may call it at once: where something is to be written one works, the others find the work done.
        """
        if self.rows:  # Lightning calls this again, and the tree is the same; or `show` gave other rows
            return
        self.listing = self.find_listing(self.check)
        if self.listing.home.note:
            warnings.warn(self.listing.home.note, stacklevel=2)
        if self.listing.new:
            if self.on_bad_image != "skip":  # which images those are is not known yet
                self.rehearse()
            with locked(self.manifest_dir):
                self.listing = self.find_listing(self.check)  # another process may have written meanwhile
                self.write_listing(self.listing)
        elif not self.listing.home.recorded or self.made_map_is_old(self.listing):
            with suppress(PermissionError), locked(self.manifest_dir):  # a folder that may only be read serves as well
                self.write_listing(self.listing)
        if self.on_bad_image == "skip" and self.part == "train":
            with locked(self.manifest_dir):
                self.list_bad_images()

    def find_listing(self, check: bool) -> Listing:
        """This part's manifest as it is on disk, or, where there is none or manifest.rebuild=true, by the tree.

        Raises:
            OSError, ValueError: they cannot be read, or (with `check`) no longer match.
        """
        home = self.home()
        manifest = home.folder / f"track{self.layout.id}_{self.part}_label.json"
        if self.rebuild or not manifest.exists():
            if home.note and not self.rebuild and not manifests_in(home.folder, self.layout.id):
                # A data root that was mistyped, or a data set that is here for the first time: the user knows.
                raise ValueError(
                    f"{home.note}: manifest.rebuild=true makes them there, and is needed this once; or set data_root "
                    "or manifest_dir to those that belong together"
                )
            rows, labels = self.scan()
            return Listing(home, rows, labels, True)
        rows = read_manifest(manifest)
        if check:
            check_against_tree(manifest, rows, self.scan()[0])
        own = self.data_root / self.layout.label_map
        labels = {} if self.part == "test" else read_label_map(own) if own.exists() else labels_of(rows, manifest)
        return Listing(home, rows, labels, False)

    def scan(self) -> tuple[list[Row], dict[str, int]]:
        """This part's rows by its tree, and the label map ({} of test images); the tree is looked at once."""
        if self.scanned is None:
            test = self.part == "test"
            self.scanned = (
                (scan_test(self.data_root, self.layout), {}) if test else scan_train(self.data_root, self.layout)
            )
        return self.scanned

    def rehearse(self) -> None:
        """Do what `setup` does, for its errors, before anything is written."""
        try:
            self.load(set())
        finally:
            self.rows = []

    def write_listing(self, listing: Listing) -> None:
        """Write the manifest where it is new, the label map where the user has none, and whose they are."""
        folder = listing.home.folder
        if listing.new:
            write_manifest(folder / f"track{self.layout.id}_{self.part}_label.json", listing.rows)
        if self.made_map_is_old(listing):
            write_json(self.label_map, listing.labels)
        if not listing.home.recorded:
            write_record(folder, self.data_root, self.layout.id)

    def made_map_is_old(self, listing: Listing) -> bool:
        """Whether the label map beside the manifests does not say what the manifest says, whose ids count."""
        path = listing.home.folder / f"track{self.layout.id}_label_map.json"
        if self.part == "test" or self.label_map != path:
            return False
        try:
            return read_label_map(path) != listing.labels
        except (OSError, ValueError):
            return True

    @property
    def bad_images_path(self) -> Path:
        return self.folder / f"track{self.layout.id}_bad_images.json"

    def list_bad_images(self) -> None:
        """Decode all training images once and write the paths of those that cannot be decoded."""
        assert self.listing is not None
        paths = [row.image_path for row in self.listing.rows]
        digest = f"{digest_files(self.data_root, paths)}, {self.max_pixels} pixels"
        if self.bad_images_path.exists() and read_json(self.bad_images_path)["digest"] == digest:
            return
        bad = find_bad_images(self.data_root, paths, max(self.num_workers, 1), self.max_pixels)
        write_json(self.bad_images_path, {"digest": digest, "bad_images": bad})

    # ----------------------------------------------------------------------------------------- rows

    def setup(self, stage: str | None = None) -> None:
        """Read the manifests and split the training rows; cheap and the same on every rank."""
        if self.rows:
            return
        cv2.setNumThreads(0)
        if self.listing is None:
            self.listing = self.find_listing(check=False)
        skip = self.on_bad_image == "skip" and self.part == "train"
        self.load(set(read_json(self.bad_images_path)["bad_images"]) if skip else set())

    def load(self, bad: set[str]) -> None:
        """Take the rows of the manifest, or of the masks' one, check them, and split those of training.

        Args:
            bad: paths of the images that cannot be decoded.
        """
        assert self.listing is not None
        path = self.masks or self.manifest
        self.rows = read_manifest(self.masks, MASKS_AGAIN) if self.masks else list(self.listing.rows)
        if not self.rows:
            raise ValueError(f"the manifest {path} lists no image")
        check_links(self.data_root, [row.image_path for row in self.rows])
        if self.part == "train":
            self.setup_training(path, self.listing.labels, bad)

    def show(self, rows: Sequence[Row], data_root: Path) -> None:
        """Predict `rows`, which lie below `data_root`, whatever the manifest lists; unreadable ones are marked."""
        self.rows, self.data_root, self.tolerant = list(rows), data_root, True

    def pixels(self, rows: Sequence[Row], size: int, tolerant: bool = False) -> torch.Tensor:
        """Images as networks of a size see them in evaluation: (N, 3, size, size) uint8.

        With `tolerant` those that cannot be read are left out, with a warning.
        """
        images = Images(
            rows, self.data_root, None, self.eval_transform(size=size), self.seed, None, tolerant, self.max_pixels
        )
        decoded = [images[0, i] for i in range(len(rows))]
        bad = [row.image_path for row, one in zip(rows, decoded, strict=True) if not one.readable]
        if bad and not getattr(rank_zero_only, "rank", 0):
            warnings.warn(f"{len(bad)} training images cannot be read and are not mixed in ({bad[0]})", stacklevel=2)
        made = [torch.from_numpy(one.image) for one in decoded if one.readable]
        return torch.stack(made).permute(0, 3, 1, 2) if made else torch.empty((0, 3, size, size), dtype=torch.uint8)

    def setup_training(self, path: Path, labels: Mapping[str, int], bad: set[str]) -> None:
        """Check labels, domains and masks of the rows of the manifest `path`, and split them."""
        self.classes = sorted(labels, key=labels.__getitem__)
        own = (self.data_root / self.layout.label_map).exists()
        whose = f"the label map {self.label_map}" if own else f"the manifest {self.manifest}"
        if sorted(labels.values()) != list(range(len(labels))):
            ids = sorted(labels.values())
            wrong = next((i for k, i in enumerate(ids) if i != k), -1)
            mend = (
                "correct them, then start with manifest.rebuild=true"
                if own
                else f"put a label map with all classes in {self.data_root / self.layout.label_map}, or let "
                "manifest.rebuild=true number the class folders"
            )
            raise ValueError(
                f"the ids of {whose} are not 0 to {len(labels) - 1} ({ids.index(wrong)} is missing): {mend}"
            )
        for i, row in enumerate(self.rows):
            if row.label is None or row.label >= len(self.classes):
                raise ValueError(
                    f"entry {i} of {path} ({row.image_path}) has the label {row.label}: expected an id below "
                    f"{len(self.classes)}, the number of classes in {whose}"
                )
            if row.label_name is not None and labels.get(row.label_name) != row.label:
                if labels.get(spelled_in(labels, row.label_name)) == row.label:
                    continue
                mend = (
                    "make the masks anew with stage=wsss"
                    if self.masks
                    else "manifest.rebuild=true writes the manifest by the map"
                )
                raise ValueError(
                    f"entry {i} of {path} gives {row.label_name!r} the label {row.label}, {whose} "
                    f"{labels.get(row.label_name)}: correct one of them ({mend})"
                )
        if self.masks:
            self.check_masks(path, bad)
        self.contexts = self.context_names(path)
        if self.on_bad_image == "skip":
            self.leave_out_bad_images(bad)
        assert self.split_rule is not None
        self.split = self.split_rule(self.rows, self.contexts)
        if not self.split.train:
            raise ValueError(f"the split leaves no training image of the {len(self.rows)} in {path}")
        self.name_unseen_classes(whose)

    def name_unseen_classes(self, whose: str) -> None:
        """Warn of classes that the network has an output for and no image to learn from."""
        listed = {row.label for row in self.rows}
        trained = {self.rows[i].label for i in self.split.train}
        empty = [name for i, name in enumerate(self.classes) if i not in listed]
        held_out = [name for i, name in enumerate(self.classes) if i in listed and i not in trained]
        for names, what in (
            (empty, "no image"),
            (held_out, "images only in the part that is held out (split=), and will not be learned"),
        ):
            if names:
                count, verb = (f"{len(names)} classes", "have") if len(names) > 1 else ("the class", "has")
                more = ", ..." if len(names) > 8 else ""
                listed_names = ", ".join(map(repr, names[:8]))
                warnings.warn(f"{count} {listed_names}{more} of {whose} {verb} {what}", stacklevel=2)

    def check_masks(self, path: Path, bad: set[str]) -> None:
        assert self.mask_root is not None
        missing = [row for row in self.rows if row.image_seg_path is None]
        if missing:
            raise ValueError(
                f"{path} has no image_seg_path for {missing[0].image_path}: make the masks with stage=wsss"
            )
        self.check_masked_images(path, bad)
        paths = [str(row.image_seg_path) for row in self.rows]
        check_links(self.mask_root, paths)
        gone = [name for name in paths if not (self.mask_root / name).exists()]
        if gone:
            raise FileNotFoundError(
                f"{len(gone)} masks of {path} are missing below {self.mask_root} (first: {gone[0]}): "
                "set mask_root, or make the masks with stage=wsss"
            )
        self.warn_of_masks(path)

    def warn_of_masks(self, path: Path) -> None:
        """Warn of masks that separate nothing: by what the run that made them measured, else by a sample of them."""
        if getattr(rank_zero_only, "rank", 0):
            return
        assert self.mask_root is not None
        share, empty, full = math.nan, 0.0, 0.0
        if self.mask_root == path.parent:
            with suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):  # no such file, or another's
                measured = read_json(path.parent / "masks.json")
                empty, full = (len(measured[part]) / measured["images"] for part in ("empty", "full"))
                share = float(measured["foreground_share"])
        if math.isnan(share):
            order = np.random.default_rng(0).permutation(len(self.rows))[:MASKS_LOOKED_AT]
            paths = [self.mask_root / str(self.rows[i].image_seg_path) for i in order]
            shares = np.array([decode_mask(one, self.max_pixels).mean() for one in paths])
            share, empty, full = float(shares.mean()), float((shares == 0).mean()), float((shares == 1).mean())
        if warning := says_nothing(share, empty, full):
            warnings.warn(f"{path}: {warning}", stacklevel=2)

    def check_masked_images(self, path: Path, bad: set[str]) -> None:
        """Other images than the manifest's would be another split, and silently so."""
        assert self.listing is not None
        expected = {row.image_path for row in self.listing.rows} - bad
        listed = {row.image_path for row in self.rows} - bad
        lacking, others = sorted(expected - listed), sorted(listed - expected)
        if not lacking and not others:
            return
        found = f"{path} lacks {len(lacking)} images of {self.manifest} and lists {len(others)} others"
        if self.check:
            raise ValueError(
                f"{found} (first: {(lacking + others)[0]}): make the masks anew with stage=wsss; if it leaves out "
                "images that cannot be decoded, set datamodule.on_bad_image=skip here too; manifest.check=false uses "
                "it as it is"
            )
        warnings.warn(f"{found}: its images are used", stacklevel=2)

    def context_names(self, path: Path) -> list[str]:
        """The contexts' names by id: the folder above the class folder, as the challenge lays it out, or the id itself
        where that folder is not one context's alone."""
        if not self.layout.has_contexts:
            self.rows = [row._replace(domain=None) for row in self.rows]
            return []
        folders: dict[int, set[str]] = {}
        for i, row in enumerate(self.rows):
            if not isinstance(row.domain, int):
                raise ValueError(
                    f"entry {i} of {path} ({row.image_path}) has the domain {row.domain!r}: expected a context's id"
                )
            parts = row.image_path.rsplit("/", 3)
            folders.setdefault(row.domain, set()).add(parts[-3] if len(parts) > 2 else "")
        ids = sorted(folders)
        alone = {name for name, count in Counter(name for names in folders.values() for name in names).items()
                 if count == 1}  # fmt: skip
        names = [next(iter(folders[i])) if len(folders[i]) == 1 and folders[i] <= alone else "" for i in ids]
        # Ids may have gaps, as years have: from here on a context's id is its place.
        place = {i: k for k, i in enumerate(ids)}
        if ids != list(range(len(ids))):
            self.rows = [row._replace(domain=place[row.domain]) for row in self.rows]  # type: ignore[index]
        return [name or str(i) for name, i in zip(names, ids, strict=True)]

    def leave_out_bad_images(self, bad: set[str]) -> None:
        self.bad_images = [row.image_path for row in self.rows if row.image_path in bad]
        if len(self.bad_images) > self.max_bad_share * len(self.rows):
            raise ValueError(
                f"{len(self.bad_images)} of {len(self.rows)} images cannot be decoded (listed in "
                f"{self.bad_images_path}), more than datamodule.max_bad_share={self.max_bad_share}: check the data"
            )
        if self.bad_images:
            if not getattr(rank_zero_only, "rank", 0):
                warnings.warn(
                    f"{len(self.bad_images)} images cannot be decoded and are left out (first: {self.bad_images[0]}; "
                    f"listed in {self.bad_images_path})",
                    stacklevel=2,
                )
            self.rows = [row for row in self.rows if row.image_path not in bad]

    @property
    def split_paths(self) -> dict[str, list[str]]:
        """Image paths of each part of the split, as a run stores them."""
        parts = self.split._asdict()
        return {part: [self.rows[i].image_path for i in places] for part, places in parts.items()}

    # --------------------------------------------------------------------------------------- loaders

    def size_at(self, epoch: int) -> int:
        """Side of the network's input in an epoch."""
        return self.sizes[max(first for first in self.sizes if first <= epoch)]

    @property
    def last_size(self) -> int:
        """Side of the network's input at the training's end, and in prediction."""
        return self.size_at(max(self.sizes))

    def loader(
        self, rows: Sequence[Row], transform: Callable[..., Transform], train: bool, sizes: Mapping[int, int]
    ) -> DataLoader[Any]:
        """A loader of this rank's share of `rows`, each epoch at its size."""
        rank, ranks = self.place
        if self.batch_size % ranks:
            raise ValueError(
                f"datamodule.batch_size={self.batch_size} is global and no multiple of the {ranks} processes: change it"
            )
        if not train and len(rows) < ranks:
            raise ValueError(
                f"{len(rows)} images are too few to evaluate on {ranks} processes: raise split.fraction, or use one "
                "(trainer=gpu or trainer=cpu)"
            )
        if train and self.batch_size // ranks < 2:
            raise ValueError(
                f"datamodule.batch_size={self.batch_size} leaves each of {ranks} process(es) one image or pair: mixing "
                "and BatchNorm need two at least"
            )
        if train and len(rows) < self.batch_size:
            raise ValueError(
                f"datamodule.batch_size={self.batch_size} exceeds the {len(rows)} training images of this split: "
                "set a smaller one"
            )
        sampler = KeyedSampler(
            len(rows),
            seed=self.seed,
            batch_size=self.batch_size // ranks,
            shuffle=train,
            drop_last=train,
            rank=rank,
            num_replicas=ranks,
        )
        if train:
            sampler.resume(*self.resume_at)
        first, *later = ((epoch, transform(size=size)) for epoch, size in sizes.items())
        mask_root = self.mask_root if train else None
        images = Images(
            rows, self.data_root, mask_root, first[1], self.seed, dict(later), self.tolerant, self.max_pixels
        )
        paired = train and self.pairs is not None
        views = 2 if paired else first[1].views
        pixels = self.batch_size // ranks * views * max(sizes.values()) ** 2
        check_shared_memory(self.num_workers, pixels * (4 if images.mask_root else 3))
        return DataLoader(
            Pairs(images, self.pairs == "other_context") if paired else images,
            batch_size=self.batch_size // ranks,
            sampler=sampler,
            persistent_workers=self.persistent_workers,
            collate_fn=collate_pairs if paired else collate,
            **self.loading,
        )

    @property
    def place(self) -> tuple[int, int]:
        """This process's rank and how many there are; alone without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def loading(self) -> dict[str, Any]:
        """What every loader has: its workers."""
        return {
            "num_workers": self.num_workers,
            "timeout": self.timeout if self.num_workers else 0,
            "prefetch_factor": PREFETCH if self.num_workers else None,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            "worker_init_fn": start_worker,
            # The loader draws a seed for its workers from this, not from the generator that the training
            # draws from; what it draws is not used, samples have seeds of their own.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        rows = [self.rows[i] for i in self.split.train]
        return self.loader(rows, self.train_transform, train=True, sizes=self.sizes)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader a held-out part, in the order of manifest.HELD_OUT; none where nothing is held out."""
        parts = [getattr(self.split, name) for name in HELD_OUT]
        while parts and not parts[-1]:
            parts.pop()
        rows = [[self.rows[i] for i in part] for part in parts]
        return [self.loader(part, self.eval_transform, train=False, sizes=self.sizes) for part in rows]

    def train_part_dataloader(self) -> DataLoader[Any]:
        """The images trained on, once each and without augmentation: for what is decided over all of them."""
        rows = [self.rows[i] for i in self.split.train]
        return self.loader(rows, self.eval_transform, train=False, sizes={0: self.last_size})

    def predict_dataloader(self) -> DataLoader[Any] | BySize:
        """The test images at the network's size; of part "train", all images at their own."""
        if self.part == "test":
            return self.loader(self.rows, self.eval_transform, train=False, sizes={0: self.last_size})
        places = range(len(self.rows)) if self.native_rows is None else self.native_rows
        rank, ranks = self.place
        mine = [(0, place) for place in places][rank::ranks]
        images = NativeImages(self.rows, self.data_root, self.max_pixels)
        return BySize(DataLoader(images, batch_size=None, sampler=mine, **self.loading), self.native_pixels)

    def on_after_batch_transfer(self, batch: AnyBatch, dataloader_idx: int) -> AnyBatch:
        """uint8 (N, ..., H, W, 3) to float32 (N, ..., 3, H, W) in [0, 1], on the device and in channels_last order."""
        return batch._replace(image=batch.image.movedim(-1, -3).to(torch.float32).div_(255))

    # ---------------------------------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, int]:
        """Where in the order of the images a checkpoint was written."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        assert isinstance(progress, _ProcessedTracker)
        done = progress.processed
        whole = done >= self.trainer.num_training_batches
        return {"epoch": self.trainer.current_epoch + whole, "batches": 0 if whole else done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume_at = (state["epoch"], state["batches"])
