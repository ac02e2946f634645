"""Stage `moco`: momentum contrast, MoCo v2 (He et al., CVPR 2020; Chen et al., 2020; docs/method.md, section 4).

The features of two views of an image should be closer to each other than to those of other images. The other images
are a queue of keys from earlier batches, encoded by a slowly moving average of the trained encoder.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from src.averages import follow
from src.data.batch import TwoViewBatch
from src.distributed import gather, rank_and_world_size
from src.lightning_modules.backbone import Normalising, check_sizes, run_sizes, width_of
from src.lightning_modules.optimizer import optimizer_and_schedule
from src.losses import info_nce
from src.metrics import top_hits
from src.mixing import Mixed
from src.numbers import check_number
from src.precision import Sequential, in_float32
from src.transfers import to_device

normalize = in_float32(F.normalize)


class Encoder(nn.Module):
    """A backbone and MoCo v2's two-layer head: normalised pixels (N, 3, H, W) to unit vectors (N, dim) float32.

    Under autocast the head and the norm are computed in float32.
    """

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        width = width_of(backbone)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.head = Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize(self.head(self.backbone(x)), dim=1)


class MoCo(Normalising, pl.LightningModule):
    """Query encoder, key encoder, queue.

    Args:
        backbone: a timm network without classifier, from (N, 3, H, W) to features (N, C).
        mean, std: as in Normalising.
        dim: of the contrasted features, at least 1.
        queue_size: K, number of keys that are negatives; a multiple of the global batch.
        key_momentum: m of the key encoder's update, in [0, 1].
        temperature: of InfoNCE, above 0.
        num_splits: groups of the global batch over which BatchNorm takes its statistics, in both encoders, at least 1.
            Each process has its share of them, so that one process computes what several do; with more processes than
            groups, each process is a group. Everything but BatchNorm sees the whole batch at once.
        collapse_below: warn when the features' spread falls below this.
        optimizer, scheduler: from parameters (conf/optimizer) to an optimiser, from that to a schedule by epoch.

    Raises:
        ValueError: a setting outside of its range.
    """

    exported = ("backbone",)  # the query encoder's, without its head
    queue: torch.Tensor
    pointer: torch.Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        dim: int,
        queue_size: int,
        key_momentum: float,
        temperature: float,
        num_splits: int,
        collapse_below: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        check_number("module.dim", dim, 1, whole=True)
        check_number("module.queue_size", queue_size, 1, whole=True)
        check_number("module.key_momentum", key_momentum, 0, 1)
        check_number("module.temperature", temperature, 0, above=True)
        check_number("module.num_splits", num_splits, 1, whole=True)
        check_number("module.collapse_below", collapse_below, 0)
        super().__init__(mean=mean, std=std)
        self.query_encoder = Encoder(backbone, dim)
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.key_momentum, self.temperature = key_momentum, temperature
        self.num_splits, self.collapse_below = num_splits, collapse_below
        self.groups = 1  # of this process's batch
        for norm in self.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                norm.forward = partial(self.by_group, norm, norm.forward)  # type: ignore[method-assign] # keys stay
        self.optimizer, self.scheduler = optimizer, scheduler
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, dim), dim=1))
        self.register_buffer("pointer", torch.tensor(0))  # index of the oldest key
        self.collapsed = False
        self.begins_step = True  # the optimiser has stepped since the last batch: the key encoder moves once a step

    @property
    def backbone(self) -> nn.Module:
        """The part from which the next stage starts."""
        return self.query_encoder.backbone

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] to the backbone's features (N, C)."""
        features: torch.Tensor = self.backbone(self.normalised(image))
        return features

    def on_train_batch_start(self, batch: TwoViewBatch, batch_idx: int) -> None:
        self.begins_step = batch_idx % self.trainer.accumulate_grad_batches == 0

    def training_step(self, batch: TwoViewBatch, batch_idx: int) -> torch.Tensor:
        rank, world_size = rank_and_world_size()
        query = self.encode(self.query_encoder, batch.first)
        if self.begins_step:
            self.update_key_encoder()
        keys = self.shuffled_keys(batch.second)
        # A copy of the queue: it is written to before the backward pass reads it.
        loss, logits = info_nce(query, keys[rank::world_size], self.queue.clone(), self.temperature)
        self.enqueue(keys)
        positive = torch.full_like(batch.label, logits.shape[1] - 1)
        figures = {
            "train/loss": loss,
            "train/contrastive_top1": top_hits(logits, positive, 1).float().mean(),
            "train/contrastive_top5": top_hits(logits, positive, 5).float().mean(),
            "train/feature_spread": self.spread(query.detach()),
        }
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(query), sync_dist=True)
        return loss

    def encode(self, encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, H, W) in [0, 1] to (n, dim), BatchNorm seeing one group of them at a time.

        Group i is every groups-th image from i on. The groups are put one behind the other, so that each is a view.
        """
        self.groups = max(1, self.num_splits // rank_and_world_size()[1])
        x = self.normalised(image)
        made: torch.Tensor = encoder(torch.cat([x[i :: self.groups] for i in range(self.groups)]))
        return made.view(self.groups, -1, made.shape[1]).transpose(0, 1).flatten(0, 1)

    def by_group(
        self, norm: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        """A BatchNorm's `forward` on one group after the other: outputs, gradients and running statistics are
        the same as with a separate pass of the encoder per group."""
        if self.groups == 1 or not norm.training:
            return forward(x)
        return torch.cat([forward(group) for group in x.chunk(self.groups)])

    def update_key_encoder(self) -> None:
        """theta_k = m theta_k + (1 - m) theta_q (MoCo, eq. 2); BatchNorm's buffers are kept separately."""
        follow(self.key_encoder.parameters(), self.query_encoder.parameters(), self.key_momentum)

    @torch.no_grad()
    def shuffled_keys(self, image: torch.Tensor) -> torch.Tensor:
        """Keys of the global batch, in its order, each computed in another group than its query (MoCo, section 3.3).

        If a query and its key shared BatchNorm's statistics, they could be matched by these alone.

        Args:
            image: this rank's (n, 3, H, W) in [0, 1].

        Returns:
            (world_size n, dim), the same on every rank.
        """
        rank, world_size = rank_and_world_size()
        everything = gather(image)
        # Drawn on the CPU, so that a seed gives the same order on every device; all ranks use rank 0's draw.
        order = gather(to_device(torch.randperm(len(everything)), image.device))[::world_size]
        keys = gather(self.encode(self.key_encoder, everything[order[rank::world_size]]))
        return keys[order.argsort()]

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Replace the oldest keys of the queue by (n, dim) new ones."""
        indices = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[indices] = keys
        self.pointer.add_(len(keys)).remainder_(len(self.queue))

    @staticmethod
    @in_float32
    def spread(features: torch.Tensor) -> torch.Tensor:
        """Standard deviation of unit vectors (N, dim), mean over the dimensions: 1 all over the sphere, 0 collapsed."""
        return features.std(dim=0).mean() * math.sqrt(features.shape[1])

    def training_images(self, batch: TwoViewBatch) -> Mixed:
        """What the network sees of a batch, the views of an image one after the other."""
        own = torch.arange(len(batch.label))
        return Mixed(torch.stack([batch.first, batch.second], dim=1).flatten(0, 1), own, torch.ones(()))

    def on_fit_start(self) -> None:
        check_sizes(self.backbone, run_sizes(self.trainer))

    def on_train_start(self) -> None:
        """Check the batch against queue and groups.

        Raises:
            ValueError: the queue is not a multiple of the global batch, or larger than an epoch; the batch is not a
                multiple of the groups.
        """
        _, world_size = rank_and_world_size()
        assert self.trainer.train_dataloader is not None
        batch, size = self.trainer.train_dataloader.batch_size * world_size, len(self.queue)
        images = batch * int(self.trainer.num_training_batches)
        group = batch // max(self.num_splits, world_size)
        if size % batch:
            raise ValueError(
                f"module.queue_size={size} is not a multiple of datamodule.batch_size={batch}: change one of them"
            )
        if size > images:
            raise ValueError(
                f"module.queue_size={size} exceeds the {images} images of an epoch, so an image would be among its own "
                "negatives: set a smaller one"
            )
        if self.num_splits > world_size and (self.num_splits % world_size or batch % self.num_splits):
            raise ValueError(
                f"module.num_splits={self.num_splits} does not divide datamodule.batch_size={batch} over {world_size} "
                "process(es) evenly: change one of them"
            )
        if group < 2:
            raise ValueError(
                f"BatchNorm would see {group} image(s) at a time: set a larger datamodule.batch_size or a smaller "
                "module.num_splits"
            )
        if max(self.num_splits, world_size) == 1:
            warnings.warn(
                "queries and keys share BatchNorm's statistics in one process with module.num_splits=1, and can be "
                "matched by them alone: set module.num_splits=4",
                stacklevel=1,
            )

    def on_train_epoch_end(self) -> None:
        spread = float(self.trainer.callback_metrics["train/feature_spread"])
        if spread < self.collapse_below and not self.collapsed:
            self.collapsed = True
            warnings.warn(
                f"the features have collapsed (spread {spread:.3f}, 1 being all over the sphere): lower the "
                "learning rate",
                stacklevel=1,
            )

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.optimizer, self.scheduler, self.query_encoder)
