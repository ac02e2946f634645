"""What a step on a GPU would wait for: nothing. The meta device stands for the GPU (tests/stand_in.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from src import cli
from src.averages import follow
from src.transfers import Late, to_device
from tests.conftest import TINY
from tests.mixing.test_contract import STRATEGIES, strategy_of
from tests.mixing.test_mixing import batch_of
from tests.stand_in import META, Watch, strategy

STAGES = {
    "baseline": [],
    "finetune": ["mixing.other_context=true"],
    "fdg": ["mixing.per_image=true"],
    "adapt": [],
    "moco": ["module.queue_size=32", "datamodule.batch_size=8"],
    "wsss": [],
    "distil": [],
}
ALONE = ["init=none", "callbacks.last=null", "callbacks.best=null", "callbacks.pictures=null", "++callbacks.sign=null",
         "++callbacks.masks=null", "++callbacks.neighbours=null"]  # fmt: skip


class Steps(pl.Callback):
    """Numbers the batches of training from 1 on, those of validation from -1 down; 0 is what lies between them."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.validated = watch, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.watch.step = batch_idx + 1

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, _: int = 0) -> None:
        self.validated -= 1
        self.watch.step = self.validated

    def on_validation_batch_end(self, *_: Any) -> None:
        self.watch.step = 0

    def on_validation_start(self, *_: Any) -> None:
        self.watch.step = 0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.watch.step = 0


def watched(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """An epoch of a run on the meta device."""
    import train
    from src.lightning_modules.distillation import Teacher

    monkeypatch.setattr("src.precision.torch.is_autocast_enabled", lambda _: False)  # which the meta device has not
    datamodule = cli.instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    cfg.dataset = {"num_classes": len(datamodule.classes), "contexts": list(datamodule.contexts),
                   "images": len(datamodule.parts.train), "context_information": None}  # fmt: skip
    module = cli.instantiate(cfg.module)
    if hasattr(module, "teachers"):
        settings = {"num_classes": len(datamodule.classes), "mean": [0.5] * 3, "std": [0.5] * 3}
        module.teachers = [Teacher(type(module).network(backbone=cli.instantiate(cfg.model), **settings), 32)]
    with Watch() as watch:
        monkeypatch.setattr("pytorch_lightning.Trainer", lambda **words: trainer_of(words, watch))
        train.make_trainer(cfg).fit(module, datamodule)
    return watch


def trainer_of(words: dict[str, Any], watch: Watch, made: Callable[..., pl.Trainer] = pl.Trainer) -> pl.Trainer:
    """A run's trainer, on the meta device."""
    return made(**{**words, "accelerator": "auto", "strategy": strategy(), "callbacks": [*words["callbacks"], Steps(watch)]})


@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_and_the_loss_is_read_late(
    configure: Callable[..., DictConfig], places: list[str], masks: list[str], monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:  # fmt: skip
    words = ["track=1", f"stage={stage}", "trainer.max_epochs=1", "datamodule.batch_size=4",
             "trainer.limit_train_batches=8", "callbacks.divergence.every_n_steps=2"]  # fmt: skip
    watch = watched(configure("train", *TINY, *words, *places, *masks, *ALONE, *STAGES[stage]), monkeypatch)
    late = [(step, where) for step, what, where in watch.noted if what == "late"]
    assert all("callbacks/divergence.py" in where for _, where in late)
    assert [step for step, _ in late] == [2, 4, 6, 8]
    # The first batch may make what the others use; the last is followed by the epoch's end.
    waited = [note for note in watch.noted if (note[0] in range(2, 8) or note[0] < 0) and note[1] != "late"]
    assert not waited, waited
    validated = [step for step in watch.launches if step < 0]
    assert bool(validated) == (stage not in ("moco", "wsss"))
