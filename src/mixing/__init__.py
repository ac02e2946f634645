"""Mixing strategies: one per file, each a pure function and a small class that draws its randomness.

A strategy is called with a batch (src/data/batch.py: image (N, 3, H, W) float32, label, domain, mask) and returns a
Mixed. To add one, write `src/mixing/<name>.py` and `conf/mixing/<name>.yaml` (CONTRIBUTING.md has an example).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from src.data.batch import Batch


class Mixed(NamedTuple):
    """Mixed images (N, 3, H, W), each one's partner (N,) int64, and the weight lam of its own label.

    lam is a scalar tensor or one value per image (N,), in [0, 1]; the partner's label weighs 1 - lam.
    """

    image: torch.Tensor
    partner: torch.Tensor
    lam: torch.Tensor


class Mixing(Protocol):
    """A mixing strategy. Each of conf/mixing keeps this contract (tests/mixing/test_contract.py).

    - It takes any N >= 1 and any H and W, and returns a Mixed whose tensors are on the images' device.
    - `image` has the batch's shape and dtype, is finite, and keeps the pixels' scale: where all images are of one
      colour and all masks alike, the typical pixel that comes out has about that colour. Noise, jitter and erased
      boxes are allowed; normalised pixels, or weights of two images that do not sum to 1, are not.
    - `partner` is an index into the batch for each image; it may be the image's own, and several images may share one.
    - `lam` is float. An image's label weighs lam and its partner's 1 - lam: other weights cannot be expressed.
    - It writes neither to the batch nor to anything that an earlier call returned.
    - All its draws come from torch's CPU generator, which it does not seed, and no call depends on earlier ones: a
      seed gives the same Mixed in every process, whether or not a run was resumed.
    - A batch that lacks what it needs (mask None, domain -1) is refused with a ValueError.
    """

    def __call__(self, batch: Batch) -> Mixed: ...


def draw_partner(batch: Batch) -> torch.Tensor:
    """A random permutation of the batch: (N,) int64 on the images' device."""
    # Drawn on the CPU, so that a seed gives the same partners on every device.
    return torch.randperm(len(batch.image)).to(batch.image.device)


def draw_other_context(batch: Batch) -> torch.Tensor:
    """For each image one of another context, drawn uniformly; any image if the batch has no other context.

    Returns:
        (N,) int64 on the images' device; not a permutation.

    Raises:
        ValueError: the images have no context.
    """
    if (batch.domain < 0).any():
        raise ValueError("mixing.other_context=true needs images whose context is known (track 1): set it to false")
    eligible = batch.domain[:, None] != batch.domain
    eligible |= ~eligible.any(1, keepdim=True)
    keys = torch.rand(eligible.shape).to(eligible.device)  # drawn on the CPU, as above
    return keys.masked_fill(~eligible, -1).argmax(1)


def draw_beta(alpha: float) -> torch.Tensor:
    """One draw from Beta(alpha, alpha): a scalar float32 tensor on the CPU."""
    return torch.distributions.Beta(alpha, alpha).sample()
