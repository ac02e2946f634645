"""Frequency-based mixing: two images' low and high frequencies, with a weight each (docs/method.md, section 5)."""

from __future__ import annotations

import torch

from src.data.batch import Batch
from src.fourier import images_at_once, low_pass
from src.mixing import Mixed, draw_beta, draw_other_context, draw_partner


def spectrum(
    x: torch.Tensor, partner: torch.Tensor, lam_l: torch.Tensor, lam_h: torch.Tensor, ratio: float
) -> torch.Tensor:
    """x~ = lam_l L(x) + (1 - lam_l) L(x_partner) + lam_h H(x) + (1 - lam_h) H(x_partner).

    L is linear and H(x) = x - L(x), so one low-pass is enough (docs/method.md, section 5):
    x~ = lam_h x + (1 - lam_h) x_partner + (lam_l - lam_h) L(x - x_partner).

    Args:
        x: (N, C, H, W) float.
        partner: (N,) int64, an index into the batch for each image.
        lam_l, lam_h: scalars in [0, 1], weights of the image's own low and high frequencies.
        ratio: r in (0, 1], side of the low frequencies' box; at 1 this is mixup with lam_l.

    Returns:
        (N, C, H, W), of x's dtype.
    """
    mixed = torch.empty_like(x)
    for own, indices, into in zip(*(torch.split(t, images_at_once(x)) for t in (x, partner, mixed)), strict=True):
        torch.index_select(x, 0, indices, out=into)
        low = low_pass(own - into, ratio)
        into.lerp_(own, lam_h).addcmul_(low, lam_l - lam_h)
    return mixed


class Spectrum:
    """lam_l ~ Beta(alpha, alpha) and lam_h ~ U(0, 1), drawn once per batch; lam_l is the labels' weight.

    Args:
        alpha: of the distribution of lam_l.
        ratio: side of the low frequencies' box as a share of the spectrum's, in (0, 1].
        other_context: partners come from another context.

    Raises:
        ValueError: a ratio outside (0, 1].
    """

    def __init__(self, *, alpha: float, ratio: float, other_context: bool) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"mixing.ratio is {ratio}: expected a number above 0 and at most 1")
        self.alpha, self.ratio = alpha, ratio
        self.draw_partner = draw_other_context if other_context else draw_partner

    def __call__(self, batch: Batch) -> Mixed:
        device = batch.image.device
        partner = self.draw_partner(batch)
        lam_l, lam_h = draw_beta(self.alpha).to(device), torch.rand(()).to(device)
        return Mixed(spectrum(batch.image, partner, lam_l, lam_h, self.ratio), partner, lam_l)
