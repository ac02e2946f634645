"""A data set's manifest on disk: found, compared with its tree, or made when it is missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from src.data.checks import check_against_tree
from src.data.finding import find_sources
from src.data.images import find_bad_images
from src.data.layouts import Layout, Sources
from src.data.manifest import Row, labels_of, read_label_map, read_manifest, write_manifest
from src.data.ownership import Home, home_of, manifests_in, write_record
from src.data.scan import scan_test, scan_train
from src.digests import facts_of
from src.files import read_json, write_json
from src.locks import locked


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


class ManifestStore:
    """The manifest of one part of a data set.

    Args:
        data_root: the user's tree of images.
        manifest_dir: where the manifests are, or are made when missing.
        layout: its name, and where its images lie.
        part: "train" or "test".
        rebuild: rewrite the manifest.
    """

    def __init__(self, data_root: Path, manifest_dir: Path, layout: Layout, part: str, rebuild: bool) -> None:
        self.data_root, self.manifest_dir, self.layout = data_root, manifest_dir, layout
        self.part, self.rebuild = part, rebuild
        self.listing: Listing | None = None
        self.scanned: tuple[list[Row], dict[str, int]] | None = None
        self.found: Sources | None = None

    # Every process may call `prepare` and `skip` at once: where something is to be written one works, the others find
    # the work done.

    def prepare(self, check: bool, rehearse: Callable[[], None]) -> Listing:
        """Make what is missing on disk: the manifest, a label map next to it, the record of whose they are.

        Args:
            check: compare the manifest with the tree.
            rehearse: called before a new manifest is written; what it raises keeps it from being written.

        Raises:
            OSError, ValueError: the data or the settings are refused, and nothing is written.
        """
        self.listing = self.find(check)
        if self.listing.new:
            rehearse()
            with locked(self.manifest_dir):
                self.listing = self.find(check)  # another process may have written meanwhile
                self.write(self.listing)
        elif not self.listing.home.recorded or self.made_map_is_old(self.listing):
            with suppress(PermissionError), locked(self.manifest_dir):  # a folder that may only be read serves as well
                self.write(self.listing)
        return self.listing

    def read(self) -> Listing:
        """What `prepare` found, or what is on disk."""
        self.listing = self.listing or self.find(check=False)
        return self.listing

    @property
    def folder(self) -> Path:
        """Where this data set's manifests are, or are made (`ownership`)."""
        return (self.listing.home if self.listing else self.home()).folder

    @property
    def manifest(self) -> Path:
        """Path of this part's manifest, whether it exists or not."""
        return self.folder / f"{self.layout.name}_{self.part}_label.json"

    @property
    def sources(self) -> Sources:
        """Where the images lie; the tree is looked at once.

        Raises:
            FileNotFoundError, ValueError: see find_sources.
        """
        self.found = self.found or find_sources(self.data_root, self.layout)
        return self.found

    @property
    def has_contexts(self) -> bool:
        """Whether the training images' contexts are known."""
        if self.sources.train is not None:
            return self.sources.train.has_contexts
        return any(row.domain is not None for row in self.read().rows)

    @property
    def own_label_map(self) -> Path:
        """Path of the user's label map, whether it exists or not."""
        return self.data_root / (self.sources.label_map or "label_map.json")

    @property
    def label_map(self) -> Path:
        """The user's label map or, without one, the one next to the manifests."""
        own = self.own_label_map
        return own if own.exists() else self.folder / f"{self.layout.name}_label_map.json"

    def home(self) -> Home:
        """The folder of this data set's manifests, as things are now."""
        return home_of(self.manifest_dir, self.data_root, self.layout.name, self.rebuild)

    def find(self, check: bool) -> Listing:
        """This part's manifest as it is on disk, or, where there is none or manifest.rebuild=true, by the tree.

        Raises:
            OSError, ValueError: they cannot be read, or (with `check`) no longer match.
        """
        home = self.home()
        manifest = home.folder / f"{self.layout.name}_{self.part}_label.json"
        if self.rebuild or not manifest.exists():
            if home.note and not self.rebuild and not manifests_in(home.folder, self.layout.name):
                if self.layout.train_dir is None and self.layout.table is None:
                    raise ValueError(
                        f"{home.note}: two data sets have the name {self.layout.name}; give this one another name with "
                        "track.name="
                    )
                # A data root that was mistyped, or a data set that is here for the first time: the user knows.
                raise ValueError(
                    f"{home.note}: manifest.rebuild=true, needed this once, makes them there; or set data_root and "
                    "manifest_dir to those that belong together"
                )
            rows, labels = self.scan()
            return Listing(home, rows, labels, True)
        rows = read_manifest(manifest)
        if check:
            found = self.layout.is_found or self.layout.table is not None
            check_against_tree(manifest, rows, self.scan()[0], meanings=found)
        own = self.own_label_map
        labels = {} if self.part == "test" else read_label_map(own) if own.exists() else labels_of(rows, manifest)
        return Listing(home, rows, labels, False)

    def scan(self) -> tuple[list[Row], dict[str, int]]:
        """This part's rows by its tree, and the label map ({} of test images); the tree is looked at once."""
        if self.scanned is None:
            where = (self.data_root, self.sources, self.layout.name)
            self.scanned = (scan_test(*where, self.training_labels), {}) if self.part == "test" else scan_train(*where)
        return self.scanned

    def training_labels(self) -> dict[str, int]:
        """The label map of the training images, by their manifest or, where there is none, by their tree."""
        training = ManifestStore(self.data_root, self.manifest_dir, self.layout, "train", False)
        training.found = self.sources
        return training.find(check=False).labels

    def write(self, listing: Listing) -> None:
        """Write the manifest where it is new, the label map where the user has none, and whose they are."""
        folder = listing.home.folder
        if listing.new:
            write_manifest(folder / f"{self.layout.name}_{self.part}_label.json", listing.rows)
        if self.made_map_is_old(listing):
            write_json(self.label_map, listing.labels)
        if not listing.home.recorded:
            write_record(folder, self.data_root, self.layout.name)

    def made_map_is_old(self, listing: Listing) -> bool:
        """Whether the label map next to the manifests disagrees with the manifest, whose ids count."""
        path = listing.home.folder / f"{self.layout.name}_label_map.json"
        if self.part == "test" or self.label_map != path:
            return False
        try:
            return read_label_map(path) != listing.labels
        except (OSError, ValueError):
            return True

    @property
    def bad_images(self) -> Path:
        """Path of the list of images that cannot be decoded."""
        return self.folder / f"{self.layout.name}_bad_images.json"

    def list_bad_images(self, workers: int, max_pixels: int) -> None:
        """Decode all images once and write the paths of those that cannot be decoded; nothing to do when that is known.

        Args:
            workers: threads.
            max_pixels: of an image; 0: any number.
        """
        with locked(self.manifest_dir):
            paths = [row.image_path for row in self.read().rows]
            digest = f"{facts_of(self.data_root, paths).digest}, {max_pixels} pixels"
            if self.bad_images.exists() and read_json(self.bad_images)["digest"] == digest:
                return
            bad = find_bad_images(self.data_root, paths, workers, max_pixels)
            write_json(self.bad_images, {"digest": digest, "bad_images": bad})

    def read_bad_images(self) -> set[str]:
        """The paths of `list_bad_images`."""
        return set(read_json(self.bad_images)["bad_images"])
