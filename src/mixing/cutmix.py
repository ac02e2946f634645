"""CutMix (Yun et al., ICCV 2019): a box of the partner pasted into the image."""

from __future__ import annotations

from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, draw_beta, draw_partner
from src.numbers import check_number
from src.transfers import to_device


def boxes_of(lam: torch.Tensor, height: int, width: int, centre: torch.Tensor) -> torch.Tensor:
    """Boxes around `centre` that cover 1 - lam of an image, cut off at the border (CutMix, eq. 2).

    Args:
        lam: (B,) share of the image outside the box, before the border cuts it off.
        height, width: of the images, in pixels.
        centre: (B, 2) row and column as shares of height and width, in [0, 1).

    Returns:
        (B, 4) int64: top, bottom, left, right in pixels, bottom and right exclusive.
    """
    side = torch.tensor([height, width])
    half = (1 - lam).sqrt()[:, None] * side / 2
    start, end = ((centre * side + shift).round().long() for shift in (-half, half))
    start, end = start.clamp(min=0), torch.minimum(end, side)
    return torch.stack([start[:, 0], end[:, 0], start[:, 1], end[:, 1]], dim=1)


def cutmix(x: torch.Tensor, partner: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste the partner's pixels inside a box (CutMix, eq. 1).

    Args:
        x: (N, C, H, W).
        partner: (N,) int64.
        boxes: (1, 4), or (N, 4) one for each image: top, bottom, left, right.

    Returns:
        The mixed images (N, C, H, W), and lam (N,): the share of pixels that are the image's own.
    """
    height, width = x.shape[2:]
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    top, bottom, left, right = to_device(boxes, x.device)[..., None].unbind(1)
    inside = ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None]
    mixed = torch.where(inside[:, None], x[partner], x)
    return mixed, 1 - inside.float().mean((1, 2)).expand(len(x))


class CutMix(Strategy):
    """A box of area 1 - lambda with lambda ~ Beta(alpha, alpha).

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
        partner, count = draw_partner(batch), self.draws(batch)
        lam, centre = draw_beta(self.alpha, count), torch.rand(count, 2)
        height, width = batch.image.shape[2:]
        image, share = cutmix(batch.image, partner, boxes_of(lam, height, width, centre))
        return Mixed(image, partner, share)
