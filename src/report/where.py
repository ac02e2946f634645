"""Where a network finds the evidence for a class: a map of it, and the share of it that lies on the object."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

CELLS = 7
"""Least cells of a map in each direction: what a ResNet has at 224 pixels."""


def evidence_map(network: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor | None:
    """HiResCAM (Draelos and Carin, 2020): activation x gradient of a class's logit, summed over channels, clipped at 0.

    It is taken at the deepest stage of timm's `feature_info` that has at least CELLS x CELLS cells and takes part in
    the logit: the last tokens of a transformer that reads off a class token do not. Where the last map is averaged
    and followed by a linear head, it is the class activation map (Zhou et al. 2016) over the number of cells.

    Args:
        network: images (N, 3, H, W) in [0, 1] to logits (N, K); its `backbone` is a timm network.
        image: (N, 3, H, W) float in [0, 1], N >= 1.
        label: (N,) int64, the class of each image's logit.

    Returns:
        (N, h, w) float32 >= 0; None where the network has no such map.
    """
    stages = [info for info in getattr(network.backbone, "feature_info", None) or () if info.get("module")]
    kept: dict[str, torch.Tensor] = {}

    def keeping(name: str) -> Callable[..., torch.Tensor | None]:
        def keep(module: Any, given: Any, made: Any) -> torch.Tensor | None:
            if not isinstance(made, torch.Tensor):
                return None
            kept[name] = made
            return made.clone()  # what follows may write in place

        return keep

    hooks = [
        network.backbone.get_submodule(info["module"]).register_forward_hook(keeping(info["module"])) for info in stages
    ]
    try:
        with torch.enable_grad():
            # Images do not depend on each other in evaluation: the sum's gradient is that of each one's own logit.
            own = network(image.detach().requires_grad_()).gather(1, label[:, None]).sum()
            grads = torch.autograd.grad(own, list(kept.values()), allow_unused=True) if kept else ()
    finally:
        for hook in hooks:
            hook.remove()
    slopes = dict(zip(kept, grads, strict=True))
    prefix = int(getattr(network.backbone, "num_prefix_tokens", 0))
    for info in reversed(stages):
        slope = slopes.get(info["module"])
        if slope is None:
            continue
        cells = on_grid(kept[info["module"]].detach() * slope, info["num_chs"], prefix)
        if cells is not None and min(cells.shape[2:]) >= CELLS and bool(cells.any()):
            return cells.float().sum(1).clamp(min=0)
    return None


def on_grid(x: torch.Tensor, channels: int, prefix: int) -> torch.Tensor | None:
    """A feature map (N, C, h, w) or (N, h, w, C), or the tokens (N, prefix + h * w, C) of a square, as (N, C, h, w).

    None for anything else.
    """
    if x.ndim == 4:
        return x if x.shape[1] == channels else x.permute(0, 3, 1, 2) if x.shape[3] == channels else None
    side = math.isqrt(max(x.shape[1] - prefix, 0)) if x.ndim == 3 else 0
    if not side or side**2 != x.shape[1] - prefix:
        return None
    return x[:, prefix:].transpose(1, 2).reshape(len(x), -1, side, side)


def share_on(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Share of each map's evidence that lies on the foreground (the energy-based pointing game, Wang et al. 2020).

    A cell that the object covers in part counts in part. Evenly spread evidence would match the object's share of
    the image.

    Args:
        maps: (N, h, w) float >= 0.
        mask: (N, H, W) bool, True on the foreground.

    Returns:
        (N,) float32 in [0, 1]; NaN for a map without evidence.
    """
    covered = F.adaptive_avg_pool2d(mask[:, None].float(), (maps.shape[1], maps.shape[2]))[:, 0]
    return (maps * covered).sum((1, 2)) / maps.sum((1, 2))


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Maps (N, h, w) >= 0, each divided by its maximum; one without evidence stays 0."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
