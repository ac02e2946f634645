"""Checkpoints that are whole or absent: atomic writing, a digest next to each, no unpickling."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Any, cast

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from src.files import digest_of, write_text, write_whole


def digest_path(path: Path) -> Path:
    """The file next to a checkpoint that holds its digest, and the one before."""
    return path.with_name(path.name + ".sha256")


def verifies(path: Path) -> bool:
    """Whether a checkpoint is the one that was written: a flipped bit would load silently."""
    known = digest_path(path)
    return path.is_file() and known.is_file() and digest_of(path) in known.read_text(errors="replace").split()


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        ValueError: the file is not a checkpoint, or holds anything else.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is not a checkpoint of this project ({first}): remove it, or train again") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is not a checkpoint of this project: remove it, or train again")
    return loaded


def progress_of(path: Path) -> str:
    """How far a checkpoint is, in words."""
    loaded = read_checkpoint(path, mmap=True)
    return f"epoch {int(loaded.get('epoch', -1)) + 1}, step {loaded.get('global_step')}"


class FullDisk:
    """A file whose error survives torch.save, which turns a full disk into a RuntimeError.

    Args:
        file: the file that is written to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """As the file's."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As the file's."""
        self.file.flush()


class AtomicCheckpointIO(CheckpointIO):
    """Write to a temporary file in the same folder, sync, rename; load weights_only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        known = digest_path(path)
        with write_whole(path) as file:
            guarded = FullDisk(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], guarded))  # it needs only write and flush
            except RuntimeError:
                if guarded.error is not None:
                    raise guarded.error from None
                raise
            file.flush()
            # Before the new file takes the old one's place, and next to the old digest: the file that a kill
            # leaves here verifies, old or new.
            before = known.read_text(errors="replace").split()[:1] if known.is_file() else []
            write_text(known, "\n".join([digest_of(Path(file.name)), *before]) + "\n")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
        digest_path(Path(path)).unlink(missing_ok=True)
