"""What the stages ask of a timm network: how wide its features are, and whether it takes the run's images."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import nn


def width_of(backbone: nn.Module) -> int:
    """C of the features (N, C) that a timm network without classifier gives.

    That is timm's `head_hidden_size` where a network has layers of its own between pooling and classifier
    (MobileNetV3, GhostNet, VGG), and `num_features`, the channels of its last map, in the others.
    """
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type] # timm's


def name_of(backbone: nn.Module) -> str:
    """A timm network's own name for itself, for messages."""
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    return str(settings.get("architecture") or type(backbone).__name__)


def run_sizes(trainer: pl.Trainer) -> list[tuple[int, int]]:
    """Heights and widths of the images that a run trains on, of its schedule one after the other."""
    return [(side, side) for side in dict.fromkeys(trainer.datamodule.sizes.values())]  # type: ignore[attr-defined] # ours


@torch.no_grad()
def check_sizes(backbone: nn.Module, shapes: Iterable[tuple[int, int]], features: bool = False) -> None:
    """Try the shapes of a run's images before its first step, one image each; weights and statistics stay unchanged.

    Args:
        backbone: a timm network.
        shapes: heights and widths in pixels.
        features: try `forward_features` and not `forward`: the result must be a map (1, num_features, h, w).

    Raises:
        ValueError: the network takes no such image, or gives no such features.
    """
    training = {module: module.training for module in backbone.modules()}
    weight = next(backbone.parameters())
    backbone.eval()
    try:
        for height, width in shapes:
            image = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
            where = f"{height} x {width} pixels"
            try:
                made = backbone.forward_features(image) if features else backbone.forward(image)  # type: ignore[operator] # not compiled
            except torch.OutOfMemoryError:
                raise
            except (AssertionError, RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
                advice = (
                    "maps are made of images of any size: choose a convolutional network for model="
                    if features
                    else "set datamodule.size to a size that it takes, or, where timm has it for this network, "
                    "+model.img_size=<the size> or, of a schedule of sizes, +model.dynamic_img_size=true"
                )
                why = " ".join(str(error).split())[:200]
                raise ValueError(f"{name_of(backbone)} does not take images of {where} ({why}): {advice}") from error
            shape = tuple(made.shape) if isinstance(made, torch.Tensor) else ()
            if features and (len(shape) != 4 or shape[1] != int(backbone.num_features)):  # type: ignore[arg-type] # timm's
                raise ValueError(
                    f"{name_of(backbone)} gives features of shape {shape} and not a map (N, {backbone.num_features}, "
                    "h, w) that could say where the foreground is: choose a convolutional network for model="
                )
            if not features and shape != (1, width_of(backbone)):
                raise ValueError(
                    f"{name_of(backbone)} gives features of shape {shape} and not (N, {width_of(backbone)}): choose "
                    "another network for model="
                )
    finally:
        for module, mode in training.items():
            module.training = mode
