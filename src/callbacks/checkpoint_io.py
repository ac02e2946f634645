"""Checkpoints that are whole or not there: atomic writing, a digest beside each, no unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from src.files import digest_of, write_text, write_whole


def digest_path(path: Path) -> Path:
    """The file beside a checkpoint that holds its digest."""
    return path.with_name(path.name + ".sha256")


def verifies(path: Path) -> bool:
    """Whether a checkpoint is the one that was written: one flipped bit would load without a word."""
    return path.is_file() and digest_path(path).is_file() and digest_path(path).read_text().strip() == digest_of(path)


class AtomicCheckpointIO(CheckpointIO):
    """Write to a temporary file in the same folder, sync, rename; load weights_only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        with write_whole(path) as file:
            torch.save(checkpoint, file)
        # A kill between the two files costs this checkpoint: the run resumes from the other one.
        write_text(digest_path(path), digest_of(path) + "\n")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
        digest_path(Path(path)).unlink(missing_ok=True)
