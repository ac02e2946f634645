"""Stage `wsss`: class-agnostic activation maps, C2AM (Xie et al., CVPR 2022; docs/method.md, section 3).

One 3x3 convolution on the baseline's features says for each cell whether it is foreground. It learns without
a label: foreground representations should resemble each other, and differ from background ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from src.data.batch import Batch
from src.lightning_modules.backbone import Normalising, check_sizes, freeze_unused, run_sizes
from src.lightning_modules.optimizer import make_optimizer
from src.losses import pull_loss, push_loss
from src.mixing import Mixed, unmixed
from src.numbers import are_numbers, check_number
from src.precision import Sequential, in_float32


class Representations(NamedTuple):
    """Foreground and background representation (N, C) of each image, and the map P (N, 1, h, w) in [0, 1]."""

    foreground: torch.Tensor
    background: torch.Tensor
    activation: torch.Tensor


@in_float32
def disentangle(features: torch.Tensor, activation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """v_fg = P.Z / hw and v_bg = (1 - P).Z / hw (C2AM, eq. 1 and 2).

    Args:
        features: Z, (N, C, h, w) float.
        activation: P, (N, 1, h, w) in [0, 1].

    Returns:
        Two (N, C), float32.
    """
    # Not the mean of Z minus v_fg: where P is close to 1 that is a small difference of two large numbers.
    return (activation * features).mean(dim=(2, 3)), ((1 - activation) * features).mean(dim=(2, 3))


@in_float32
def border_mean(activation: torch.Tensor) -> torch.Tensor:
    """Mean of each map on a frame of max(1, h // 7) cells, and of all of it (docs/method.md, section 3).

    Args:
        activation: (N, 1, h, w).

    Returns:
        (N, 2) float32: border, whole.
    """
    height, width = activation.shape[2:]
    margin = max(1, height // 7)
    frame = torch.ones(height, width, dtype=torch.bool, device=activation.device)
    frame[margin : height - margin, margin : width - margin] = False
    return torch.stack([activation[:, 0, frame].mean(dim=1), activation.mean(dim=(1, 2, 3))], dim=1)


class C2AM(Normalising, pl.LightningModule):
    """A backbone and the head that disentangles foreground from background.

    Under autocast only the backbone is computed in lower precision; the head, the representations and their
    similarities are float32: bfloat16 has no .9995, and a clamp there would not keep log(1 - s) finite.

    Args:
        backbone: a timm network with `num_features` and `forward_features` to (N, C, h, w).
        mean, std: as in Normalising.
        alpha: decay of a pair's weight with its rank.
        area_weight: of mean(P) in the loss.
        lr, momentum, weight_decay: of SGD.
        power: of the rate's polynomial decay, which moves each step.
        head_multiplier, bias_multiplier: of the rate of the head and of all biases.
        scales: of the image, over which the maps are summed (with their flips).
        normalise: how the summed map is brought to [0, 1]: "maximum" divides by it, "range" subtracts the minimum
            first.

    Raises:
        ValueError: another `normalise`, a scale that is not above 0, or another number below 0.
    """

    exported = ("backbone", "head")
    inverted: torch.Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        alpha: float,
        area_weight: float,
        lr: float,
        momentum: float,
        weight_decay: float,
        power: float,
        head_multiplier: float,
        bias_multiplier: float,
        scales: Sequence[float],
        normalise: str,
    ) -> None:
        if normalise not in ("maximum", "range"):
            raise ValueError(f"module.normalise is {normalise!r}: expected maximum or range")
        numbers = {
            "alpha": alpha, "area_weight": area_weight, "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "power": power, "head_multiplier": head_multiplier, "bias_multiplier": bias_multiplier,
        }  # fmt: skip
        for name, value in numbers.items():
            check_number(f"module.{name}", value, 0)
        if not are_numbers(scales, None, 0, above=True):
            raise ValueError(f"module.scales is {scales}: expected a list of numbers above 0")
        super().__init__(mean=mean, std=std)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.backbone.forward = backbone.forward_features  # type: ignore[assignment] # what compile=true compiles
        freeze_unused(self.backbone)
        width = int(backbone.num_features)  # type: ignore[arg-type] # timm's; channels of the map, not of a head
        self.head = Sequential(nn.Conv2d(width, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1))
        self.alpha, self.area_weight = alpha, area_weight
        self.lr, self.momentum, self.weight_decay, self.power = lr, momentum, weight_decay, power
        self.head_multiplier, self.bias_multiplier = head_multiplier, bias_multiplier
        self.scales, self.normalise = list(scales), normalise
        # Whether P marks the background: its sign is arbitrary, and is decided at the end of the training.
        self.register_buffer("inverted", torch.tensor(False))

    def represent(self, image: torch.Tensor) -> Representations:
        """Images (N, 3, H, W) in [0, 1] to representations and the map as trained, float32, of either sign."""
        features = self.backbone(self.normalised(image))
        activation = torch.sigmoid(self.head(features))
        return Representations(*disentangle(features, activation), activation)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] to foreground maps (N, 1, h, w) in [0, 1], h and w by the output stride."""
        activation = self.represent(image).activation
        return torch.where(self.inverted, 1 - activation, activation)

    def on_fit_start(self) -> None:
        # Masks are made for images of any size, such as one of two tiles of 64 pixels.
        check_sizes(self.backbone, [*run_sizes(self.trainer), (64, 128)], features=True)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        mine = self.represent(batch.image)
        # The paper's authors ask for more pairs than one GPU's images give: all ranks' images are paired.
        foreground, background = self.of_all_ranks(mine.foreground), self.of_all_ranks(mine.background)
        losses = {
            "train/pull_foreground": pull_loss(foreground, self.alpha),
            "train/pull_background": pull_loss(background, self.alpha),
            "train/push": push_loss(foreground, background),
            "train/area": self.area_weight * mine.activation.mean(),
        }
        loss = torch.stack(list(losses.values())).sum()
        figures = {**losses, "train/loss": loss}
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(batch.image), sync_dist=True)
        return loss

    def of_all_ranks(self, features: torch.Tensor) -> torch.Tensor:
        """All ranks' features concatenated, with their gradient: (N, C) to (ranks N, C)."""
        gathered = self.all_gather(features, sync_grads=True)
        assert isinstance(gathered, torch.Tensor)
        return gathered.flatten(0, -2)

    def training_images(self, batch: Batch) -> Mixed:
        """What the network sees of a batch."""
        return unmixed(batch)

    @property
    def map_settings(self) -> dict[str, Any]:
        """Everything the maps depend on besides the weights."""
        return {"scales": self.scales, "normalise": self.normalise}

    def border_mean(self, image: torch.Tensor) -> torch.Tensor:
        """Means of each image's map, as trained, on its border and on all of it: (N, 3, H, W) to (N, 2)."""
        return border_mean(self.represent(image).activation)

    def activation_map(self, image: torch.Tensor) -> torch.Tensor:
        """Foreground maps of images at their own size, over scales and flips.

        Args:
            image: (N, 3, H, W) in [0, 1]; sides that are multiples of 64 stay multiples of the stride at all scales.

        Returns:
            (N, H, W) float32: the sum over scales and flips, not yet brought to [0, 1].
        """
        total = torch.zeros_like(image[:, :1], dtype=torch.float32)
        for scale in self.scales:
            scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
            for flip in (False, True):
                activation = self(scaled.flip(3) if flip else scaled).float()
                activation = activation.flip(3) if flip else activation
                total += F.interpolate(activation, size=image.shape[2:], mode="bilinear", align_corners=False)
        return total[:, 0]

    def predict_step(self, batch: Any, batch_idx: int) -> list[torch.Tensor]:
        """One map (H, W) float32 in [0, 1] per image, padding cut off, its largest value 1."""
        maps = self.activation_map(batch.image)
        cut = [m[:h, :w] for m, h, w in zip(maps, batch.height.tolist(), batch.width.tolist(), strict=True)]
        if self.normalise == "range":
            cut = [m - m.min() for m in cut]
        return [m / m.max().clamp(min=torch.finfo(m.dtype).tiny) for m in cut]

    def configure_optimizers(self) -> Any:
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            multiplier = self.head_multiplier if name.startswith("head.") else 1.0
            multiplier *= self.bias_multiplier if name.endswith(".bias") else 1.0
            groups.setdefault(multiplier, []).append(parameter)
        sgd = partial(torch.optim.SGD, momentum=self.momentum, weight_decay=self.weight_decay)
        rated = [{"params": parameters, "lr": self.lr * multiplier} for multiplier, parameters in groups.items()]
        optimizer = make_optimizer(sgd, rated, "module")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def decay(self, step: int) -> float:
        """(1 - step / total)^power; the total is known once the loaders exist, after the first call."""
        if step == 0:
            return 1.0
        # The last step of an epoch may have fewer batches than the others.
        of_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return float(max(0.0, 1 - step / (of_epoch * (self.trainer.max_epochs or 1))) ** self.power)
