"""Mixup (Zhang et al., ICLR 2018): convex combinations of two images and their labels."""

from __future__ import annotations

from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, by_pixel, draw_beta, draw_partner
from src.numbers import check_number
from src.transfers import to_device


def mixup(x: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """x~ = lam x + (1 - lam) x_partner.

    Args:
        x: (N, C, H, W) float.
        partner: (N,) int64, an index into the batch for each image.
        lam: weight of the image itself in [0, 1], (N,), (1,) or a scalar.

    Returns:
        (N, C, H, W), of x's dtype.
    """
    return torch.lerp(x[partner], x, by_pixel(lam))


class Mixup(Strategy):
    """lambda ~ Beta(alpha, alpha) (docs/method.md, section 2).

    Args:
        alpha: of lambda's distribution, above 0.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(self, *, alpha: float, **settings: Unpack[Settings]) -> None:
        check_number("mixing.alpha", alpha, 0, above=True)
        super().__init__(**settings)
        self.alpha = alpha

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""
        partner, lam = draw_partner(batch), to_device(draw_beta(self.alpha, self.draws(batch)), batch.image.device)
        return Mixed(mixup(batch.image, partner, lam), partner, lam.expand(len(batch.image)))
