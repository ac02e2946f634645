"""No mixing: every image is its own partner."""

from __future__ import annotations

from src.data.batch import Batch
from src.mixing import Mixed, Strategy, unmixed


class NoMixing(Strategy):
    """Empirical risk minimisation, the baseline of every comparison. The settings of Strategy have no effect."""

    keeps_label = True

    def mix(self, batch: Batch) -> Mixed:
        """The images as they are."""
        return unmixed(batch)
