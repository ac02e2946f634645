"""torchvision's RandAugment and TrivialAugment, as steps of a pipeline whose random draws come from a seed."""

from __future__ import annotations

from typing import Any

import albumentations as A
import numpy as np
import torch
from torchvision.transforms import v2

from src.data.images import Image
from src.numbers import is_number

MOVING = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
"""torchvision's names of the operations that move pixels."""


class AutoAugment(A.ImageOnlyTransform):  # type: ignore[misc] # albumentations has no types
    """One of torchvision's policies on (H, W, 3) uint8.

    An image with a mask gets photometric operations only, as the others would separate the two.

    Args:
        policy: RandAugment or TrivialAugmentWide of torchvision.transforms.v2.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__(p=1.0)
        self.policy = policy
        # Only here: every policy draws from a table of this name, and no argument restricts it.
        self.operations = dict(policy._AUGMENTATION_SPACE)
        self.photometric = {name: how for name, how in self.operations.items() if name not in MOVING}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The operations that may be drawn for this image, and the seed of the draws."""
        operations = self.photometric if "mask" in data else self.operations
        return {"operations": operations, "seed": int(self.random_generator.integers(2**63))}

    def apply(self, img: Image, operations: dict[str, Any], seed: int, **params: Any) -> Image:
        """Draw, and alter."""
        self.policy._AUGMENTATION_SPACE = operations
        # torchvision draws from the process's torch generator, which training without workers also draws from.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            made: torch.Tensor = self.policy(torch.from_numpy(np.ascontiguousarray(img)).permute(2, 0, 1))
        return np.ascontiguousarray(made.permute(1, 2, 0).numpy())


def rand_augment(num_ops: int, magnitude: int) -> AutoAugment:
    """RandAugment (Cubuk et al., NeurIPS 2020): `num_ops` operations drawn uniformly, all of one magnitude, 0 to 30.

    Raises:
        ValueError: another magnitude, or fewer than one operation.
    """
    if not (is_number(num_ops, 1, whole=True) and is_number(magnitude, 0, 30, whole=True)):
        raise ValueError(
            f"randaugment.num_ops={num_ops} randaugment.magnitude={magnitude}: expected 1 operation at least (0 leaves "
            "RandAugment out) and a magnitude from 0 to 30"
        )
    return AutoAugment(v2.RandAugment(num_ops=num_ops, magnitude=magnitude))


def trivial_augment() -> AutoAugment:
    """TrivialAugment (Mueller and Hutter, ICCV 2021), wide: one operation drawn uniformly, of any magnitude."""
    return AutoAugment(v2.TrivialAugmentWide())
