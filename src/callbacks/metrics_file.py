"""metrics.csv: one row per epoch, in every run, with any logger."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.datamodules.nico import datamodule_of
from src.files import write_text


class MetricsFile(pl.Callback):
    """Write the epoch's metrics; a resumed run keeps the rows of the epochs before it.

    Has the last epoch validated whatever trainer.check_val_every_n_epoch is, as its figures are the run's.

    Args:
        path: the csv file. Columns: epoch, step, seconds (of the epoch), then the metrics by name. In an epoch that was
            interrupted, `train/first_batch` says where the run went on: its train/ means and seconds are from there on.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[Mapping[str, float | str]] = []
        self.begin = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.rows and trainer.current_epoch:  # a checkpoint of an older version has no rows
            self.rows = [*read_metrics(self.path)]
        self.rows = [row for row in self.rows if int(row["epoch"]) < trainer.current_epoch]
        self.begin = time.monotonic()  # an epoch that goes on has no start

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.monotonic()
        if trainer.check_val_every_n_epoch and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        metrics = metrics_of_epoch(trainer)
        went_on, first = datamodule_of(trainer).resume_at
        if first and went_on == trainer.current_epoch:
            metrics["train/first_batch"] = float(first)
        seconds = round(time.monotonic() - self.begin, 3)
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": seconds, **metrics})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def metrics_of_epoch(trainer: pl.Trainer) -> dict[str, float]:
    """What was logged in the epoch that ends: without an earlier epoch's validation, which Lightning keeps.

    Nearest neighbours have epochs of their own (callbacks/neighbours.py).
    """
    every = trainer.check_val_every_n_epoch
    stale = every is not None and (trainer.current_epoch + 1) % every != 0
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if not (stale and name.startswith("val/") and "/knn/" not in name)
    }


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restkey="", restval=None))
        whole = all(None not in row.values() and "" not in row and row["epoch"].isdecimal() for row in rows)
    except (csv.Error, KeyError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged: move it away to continue without the rows of earlier epochs")
    return rows
