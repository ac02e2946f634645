"""What changes with the epoch: learning rates that torch does not have, sizes of the images."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import torch

from src.numbers import are_numbers, check_number, is_number

MAX_SIZE = 8192  # pixels on a side of a network's input: a batch of two such images is 400 MB


class CosineFrom(torch.optim.lr_scheduler.LambdaLR):
    """The cosine over `total` epochs, joined at epoch `start`: lr / 2 (1 + cos(pi (start + e) / total)) in epoch e.

    For a stage that continues the schedule of the one before it (docs/method.md, section 6). torch's
    CosineAnnealingLR, started late, would go on from `lr` instead of from the cosine's value there. From epoch `total`
    on the rate is 0.

    Args:
        optimizer: its `lr` is the rate at epoch 0 of `total`.
        start, total: epochs, at least 0 and 1.
        epochs: of this run, at least 0. They end by `total`, or an epoch later where a scale has rounded both.

    Raises:
        ValueError: other numbers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, start: int, total: int, epochs: int) -> None:
        check_number("module.scheduler.start", start, 0)
        check_number("module.scheduler.total (cosine_epochs)", total, 1, whole=True)
        check_number("module.scheduler.epochs (trainer.max_epochs)", epochs, 0, whole=True)
        if start + epochs > total + 1:
            raise ValueError(
                f"the rate would be 0 from epoch {max(0, total - start)} of {epochs} on, where its cosine ends: set "
                f"cosine_epochs={start + epochs}, or schedule@module.scheduler=cosine for a cosine over this run alone"
            )
        super().__init__(optimizer, lambda epoch: (1 + math.cos(math.pi * min(1, (start + epoch) / total))) / 2)


class WarmupCosine(torch.optim.lr_scheduler.LambdaLR):
    """A rate that grows evenly over the first epochs, and falls by a cosine to 0 over the rest.

    In epoch e < w it is lr (e + 1) / (w + 1), from epoch w on lr / 2 (1 + cos(pi (e - w) / (T - w))).

    Args:
        optimizer: its `lr` is the highest rate, that of epoch w.
        T_max: epochs T of the run.
        warmup_epochs: w, at least 0 and fewer than T.

    Raises:
        ValueError: other numbers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, T_max: int, warmup_epochs: int) -> None:
        check_number("module.scheduler.T_max", T_max, 1, whole=True)
        if not is_number(warmup_epochs, 0, T_max, below=True):
            raise ValueError(
                f"module.scheduler.warmup_epochs is {warmup_epochs}: expected at least 0, and fewer than the {T_max} "
                "epochs of the run (trainer.max_epochs)"
            )

        def factor(epoch: int) -> float:
            if epoch < warmup_epochs:
                return (epoch + 1) / (warmup_epochs + 1)
            return (1 + math.cos(math.pi * (epoch - warmup_epochs) / (T_max - warmup_epochs))) / 2

        super().__init__(optimizer, factor)


SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant")
"""timm's schedules that need the epoch alone."""


class TimmSchedule(torch.optim.lr_scheduler.LRScheduler):
    """A schedule of timm's by name, as torch has schedules: stepped once an epoch, its state the epoch alone.

    Args:
        optimizer: its `lr` is the highest rate.
        sched: one of SCHEDULES.
        settings: more of timm.scheduler.create_scheduler_v2, such as num_epochs, warmup_epochs.

    Raises:
        ValueError, TypeError: no such schedule, or settings that it does not take.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, sched: str, **settings: Any) -> None:
        from timm.scheduler import create_scheduler_v2

        if sched not in SCHEDULES:
            close = difflib.get_close_matches(sched, SCHEDULES, 1)
            hint = f"did you mean {close[0]}" if close else f"choose one of {', '.join(SCHEDULES)}"
            raise ValueError(f"there is no schedule {sched}, check module.scheduler.sched: {hint}")
        for name, value in settings.items():
            if name.endswith(("epochs", "lr")) and value is not None:
                check_number(f"module.scheduler.{name}", value, 0)
        self.schedule = create_scheduler_v2(optimizer, sched=sched, **settings)[0]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        self.schedule.step(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without timm's object, which follows from the settings and which a checkpoint could not hold."""
        return {key: value for key, value in super().state_dict().items() if key != "schedule"}


def size_schedule(size: int | Sequence[Sequence[int]] | None) -> dict[int, int]:
    """A size, or a schedule of pairs, as {first epoch: size}.

    Raises:
        ValueError: it is neither.
    """
    pairs: Any = [(0, size)] if isinstance(size, int) and not isinstance(size, bool) else size
    plain = isinstance(pairs, Sequence) and all(are_numbers(pair, 2, 0, whole=True) for pair in pairs)
    epochs = [epoch for epoch, _ in pairs] if plain else []
    if epochs[:1] != [0] or epochs != sorted(set(epochs)) or not all(1 <= side <= MAX_SIZE for _, side in pairs):
        raise ValueError(
            f"datamodule.size is {size}: expected a size of 1 to {MAX_SIZE} pixels, or pairs [first epoch, size] "
            "from epoch 0 on"
        )
    return dict(pairs)
