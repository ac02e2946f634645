"""Decide at the end of C2AM's training which side of the map is the foreground."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from src.datamodules.nico import datamodule_of
from src.progress import progress


class MapSign(pl.Callback):
    """Invert the map where the images' borders say that it marks the background (docs/method.md, section 3).

    Decided over all training images, at the end of the last epoch and before its checkpoint is written: the
    decision is the module's buffer `inverted`. The module has `border_mean(image)`, (N, 3, H, W) to (N, 2).

    Args:
        rule: "border": the mean of the borders exceeds .5; "centre": it exceeds the mean of the whole maps.

    Raises:
        ValueError: another rule.
    """

    def __init__(self, rule: str) -> None:
        if rule not in ("border", "centre"):
            raise ValueError(f"callbacks.sign.rule is {rule!r}: expected border or centre")
        self.rule = rule

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 != trainer.max_epochs:
            return
        device = pl_module.device
        total = torch.zeros(3, dtype=torch.float64, device=device)  # of the borders, of the whole maps; their number
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in progress(datamodule_of(trainer).train_part_dataloader(), "deciding the map's sign"):
                image = trainer.strategy.batch_to_device(batch).image
                means = pl_module.border_mean(image).double()  # type: ignore[operator] # C2AM's
                total += torch.cat([means.sum(0), torch.tensor([len(means)], dtype=torch.float64, device=device)])
        pl_module.train()
        total = trainer.strategy.reduce(total, reduce_op="sum")
        border, whole = (total[:2] / total[2]).tolist()
        inverted = border > (0.5 if self.rule == "border" else whole)
        pl_module.inverted.fill_(inverted)  # type: ignore[operator] # C2AM's
        figures = {"sign/border_mean": border, "sign/whole_mean": whole, "sign/inverted": float(inverted)}
        pl_module.log_dict(figures, sync_dist=True)
        if trainer.is_global_zero:
            decision = "the map is inverted" if inverted else "the map stays as it is"
            print(
                f"mean of the map on the borders of {int(total[2])} images: {border:.4f} ({whole:.4f} on the whole "
                f"images): {decision}",
                flush=True,
            )
