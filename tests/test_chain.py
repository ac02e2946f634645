"""The stages finetune, fdg and adapt as a whole: what they start from, hand over, and say when something is missing."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from src.callbacks.preemption import Preemption
from src.callbacks.weight_average import MovingAverage
from src.data.batch import Batch, Example
from src.data.manifest import Row
from src.data.training import MaskSource
from src.lightning_modules.classifier import Classifier
from src.lightning_modules.co_teacher import CoTeacher
from src.lightning_private import steps_averaged
from tests.conftest import TINY, command, weights

Train = Callable[..., Path]
SIZES = "datamodule.size=[[0,32],[1,48]]"
MASKS = "masks=none"


@pytest.fixture
def masks(masks: list[str], tmp_path: Path) -> list[str]:
    """A manifest of the true masks that the test may change: masks.json in its own folder."""
    manifest, root = masks
    shutil.copy(manifest.removeprefix("masks="), tmp_path / "masks.json")
    return [f"masks={tmp_path / 'masks.json'}", root]


def test_the_chain_hands_over(train_run: Train, masks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["track=1", *masks]
    begun = train_run(*short, "stage=finetune", "init=none", SIZES)
    assert begun.name == "resnet10t-decoupled-holdout-seed0"
    whole = train_run(*short, "stage=finetune", "init=none", SIZES, "tag=whole", "trainer.max_epochs=3")

    # Stopped after the size has changed, and resumed: average, count and size go on where they were.
    agreed = Preemption.agreed
    monkeypatch.setattr(
        Preemption,
        "agreed",
        lambda self, t: 15 * (t.current_epoch == 1 and t.global_step % t.num_training_batches == 2),
    )
    stopped = [*short, "stage=finetune", "init=none", SIZES, "tag=stopped", "trainer.max_epochs=3"]
    with pytest.raises(SystemExit):
        train_run(*stopped)
    monkeypatch.setattr(Preemption, "agreed", agreed)
    resumed = weights(train_run(*stopped, "resume=true"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights(whole).items())

    taught = train_run(*short, "stage=fdg", "datamodule.size=32", "datamodule.batch_size=8", "trainer.max_epochs=1")
    assert taught.name == "resnet10t-foreground-holdout-seed0"
    checkpoint = torch.load(taught / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(weights(taught)["head.weight"], checkpoint["head.weight"])
    assert not torch.equal(weights(taught)["head.weight"], weights(begun)["head.weight"])
    member = train_run(*short, "stage=adapt", "mixing.ratio=0.3", "datamodule.size=32", "trainer.max_epochs=1")
    assert member.name == "resnet10t-decoupled-r0.3-holdout-seed0"
    split = json.loads((member / "split.json").read_text())
    assert split["started_from"] and split["masks_from"]
    assert (member / "pictures/epoch000.png").exists() and (taught / "pictures/epoch000.png").exists()


def test_the_fdg_student_starts_as_its_teacher(train_run: Train, masks: list[str]) -> None:
    begun = train_run("track=1", *masks, "stage=finetune", "init=none", "trainer.max_epochs=1")
    still = [
        "module.optimizer.lr=0",
        "module.optimizer.weight_decay=0",
        "trainer.max_epochs=1",
        "datamodule.batch_size=8",
    ]
    taught = train_run("track=1", *masks, "stage=fdg", *still, f"init={begun}")
    a, b = weights(begun), weights(taught)
    for name in a:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(a[name], b[name])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_predicts_in_evaluation_mode_and_is_the_average_of_the_students_steps(
    train_run: Train, masks: list[str], monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    modes, steps, states, begins = [], [], [], []
    step, update = CoTeacher.training_step, CoTeacher.update_teacher

    def training_step(self: CoTeacher, batch: Batch, batch_idx: int) -> torch.Tensor:
        modes.append(
            (
                any(part.training for network in (self.backbone, self.head) for part in network.modules()),
                all(part.training for part in self.student.modules()),
            )
        )
        return step(self, batch, batch_idx)

    def update_teacher(self: CoTeacher, number: int) -> None:
        steps.append(number)
        begins.append({name: tensor.clone() for name, tensor in self.teacher.state_dict().items()})
        states.append({name: tensor.clone() for name, tensor in self.student.state_dict().items()})
        update(self, number)

    monkeypatch.setattr(CoTeacher, "training_step", training_step)
    monkeypatch.setattr(CoTeacher, "update_teacher", update_teacher)
    words = ["track=1", *masks, "stage=fdg", "init=none", "datamodule.batch_size=8", "module.decay=0.8",
             f"trainer.accumulate_grad_batches={accumulate}"]  # fmt: skip
    run = train_run(*words, "trainer.max_epochs=2")
    assert set(modes) == {(False, True)}  # before and after a validation
    assert steps == list(range(1, -(-len(modes) // 2 // accumulate) * 2 + 1))
    average = begins[0]  # of which the first step leaves a half
    for number, state in enumerate(states, 1):
        momentum = min(1 - 1 / (number + 1), 0.8)
        average = {
            name: momentum * average[name] + (1 - momentum) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    for name, tensor in weights(run).items():  # running statistics too
        torch.testing.assert_close(tensor, average[name], rtol=1e-4, atol=1e-5)


def test_fdg_resumed_in_mid_epoch_ends_with_the_same_weights(
    train_run: Train, masks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["track=1", *masks, "stage=fdg", "init=none", "datamodule.batch_size=8"]
    whole = weights(train_run(*words, "tag=whole"))
    agreed = Preemption.agreed
    monkeypatch.setattr(
        Preemption,
        "agreed",
        lambda self, t: 15 * (t.current_epoch == 1 and t.global_step % t.num_training_batches == 2),
    )
    with pytest.raises(SystemExit):
        train_run(*words)
    monkeypatch.setattr(Preemption, "agreed", agreed)
    resumed = weights(train_run(*words, "resume=true"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("stage", ["finetune", pytest.param("fdg", marks=pytest.mark.slow)])
def test_half_precision_and_compiled_networks_train(train_run: Train, masks: list[str], stage: str) -> None:
    words = ["track=1", *masks, f"stage={stage}", "init=none", "datamodule.batch_size=8", "trainer.max_epochs=1"]
    half = weights(train_run(*words, "trainer.precision=bf16-mixed"))
    assert all(tensor.isfinite().all() for tensor in half.values())
    compiled, graphs = torch.nn.Module.compile, []

    def compile_eagerly(self: torch.nn.Module) -> None:
        graphs.append(self)
        compiled(self, backend="eager")  # dynamo's graphs without a C++ compiler's minutes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", compile_eagerly)
        same = weights(train_run(*words, "compile=true", "tag=compiled"))
    plain = weights(train_run(*words, "tag=plain"))
    assert graphs and same.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(same[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sweep_of_stages_runs_them_in_order(
    train_run: Train, masks: list[str], places: list[str], tmp_path: Path
) -> None:
    train_run("track=1", *masks, "stage=finetune", "init=none", "trainer.max_epochs=1")
    words = ["track=1", *TINY, *places, *masks, "trainer.max_epochs=1", "stage=fdg,adapt"]
    done = command("train.py", "-m", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    taught = tmp_path / "logs/track1/fdg/resnet10t-foreground-holdout-seed0"
    member = tmp_path / "logs/track1/adapt/resnet10t-decoupled-r0.5-holdout-seed0"
    started_from = json.loads((member / "split.json").read_text())["started_from"]
    assert started_from == json.loads((taught / "finished.json").read_text())["weights_sha256"]
    assert (member / "finished.json").exists()


def test_any_strategy_mixes_in_finetune(train_run: Train) -> None:
    run = train_run("track=2", "stage=finetune", "init=none", MASKS, "mixing=cutmix", "trainer.max_epochs=1")
    assert run.name == "resnet10t-cutmix-holdout-seed0" and (run / "finished.json").exists()


def test_the_recipes_numbers(configure: Callable[..., DictConfig]) -> None:
    """docs/method.md, sections 5, 6 and 7."""
    finetune, fdg, adapt = (configure("train", f"stage={name}") for name in ("finetune", "fdg", "adapt"))
    assert finetune.datamodule.size == [[0, 224], [60, 448]] and finetune.trainer.max_epochs == 120
    assert fdg.datamodule.size == adapt.datamodule.size == 512
    assert [cfg.datamodule.batch_size for cfg in (finetune, fdg, adapt)] == [128, 24, 128]
    assert [cfg.module.optimizer.lr for cfg in (finetune, fdg, adapt)] == [0.1, 0.1, 1e-4]
    assert (finetune.module.scheduler.start, finetune.module.scheduler.total) == (0, 200)
    assert (fdg.module.scheduler.start, fdg.module.scheduler.total) == (finetune.trainer.max_epochs, 200)
    assert finetune.trainer.max_epochs + fdg.trainer.max_epochs == 200 and adapt.trainer.max_epochs == 20
    assert (fdg.module.ratio, fdg.module.temperature, fdg.module.ramp_up_epochs) == (0.2, 10, 5)
    assert fdg.module.copy_from_original == fdg.module.original_from_copy == 2
    assert finetune.callbacks.average.decay == adapt.callbacks.average.decay == 0.9995
    assert fdg.module.decay == 0.9995 and fdg.mixing._target_.endswith("Foreground")
    for cfg in (finetune, fdg, adapt):
        optimizer = cfg.module.optimizer
        assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
        assert cfg.trainer.gradient_clip_val is None
        transform = cfg.datamodule.train_transform
        assert transform.augmix.chains == 3 and transform.horizontal_flip == transform.vertical_flip == 0.5
    for cfg in (finetune, adapt):
        assert (cfg.mixing.by_context, cfg.mixing.alpha, cfg.mixing.ratio) == (0.5, 2, 0.5)


def test_without_masks_the_frequency_branch_alone_runs_and_says_so(train_run: Train) -> None:
    with pytest.warns(UserWarning, match="this run has no masks: mixing=decoupled mixes by frequency alone"):
        run = train_run("track=2", "stage=finetune", "init=none", MASKS, "trainer.max_epochs=1")
    assert (run / "finished.json").exists()
    with pytest.raises(ValueError, match="mixing=foreground needs masks and this run has none"):
        train_run("track=2", "stage=fdg", f"init={run}", MASKS, "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=finetune"], "no finished run of moco .*: train it first: python train.py track=1 stage=moco.*; "
                             "there is no finished run of wsss .*: train it first: python train.py track=1 stage=wsss"),
        (["stage=fdg", MASKS], "finetune .*: train it first: python train.py track=1 stage=finetune"),
        (["stage=adapt", MASKS], "fdg .*: train it first: python train.py track=1 stage=fdg"),
        (["stage=finetune", "init=none", MASKS, "mixing.ratio=0"], "mixing.ratio is 0"),
        (["stage=finetune", "init=none", MASKS, "datamodule.batch_size=1"], "leaves each of 1 process.es. one image"),
        (["stage=finetune", "init=none", MASKS, "datamodule.size=[[2,32]]"], "from epoch 0 on"),
        (["stage=baseline", "datamodule.pairs=any"], "expected any_context, other_context or null"),
    ],
)  # fmt: skip
def test_bad_input(train_run: Train, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.errors import InstantiationException

    monkeypatch.setattr("sys.argv", ["train.py", "track=1"])
    with pytest.raises((ValueError, FileNotFoundError, InstantiationException), match=message):
        train_run("track=1", *words)


def test_a_loss_that_is_no_number_names_its_images(train_run: Train, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss of step \d+, in epoch 1, is nan; .*diverged.json"):
        train_run("track=1", "stage=baseline", "module.optimizer.lr=1e30", "mixing=none")
    said = json.loads(next(tmp_path.rglob("diverged.json")).read_text())
    assert len(said["images"]) == 16 and all(name.endswith(".jpg") for name in said["images"])


@pytest.mark.parametrize(
    ("words", "accumulate", "images"),
    [(["stage=finetune"], 1, 16), (["stage=fdg"], 1, 32), (["stage=finetune"], 3, 16)],
)
def test_a_diverged_step_has_its_number_and_no_checkpoint(
    train_run: Train, masks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str],
    accumulate: int, images: int,
) -> None:  # fmt: skip
    seen: list[list[int]] = []
    module = CoTeacher if "stage=fdg" in words else Classifier
    step = module.training_step

    def training_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.append(batch.position.tolist())
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if batch_idx == 1 else loss

    monkeypatch.setattr(module, "training_step", training_step)
    # Asked to stop in the very batch whose loss is no number: it is not saved over what went well.
    monkeypatch.setattr(Preemption, "agreed", lambda self, t: 15 * (len(seen) >= 2))
    number = 2 if accumulate == 1 else 1
    with pytest.raises(ValueError, match=rf"the loss of step {number}, in epoch 1, is nan"):
        train_run("track=1", *masks, *words, "init=none", f"trainer.accumulate_grad_batches={accumulate}")
    said = json.loads(next(tmp_path.rglob("diverged.json")).read_text())
    assert said["step"] == number and len(said["images"]) == images
    split = json.loads(next(tmp_path.rglob("split.json")).read_text())
    assert said["images"] == [split["train"][place] for place in seen[1]]
    assert not list(tmp_path.rglob("*.ckpt"))


# ------------------------------------------------------------------------------------------------ the data module


@pytest.fixture
def datamodule(configure: Callable[..., DictConfig], places: list[str], masks: list[str]) -> Callable[..., object]:
    from hydra.utils import instantiate

    def made(*words: str) -> object:
        cfg = configure("train", "track=1", "stage=finetune", "init=none", *TINY, *places, *masks, *words)
        module = instantiate(cfg.datamodule)
        module.prepare_data()
        module.setup()
        return module

    return made


def test_each_epoch_has_its_size_in_training_and_validation(datamodule: Callable[..., object]) -> None:
    module = datamodule(SIZES)
    for loader in (module.train_dataloader(), module.val_dataloader()[0]):  # type: ignore[attr-defined]
        for epoch, size in ((0, 32), (1, 48), (5, 48)):
            loader.sampler.set_epoch(epoch)
            assert next(iter(loader)).pixels.shape[1:] == (1, size, size, 3)
    assert module.last_size == 48  # type: ignore[attr-defined]


def test_pairs(datamodule: Callable[..., object]) -> None:
    module = datamodule("datamodule.pairs=any_context")
    own, contexts, seen = 0, set(), 0
    loader = module.train_dataloader()  # type: ignore[attr-defined]
    for batch in loader:
        count = len(batch.label) // 2
        assert len(batch.pixels) == len(batch.mask) == 32 and batch.pixels.dtype == torch.uint8
        rows = [module.rows[i] for i in module.parts.train]  # type: ignore[attr-defined]
        assert [rows[p].label for p in batch.position.tolist()] == batch.label.tolist()
        own += int((batch.domain[:count] == batch.domain[count:]).sum())
        contexts |= set(batch.domain[count:].tolist())
        seen += count
    assert contexts == {0, 1, 2, 3} and 0 < own < seen / 2  # a quarter of the partners, more or less
    first = [batch.position for batch in loader]
    assert all(torch.equal(a, b.position) for a, b in zip(first, loader, strict=True))
    apart = datamodule("datamodule.pairs=other_context")
    for batch in apart.train_dataloader():  # type: ignore[attr-defined]
        assert (batch.domain[:16] != batch.domain[16:]).all()


def test_a_context_of_one_image_and_no_other_context() -> None:
    from src.data.datasets import Images, Pairs

    rows = [Row(f"{i}.jpg", label=0, domain=0) for i in range(5)]
    images = Images(rows, Path("."), None, None, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs training images of at least two contexts"):
        Pairs(images, other_context=True)
    lonely = Pairs(Images([*rows, Row("5.jpg", domain=1)], Path("."), None, None, 0), other_context=True)  # type: ignore[arg-type]
    assert lonely.of_context[1].tolist() == [5]


def test_the_partners_context_is_drawn_uniformly_whatever_its_number_of_images() -> None:
    from src.data.datasets import Images, Pairs

    class Undecoded(Images):
        def make(self, epoch: int, index: int, seed: int) -> Example:
            return Example(np.zeros((1, 1, 1, 3), np.uint8), 0, int(str(self.rows[index].domain)), index, None)

    rows = [Row(f"{i}.jpg", label=0, domain=0 if i < 98 else i - 97) for i in range(100)]  # 98 images, 1, 1
    pairs = Pairs(Undecoded(rows, Path("."), None, None, 0), other_context=False)  # type: ignore[arg-type]
    drawn = np.bincount([pairs[epoch, 0][1].domain for epoch in range(600)], minlength=3)
    assert (abs(drawn - 200) < 50).all()  # four standard deviations


def test_masks_of_other_images_are_refused(datamodule: Callable[..., object], masks: list[str], tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    entries = json.loads(Path(masks[0].removeprefix("masks=")).read_text())
    path.write_text(json.dumps(entries[3:]))
    with pytest.raises(
        ValueError, match=f"masks.json lacks 3 images of .* lists 0 others .first: {entries[0]['image_path']}"
    ):
        datamodule(f"masks={path}")
    with pytest.warns(UserWarning, match="lacks 3 images .* its images are used"):
        assert len(datamodule(f"masks={path}", "manifest.check=false").rows) == len(entries) - 3  # type: ignore[attr-defined]


def test_masks_of_a_run_that_skipped_a_bad_image(
    datamodule: Callable[..., object], masks: list[str], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "masks.json"
    entries = json.loads(Path(masks[0].removeprefix("masks=")).read_text())
    bad = entries.pop(5)["image_path"]
    path.write_text(json.dumps(entries))
    shutil.copytree(data / "data", tmp_path / "data")
    (tmp_path / "data" / bad).write_bytes(b"")
    words = [f"masks={path}", f"data_root={tmp_path / 'data'}", "datamodule.max_bad_share=0.5"]
    with pytest.raises(ValueError, match="lacks 1 images .*on_bad_image=skip here too"):
        datamodule(*words)
    module = datamodule(*words, "datamodule.on_bad_image=skip")
    assert len(module.rows) == len(entries)  # type: ignore[attr-defined]


def test_masks_of_a_run_that_is_not_finished_are_refused(train_run: Train, tmp_path: Path) -> None:
    run = tmp_path / "logs/track1/wsss/begun"
    run.mkdir(parents=True)
    (run / "environment.json").write_text('{"command": "python train.py track=1 stage=wsss tag=begun"}')
    (run / "masks.json").write_text("[]")
    with pytest.raises(
        FileNotFoundError, match="wsss/begun that makes the masks is not finished: .*stage=wsss tag=begun resume=true"
    ):
        train_run("track=1", "stage=finetune", "init=none", f"masks={run / 'masks.json'}")


def test_a_mask_of_another_size_is_named(datamodule: Callable[..., object], tmp_path: Path) -> None:
    module = datamodule()
    row = module.rows[module.parts.train[0]]  # type: ignore[attr-defined]
    module.mask_source = MaskSource(tmp_path / "made.json", tmp_path / "wrong")  # type: ignore[attr-defined]
    target = tmp_path / "wrong" / row.image_seg_path
    target.parent.mkdir(parents=True)
    cv2.imwrite(str(target), np.zeros((7, 9), np.uint8))
    with pytest.raises(ValueError, match=r"is 9x7 pixels, its image .* make the masks again"):
        module.train_dataloader().dataset[0, 0]  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- the moving average


def test_the_momentum_grows_to_its_limit() -> None:
    average = MovingAverage(decay=0.75)
    assert [average.momentum(k) for k in range(5)] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4, 3 / 4])


def test_the_average_lies_where_the_module_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(
        "pytorch_lightning.callbacks.weight_averaging.AveragedModel", lambda model, device, **_: made.append(device)
    )
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    MovingAverage(decay=0.9).setup(trainer, pl.LightningModule(), "fit")  # type: ignore[arg-type]
    assert made == [torch.device("meta")]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_count_starts_anew_where_the_size_changes(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    counts: list[int] = []
    momentum = MovingAverage.momentum

    def counted(self: MovingAverage, count: int) -> float:
        assert count == steps_averaged(self) - 1  # torch's own, with this step
        counts.append(count)
        return momentum(self, count)

    monkeypatch.setattr(MovingAverage, "momentum", counted)
    train_run("track=2", "stage=finetune", "init=none", MASKS, "datamodule.size=[[0,32],[2,48]]",
              "mixing=none", "trainer.max_epochs=3", f"trainer.accumulate_grad_batches={accumulate}")  # fmt: skip
    steps = 6 // accumulate  # an epoch
    assert counts == [*range(2 * steps), *range(steps)]


def test_the_averaged_weights_are_validated_and_handed_on(train_run: Train) -> None:
    # The rate is 0: nothing moves but BatchNorm's statistics, and the average of these is what is left.
    run = train_run("track=2", "stage=finetune", "init=none", MASKS, "mixing=none", "trainer.max_epochs=1",
                    "datamodule.size=32")  # fmt: skip
    state = torch.load(run / "last.ckpt", weights_only=True)
    left = weights(run)
    assert torch.equal(left["head.weight"], state["state_dict"]["head.weight"])
    assert not torch.equal(left["head.weight"], state["current_model_state"]["head.weight"])
    resumed = train_run("track=2", "stage=finetune", "init=none", MASKS, "mixing=none", "trainer.max_epochs=1",
                        "datamodule.size=32", "resume=true")  # fmt: skip
    assert resumed == run
    # Killed between the last epoch and the end: the average is handed on all the same.
    (run / "finished.json").unlink()
    (run / "weights.safetensors").unlink()
    train_run("track=2", "stage=finetune", "init=none", MASKS, "mixing=none", "trainer.max_epochs=1",
              "datamodule.size=32", "resume=true")  # fmt: skip
    assert all(torch.equal(tensor, left[name]) for name, tensor in weights(run).items())
    assert len(list(csv.DictReader(open(run / "metrics.csv")))) == 1
