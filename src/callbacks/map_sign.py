"""Decide at the end of C2AM's training which side of the map is the foreground."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from src.datamodules.nico import datamodule_of
from src.progress import progress


class MapSign(pl.Callback):
    """Invert the map where its mean on the images' borders exceeds .5 (docs/method.md, section 3).

    Decided over all training images, at the end of the last epoch and before its checkpoint is written: the
    decision is the module's buffer `inverted`. The module has `border_mean(image)`, (N, 3, H, W) to (N,).
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 != trainer.max_epochs:
            return
        device = pl_module.device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in progress(datamodule_of(trainer).train_part_dataloader(), "deciding the map's sign"):
                image = trainer.strategy.batch_to_device(batch).image
                means = pl_module.border_mean(image).double()  # type: ignore[operator] # C2AM's
                total += torch.stack([means.sum(), torch.tensor(len(means), dtype=torch.float64, device=device)])
        pl_module.train()
        total = trainer.strategy.reduce(total, reduce_op="sum")
        mean, count = float(total[0] / total[1]), int(total[1])
        pl_module.inverted.fill_(mean > 0.5)  # type: ignore[operator] # C2AM's
        pl_module.log_dict({"sign/border_mean": mean, "sign/inverted": float(mean > 0.5)}, sync_dist=True)
        if trainer.is_global_zero:
            decision = "the map is inverted" if mean > 0.5 else "the map stays as it is"
            print(f"mean of the map on the borders of {count} images: {mean:.4f}: {decision}", flush=True)
