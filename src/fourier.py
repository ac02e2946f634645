"""Low-pass filter and amplitude mixing on the 2-D spectrum of real images (docs/method.md, sections 5 and 6).

Both work inside a centred box of side ratio r: the integer frequencies |k| <= floor(r N / 2) of an axis of N pixels.
The box is symmetric about 0, so the result is real. Everything is computed in float32 or better for every dtype of the
images, and autocast lowers the precision of no operation used here.
"""

from __future__ import annotations

import math

import torch

CHUNK = 3 * 2**19
"""Bytes of images that a mix takes at once on a CPU: its temporaries stay in the cache."""
DEVICE_CHUNK = 2**26
"""The same on a GPU: 16 million float32 fill each of the dozen kernels that a step starts, and its temporaries, some
four times as large, stay small beside the network's activations (ours)."""


def images_at_once(x: torch.Tensor) -> int:
    """How many images of a batch (N, ...) a mix takes at once: its temporaries stay small for every N."""
    chunk = CHUNK if x.device.type == "cpu" else DEVICE_CHUNK
    return max(1, chunk // max(1, x[:1].numel() * x.element_size()))


def reach(ratio: float, side: int) -> int:
    """The highest frequency of the box on an axis of `side` pixels: floor(r N / 2)."""
    return math.floor(ratio * side / 2 + 1e-9)  # .58 * 100 / 2 is 28.999999999999996


def analyse(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """The box of the spectrum of (N, C, H, W): (N, C, H, floor(r W / 2) + 1) complex, as of rfft2, zero outside.

    Columns beyond the box are not transformed along H: at r = .5 that is half of them.
    """
    rows, columns = reach(ratio, x.shape[2]), reach(ratio, x.shape[3])
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()  # channels_last rows transform slowly
    spectrum: torch.Tensor = torch.fft.fft(torch.fft.rfft(wide, dim=3)[..., : columns + 1], dim=2)
    spectrum[:, :, rows + 1 : x.shape[2] - rows] = 0
    return spectrum


def synthesise(spectrum: torch.Tensor, width: int) -> torch.Tensor:
    """The images (N, C, H, width) of a box that `analyse` made."""
    x: torch.Tensor = torch.fft.irfft(torch.fft.ifft(spectrum, dim=2), n=width, dim=3)
    return x


def low_pass(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """L(x): the part of the images whose frequencies are inside the box (docs/method.md, section 5).

    Args:
        x: (N, C, H, W) float, any H and W.
        ratio: r in (0, 1], side of the box as a share of the spectrum's; L(x) = x at 1.

    Returns:
        (N, C, H, W), of x's dtype and order in memory.
    """
    if reach(ratio, x.shape[2]) == x.shape[2] // 2 and reach(ratio, x.shape[3]) == x.shape[3] // 2:
        return x.clone()  # every frequency is inside the box
    return torch.empty_like(x).copy_(synthesise(analyse(x, ratio), x.shape[3]))


def mix_amplitude(x: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, ratio: float) -> torch.Tensor:
    """Mix the amplitudes inside the box with the partner's, and keep the phases (docs/method.md, section 6).

    F(x~) = ((1 - lam) |F(x)| + lam |F(x_partner)|) e^(i arg F(x)) inside, F(x) outside. Where F(x) is 0 it has no
    phase and stays 0. A pair is mixed both ways in a batch that contains both, each the other's partner.

    Args:
        x: (N, C, H, W) float.
        partner: (N,) int64, an index into the batch for each image.
        lam: weight of the partner's amplitudes in [0, 1], a scalar or (N,).
        ratio: r in (0, 1].

    Returns:
        (N, C, H, W), of x's dtype, not clipped to valid pixels: phases are kept before that, not after.
    """
    step = images_at_once(x)
    boxes = torch.cat([analyse(part, ratio) for part in torch.split(x, step)])
    amplitude = boxes.abs()
    mixed = torch.empty_like(x)
    parts = (torch.split(t, step) for t in (x, boxes, amplitude, partner, lam.expand(len(x)), mixed))
    for own, of_own, its_amplitude, indices, weight, into in zip(*parts, strict=True):
        # F(x~) = F(x) (1 + lam (|F(x_partner)| / |F(x)| - 1)). Only the change is transformed back: outside the box
        # there is none. 1e-30 is below any amplitude but 0.
        gain = amplitude[indices].div_(its_amplitude.clamp_min(1e-30)).sub_(1).mul_(weight.view(-1, 1, 1, 1))
        torch.view_as_real(of_own).mul_(gain.unsqueeze(-1))
        into.copy_(synthesise(of_own, x.shape[3])).add_(own)
    return mixed
