"""Where the masks of a run's images are, and the true masks they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.data.images import MAX_PIXELS, Mask
from src.data.manifest import Row
from src.data.mask_files import decode_mask, mask_names
from src.progress import progress


class MaskFiles:
    """The masks of rows, which mirror the data root's tree below <run>/masks, with .png.

    Args:
        run: the run directory.
        rows: of the training manifest.
        truth_dir: true masks, which mirror the data root too; None: there are none.

    Raises:
        FileNotFoundError: a true mask is missing.
    """

    def __init__(self, run: Path, rows: Sequence[Row], truth_dir: Path | None) -> None:
        self.run, self.rows, self.truth_dir = run, rows, truth_dir
        self.names = mask_names([row.image_path for row in rows])
        if truth_dir:
            gone = [path for row in rows if not (path := self.truth_path(row)).exists()]
            if gone:
                raise FileNotFoundError(
                    f"{len(gone)} true masks are missing in wsss.truth_dir={truth_dir} (first: {gone[0]}): it must "
                    "mirror the data root, with .png for the image's extension (appended where two images share a stem)"
                )

    def relative(self, row: Row) -> str:
        """A mask's path below the run, as in the manifest with masks."""
        return f"masks/{self.names[row.image_path]}"

    def path(self, row: Row) -> Path:
        """A mask's path."""
        return self.run / self.relative(row)

    def missing(self) -> list[int]:
        """Indices of the rows that have no mask yet."""
        rows = progress(self.rows, "looking for masks that exist")
        return [i for i, row in enumerate(rows) if not self.path(row).exists()]

    def read(self, row: Row) -> Mask:
        """A mask that this run made."""
        return decode_mask(self.path(row), max_pixels=0)

    def truth_path(self, row: Row) -> Path:
        """A true mask's path."""
        assert self.truth_dir is not None
        return self.truth_dir / self.names[row.image_path]

    def true_mask(self, row: Row, shape: tuple[int, ...]) -> Mask:
        """A true mask, (H, W) like its image.

        Raises:
            ValueError: it has another size.
        """
        path = self.truth_path(row)
        truth = decode_mask(path, max(MAX_PIXELS, shape[0] * shape[1]))
        if truth.shape != shape:
            raise ValueError(f"the true mask {path} is {truth.shape[::-1]}, its image {shape[::-1]} (width, height)")
        return truth
