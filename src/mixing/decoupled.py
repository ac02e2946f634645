"""Decoupled mixup: a batch is mixed by context or by frequency (docs/method.md, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from src.data.batch import Batch
from src.mixing import Mixed
from src.mixing.foreground import Foreground
from src.mixing.spectrum import Spectrum


class Decoupled:
    """Context-based mixing with probability `by_context`, else frequency-based; without masks only the latter.

    Args:
        by_context: probability; context here is an image's own background, not the folder that `other_context` means.
        alpha, ratio, mean, other_context: as in Foreground and Spectrum.

    Raises:
        ValueError: a ratio outside (0, 1].
    """

    def __init__(
        self, *, by_context: float, alpha: float, ratio: float, mean: Sequence[float], other_context: bool
    ) -> None:
        self.by_context, self.said = by_context, False
        self.foreground = Foreground(alpha=alpha, mean=mean, other_context=other_context)
        self.spectrum = Spectrum(alpha=alpha, ratio=ratio, other_context=other_context)

    def __call__(self, batch: Batch) -> Mixed:
        if batch.mask is None:
            if not self.said:
                warnings.warn("this run has no masks: mixing=decoupled mixes by frequency alone", stacklevel=2)
                self.said = True
            return self.spectrum(batch)
        by_context = torch.rand(()).item() < self.by_context
        return self.foreground(batch) if by_context else self.spectrum(batch)
