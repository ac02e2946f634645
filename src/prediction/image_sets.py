"""What members look at: test images, held-out images, the images of any folder; and what is known of them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from src.data.images import decode_image, is_shortage
from src.data.manifest import LAST_ID, Row, cleaned, rows_from, spelled_in
from src.data.sampler import keyed_seed
from src.data.scan import check_names, scan_folder
from src.datamodules.nico import NicoDataModule
from src.digests import Digests
from src.files import read_json
from src.prediction.members import Member, held_out


class Truth(NamedTuple):
    """Label ids (N,) and contexts (names or ids as text, "" where unknown) of N images."""

    label: npt.NDArray[np.int64]
    contexts: list[str]


class ImageSet(NamedTuple):
    """A set of images that members look at.

    Attributes:
        name: "test", "folder", or a held-out part's name.
        root: what the rows' paths are relative to.
        rows: the images; their names differ.
        truth: where it is known.
        unreadable: names of images whose files cannot be read, once members have tried.
        note: what a reader must know about them.
        part: the held-out part that stands in for test images, if it does.
        digest: of the files, once `with_digest` has looked at them.
    """

    name: str
    root: Path
    rows: list[Row]
    truth: Truth | None = None
    unreadable: Sequence[str] = ()
    note: str = ""
    part: str = ""
    digest: str = ""

    @property
    def names(self) -> list[str]:
        """The images' names, the keys of predictions."""
        return [row.name for row in self.rows]

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """Label ids (N,), of images whose truth is known."""
        assert self.truth is not None
        return self.truth.label

    def why_unreadable(self, i: int, max_pixels: int) -> str:
        """Why image i cannot be read, in a sentence; "" if it can."""
        try:
            decode_image(self.root / self.rows[i].image_path, max_pixels=max_pixels)
        except (ValueError, OSError) as error:
            if is_shortage(error):
                raise
            return str(error)
        return ""


def with_digest(images: ImageSet, digests: Digests) -> ImageSet:
    """The same images with their files' digest, which kept predictions depend on."""
    return images._replace(digest=digests.of_files(images.root, [row.image_path for row in images.rows]))


def test_images(datamodule: NicoDataModule, truth: Path | None, classes: Sequence[str]) -> ImageSet:
    """The test manifest's images, with the truth of the file `truth`, or of the manifest itself.

    Raises:
        ValueError: two images share a name, only some images have labels, or the members do not know a label's class.
    """
    datamodule.prepare_data()
    datamodule.setup()
    manifest = datamodule.store.manifest
    images = ImageSet("test", datamodule.data_root, datamodule.rows)
    if len(set(images.names)) < len(images.names):
        raise ValueError(f"{manifest} has images of the same name, the key of prediction.json: rename them")
    where = truth or manifest
    rows = read_truth(where, classes) if truth else images.rows
    remedy = "leave out its numbers or its names" if truth else "manifest.rebuild=true makes it again"
    check_label_names(rows, classes, where, remedy)
    known = match_truth(rows, images.names, where)
    if known and known.label.max() >= len(classes):
        label = int(known.label.max())
        hint = f" (numbers are ids; the class {str(label)!r} is written in quotes)" if str(label) in classes else ""
        raise ValueError(f"{where} has the label {label}: the members know {len(classes)} classes{hint}")
    if truth and known is None:
        warnings.warn(f"truth={truth} has no labels: there are no figures", stacklevel=2)
    return images._replace(truth=known)


def check_label_names(rows: Sequence[Row], classes: Sequence[str], where: Path, remedy: str) -> None:
    """Raise ValueError for a row with a class's name and another class's id, as of an older label map."""
    ids = {name: i for i, name in enumerate(classes)}
    for row in rows:
        meant = ids.get(spelled_in(ids, row.label_name or ""))
        if row.label is not None and meant is not None and meant != row.label:
            raise ValueError(
                f"{where} gives {row.image_path} the label {row.label} and the class {row.label_name!r}, which has the "
                f"id {meant} in these runs: {remedy}"
            )


def held_out_images(
    datamodule: NicoDataModule, members: Sequence[Member], needed_by: str = ""
) -> tuple[list[ImageSet], str]:
    """The images that all members hold out, named by their paths: one set per part, in-domain first.

    Args:
        datamodule: of the training images.
        members: the members.
        needed_by: the setting that chooses members on the in-domain ones; "": none.

    Returns:
        The sets, and why there is none.

    Raises:
        OSError, ValueError: with `needed_by`: members hold out nothing, nothing in-domain or different images, or the
            training images are missing or different.
    """
    try:
        parts = held_out(members)
        if needed_by and "in_domain" not in parts:
            raise ValueError(
                f"the member {members[0].folder} holds out no image of the contexts that it was trained on: use "
                "another ensemble (ensemble=all), or train runs whose split has such images"
            )
        datamodule.prepare_data()
        datamodule.setup()
        if datamodule.classes != members[0].classes:
            raise ValueError(f"the members were trained with a label map other than {datamodule.store.label_map}")
        return [held_out_part(datamodule, part, paths) for part, paths in parts.items()], ""
    except (OSError, ValueError) as error:
        if needed_by:
            raise ValueError(f"{needed_by} chooses on held-out images: {error}") from error
        return [], str(error)


def instead_of_test(datamodule: NicoDataModule, members: Sequence[Member]) -> list[ImageSet]:
    """Held-out images for a data set without test images, as a set called "test": of contexts left out, if there are.

    Args:
        datamodule: of the training images.
        members: the members.

    Returns:
        That set, then the in-domain part where it is another one.

    Raises:
        ValueError: members hold out nothing or different images.
    """
    parts, why_not = held_out_images(datamodule, members)
    if not parts:
        raise ValueError(
            f"{datamodule.layout.name} has no test images, and members hold out none that could stand in for them: "
            f"{why_not}; images=<folder> predicts any images"
        )
    *others, last = parts
    which = "the contexts that training left out" if last.name == "out_of_domain" else "the training contexts"
    note = f"There are no test images: the figures called test are of the images held out from {which}."
    return [last._replace(name="test", note=note, part=last.name), *others]


def held_out_part(datamodule: NicoDataModule, part: str, paths: Sequence[str]) -> ImageSet:
    """One part's images, with labels and contexts of the training manifest."""
    found, contexts = rows_of(datamodule.rows, paths), datamodule.contexts
    label = np.array([row.label for row in found], np.int64)
    names = [contexts[row.domain] if contexts and isinstance(row.domain, int) else "" for row in found]
    rows = [row._replace(image_name=row.image_path) for row in found]
    return ImageSet(part, datamodule.data_root, rows, Truth(label, names))


def rows_of(rows: Sequence[Row], paths: Sequence[str]) -> list[Row]:
    """The rows of `paths`, in their order."""
    by_path = {row.image_path: row for row in rows}
    gone = [path for path in paths if path not in by_path]
    if gone:
        raise ValueError(
            f"{len(gone)} images of the members' split are not in the training manifest (first: {gone[0]}): "
            "set data_root and manifest_dir as in the training"
        )
    return [by_path[path] for path in paths]


def folder_images(folder: Path) -> ImageSet:
    """The images below any folder, named by their path in it; or a single file with any extension.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: it holds no image, or a name that no text file can hold.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        folder, paths = folder.parent, [folder.name]
    else:
        paths = scan_folder(folder)
    check_names(folder, [tuple(path.split("/")) for path in paths], {}, 0)
    return ImageSet("folder", folder, [Row(image_path=path, image_name=path) for path in paths])


def draw_bank(rows: Sequence[Row], paths: Sequence[str], count: int, seed: int) -> list[Row]:
    """`count` rows of `paths` (or all), drawn by the seed alone, for tta=mixing."""
    order = np.random.default_rng(keyed_seed("bank", seed)).permutation(len(paths))[:count]
    sorted_paths = sorted(paths)
    return rows_of(rows, [sorted_paths[i] for i in sorted(order)])


def read_truth(path: Path, classes: Sequence[str] = ()) -> list[Row]:
    """Labels of test images, from a manifest or from an object {image_name: label}; a label is an id or a class's name.

    Args:
        path: the file.
        classes: class names by id.

    Raises:
        OSError, ValueError: it cannot be read, or has a label that is not a class.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"truth={path} is not a file: name a manifest or a JSON object of labels by image name, or leave truth= out"
        )
    entries, ids = read_json(path), {name: i for i, name in enumerate(classes)}
    if isinstance(entries, Mapping):
        named = "image_name"
        labels = dict(entries)
        rows = [Row(cleaned(name), label_id(label, ids, path, name), image_name=cleaned(name))
                for name, label in entries.items()]  # fmt: skip
    else:
        named = "image_path"
        labels = {}
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict) and isinstance(entry.get("image_path"), str):
                label = entry.get("label")
                label = entry.get("label_name") if label is None else label
                if label is not None:
                    labels[entry["image_path"]] = label
                    entries[i] = {**entry, "label": label_id(label, ids, path, entry["image_path"])}
        rows = rows_from(entries, path, "")
    twice = [name for name, count in Counter(getattr(row, named) for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has the image {twice[0]} twice: remove one of the entries")
    if classes and any(type(label) is int for label in labels.values()):
        last = len(classes) - 1
        print(
            f"truth={path}: its numbers are read as class ids (0 is {classes[0]!r}, {last} is {classes[last]!r})",
            flush=True,
        )
    return rows


def label_id(label: Any, ids: Mapping[str, int], path: Path, whose: str) -> int:
    """The id of a label of an image in the file `path`: an id already, or a class's name.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(label, str) and spelled_in(ids, label) in ids:
        return ids[spelled_in(ids, label)]
    if type(label) is not int or not 0 <= label <= LAST_ID:
        raise ValueError(f"{path} gives {whose} the label {label!r:.60}: expected an id >= 0, or a class's name")
    return label


def match_truth(rows: Sequence[Row], names: Sequence[str], where: Path) -> Truth | None:
    """What `rows` know of the images `names`; None where no row has a label.

    Raises:
        ValueError: only some of the images have a label, or one has two.
    """
    known: dict[str, Row] = {}
    for row in rows:
        if row.label is not None:
            first = known.setdefault(row.name, row)
            if (first.label, first.domain) != (row.label, row.domain):
                raise ValueError(
                    f"{where} has two images named {row.name} with different labels or contexts "
                    f"({first.image_path}, {row.image_path}): rename one of them"
                )
    if not known:
        return None
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{where} has no label for {len(missing)} of {len(names)} test images (first: {missing[0]})")
    labels = np.array([known[name].label for name in names], np.int64)
    domains = [known[name].domain for name in names]
    return Truth(labels, ["" if domain is None else str(domain) for domain in domains])
