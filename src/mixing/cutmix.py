"""CutMix (Yun et al., ICCV 2019): a box of the partner pasted into the image."""

from __future__ import annotations

import math

import torch

from src.data.batch import Batch
from src.mixing import Mixed, draw_beta, draw_partner


def box_of(lam: float, height: int, width: int, centre: tuple[float, float]) -> tuple[int, int, int, int]:
    """The box around `centre` that covers 1 - lam of an image, cut off at the border (CutMix, eq. 2).

    Args:
        lam: share of the image outside the box, before the border cuts it off.
        centre: row and column as shares of height and width, in [0, 1).

    Returns:
        (top, bottom, left, right) in pixels, bottom and right exclusive.
    """
    half_height, half_width = height * math.sqrt(1 - lam) / 2, width * math.sqrt(1 - lam) / 2
    row, column = centre[0] * height, centre[1] * width
    top, bottom = max(0, round(row - half_height)), min(height, round(row + half_height))
    left, right = max(0, round(column - half_width)), min(width, round(column + half_width))
    return top, bottom, left, right


def cutmix(x: torch.Tensor, partner: torch.Tensor, box: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste the partner's pixels inside `box` (CutMix, eq. 1).

    Args:
        x: (N, C, H, W).
        partner: (N,) int64.
        box: (top, bottom, left, right).

    Returns:
        The mixed images (N, C, H, W), and lam: the share of pixels that are the image's own, a scalar.
    """
    top, bottom, left, right = box
    mixed = x.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
    inside = (bottom - top) * (right - left) / (x.shape[2] * x.shape[3])
    return mixed, torch.tensor(1 - inside, device=x.device)


class CutMix:
    """One box per batch, of area 1 - lambda with lambda ~ Beta(alpha, alpha)."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, batch: Batch) -> Mixed:
        partner, lam = draw_partner(batch), draw_beta(self.alpha).item()
        height, width = batch.image.shape[2:]
        row, column = torch.rand(2).tolist()
        image, share = cutmix(batch.image, partner, box_of(lam, height, width, (row, column)))
        return Mixed(image, partner, share)
