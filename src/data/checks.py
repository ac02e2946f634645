"""Checks of a data set before a training: manifest against tree, labels, masks, shared memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from src.data.manifest import Row
from src.data.tree import refuse_outside


def check_links(data_root: Path, paths: Sequence[str]) -> None:
    """Raise ValueError where a manifest's path reaches out of `data_root` through a link."""
    root = os.path.realpath(data_root)
    for folder in sorted({os.path.dirname(path) for path in paths}):
        refuse_outside(os.path.join(data_root, folder), root)
    for path in paths:  # one lstat an image; the folders above were followed once each
        full = os.path.join(data_root, path)
        if os.path.islink(full):
            refuse_outside(full, root)


def check_against_tree(path: Path, rows: Sequence[Row], scanned: Sequence[Row]) -> None:
    """Raise ValueError where a manifest and its tree no longer list the same images."""
    listed, present = {row.image_path for row in rows}, {row.image_path for row in scanned}
    gone, new = sorted(listed - present), sorted(present - listed)
    if gone or new:
        parts = [f"{len(gone)} of its images are gone (first: {gone[0]})"] if gone else []
        parts += [f"{len(new)} images are not in it (first: {new[0]})"] if new else []
        known = any(row.label is not None for row in rows) and not any(row.label is not None for row in scanned)
        # Images that are gone cannot be used as they are.
        other = "" if gone else ", manifest.check=false uses it as it is"
        raise ValueError(
            f"{path} no longer matches its tree: {' and '.join(parts)}; "
            f"manifest.rebuild=true writes it anew{' (without its labels)' if known else ''}{other}"
        )


MASKS_AGAIN = "make the masks again with stage=wsss"
MASKS_LOOKED_AT = 200  # of somebody else's, before a training: a second
PREFETCH = 2  # batches that each worker prepares ahead, as torch has it


def check_shared_memory(workers: int, bytes_a_batch: int, folder: Path = Path("/dev/shm")) -> None:
    """Raise ValueError where the batches that workers prepare ahead do not fit into the shared memory.

    They travel through it: in a container, where it is small, a training would stop in its midst, or hang.

    Args:
        workers: processes of this loader.
        bytes_a_batch: of its batches.
        folder: where the system has its shared memory; elsewhere than on Linux there is no such folder.
    """
    needed = workers * PREFETCH * bytes_a_batch
    if not workers or not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{workers} data-loading worker(s) with batches of {bytes_a_batch / 2**20:.1f} MB need "
            f"{needed / 2**20:.1f} MB of shared memory, and {folder} has {free / 2**20:.1f} MB: make it larger "
            "(docker run --shm-size=8g), or lower datamodule.num_workers (0 needs none) or datamodule.batch_size"
        )
