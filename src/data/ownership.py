"""Which data set a manifest belongs to: data_root.json next to the manifests says so, by name.

The manifests of the first data root lie in manifest_dir itself, those of another one in a folder of its name there:

    dataset_json/track1_train_label.json  data_root.json                   {"track1": "/data/nico",
                                                                            "manifests": "<here>/dataset_json"}
    dataset_json/birds/track1_train_label.json  birds/data_root.json       {"track1": "/data/birds", ...}
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.manifest import Row, read_manifest
from src.files import read_json, write_json

RECORD = "data_root.json"
PLACE = "manifests"  # where they lay when the record was written
SAMPLE = 1000  # images that are looked for, to see whether a manifest without a record is a data root's


class Home(NamedTuple):
    """The folder of a data root's manifests.

    Attributes:
        folder: where they lie, or are made.
        recorded: whether the record there names the data root already.
        note: a sentence on manifests that are not used, as they are another data root's; or "".
    """

    folder: Path
    recorded: bool
    note: str


def home_of(manifest_dir: Path, data_root: Path, name: str, rebuild: bool) -> Home:
    """Find the folder of a data root's manifests; nothing is written.

    Manifests without a record (made by hand, or by an older version) belong to the first data root that holds at least
    half of their images; one that lacks more is another data set. Those whose data root is gone belong to the one that
    holds all of their images: it was moved.

    Args:
        manifest_dir: the setting.
        data_root: the data root, spelled in any way.
        name: the data set's, in those of its files.
        rebuild: a manifest that cannot be read is no obstacle: it is rewritten.

    Raises:
        ValueError: a manifest without a record cannot be read.
    """
    root = os.path.realpath(data_root)
    base = os.path.basename(root) or "root"
    # Where another data set of the same name was there before: its place's digest tells them apart.
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    short = os.fsencode(base)[:200].decode("utf-8", "ignore")
    folders = [manifest_dir, manifest_dir / base, manifest_dir / f"{short}-{digest}"]
    free: list[Path] = []
    for folder in folders:
        owner, manifests = owner_of(folder, name), manifests_in(folder, name)
        if root in (owner, copied_owner(folder, owner)):
            return Home(folder, True, note_on(manifest_dir, folder, root, name))
        if owner is None and manifests and holds(root, manifests[0], 0.5, rebuild):
            return Home(folder, False, note_on(manifest_dir, folder, root, name))
        if owner is not None and manifests and not os.path.isdir(owner) and holds(root, manifests[0], 1, rebuild):
            return Home(folder, False, note_on(manifest_dir, folder, root, name))
        if not manifests and (owner is None or not os.path.isdir(owner)) and (folder.is_dir() or not folder.exists()):
            free.append(folder)
    folder = [*free, folders[-1]][0]
    return Home(folder, False, note_on(manifest_dir, folder, root, name))


def manifests_in(folder: Path, name: str) -> list[Path]:
    """A data set's manifests that lie in a folder, that of the training images first."""
    return [path for part in ("train", "test") if (path := folder / f"{name}_{part}_label.json").is_file()]


def holds(root: str, manifest: Path, share: float, rebuild: bool) -> bool:
    """Whether a share of a manifest's images (of an even sample, unless it is all of them) lies below `root`."""
    try:
        rows: Sequence[Row] = read_manifest(manifest)
    except ValueError:
        if rebuild:
            return True
        raise
    seen = rows if share == 1 else rows[:: max(1, len(rows) // SAMPLE)]
    there = sum(os.path.lexists(os.path.join(root, row.image_path)) for row in seen)
    return there >= share * len(seen)


def note_on(manifest_dir: Path, folder: Path, root: str, name: str) -> str:
    """What to say of manifests in manifest_dir that are passed over; "" where they are used, or there are none."""
    manifests = manifests_in(manifest_dir, name)
    if folder == manifest_dir or not manifests:
        return ""
    owner = owner_of(manifest_dir, name)
    whose = f"belongs to the data root {owner}" if owner else "lists the images of another data root"
    return f"{manifests[0]} {whose} and is not used for {root}, whose manifests lie in {folder}"


def owner_of(folder: Path, name: str) -> str | None:
    """The data root that a folder's record names for a data set; None without, or where the record is damaged."""
    return read_record(folder).get(name)


def copied_owner(folder: Path, owner: str | None) -> str | None:
    """Where the data root lies now that was copied together with its manifests, such as a whole project; else None."""
    wrote = read_record(folder).get(PLACE)
    if owner is None or wrote is None or wrote == os.path.realpath(folder):
        return None
    return os.path.normpath(os.path.join(os.path.realpath(folder), os.path.relpath(owner, wrote)))


def read_record(folder: Path) -> dict[str, str]:
    """A folder's record, {name: data root}; {} without one, or of a damaged one."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return {}
    return {key: root for key, root in record.items() if isinstance(root, str)} if isinstance(record, dict) else {}


def write_record(folder: Path, data_root: Path, name: str) -> None:
    """Note that the manifests of a data set in `folder` belong to a data root."""
    owners = {key: root for key, root in read_record(folder).items() if key != PLACE}
    here = {key: copied_owner(folder, root) for key, root in owners.items()}  # as seen from where they lie now
    owners |= {key: root for key, root in here.items() if root is not None and os.path.isdir(root)}
    owners[name] = os.path.realpath(data_root)
    write_json(folder / RECORD, {**owners, PLACE: os.path.realpath(folder)})
