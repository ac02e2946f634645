import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.callbacks.divergence import Divergence
from src.callbacks.preemption import Preemption
from src.lightning_modules.classifier import Classifier
from src.stopping import request

BATCHES = 10
Reduce = Callable[[torch.Tensor, str], torch.Tensor]


def trainer_of(reduce: Reduce = lambda value, reduce_op: value, scaler: object = None) -> Any:
    """An epoch of BATCHES batches, of which batch i has the images 2i and 2i + 1."""
    return SimpleNamespace(
        strategy=SimpleNamespace(reduce=reduce, root_device=torch.device("cpu")), num_training_batches=BATCHES,
        precision_plugin=SimpleNamespace(scaler=scaler), current_epoch=2, global_step=100, is_global_zero=True,
        datamodule=SimpleNamespace(split_paths={"train": [f"{i}.jpg" for i in range(4 * BATCHES)]}), world_size=2,
    )  # fmt: skip


def train(callback: Divergence, trainer: Any, losses: Sequence[float]) -> None:
    """Batches with these losses, the first of them the epoch's first; `trainer.batch` is the present one."""
    for batch_idx, loss in enumerate(losses):
        trainer.batch = batch_idx
        batch = SimpleNamespace(position=torch.tensor([2 * batch_idx, 2 * batch_idx + 1]))
        callback.on_train_batch_start(trainer, None, batch, batch_idx)  # type: ignore[arg-type]
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, batch, batch_idx)  # type: ignore[arg-type]


def losses_with(bad: int, value: float = math.nan) -> list[float]:
    """An epoch's losses, that of one batch no number, and all that come after it."""
    return [1.0] * bad + [value] * (BATCHES - bad)


@pytest.mark.parametrize("every", [1, 3, 4, 1000])
@pytest.mark.parametrize("bad", range(BATCHES))
def test_a_bad_loss_is_found_late_and_under_its_own_name(tmp_path: Path, every: int, bad: int) -> None:
    trainer, callback = trainer_of(), Divergence(str(tmp_path / "diverged.json"), every)
    with pytest.raises(ValueError, match=rf"the loss of step {101 + bad}, in epoch 3, is nan; .*diverged.json"):
        train(callback, trainer, losses_with(bad))
    # Sent after the next whole number of batches, read a batch later, at the epoch's end by the last.
    assert trainer.batch == min((bad // every + 1) * every, BATCHES - 1)
    said = json.loads((tmp_path / "diverged.json").read_text())
    assert said == {"epoch": 3, "step": 101 + bad, "images": [f"{2 * bad}.jpg", f"{2 * bad + 1}.jpg"]}


@pytest.mark.parametrize("hook", ["checkpoint", "validation"])
@pytest.mark.parametrize("done", range(1, BATCHES))
def test_nothing_is_saved_or_validated_of_a_bad_loss(tmp_path: Path, hook: str, done: int) -> None:
    for bad in range(done):
        trainer, callback = trainer_of(), Divergence(str(tmp_path / "diverged.json"), 1000)
        train(callback, trainer, losses_with(bad, math.inf)[:done])
        with pytest.raises(ValueError, match=f"the loss of step {101 + bad}, in epoch 3, is inf"):
            if hook == "checkpoint":
                callback.on_save_checkpoint(trainer, None, {})  # type: ignore[arg-type]
            else:
                callback.on_validation_start(trainer, None)  # type: ignore[arg-type]


def test_a_checkpoint_of_every_step_ends_before_the_bad_one(
    train_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Classifier.training_step

    def training_step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        return step(self, batch, batch_idx) * (float("nan") if batch_idx == 3 else 1)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    often = ["callbacks.last.every_n_epochs=null", "+callbacks.last.every_n_train_steps=1",
             "callbacks.last.save_on_train_epoch_end=null", "callbacks.divergence.every_n_steps=1000"]  # fmt: skip
    with pytest.raises(ValueError, match="the loss of step 4, in epoch 1, is nan"):
        train_run("track=2", "stage=finetune", "init=none", "masks=none", "mixing=none", *often)
    state = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert state["global_step"] == 3
    for part in ("state_dict", "current_model_state"):
        assert all(bool(torch.isfinite(value).all()) for value in state[part].values())


def test_all_processes_stop_when_one_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 0, whose own losses are numbers, sees it: those of rank 1 are not from batch 4 on."""

    def reduce(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        if reduce_op == "mean":
            return value / 2 + torch.nan
        return torch.maximum(value, torch.tensor([0.0, 1.0, 1.0, 0.0]))  # of batches 3, 4 and 5, and the signal

    monkeypatch.setattr("src.callbacks.divergence.gather", lambda rows: torch.cat([rows, rows + 10]))
    trainer, callback = trainer_of(reduce), Divergence(str(tmp_path / "diverged.json"), 3)
    trainer.strategy.reduce = lambda value, reduce_op: reduce(value, reduce_op) if trainer.batch > 3 else value
    with pytest.raises(ValueError, match="the loss of step 105, in epoch 3, is nan"):
        train(callback, trainer, [1.0] * BATCHES)
    said = json.loads((tmp_path / "diverged.json").read_text())
    assert said == {"epoch": 3, "step": 105, "images": ["8.jpg", "9.jpg", "18.jpg", "19.jpg"]}


def test_processes_talk_once_in_some_steps_and_learn_of_a_request_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[torch.Tensor] = []

    def reduce(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        sent.append(value)
        return torch.maximum(value, torch.tensor([0.0] * (len(value) - 1) + [2.0]))  # another one got Ctrl-C

    monkeypatch.setattr(request, "signum", 0)
    trainer, callback = trainer_of(reduce), Divergence(str(tmp_path / "diverged.json"), 4)
    stop = Preemption(str(tmp_path / "last.ckpt"))
    stop.watch = callback
    train(callback, trainer, [1.0] * 4)
    assert len(sent) == 1 and stop.last_agreed(trainer) == 0  # it is on its way
    monkeypatch.setattr(request, "signum", 15)
    train(callback, trainer, [1.0] * BATCHES)
    assert stop.last_agreed(trainer) == 15
    assert [value.tolist() for value in sent[1:]] == [[0, 0, 0, 0, 15], [0, 0, 0, 0, 15], [0, 0, 15]]
    trainer.world_size = 1
    monkeypatch.setattr(request, "signum", 2)
    assert stop.last_agreed(trainer) == 2  # one process knows at once


def test_skipped_steps_of_loss_scaling_are_no_divergence_until_they_do_not_end(tmp_path: Path) -> None:
    def epoch(callback: Divergence, losses: list[float], scaler: object) -> None:
        trainer = trainer_of(scaler=scaler)
        trainer.num_training_batches = len(losses)
        train(callback, trainer, losses)

    scaled = Divergence(str(tmp_path / "diverged.json"), 3)
    for _ in range(3):
        epoch(scaled, [float("inf")] * (scaled.SKIPS - 1) + [1.0], object())
    epoch(scaled, [float("nan")] * (scaled.SKIPS - 1), object())
    with pytest.raises(ValueError, match="has diverged"):
        epoch(scaled, [float("nan")], object())
    with pytest.raises(ValueError, match="has diverged"):
        epoch(Divergence(str(tmp_path / "diverged.json"), 3), [float("nan")], None)


def test_a_number_of_steps_is_asked_for() -> None:
    with pytest.raises(
        ValueError, match=r"callbacks.divergence.every_n_steps is 0: expected a whole number of at least 1"
    ):
        Divergence("diverged.json", 0)
