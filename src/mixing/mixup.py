"""Mixup (Zhang et al., ICLR 2018): convex combinations of two images and their labels."""

from __future__ import annotations

import torch

from src.data.batch import Batch
from src.mixing import Mixed, draw_beta, draw_partner


def mixup(x: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """x~ = lam x + (1 - lam) x_partner.

    Args:
        x: (N, C, H, W) float.
        partner: (N,) int64, an index into the batch for each image.
        lam: scalar in [0, 1].

    Returns:
        (N, C, H, W), of x's dtype.
    """
    return torch.lerp(x[partner], x, lam)


class Mixup:
    """One lambda ~ Beta(alpha, alpha) per batch (docs/method.md, section 2)."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, batch: Batch) -> Mixed:
        partner, lam = draw_partner(batch), draw_beta(self.alpha).to(batch.image.device)
        return Mixed(mixup(batch.image, partner, lam), partner, lam)
