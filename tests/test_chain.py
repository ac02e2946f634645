"""The stages finetune, fdg and adapt as a whole: what they start from, hand over, and say when something is missing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from src.callbacks.preemption import Preemption
from src.callbacks.weight_average import MovingAverage
from src.manifest import Row
from tests.conftest import TINY

Train = Callable[..., Path]
SIZES = "datamodule.size=[[0,32],[1,48]]"
MASKS = "masks=none"


@pytest.fixture
def masks(data: Path, tmp_path: Path) -> list[str]:
    """Words that name the true masks of track 1, in a manifest of their own."""
    labels = json.loads((data / "data/dg_label_id_mapping.json").read_text())
    rows = []
    for path in sorted((data / "data/public_dg_0416/train").glob("*/*/*.jpg")):
        context, label = path.parts[-3:-1]
        contexts = sorted(folder.name for folder in path.parents[2].iterdir())
        name = path.relative_to(data / "data")
        rows.append(
            {
                "image_path": str(name),
                "label": labels[label],
                "label_name": label,
                "domain": contexts.index(context),
                "image_seg_path": str(name.with_suffix(".png")),
            }
        )
    (tmp_path / "masks.json").write_text(json.dumps(rows))
    return [f"masks={tmp_path / 'masks.json'}", f"mask_root={data / 'truth/masks'}"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def test_the_chain_hands_over(train_run: Train, masks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["track=1", *masks]
    begun = train_run(*short, "stage=finetune", "init=null", SIZES)
    assert begun.name == "resnet10t-decoupled-holdout-seed0"
    whole = train_run(*short, "stage=finetune", "init=null", SIZES, "tag=whole", "trainer.max_epochs=3")

    # Stopped after the size has changed, and resumed: average, count and size go on where they were.
    agreed = Preemption.agreed
    monkeypatch.setattr(
        Preemption, "agreed", lambda self, t: t.current_epoch == 1 and t.global_step % t.num_training_batches == 2
    )
    stopped = [*short, "stage=finetune", "init=null", SIZES, "tag=stopped", "trainer.max_epochs=3"]
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
    begun = train_run("track=1", *masks, "stage=finetune", "init=null", "trainer.max_epochs=1")
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


def test_without_masks_the_frequency_branch_alone_runs_and_says_so(train_run: Train) -> None:
    with pytest.warns(UserWarning, match="this run has no masks: mixing=decoupled mixes by frequency alone"):
        run = train_run("track=2", "stage=finetune", "init=null", MASKS, "trainer.max_epochs=1")
    assert (run / "finished.json").exists()
    with pytest.raises(ValueError, match="mixing=foreground needs masks and this run has none"):
        train_run("track=2", "stage=fdg", f"init={run}", MASKS, "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=finetune"], "moco/.* is no finished run: train it first: python train.py track=1 stage=moco.*; "
                             "the masks .* do not exist: make them first: python train.py track=1 stage=wsss"),
        (["stage=fdg", MASKS], "finetune/.*: train it first: python train.py track=1 stage=finetune"),
        (["stage=adapt", MASKS], "fdg/.*: train it first: python train.py track=1 stage=fdg"),
        (["stage=finetune", "init=null", MASKS, "mixing.ratio=0"], "mixing.ratio is 0"),
        (["stage=finetune", "init=null", MASKS, "datamodule.batch_size=1"], "leaves each of 1 process.es. one image"),
        (["stage=finetune", "init=null", MASKS, "datamodule.size=[[2,32]]"], "from epoch 0 on"),
        (["stage=baseline", "datamodule.pairs=any"], "expected any_context, other_context or null"),
    ],
)  # fmt: skip
def test_bad_input(train_run: Train, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.errors import InstantiationException

    monkeypatch.setattr("sys.argv", ["train.py", "track=1"])
    with pytest.raises((ValueError, FileNotFoundError, InstantiationException), match=message):
        train_run("track=1", *words)


def test_a_loss_that_is_no_number_names_its_images(train_run: Train, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss of step \d+, in epoch 1, is nan, .*diverged.json"):
        train_run("track=1", "stage=baseline", "module.optimizer.lr=1e30", "mixing=none")
    said = json.loads(next(tmp_path.rglob("diverged.json")).read_text())
    assert len(said["images"]) == 16 and all(name.endswith(".jpg") for name in said["images"])


# ------------------------------------------------------------------------------------------------ the data module


@pytest.fixture
def datamodule(configure: Callable[..., DictConfig], places: list[str], masks: list[str]) -> Callable[..., object]:
    from hydra.utils import instantiate

    def made(*words: str) -> object:
        cfg = configure("train", "track=1", "stage=finetune", "init=null", *TINY, *places, *masks, *words)
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
            assert next(iter(loader)).image.shape[1:] == (size, size, 3)
    assert module.last_size == 48  # type: ignore[attr-defined]


def test_pairs(datamodule: Callable[..., object]) -> None:
    module = datamodule("datamodule.pairs=any_context")
    own, contexts, seen = 0, set(), 0
    loader = module.train_dataloader()  # type: ignore[attr-defined]
    for batch in loader:
        count = len(batch.label) // 2
        assert len(batch.image) == len(batch.mask) == 32 and batch.image.dtype == torch.uint8
        rows = [module.rows[i] for i in module.split.train]  # type: ignore[attr-defined]
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
    from src.datamodules.nico import Images, Pairs

    rows = [Row(f"{i}.jpg", label=0, domain=0) for i in range(5)]
    images = Images(rows, Path("."), None, None, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs training images of two contexts"):
        Pairs(images, other_context=True)
    lonely = Pairs(Images([*rows, Row("5.jpg", domain=1)], Path("."), None, None, 0), other_context=True)  # type: ignore[arg-type]
    assert lonely.of_context[1].tolist() == [5]


def test_a_mask_of_another_size_is_named(datamodule: Callable[..., object], tmp_path: Path) -> None:
    module = datamodule()
    row = module.rows[module.split.train[0]]  # type: ignore[attr-defined]
    module.mask_root = tmp_path / "wrong"  # type: ignore[attr-defined]
    target = tmp_path / "wrong" / row.image_seg_path
    target.parent.mkdir(parents=True)
    cv2.imwrite(str(target), np.zeros((7, 9), np.uint8))
    with pytest.raises(ValueError, match=r"is 9x7 pixels, its image .* make the masks anew"):
        module.train_dataloader().dataset[0, 0]  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- the moving average


def test_the_average_is_the_recursion_and_takes_integers_over() -> None:
    average, old, count = MovingAverage(max_momentum=0.75), torch.zeros(3), torch.tensor(0)
    expected = torch.zeros(3)
    for k, momentum in enumerate((0.0, 0.5, 2 / 3, 0.75, 0.75)):
        now = torch.rand(3)
        expected = momentum * expected + (1 - momentum) * now
        average.average([old, count], [now, torch.tensor(k)], k)
        torch.testing.assert_close(old, expected)
        assert count == k


def test_the_averaged_weights_are_validated_and_handed_on(train_run: Train) -> None:
    # The rate is 0: nothing moves but BatchNorm's statistics, and the average of these is what is left.
    run = train_run("track=2", "stage=finetune", "init=null", MASKS, "mixing=none", "trainer.max_epochs=1",
                    "datamodule.size=32")  # fmt: skip
    state = torch.load(run / "last.ckpt", weights_only=True)
    left = weights(run)
    assert torch.equal(left["head.weight"], state["state_dict"]["head.weight"])
    assert not torch.equal(left["head.weight"], state["current_model_state"]["head.weight"])
    resumed = train_run("track=2", "stage=finetune", "init=null", MASKS, "mixing=none", "trainer.max_epochs=1",
                        "datamodule.size=32", "resume=true")  # fmt: skip
    assert resumed == run
    # Killed between the last epoch and the end: the average is handed on all the same.
    (run / "finished.json").unlink()
    (run / "weights.safetensors").unlink()
    train_run("track=2", "stage=finetune", "init=null", MASKS, "mixing=none", "trainer.max_epochs=1",
              "datamodule.size=32", "resume=true")  # fmt: skip
    assert all(torch.equal(tensor, left[name]) for name, tensor in weights(run).items())
    assert len(list(csv.DictReader(open(run / "metrics.csv")))) == 1
