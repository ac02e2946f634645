"""Kept predictions, under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from src.data.manifest import Row
from src.files import write_whole
from src.prediction.members import Member
from src.prediction.settings import PredictionSettings

Probabilities = npt.NDArray[np.float32]


class Task(NamedTuple):
    """A member, the training images that its views mix in, and where and under which key its predictions are kept."""

    member: Member
    bank: list[Row]
    path: Path
    key: str


def task_of(member: Member, name: str, digest: str, bank: list[Row], drawn: str, settings: PredictionSettings) -> Task:
    """What is to be done for a member and an image set.

    The key holds the weights, the network and its input, the images, the bank, tta's settings and the precision.

    Args:
        member: who predicts.
        name, digest: of the image set.
        bank, drawn: training images that views mix in, and the digest of their files; "" without.
        settings: of the prediction.
    """
    facts = json.dumps([member.config["module"], member.view], sort_keys=True)
    way = json.dumps([settings.tta, settings.precision], sort_keys=True)
    key = "\0".join([member.digest, facts, digest, drawn, way])
    path = settings.folder / "members" / member.stage / f"{member.name}.{name}.npz"
    return Task(member, bank, path, hashlib.sha256(key.encode()).hexdigest())


def stored(task: Task) -> Probabilities | None:
    """A member's probabilities (N, K) from an earlier call under the same key; None if missing or damaged.

    The names are for other readers: the key holds the images and their order.
    """
    if not task.path.is_file():
        return None
    try:
        with np.load(task.path, allow_pickle=False) as file:
            kept = {name: file[name] for name in ("key", "probabilities", "digest")}
    except Exception:  # a damaged byte can raise any error of zipfile or NumPy
        return None
    own = digest_of_arrays(kept["key"], kept["probabilities"])
    if str(kept["digest"]) != own or str(kept["key"]) != task.key:
        return None
    return np.asarray(kept["probabilities"], np.float32)


def store(task: Task, names: Sequence[str], probabilities: Probabilities) -> None:
    """Keep a member's probabilities (N, K) with the images' names."""
    key, listed = np.array(task.key), np.array(names)
    digest = np.array(digest_of_arrays(key, probabilities))
    with write_whole(task.path) as file:
        np.savez(file, key=key, names=listed, probabilities=probabilities, digest=digest)


def digest_of_arrays(*arrays: npt.NDArray[Any]) -> str:
    """sha256 of arrays' types, shapes and bytes: reading an array from a zip file skips the zip file's own check."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # without a copy
    return state.hexdigest()
