"""How much of a feature is class and how much context, without training anything on it: nearest neighbours."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from src.data.splits import HELD_OUT
from src.datamodules.nico import datamodule_of
from src.distributed import gather
from src.metrics import ContextAccuracy, knn_scores
from src.numbers import check_number
from src.precision import in_float32
from src.progress import progress


class Bank(NamedTuple):
    """Unit features (M, C), label and domain (M,) of some images, on the device."""

    features: torch.Tensor
    label: torch.Tensor
    domain: torch.Tensor


class Neighbours(pl.Callback):
    """Classify held-out images by their nearest training images, every few epochs and before the first.

    Logged for each held-out part: `val/<part>/knn/accuracy` by context and for the worst one, its value before
    training (`.../knn/untrained`), and `.../knn/context`, the accuracy at which the neighbours' contexts give away
    the image's (for images whose context was trained on). Labels are used to measure here, not to train.

    The module's `forward` gives features (N, C) of images (N, 3, H, W) in [0, 1].

    Args:
        every_n_epochs: how often, at least 1; the last epoch is always measured.
        k: neighbours, at least 1.
        temperature: of their weights, above 0.

    Raises:
        ValueError: a setting outside of its range.
    """

    def __init__(self, every_n_epochs: int, k: int, temperature: float) -> None:
        check_number("callbacks.neighbours.every_n_epochs", every_n_epochs, 1, whole=True)
        check_number("callbacks.neighbours.k", k, 1, whole=True)
        check_number("callbacks.neighbours.temperature", temperature, 0, above=True)
        self.every_n_epochs, self.k, self.temperature = every_n_epochs, k, temperature
        self.untrained: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step or self.untrained:
            return
        figures = self.measure(trainer, pl_module)
        self.untrained = {
            f"{name.removesuffix('accuracy')}untrained": value
            for name, value in figures.items()
            if name.endswith("/knn/accuracy")
        }
        if trainer.is_global_zero and self.untrained:
            print("  ".join(f"{name} {value:.4f}" for name, value in self.untrained.items()), flush=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name in [name for name in trainer.callback_metrics if "/knn/" in name]:
            del trainer.callback_metrics[name]  # or metrics.csv would repeat them in epochs that measure nothing

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            pl_module.log_dict({**self.measure(trainer, pl_module), **self.untrained})

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """The figures now, the same on every rank; empty where nothing is held out."""
        datamodule = datamodule_of(trainer)
        loaders = datamodule.val_dataloader()
        if not loaders:
            return {}
        contexts, num_classes = datamodule.contexts, len(datamodule.classes)
        mine = self.encode(trainer, pl_module, datamodule.train_part_dataloader())
        bank = Bank(*(gather(part, len(datamodule.parts.train)) for part in mine))
        figures: dict[str, float] = {}
        for part, loader in zip(HELD_OUT, loaders, strict=False):
            if not getattr(datamodule.parts, part):  # held out are images of other contexts alone
                continue
            mine = self.encode(trainer, pl_module, loader)
            by_class = ContextAccuracy(contexts).to(pl_module.device)
            scores = knn_scores(mine.features, bank.features, bank.label, num_classes, self.k, self.temperature)
            by_class.update(scores, mine.label, mine.domain)
            figures |= {f"val/{part}/knn/{name}": value for name, value in by_class.compute().items()}
            known = torch.isin(mine.domain, bank.domain)
            if contexts and trainer.strategy.reduce(known.sum().float(), reduce_op="sum") > 0:
                by_context = ContextAccuracy([]).to(pl_module.device)
                scores = knn_scores(
                    mine.features[known], bank.features, bank.domain, len(contexts), self.k, self.temperature
                )
                by_context.update(scores, mine.domain[known], torch.full_like(mine.domain[known], -1))
                figures[f"val/{part}/knn/context"] = by_context.compute()["accuracy"]
        return figures

    @staticmethod
    def encode(trainer: pl.Trainer, pl_module: pl.LightningModule, loader: Any) -> Bank:
        """This rank's share of a loader's images."""
        pl_module.eval()
        rows = []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in progress(loader, "features of images"):
                batch = trainer.strategy.batch_to_device(batch)
                rows.append((in_float32(F.normalize)(pl_module(batch.image), dim=1), batch.label, batch.domain))
        pl_module.train()
        return Bank(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def state_dict(self) -> dict[str, float]:
        return self.untrained

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.untrained = state_dict
