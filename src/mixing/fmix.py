"""FMix (Harris et al., 2020): two images cut along a contour of low-frequency noise."""

from __future__ import annotations

from typing import Unpack

import torch

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, draw_beta, draw_partner
from src.numbers import check_number
from src.precision import in_float32
from src.transfers import to_device


@in_float32
def low_frequency(noise: torch.Tensor, decay: float) -> torch.Tensor:
    """Noise whose amplitude at frequency f is divided by f^decay (FMix).

    f is in cycles per pixel, and at least 1 / max(H, W): frequency 0 stays finite.

    Args:
        noise: (B, H, W) white noise.
        decay: 0 leaves it white; the higher, the larger the blobs.

    Returns:
        (B, H, W) float32.
    """
    height, width = noise.shape[1:]
    rows = torch.fft.fftfreq(height, device=noise.device)[:, None]
    columns = torch.fft.rfftfreq(width, device=noise.device)
    frequency = torch.hypot(rows, columns).clamp_min(1 / max(height, width))
    filtered: torch.Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**decay, s=(height, width))
    return filtered


def highest(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The positions of each image's highest values: a share of its pixels, to the nearest pixel (FMix).

    Args:
        x: (B, H, W).
        share: (B,) in [0, 1].

    Returns:
        (B, H, W) bool.
    """
    flat = x.flatten(1)
    rank = flat.argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < (share * flat.shape[1]).round()[:, None]).view_as(x)


def fmix(x: torch.Tensor, partner: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Own pixels inside a mask, and the partner's outside it.

    Args:
        x: (N, C, H, W).
        partner: (N,) int64, an index into the batch for each image.
        own: (1, H, W) bool, or (N, H, W) one for each image.

    Returns:
        The mixed images (N, C, H, W), and lam (N,): the share of pixels that are the image's own.
    """
    mixed = torch.where(own[:, None], x, x[partner])
    return mixed, own.float().mean((1, 2)).expand(len(x))


class FMix(Strategy):
    """A mask of area lambda ~ Beta(alpha, alpha), in blobs of any shape.

    Args:
        alpha: of lambda's distribution, above 0.
        decay: of the noise's amplitude with its frequency, at least 0.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(self, *, alpha: float, decay: float, **settings: Unpack[Settings]) -> None:
        check_number("mixing.alpha", alpha, 0, above=True)
        check_number("mixing.decay", decay, 0)
        super().__init__(**settings)
        self.alpha, self.decay = alpha, decay

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""
        x, count = batch.image, self.draws(batch)
        partner, lam, noise = draw_partner(batch), draw_beta(self.alpha, count), torch.randn(count, *x.shape[2:])
        own = highest(low_frequency(to_device(noise, x.device), self.decay), to_device(lam, x.device))
        image, share = fmix(x, partner, own)
        return Mixed(image, partner, share)
