"""Two processes compute the gradients of one: of each stage's loss over the same global batch (slow)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from src import cli
from src.data import batch as batches
from src.lightning_modules.classifier import Network
from src.lightning_modules.co_teacher import CoTeacher
from src.lightning_modules.distillation import Teacher
from tests.conftest import TINY

pytestmark = [pytest.mark.slow, pytest.mark.training]

MOCO = ["module.queue_size=32", "module.num_splits=2"]
STAGES: dict[str, list[str]] = {  # finetune and adapt are Classifiers, as baseline is
    "baseline": ["mixing=none"],
    "wsss": ["init=none"],
    "moco": MOCO,
    "fdg": ["init=none", "masks=none", "mixing=none"],
    "distil": ["mixing=none"],
}
FACTS = ["track=1", "dataset.num_classes=8", "dataset.contexts=[a,b]", "dataset.images=100"]
Gradients = dict[str, torch.Tensor]


class OneStep(pl.Callback):
    """Freezes what BatchNorm counts, and keeps the first step's gradients, of all processes, and its images."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients = {
            name: value.grad.clone() for name, value in pl_module.named_parameters() if value.grad is not None
        }


def gradients(stage: str, places: list[str], world_size: int) -> Gradients:
    """The gradients of a stage's first step in float64; nothing is drawn that would depend on the process."""
    pl.seed_everything(0, verbose=False)
    cfg = cli.composed("train", *TINY, *FACTS, *places, f"stage={stage}", *STAGES[stage])
    module = cli.instantiate(cfg.module)
    for parameter in module.parameters():  # BatchNorm's, which start as ones and zeros, too
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.std() if parameter.numel() > 1 else 0
    if stage == "distil":
        network = Network(backbone=copy.deepcopy(module.backbone), num_classes=8, mean=[0.5] * 3, std=[0.2] * 3)
        module.teachers = [Teacher(network.double(), 32), Teacher(copy.deepcopy(network), 64)]
    step = OneStep()
    trainer = pl.Trainer(
        accelerator="cpu", devices=world_size, strategy="ddp" if world_size > 1 else "auto", precision="64-true",
        max_epochs=1, max_steps=1, limit_val_batches=0, callbacks=[step], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, cli.instantiate(cfg.datamodule))
    return step.gradients


def exact(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Have images in float64, and fdg's pairs mixed by one weight: its draws are a process's own."""
    to_float, mix = batches.to_float, CoTeacher.mix

    def halves(self: Any, batch: Any) -> Any:
        rand, torch.rand = torch.rand, lambda count: torch.full((count,), 0.5)
        try:
            return mix(self, batch)
        finally:
            torch.rand = rand

    put: Callable[..., None] = monkeypatch.setattr if monkeypatch else setattr
    put(batches, "to_float", lambda pixels: to_float(pixels).double())
    put(CoTeacher, "mix", halves)


def process(rank: int, places: list[str], port: int, folder: str) -> None:
    """One of two processes, as Lightning starts them; rank 0's gradients go into a file."""
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), OMP_NUM_THREADS="1")  # fmt: skip
    torch.set_num_threads(1)
    exact()
    made = {stage: gradients(stage, places, 2) for stage in STAGES}
    torch.save(made, f"{folder}/{rank}.pt")


def test_gradients_of_two_processes_are_those_of_one(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    torch.multiprocessing.spawn(process, (places, free_port, str(tmp_path)), 2)
    exact(monkeypatch)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for stage in STAGES:
        alone = gradients(stage, places, 1)
        assert alone.keys() == one[stage].keys() and len(alone) > 10
        largest = max(float(value.abs().max()) for value in alone.values())
        assert largest > 1e-3, stage
        for name, value in alone.items():
            assert value.dtype == torch.float64
            assert torch.equal(one[stage][name], other[stage][name])
            difference = float((one[stage][name] - value).abs().max())
            assert difference < 1e-6, (stage, name, difference)
