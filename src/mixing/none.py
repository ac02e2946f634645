"""No mixing: every image is its own partner."""

from __future__ import annotations

from src.data.batch import Batch
from src.mixing import Mixed, Strategy, unmixed


class NoMixing(Strategy):
    """Empirical risk minimisation, the baseline of every comparison."""

    keeps_label = True

    def __init__(self) -> None:
        super().__init__(probability=1.0, per_image=False, until=1.0)

    def mix(self, batch: Batch) -> Mixed:
        """The images as they are."""
        return unmixed(batch)
