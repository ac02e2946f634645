"""Test-time augmentation: the views of an image whose logits are averaged (docs/method.md, sections 8 and 9).

A view depends on the image, its name and fixed settings: never on its batch, its position in it, or the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from src.data.sampler import keyed_seed


class Views(Protocol):
    """A way to look at images. `bank`: how many training images it mixes in; `seed`: draws them."""

    bank: int
    seed: int

    def views(self, image: torch.Tensor, names: Sequence[str], bank: torch.Tensor) -> list[torch.Tensor]:
        """See MixingInference.views."""
        ...


class Plain:
    """The image as it is."""

    bank = seed = 0

    def views(self, image: torch.Tensor, names: Sequence[str], bank: torch.Tensor) -> list[torch.Tensor]:
        """See MixingInference.views."""
        return [image]


class Flip:
    """The image and its mirror."""

    bank = seed = 0

    def views(self, image: torch.Tensor, names: Sequence[str], bank: torch.Tensor) -> list[torch.Tensor]:
        """See MixingInference.views."""
        return [image, image.flip(3)]


class MixingInference:
    """Mixing inference: `runs` views (1 - lam) x + lam x_partner, each with another partner.

    Deviation: the published code takes partners from the test batch; here they come from a bank of training images.

    Args:
        runs: views per image.
        lam: weight of the partner.
        bank: training images that partners come from.
        seed: key of the bank and the partners.
    """

    def __init__(self, *, runs: int, lam: float, bank: int, seed: int) -> None:
        if runs < 1 or bank < 1 or not 0 <= lam <= 1:
            raise ValueError(f"tta.runs={runs}, tta.bank={bank}, tta.lam={lam}: expected at least 1, 1, and 0 to 1")
        self.runs, self.lam, self.bank, self.seed = runs, lam, bank, seed

    def views(self, image: torch.Tensor, names: Sequence[str], bank: torch.Tensor) -> list[torch.Tensor]:
        """Views of a batch.

        Args:
            image: (N, 3, H, W) float in [0, 1].
            names: of the images, which choose their partners.
            bank: (B, 3, H, W) uint8.

        Returns:
            As many (N, 3, H, W) as there are views.
        """
        made = []
        for run in range(self.runs):
            indices = [keyed_seed("partner", self.seed, run, name) % len(bank) for name in names]
            partner = bank[torch.tensor(indices, device=bank.device)].to(image.dtype).div_(255)
            made.append((1 - self.lam) * image + self.lam * partner)
        return made
