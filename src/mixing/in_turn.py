"""Strategies that leave labels alone, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy


class InTurn(Strategy):
    """Each strategy acts on what the one before it made, with its own probability.

    Args:
        strategies: by name, in this order; each keeps an image's own label (lam is 1).
        settings: as in Strategy; `per_image` is each strategy's own.

    Raises:
        ValueError: a strategy mixes labels.
    """

    keeps_label = True

    def __init__(self, *, strategies: Mapping[str, Strategy], **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        if mixes := [name for name, strategy in strategies.items() if not strategy.keeps_label]:
            raise ValueError(
                f"mixing.strategies.{mixes[0]} mixes labels: only strategies that keep an image's own label can "
                "follow each other"
            )
        self.strategies = dict(strategies)

    def mix(self, batch: Batch) -> Mixed:
        """All images, each strategy in turn; the partner that is named is the last that an image met."""
        itself = torch.arange(len(batch.image), device=batch.image.device)
        met = itself
        for strategy in self.strategies.values():
            mixed = strategy(batch)
            met = torch.where(mixed.partner == itself, met, mixed.partner)
            batch = batch._replace(image=mixed.image)
        return Mixed(batch.image, met, torch.ones(len(itself), device=itself.device))
