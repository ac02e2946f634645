"""What a step on a GPU would wait for: nothing. The meta device stands for the GPU (tests/stand_in.py)."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from src import cli
from src.averages import follow
from src.callbacks import progress_lines
from src.callbacks.progress_bar import Bar
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


class Strict(pl.Callback):
    """Has torch raise an error where the host waits for a GPU, from the second batch to the last but one."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")
        elif batch_idx + 1 == trainer.num_training_batches:
            torch.cuda.set_sync_debug_mode("default")


def fit(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch, **words: Any) -> None:
    """Train as train.py does, without a run, by a trainer with these words; their callbacks come last."""
    import train
    from src.lightning_modules.distillation import Teacher

    def trainer(callbacks: list[pl.Callback], **given: Any) -> pl.Trainer:
        return made(**{**given, **words, "callbacks": [*callbacks, *words["callbacks"]]})

    datamodule = cli.instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    cfg.dataset = {"num_classes": len(datamodule.classes), "contexts": list(datamodule.contexts),
                   "images": len(datamodule.parts.train), "context_information": None}  # fmt: skip
    module = cli.instantiate(cfg.module)
    if hasattr(module, "teachers"):
        settings = {"num_classes": len(datamodule.classes), "mean": [0.5] * 3, "std": [0.5] * 3}
        module.teachers = [Teacher(type(module).network(backbone=cli.instantiate(cfg.model), **settings), 32)]
    made = pl.Trainer
    monkeypatch.setattr("pytorch_lightning.Trainer", trainer)
    train.make_trainer(cfg).fit(module, datamodule)


@pytest.fixture
def settings(configure: Callable[..., DictConfig], places: list[str], masks: list[str]) -> Callable[..., DictConfig]:
    """A stage's, for an epoch of eight batches."""
    words = ["track=1", "trainer.max_epochs=1", "datamodule.batch_size=4", "trainer.limit_train_batches=8",
             "callbacks.divergence.every_n_steps=2"]  # fmt: skip

    def made(stage: str, *more: str) -> DictConfig:
        return configure("train", *TINY, f"stage={stage}", *words, *places, *masks, *ALONE, *STAGES[stage], *more)

    return made


def watched(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A run's epoch on the meta device."""
    monkeypatch.setattr("src.precision.torch.is_autocast_enabled", lambda _: False)  # which the meta device has not
    with Watch() as watch:
        fit(cfg, monkeypatch, accelerator="auto", strategy=strategy(), callbacks=[Steps(watch)])
    return watch


def waits(watch: Watch) -> list[tuple[int, str, str]]:
    """What was waited for in training and validation.

    The first batch may make what the others use, and the last is followed by the epoch's end.
    """
    return [note for note in watch.noted if (note[0] in range(2, 8) or note[0] < 0) and note[1] != "late"]


@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_and_the_loss_is_read_late(
    settings: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    watch = watched(settings(stage), monkeypatch)
    late = [(step, where) for step, what, where in watch.noted if what == "late"]
    assert all("callbacks/divergence.py" in where for _, where in late)
    assert [step for step, _ in late] == [2, 4, 6, 8]
    assert not waits(watch)
    assert any(step < 0 for step in watch.launches) == (stage not in ("moco", "wsss"))  # which validate


def test_neither_loggers_nor_a_terminal_wait(
    settings: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bar, "SECONDS", 0.01)
    monkeypatch.setattr(progress_lines, "progress_bar", lambda seconds: Bar(Console(file=io.StringIO())))
    watch = watched(settings("baseline", "logger=tensorboard", "callbacks.steps.every_n_steps=3"), monkeypatch)
    late = [(step, where.split(":")[0].split("/")[-1]) for step, what, where in watch.noted if what == "late"]
    assert [step for step, where in late if where == "step_metrics.py"] == [3, 6, 8]
    assert [step for step, where in late if where == "progress_bar.py"] == [*range(1, 9)]
    assert not waits(watch)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_on_a_gpu(
    settings: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    try:
        fit(settings(stage, "trainer=gpu"), monkeypatch, callbacks=[Strict()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_mix_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new conf/mixing/x.yaml is tested here without a new test."""
    monkeypatch.setattr("src.precision.torch.is_autocast_enabled", lambda _: False)
    mix, batch = strategy_of(name)(), batch_of(7)
    on_device = type(batch)(*(None if value is None else value.to(META) for value in batch))
    with Watch() as watch:
        for watch.step in range(20):  # of several strategies, each is drawn
            mixed = mix(on_device)
    assert all(value.is_meta for value in mixed)
    waited = [note for note in watch.noted if note[0]]  # the first call may make what the others use
    assert not waited, waited


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_average_follows_by_the_recursion_at_once(dtype: torch.dtype) -> None:
    made = [torch.rand(size, 3).to(dtype) for size in range(1, 6)]
    averages, count = [torch.zeros_like(one) for one in made], torch.tensor(0)
    expected = [one.clone() for one in averages]
    for k, momentum in enumerate((0.0, 0.5, 0.999)):
        now = [torch.rand_like(one) for one in made]
        follow([*averages, count], [*now, torch.tensor(k)], momentum)
        expected = [old.lerp(new, 1 - momentum) for old, new in zip(expected, now, strict=True)]
        assert all(torch.equal(*pair) for pair in zip(averages, expected, strict=True)) and count == k
    broken = torch.tensor([torch.nan])
    follow([broken], [torch.ones(1)], 0.0)
    assert broken == 1  # what the average starts from does not count


def test_launches_do_not_grow_with_the_number_of_tensors() -> None:
    launches = []
    for layers in (1, 20):
        networks = [nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(layers))).to(META) for _ in range(2)]
        with Watch() as watch:
            follow(*(network.state_dict().values() for network in networks), 0.9)
        launches.append(sum(watch.launches.values()))
    assert launches == [2, 2]  # floats, and the integers of BatchNorm


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy": lambda x: torch.ones(3).copy_(x),
    "sent": lambda x: torch.rand(3).to(META),
    "written": lambda x: x.copy_(torch.rand(3)),
    "tensor": lambda x: torch.tensor([1.0], device=META),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_stand_in_notices(name: str) -> None:
    x = torch.zeros(3, device=META)
    with Watch() as watch:
        WAITS[name](x)
    (noted,) = watch.noted
    assert noted[1] == ("sent" if name in ("sent", "written", "tensor") else "read") and "test_reads.py" in noted[2]


@pytest.mark.parametrize("choose", [lambda x: x[x > 0], lambda x: x.nonzero()])
def test_the_stand_in_knows_no_numbers(choose: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with Watch() as watch, pytest.raises(NotImplementedError):
        choose(torch.zeros(3, device=META))
    assert {what for _, what, _ in watch.noted} == {"read"}


def test_what_is_sent_late_arrives() -> None:
    x = torch.rand(3)
    assert torch.equal(Late(x).read(), x) and torch.equal(to_device(x, torch.device("cpu")), x)
    with Watch() as watch:
        assert to_device(x, META).is_meta
        assert Late(torch.zeros(3, device=META)).read().shape == (3,)
    assert [what for _, what, _ in watch.noted] == ["late"]
