"""Strategies one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, check_parts


class InTurn(Strategy):
    """Each strategy acts on the result of the one before it, with its own probability.

    Args:
        strategies: by name, in this order; all but the last keep an image's own label (lam is 1).
        settings: as in Strategy; `per_image` is each strategy's own.

    Raises:
        ValueError: a strategy before the last mixes labels.
    """

    def __init__(self, *, strategies: Mapping[str, Strategy], **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        check_parts(strategies)
        if mixes := [name for name, strategy in list(strategies.items())[:-1] if not strategy.keeps_label]:
            raise ValueError(
                f"mixing.strategies.{mixes[0]} mixes labels: only a strategy that keeps an image's own label can be "
                "followed by another"
            )
        self.strategies = list(strategies.values())
        self.keeps_label = all(strategy.keeps_label for strategy in self.strategies)

    def mix(self, batch: Batch) -> Mixed:
        """All images, each strategy in turn; the partner returned is the last one that an image met.

        If the last strategy mixes labels, partner and lam are its own.
        """
        itself = torch.arange(len(batch.image), device=batch.image.device)
        partner, lam = itself, torch.ones(len(itself), device=itself.device)
        for strategy in self.strategies:
            mixed = strategy(batch)
            met = mixed.partner != itself if strategy.keeps_label else torch.ones_like(itself, dtype=torch.bool)
            partner, lam = torch.where(met, mixed.partner, partner), mixed.lam
            batch = batch._replace(image=mixed.image)
        return Mixed(batch.image, partner, lam.expand(len(itself)))
