"""Checkpoints that are whole or not there: atomic writing, a digest beside each, no unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from src.files import digest_of, write_text, write_whole


def digest_path(path: Path) -> Path:
    """The file beside a checkpoint that holds its digest, and the one before."""
    return path.with_name(path.name + ".sha256")


def verifies(path: Path) -> bool:
    """Whether a checkpoint is the one that was written: one flipped bit would load without a word."""
    known = digest_path(path)
    return path.is_file() and known.is_file() and digest_of(path) in known.read_text().split()


class AtomicCheckpointIO(CheckpointIO):
    """Write to a temporary file in the same folder, sync, rename; load weights_only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        known = digest_path(path)
        with write_whole(path) as file:
            torch.save(checkpoint, file)
            file.flush()
            # Before the new file takes the old one's place, and beside the old digest: whichever file a kill
            # leaves here verifies.
            before = known.read_text().split()[:1] if known.is_file() else []
            write_text(known, "\n".join([digest_of(Path(file.name)), *before]) + "\n")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
        digest_path(Path(path)).unlink(missing_ok=True)
