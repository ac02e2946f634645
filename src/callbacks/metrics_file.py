"""metrics.csv: one row an epoch, in every run, whatever the logger."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl

from src.files import write_text


class MetricsFile(pl.Callback):
    """Write the epoch's metrics; a resumed run keeps the rows of the epochs before it.

    Args:
        path: the csv file. Columns: epoch, step, seconds (of the epoch), then the metrics by name.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[Mapping[str, float | str]] = []
        self.begin = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.path.exists():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = round(time.monotonic() - self.begin, 3)
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": seconds, **metrics})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
