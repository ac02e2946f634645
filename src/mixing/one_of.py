"""One strategy of several, drawn for each batch or for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, check_parts, choose
from src.numbers import is_number


class OneOf(Strategy):
    """A batch, or with `per_image` each image, is mixed by one of the strategies.

    Args:
        strategies: by name.
        weights: of each name in the draw, at least 0; their sum does not matter.
        settings: as in Strategy.

    Raises:
        ValueError: weights for other names, or weights that cannot be used for drawing.
    """

    def __init__(
        self, *, strategies: Mapping[str, Strategy], weights: Mapping[str, float], **settings: Unpack[Settings]
    ) -> None:
        super().__init__(**settings)
        check_parts(strategies)
        numbers = isinstance(weights, Mapping) and all(is_number(weight, 0) for weight in weights.values())
        if not numbers or set(weights) != set(strategies) or sum(weights.values()) <= 0:
            raise ValueError(
                f"mixing.weights is {weights}: expected a number of at least 0 for each of "
                f"{', '.join(strategies)}, not all of them 0"
            )
        self.strategies = list(strategies.values())
        self.weights = torch.tensor([float(weights[name]) for name in strategies])
        self.keeps_label = all(strategy.keeps_label for strategy in self.strategies)

    def mix(self, batch: Batch) -> Mixed:
        """All images, each by the strategy drawn for it, with that strategy's own probability."""
        drawn = torch.multinomial(self.weights, self.draws(batch), replacement=True)
        first, *others = sorted(set(drawn.tolist()))
        mixed: Mixed = self.strategies[first](batch)
        for other in others:
            mixed = choose(drawn == other, self.strategies[other](batch), mixed)
        return mixed
