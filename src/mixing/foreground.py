"""Context-based mixing: two images' foregrounds and backgrounds, with a weight each (docs/method.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch

from src.data.batch import Batch
from src.fourier import images_at_once
from src.mixing import Mixed, Settings, Strategy, by_pixel, draw_beta, partner_rule
from src.numbers import are_numbers, check_number
from src.transfers import to_device


def mix_regions(
    x: torch.Tensor,
    mask: torch.Tensor,
    partner: torch.Tensor,
    lam_f: torch.Tensor,
    lam_b: torch.Tensor,
    mean: torch.Tensor,
) -> torch.Tensor:
    """x~ = lam_f M x + (1 - lam_f) (M x)_partner + lam_b (1 - M) x + (1 - lam_b) ((1 - M) x)_partner, on x - mean.

    With w = lam_f on the foreground and lam_b on the background, and w_pi the same on the partner's, this is
    w x + (1 - w_pi) x_partner. Where one image has foreground and the other does not, w and 1 - w_pi do not sum to 1:
    hence the origin `mean`, as in the published code, which mixes normalised pixels (docs/method.md, section 5).

    Args:
        x: (N, 3, H, W) float in [0, 1].
        mask: (N, H, W) bool, True on the foreground.
        partner: (N,) int64, an index into the batch for each image.
        lam_f, lam_b: weights of the image's own foreground and background in [0, 1], (N,), (1,) or scalars.
        mean: (3, 1, 1), the origin: the channels' means that the network subtracts.

    Returns:
        (N, 3, H, W), not clipped.
    """
    lam_f, lam_b = (by_pixel(lam).expand(len(x), 1, 1, 1) for lam in (lam_f, lam_b))
    foreground, mixed = mask.unsqueeze(1), torch.empty_like(x)
    parts = (torch.split(t, images_at_once(x)) for t in (x, foreground, lam_f, lam_b, partner, mixed))
    for own, region, of_f, of_b, indices, into in zip(*parts, strict=True):
        # 1 - w_pi has the image's own lam, which its label has, and the partner's regions.
        w, w_pi = (torch.lerp(of_b, of_f, where.to(x.dtype)) for where in (region, foreground[indices]))
        torch.mul(w, own, out=into)
        into.addcmul_(1 - w_pi, x[indices]).addcmul_(w_pi - w, mean)
    return mixed


class Foreground(Strategy):
    """lam_f ~ Beta(alpha, alpha) and lam_b ~ U(0, 1); lam_f is the labels' weight.

    Args:
        alpha: of the distribution of lam_f, above 0.
        mean: of the pixels, by channel.
        other_context: partners come from another context.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(
        self, *, alpha: float, mean: Sequence[float], other_context: bool, **settings: Unpack[Settings]
    ) -> None:
        check_number("mixing.alpha", alpha, 0, above=True)
        if not are_numbers(mean, 3):
            raise ValueError(f"mixing.mean (pixels.mean) is {mean}: expected three numbers")
        super().__init__(**settings)
        self.alpha, self.mean = alpha, torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
        self.draw_partner = partner_rule(other_context)

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed.

        Raises:
            ValueError: the batch has no masks.
        """
        if batch.mask is None:
            raise ValueError(
                "mixing=foreground needs masks and this run has none: make them with stage=wsss or "
                "stage=grabcut and name their manifest by masks=, or choose mixing=spectrum"
            )
        device, count = batch.image.device, self.draws(batch)
        partner = self.draw_partner(batch)
        lam_f, lam_b = (to_device(lam, device) for lam in (draw_beta(self.alpha, count), torch.rand(count)))
        self.mean = to_device(self.mean, device)  # where it stays
        image = mix_regions(batch.image, batch.mask, partner, lam_f, lam_b, self.mean)
        return Mixed(image, partner, lam_f.expand(len(image)))
