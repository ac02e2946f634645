"""Losses as pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mixed_cross_entropy(
    logits: torch.Tensor, label: torch.Tensor, partner_label: torch.Tensor, lam: torch.Tensor
) -> torch.Tensor:
    """lam CE(logits, y) + (1 - lam) CE(logits, y_partner), averaged over the batch (method.md, 2 and 5).

    Args:
        logits: (N, K) float.
        label, partner_label: (N,) int64.
        lam: weight of the own label in [0, 1], a scalar or (N,).

    Returns:
        A scalar.
    """
    own = F.cross_entropy(logits, label, reduction="none")
    other = F.cross_entropy(logits, partner_label, reduction="none")
    return torch.lerp(other, own, lam.to(own.dtype)).mean()
