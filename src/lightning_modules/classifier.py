"""Stages `baseline`, `finetune`, `adapt`: backbone and linear head, on mixed images (docs/method.md, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from src.data.batch import Batch
from src.data.splits import HELD_OUT
from src.lightning_modules.backbone import Normalising, check_sizes, run_sizes, width_of
from src.lightning_modules.optimizer import optimizer_and_schedule
from src.losses import mixed_cross_entropy
from src.metrics import ContextAccuracy
from src.mixing import Mixed, Strategy, unmixed
from src.numbers import check_number
from src.precision import Linear


class Network(Normalising):
    """A timm backbone with a linear head: all of a member that is needed for prediction.

    The head is computed in float32 even under autocast: bfloat16 logits tie.

    Args:
        backbone: a timm network without classifier, from (N, 3, H, W) to features (N, C).
        num_classes: K.
        mean, std: as in Normalising.
    """

    exported = ("backbone", "head")  # the contents of weights.safetensors

    def __init__(self, *, backbone: nn.Module, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = backbone.to(memory_format=torch.channels_last)  # the order the images arrive in
        self.head = Linear(width_of(backbone), num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float in [0, 1] to logits (N, K) float32; any H and W the backbone takes."""
        logits: torch.Tensor = self.head(self.backbone(self.normalised(image)))
        return logits


class Classifier(Network, pl.LightningModule):
    """A Network in training.

    Args:
        backbone, num_classes, mean, std: as in Network.
        mixing: a mixing strategy (conf/mixing).
        label_smoothing: part of a label's weight shared by all classes, in [0, 1).
        contexts: names of the training contexts by id; empty if images have none.
        optimizer, scheduler: from parameters (conf/optimizer) to an optimiser, from that to a schedule by epoch.

    Raises:
        ValueError: label_smoothing is out of its range.
    """

    network = Network  # what prediction rebuilds from the module's settings, without optimiser, schedule or mixing

    def __init__(
        self,
        *,
        backbone: nn.Module,
        mixing: Strategy,
        num_classes: int,
        label_smoothing: float,
        contexts: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        check_number("module.label_smoothing", label_smoothing, 0, 1, below=True)
        if num_classes < 2:
            raise ValueError(
                f"the data set has {num_classes} class: a classifier needs at least two (data= may name a folder that "
                "is one level too deep)"
            )
        super().__init__(backbone=backbone, num_classes=num_classes, mean=mean, std=std)
        self.mixing, self.label_smoothing = mixing, label_smoothing
        self.optimizer, self.scheduler = optimizer, scheduler
        self.accuracy = nn.ModuleList(ContextAccuracy(contexts) for _ in HELD_OUT)

    def on_fit_start(self) -> None:
        check_sizes(self.backbone, run_sizes(self.trainer))
        epochs = self.trainer.max_epochs or 0
        if self.mixing.until < 1 and epochs > 0 and (epochs - 1) / epochs < self.mixing.until:
            raise ValueError(
                f"mixing.until={self.mixing.until} begins the clean finish after the last of {epochs} epochs: lower "
                "it, or set it to 1 for none"
            )

    def mixed(self, batch: Batch) -> Mixed:
        """A batch as this epoch mixes it: in a clean finish it stays as it is."""
        until = self.mixing.until
        if until < 1 and self.trainer.max_epochs and self.current_epoch / self.trainer.max_epochs >= until:
            return unmixed(batch)
        return self.mixing(batch)

    def log_mixed(self, mixed: Mixed) -> None:
        """Log the share of images that were mixed with a partner."""
        alone = torch.arange(len(mixed.partner), device=mixed.partner.device)
        share = (mixed.partner != alone).float().mean()
        self.log("train/mixed", share, on_step=False, on_epoch=True, batch_size=len(alone), sync_dist=True)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        mixed = self.mixed(batch)
        logits = self(mixed.image)
        labels = batch.label, batch.label[mixed.partner], mixed.lam
        loss = mixed_cross_entropy(logits, *labels, self.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.label), sync_dist=True)
        self.log_mixed(mixed)
        return loss

    def training_images(self, batch: Batch) -> Mixed:
        """What the network sees of a batch."""
        return self.mixed(batch)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        accuracy = self.accuracy[dataloader_idx]
        assert isinstance(accuracy, ContextAccuracy)
        accuracy.update(self(batch.image), batch.label, batch.domain)

    def on_validation_epoch_end(self) -> None:
        # Computed here and not in the step: all ranks add up their counts, even with different numbers of batches.
        for name, accuracy in zip(HELD_OUT, self.accuracy[: len(self.trainer.num_val_batches)], strict=False):
            assert isinstance(accuracy, ContextAccuracy)
            self.log_dict({f"val/{name}/{key}": value for key, value in accuracy.compute().items()}, sync_dist=True)
            accuracy.reset()

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.optimizer, self.scheduler, self)
