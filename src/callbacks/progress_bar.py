"""A training on a terminal: two lines that stay in place, with its figures."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from src.transfers import Late

FIGURES = {
    "train/loss": ("loss", "{:.4g}"),
    "learning_rate": ("rate", "{:.3g}"),
    "val/in_domain/accuracy": ("in-domain", "{:.1%}"),
    "val/out_of_domain/accuracy": ("out-of-domain", "{:.1%}"),
}
"""What the second line shows: a metric's name here, and its digits. All four fit into 80 columns."""


class TwoLines(Progress):
    """A bar, and a line of text below it that is cut where the terminal ends."""

    text = ""

    def get_renderables(self) -> Any:
        """The two lines."""
        yield self.make_tasks_table(self.tasks)
        lines: RenderableType = Text(self.text, no_wrap=True, overflow="ellipsis")
        yield lines


class Bar(ProgressBar):
    """Epochs counted from 1, batches, images a second and the time left of the training; below them its figures.

    The loss is that of a batch at the last drawing, the rate that of the first group of parameters, accuracies are
    those of the latest validation. What is on the device is read only as often as the screen is drawn, and late.

    Args:
        console: where to; None: stdout.
    """

    SECONDS = 0.25  # between two drawings

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console
        self.enabled = True
        self.shown: TwoLines | None = None
        self.task = TaskID(0)
        self.speed = ""
        self.figures: dict[str, float] = {}
        self.loss: Late | None = None  # on its way
        self.begin = self.epoch_begin = self.drawn = 0.0
        self.first_epoch = self.first_batch = 0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    # ------------------------------------------------------------------------------------------ what is drawn

    def start(self, title: str, total: float) -> None:
        """Begin a bar for `total` batches, in the place of the one before."""
        if not self.enabled:
            return
        if self.shown is None:
            columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(),
                       TextColumn("{task.fields[speed]}", justify="right"))  # fmt: skip
            self.shown = TwoLines(*columns, console=self.console, refresh_per_second=1 / self.SECONDS, expand=True)
            self.task = self.shown.add_task(title, speed="")
            self.shown.start()
        # Batches by the images' size are not counted before.
        self.shown.reset(self.task, total=total if math.isfinite(total) else None, description=title)
        self.drawn = 0.0

    def advance(self, batches: int) -> None:
        """So many batches are done."""
        if self.shown is not None:
            self.shown.update(self.task, completed=batches, speed=self.speed)

    def say(self) -> None:
        """Redraw the figures."""
        if self.shown is not None:
            words = [f"{name} {form.format(self.figures[key])}" for key, (name, form) in FIGURES.items()
                     if key in self.figures]  # fmt: skip
            self.shown.text = "  ".join(words)

    def stop(self) -> None:
        """Leave the lines on the screen as they are."""
        if self.shown is not None:
            self.shown.stop()
            self.shown = None

    def due(self) -> bool:
        """Whether the screen is drawn again by now."""
        now = time.monotonic()
        if now - self.drawn < self.SECONDS:
            return False
        self.drawn = now
        return True

    # ------------------------------------------------------------------------------------------ what happens

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.monotonic()
        self.first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_epoch(trainer)
        self.epoch_begin, self.first_batch, self.loss = time.monotonic(), -1, None

    def start_epoch(self, trainer: pl.Trainer) -> None:
        """The bar of the epoch that is being trained."""
        self.start(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.first_batch < 0:  # an epoch that goes on does not begin with its first one
            self.first_batch = batch_idx
        if self.shown is None or not (self.due() or batch_idx + 1 == trainer.num_training_batches):
            return
        now, done = time.monotonic(), batch_idx + 1
        images = len(batch.position) * trainer.world_size * (done - self.first_batch)
        epochs = trainer.current_epoch - self.first_epoch + done / trainer.num_training_batches
        to_do = (trainer.max_epochs or 0) - self.first_epoch - epochs
        left = timedelta(seconds=round((now - self.begin) / epochs * to_do))
        if self.loss:
            self.figures["train/loss"] = float(self.loss.read())
        self.loss = Late(outputs["loss"] * trainer.accumulate_grad_batches)  # Lightning has divided it
        self.figures["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.speed = f"{images / (now - self.epoch_begin):,.0f} images/s  {left} left"
        self.advance(done)
        self.say()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start("validation", sum(trainer.num_val_batches))
        self.validated = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.validated += 1
        if self.due():
            self.advance(self.validated)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read(trainer)
        self.start_epoch(trainer)
        self.advance(trainer.fit_loop.batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read(trainer)

    def read(self, trainer: pl.Trainer) -> None:
        """Take over what was logged by epoch."""
        logged = trainer.callback_metrics
        self.figures |= {name: float(logged[name]) for name in FIGURES if isinstance(logged.get(name), torch.Tensor)}
        self.say()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.figures, self.speed = {}, ""
        self.start("predicting", trainer.num_predict_batches[0])
        self.say()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self.due() or batch_idx + 1 == trainer.num_predict_batches[0]:
            self.advance(batch_idx + 1)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()
