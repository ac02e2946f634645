"""No mixing: every image is its own partner."""

from __future__ import annotations

import torch

from src.data.batch import Batch
from src.mixing import Mixed


class NoMixing:
    """Empirical risk minimisation, the baseline of every comparison."""

    def __call__(self, batch: Batch) -> Mixed:
        partner = torch.arange(len(batch.image), device=batch.image.device)
        return Mixed(batch.image, partner, torch.ones((), device=batch.image.device))
