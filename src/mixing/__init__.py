"""Mixing strategies: one per file, each a pure function and a small class that draws its randomness.

A strategy is called with a batch (src/data/batch.py: image (N, 3, H, W) float32, label, domain, mask) and returns a
Mixed. To add one, write `src/mixing/<name>.py` and `conf/mixing/<name>.yaml` (CONTRIBUTING.md has an example).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict

import torch

from src.data.batch import Batch
from src.numbers import check_number
from src.transfers import to_device


class Mixed(NamedTuple):
    """Mixed images (N, 3, H, W), each one's partner (N,) int64, and the weight lam of its own label.

    lam is a scalar tensor or one value per image (N,), in [0, 1]; the partner's label weighs 1 - lam.
    """

    image: torch.Tensor
    partner: torch.Tensor
    lam: torch.Tensor


class Settings(TypedDict):
    """The settings that every strategy has: see Strategy."""

    probability: float
    per_image: bool
    until: float


class Strategy(ABC):
    """A mixing strategy: `mix` says how a batch is mixed, and this class decides whether an image is.

    The result fulfils this contract, for each file in conf/mixing (tests/mixing/test_contract.py):

    - It takes any N >= 1 and any H and W, and returns a Mixed whose tensors are on the images' device.
    - `image` has the batch's shape and dtype, is finite, and keeps the pixels' scale: where all images are of one
      colour and all masks alike, a typical pixel of the result has about that colour. Noise, jitter and erased
      boxes are allowed; normalised pixels, or weights of two images that do not sum to 1, are not.
    - `partner` is an index into the batch for each image; it may be the image's own (which marks an
      image left as it is), and several images may share one.
    - `lam` is float. An image's label weighs lam and its partner's 1 - lam: other weights cannot be expressed.
    - It writes neither to the batch nor to anything that an earlier call returned.
    - All its draws come from torch's CPU generator, which it does not seed, and no call depends on earlier ones: a
      seed gives the same Mixed in every process, whether or not a run was resumed.
    - A batch that lacks what it needs (mask None, domain -1) raises ValueError, at the latest on the first batch.
    - The host never waits for a GPU after the first call: no item(), no bool(), no boolean index into a batch's
      tensors; random draws are sent there by `to_device`.

    Args:
        probability: that an image is mixed, in [0, 1]; drawn per image.
        per_image: weights, and whatever else a strategy draws, are per image; false: per batch, as published.
        until: share of the stage's epochs after which nothing is mixed, in [0, 1]; 1: all epochs mix. A clean finish
            (Yu et al., Mixup Without Hesitation, 2021): the training module checks the epoch (`unmixed`).

    Raises:
        ValueError: a setting outside of its range.
    """

    keeps_label = False
    """Whether lam is always 1."""

    def __init__(self, *, probability: float, per_image: bool, until: float) -> None:
        check_number("mixing.probability", probability, 0, 1)
        check_number("mixing.until", until, 0, 1)
        self.probability, self.per_image, self.until = probability, per_image, until

    @abstractmethod
    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""

    def __call__(self, batch: Batch) -> Mixed:
        """Each image mixed with this strategy's probability."""
        if self.probability == 0:
            return unmixed(batch)  # without what mixing would need
        mixed = self.mix(batch)
        if self.probability == 1:
            return mixed
        return choose(torch.rand(len(batch.image)) < self.probability, mixed, unmixed(batch))

    def draws(self, batch: Batch) -> int:
        """How many weights are drawn: one for each image, or one."""
        return len(batch.image) if self.per_image else 1


def unmixed(batch: Batch) -> Mixed:
    """The images as they are: each is its own partner."""
    device = batch.image.device
    return Mixed(batch.image, torch.arange(len(batch.image), device=device), torch.ones((), device=device))


def choose(first: torch.Tensor, one: Mixed, other: Mixed) -> Mixed:
    """Image by image one of two mixes of a batch.

    Args:
        first: (N,) bool on any device: where `one` is taken.
    """
    first = to_device(first, one.image.device)
    image = torch.where(first.view(-1, 1, 1, 1), one.image, other.image)
    return Mixed(image, torch.where(first, one.partner, other.partner), torch.where(first, one.lam, other.lam))


def check_parts(strategies: Mapping[str, Strategy]) -> None:
    """Raise ValueError for strategies that another one is made of, if one has its own clean finish.

    The training module asks only the whole strategy.
    """
    for name, strategy in strategies.items():
        if strategy.until != 1:
            raise ValueError(f"mixing.strategies.{name}.until is {strategy.until}: set mixing.until, which is for all")


def draw_partner(batch: Batch) -> torch.Tensor:
    """A random permutation of the batch: (N,) int64 on the images' device."""
    # Drawn on the CPU, so that a seed gives the same partners on every device.
    return to_device(torch.randperm(len(batch.image)), batch.image.device)


def draw_other_context(batch: Batch) -> torch.Tensor:
    """For each image one of another context, drawn uniformly; any image if the batch has no other context.

    Returns:
        (N,) int64 on the images' device; not a permutation.
    """
    eligible = batch.domain[:, None] != batch.domain
    eligible |= ~eligible.any(1, keepdim=True)
    keys = to_device(torch.rand(eligible.shape), eligible.device)  # drawn on the CPU, as above
    return keys.masked_fill(~eligible, -1).argmax(1)


class OtherContext:
    """draw_other_context, which refuses a first batch without contexts.

    All images of a run have a context, or none has: checking each batch would mean waiting for the GPU.
    """

    def __init__(self) -> None:
        self.known = False

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Partners, as from draw_other_context.

        Raises:
            ValueError: the images have no context.
        """
        if not self.known and (batch.domain < 0).any():
            raise ValueError("mixing.other_context=true needs images whose context is known (track 1): set it to false")
        self.known = True
        return draw_other_context(batch)


def partner_rule(other_context: bool) -> Callable[[Batch], torch.Tensor]:
    """How partners are drawn, by the setting `other_context`."""
    return OtherContext() if other_context else draw_partner


def draw_beta(alpha: float, count: int) -> torch.Tensor:
    """`count` draws from Beta(alpha, alpha): (count,) float32 on the CPU."""
    return torch.distributions.Beta(alpha, alpha).sample((count,))


def by_pixel(weight: torch.Tensor) -> torch.Tensor:
    """A weight per batch (1,) or per image (N,), or a scalar, shaped to multiply images: (1 or N, 1, 1, 1)."""
    return weight.view(-1, 1, 1, 1)
