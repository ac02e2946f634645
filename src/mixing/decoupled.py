"""Decoupled mixup: a batch is mixed by context or by frequency (docs/method.md, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, choose
from src.mixing.foreground import Foreground
from src.mixing.spectrum import Spectrum
from src.numbers import check_number


class Decoupled(Strategy):
    """Context-based mixing with probability `by_context`, else frequency-based; without masks only the latter.

    Args:
        by_context: probability, in [0, 1]; context here is an image's own background, not the folder that
            `other_context` means.
        alpha, ratio, mean, other_context: as in Foreground and Spectrum.
        settings: as in Strategy; with `per_image` one of the two is chosen for each image too.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(
        self,
        *,
        by_context: float,
        alpha: float,
        ratio: float,
        mean: Sequence[float],
        other_context: bool,
        **settings: Unpack[Settings],
    ) -> None:
        check_number("mixing.by_context", by_context, 0, 1)
        super().__init__(**settings)
        self.by_context, self.said = by_context, False
        self.foreground = Foreground(alpha=alpha, mean=mean, other_context=other_context, **settings)
        self.spectrum = Spectrum(alpha=alpha, ratio=ratio, other_context=other_context, **settings)
        self.spectrum.draw_partner = self.foreground.draw_partner  # one, which checks only the first batch

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""
        if batch.mask is None:
            if not self.said:
                warnings.warn("this run has no masks: mixing=decoupled mixes by frequency alone", stacklevel=2)
                self.said = True
            return self.spectrum.mix(batch)
        by_context = torch.rand(self.draws(batch)) < self.by_context
        if self.per_image:
            return choose(by_context, self.foreground.mix(batch), self.spectrum.mix(batch))
        return self.foreground.mix(batch) if by_context.item() else self.spectrum.mix(batch)
