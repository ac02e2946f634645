"""Frequency-based mixing: two images' low and high frequencies, with a weight each (docs/method.md, section 5)."""

from __future__ import annotations

from typing import Unpack

import torch

from src.data.batch import Batch
from src.fourier import images_at_once, low_pass
from src.mixing import Mixed, Settings, Strategy, by_pixel, draw_beta, partner_rule
from src.numbers import check_number
from src.transfers import to_device


def spectrum(
    x: torch.Tensor, partner: torch.Tensor, lam_l: torch.Tensor, lam_h: torch.Tensor, ratio: float
) -> torch.Tensor:
    """x~ = lam_l L(x) + (1 - lam_l) L(x_partner) + lam_h H(x) + (1 - lam_h) H(x_partner).

    L is linear and H(x) = x - L(x), so one low-pass is enough (docs/method.md, section 5):
    x~ = lam_h x + (1 - lam_h) x_partner + (lam_l - lam_h) L(x - x_partner).

    Args:
        x: (N, C, H, W) float.
        partner: (N,) int64, an index into the batch for each image.
        lam_l, lam_h: weights of the image's own low and high frequencies in [0, 1], (N,), (1,) or scalars.
        ratio: r in (0, 1], side of the low frequencies' box; at 1 this is mixup with lam_l.

    Returns:
        (N, C, H, W), of x's dtype.
    """
    mixed = torch.empty_like(x)
    lam_l, lam_h = (by_pixel(lam).expand(len(x), 1, 1, 1) for lam in (lam_l, lam_h))
    parts = (torch.split(t, images_at_once(x)) for t in (x, partner, lam_l, lam_h, mixed))
    for own, indices, of_low, of_high, into in zip(*parts, strict=True):
        torch.index_select(x, 0, indices, out=into)
        low = low_pass(own - into, ratio)
        into.lerp_(own, of_high).addcmul_(low, of_low - of_high)
    return mixed


class Spectrum(Strategy):
    """lam_l ~ Beta(alpha, alpha) and lam_h ~ U(0, 1); lam_l is the labels' weight.

    Args:
        alpha: of the distribution of lam_l, above 0.
        ratio: side of the low frequencies' box as a share of the spectrum's, in (0, 1].
        other_context: partners come from another context.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(self, *, alpha: float, ratio: float, other_context: bool, **settings: Unpack[Settings]) -> None:
        check_number("mixing.alpha", alpha, 0, above=True)
        check_number("mixing.ratio", ratio, 0, 1, above=True)
        super().__init__(**settings)
        self.alpha, self.ratio = alpha, ratio
        self.draw_partner = partner_rule(other_context)

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""
        device, count = batch.image.device, self.draws(batch)
        partner = self.draw_partner(batch)
        lam_l, lam_h = (to_device(lam, device) for lam in (draw_beta(self.alpha, count), torch.rand(count)))
        image = spectrum(batch.image, partner, lam_l, lam_h, self.ratio)
        return Mixed(image, partner, lam_l.expand(len(image)))
