"""Moving averages of networks, all tensors at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch


@torch.no_grad()
def follow(averages: Iterable[torch.Tensor], current: Iterable[torch.Tensor], momentum: float) -> None:
    """average = momentum average + (1 - momentum) current, in place; what is not float is copied.

    On a GPU that is a launch for each dtype, however many tensors there are.

    Args:
        averages: each a tensor of any shape; what a network has of parameters and buffers.
        current: as many, of the same shapes and dtypes, on the same device.
        momentum: in [0, 1]; at 0 the average becomes the current value.
    """
    by_dtype: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for average, now in zip(averages, current, strict=True):
        olds, news = by_dtype.setdefault(average.dtype, ([], []))
        olds.append(average.detach())
        news.append(now.detach())
    for dtype, (olds, news) in by_dtype.items():
        if dtype.is_floating_point and momentum:
            torch._foreach_lerp_(olds, news, 1 - momentum)
        else:
            torch._foreach_copy_(olds, news)
