"""Whole trainings on tiny data: the same seed gives the same weights, however the run was interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from src import cli, stopping
from src.runs.hyperparameters import METRICS
from src.runs.records import read_config
from tests.conftest import ROOT, TINY, command, sign, weights
from tests.runs.test_hyperparameters import hparams_page

Train = Callable[..., Path]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_directory_holds_what_the_readme_says(train_run: Train) -> None:
    run = train_run("track=1", "stage=baseline")
    assert run.parts[-3:] == ("track1", "baseline", "resnet10t-mixup-holdout-seed0")
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "environment.json", "split.json", "classes.json", "last.ckpt", "best.ckpt", "metrics.csv",
            "weights.safetensors", "finished.json", "pictures"} <= names  # fmt: skip
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"train/loss", "learning_rate", "val/in_domain/accuracy", "val/in_domain/accuracy_top5",
            "val/in_domain/worst_context"} <= rows[0].keys()  # fmt: skip
    assert sum(name.startswith("val/in_domain/accuracy/") for name in rows[0]) == 4
    split = json.loads((run / "split.json").read_text())
    assert set(split) == {"train", "in_domain", "out_of_domain", "trained_on_before", "started_from", "masks_from"}
    assert not set(split["train"]) & set(split["in_domain"])
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    assert read_config(run)["dataset"]["num_classes"] == len(json.loads((run / "classes.json").read_text()))
    torch.load(run / "last.ckpt", weights_only=True)


def test_same_seed_same_weights_with_0_1_2_workers(train_run: Train) -> None:
    runs = [train_run("track=2", "stage=baseline", f"datamodule.num_workers={n}", f"tag=w{n}") for n in (0, 1, 2)]
    assert_same(weights(runs[0]), weights(runs[1]))
    assert_same(weights(runs[0]), weights(runs[2]))
    other = weights(train_run("track=2", "stage=baseline", "seed=1"))
    assert not torch.equal(other["head.weight"], weights(runs[0])["head.weight"])


def test_a_run_that_exists_is_refused_and_resume_of_a_finished_one_does_nothing(train_run: Train) -> None:
    run = train_run("track=1", "stage=baseline")
    before = (run / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(SystemExit, match="is finished; for another run, set tag="), cli.clear_errors():
        train_run("track=1", "stage=baseline")
    train_run("track=1", "stage=baseline", "resume=true")
    assert (run / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"other settings \(module.optimizer.lr: 0.05 there, 0.2 here\)"):
        train_run("track=1", "stage=baseline", "module.optimizer.lr=0.2", "resume=true")


class Killed(Exception):
    """Stands for a kill at the end of a batch."""


@pytest.mark.parametrize("stop", ["epoch", "batch"])
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, signals: None, stop: str
) -> None:
    from src.callbacks import preemption, progress_lines

    more = ["track=1", "stage=baseline", "trainer.max_epochs=3", "mixing=cutmix"]
    whole = train_run(*more, "tag=whole")
    if stop == "batch":  # SIGTERM in the middle of the second epoch: saved at the batch's end
        ask = preemption.Preemption.on_train_batch_end

        def terminate(self: preemption.Preemption, trainer, *rest) -> None:  # type: ignore[no-untyped-def]
            if trainer.current_epoch == 1 and rest[-1] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            ask(self, trainer, *rest)

        monkeypatch.setattr(preemption.Preemption, "on_train_batch_end", terminate)
        with pytest.raises(SystemExit) as stopped:
            train_run(*more)
        assert stopped.value.code == 143
    else:  # a kill in the second epoch: what the first one's end saved is there

        def kill(self, trainer, *rest) -> None:  # type: ignore[no-untyped-def]
            if trainer.current_epoch == 1 and rest[-1] == 2:
                raise Killed

        monkeypatch.setattr(progress_lines.ProgressLines, "on_train_batch_end", kill)
        with pytest.raises(Killed):
            train_run(*more)
    monkeypatch.undo()
    stopping.request.__init__()  # type: ignore[misc] # another process goes on
    with pytest.raises(ValueError, match="is not finished: resume=true continues it"):
        train_run(*more)
    resumed = train_run(*more, "resume=true")
    assert_same(weights(whole), weights(resumed))
    assert [row["epoch"] for row in csv.DictReader(open(resumed / "metrics.csv"))] == ["0", "1", "2"]


def test_leave_context_out_is_measured_apart(train_run: Train) -> None:
    run = train_run("track=1", "stage=baseline", "split=leave_context_out", "split.contexts=[grass]")
    assert run.name == "resnet10t-mixup-leave_context_out-grass-seed0"
    metrics = json.loads((run / "finished.json").read_text())["metrics"]
    assert "val/out_of_domain/accuracy/grass" in metrics and "val/in_domain/accuracy/grass" not in metrics
    split = json.loads((run / "split.json").read_text())
    assert split["out_of_domain"] and all("/grass/" in path for path in split["out_of_domain"])


def test_split_none_trains_on_everything(train_run: Train) -> None:
    run = train_run("track=2", "stage=baseline", "split=none")
    assert not (run / "best.ckpt").exists() and (run / "weights.safetensors").exists()


def test_a_start_takes_the_backbone_and_an_unfair_one_is_refused(train_run: Train) -> None:
    none = train_run("track=1", "stage=baseline", "split=none", "mixing=none")
    with pytest.raises(ValueError, match="images that this run holds out .* python train.py track=1 stage=baseline"):
        train_run("track=1", "stage=baseline", f"init={none}")
    fair = train_run("track=1", "stage=baseline")
    frozen = train_run("track=1", "stage=baseline", f"init={fair}", "module.optimizer.lr=0", "tag=from",
                       "module.optimizer.weight_decay=0")  # fmt: skip
    a, b = weights(fair), weights(frozen)
    assert torch.equal(a["backbone.conv1.0.weight"], b["backbone.conv1.0.weight"])
    assert not torch.equal(a["head.weight"], b["head.weight"])
    with pytest.raises(FileNotFoundError, match="is not a finished run: train it first"):
        train_run("track=1", "stage=baseline", f"init={fair.parent / 'gone'}", "tag=x")
    # What a start was trained on is inherited: two steps back counts too.
    chained = train_run("track=1", "stage=baseline", "split=none", f"init={none}", "tag=chained")
    narrow = json.loads((chained / "split.json").read_text())
    (chained / "split.json").write_text(json.dumps({**narrow, "train": [], "trained_on_before": narrow["train"]}))
    sign(chained)
    with pytest.raises(ValueError, match="would make its accuracy meaningless"):
        train_run("track=1", "stage=baseline", f"init={chained}", "tag=y")


def test_another_backbone_is_named(train_run: Train) -> None:
    run = train_run("track=1", "stage=baseline")
    with pytest.raises(ValueError, match=r"the backbone in .* is a different network from this run's \(model=\)"):
        train_run("track=1", "stage=baseline", f"init={run}", "model.channels=[8,16,32,64]", "tag=narrow")


def test_a_bad_image_stops_or_is_skipped_and_counted(
    data: Path, tmp_path: Path, configure: Callable[..., DictConfig]
) -> None:
    import shutil

    import train

    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    bad = sorted((root / "public_dg_0416/train/grass").glob("*/*.jpg"))[0]
    bad.write_bytes(bad.read_bytes()[:200])
    places = [f"data_root={root}", f"manifest_dir={tmp_path / 'm'}", f"logs_dir={tmp_path / 'logs'}", "split=none"]
    for workers in (0, 1):
        cfg = configure("train", *TINY, *places, "track=1", "stage=baseline", f"datamodule.num_workers={workers}")
        with pytest.raises(SystemExit) as stopped, cli.clear_errors():
            train.train(cfg)
        assert str(stopped.value).startswith(f"error: {bad} cannot be decoded") and "\n" not in str(stopped.value)
    skip = ["datamodule.on_bad_image=skip", "datamodule.max_bad_share=0.1", "track=1", "stage=baseline"]
    cfg = configure("train", *TINY, *places, *skip)
    with pytest.warns(UserWarning, match="1 images cannot be decoded and are left out"):
        train.train(cfg)
    split = json.loads((Path(cfg.run_dir) / "split.json").read_text())
    assert bad.relative_to(root).as_posix() not in split["train"]
    with pytest.raises(ValueError, match="more than datamodule.max_bad_share=0.0"):
        train.train(configure("train", *TINY, *places, *skip, "datamodule.max_bad_share=0.0", "tag=strict"))


def test_masks_come_along(data: Path, tmp_path: Path, configure: Callable[..., DictConfig]) -> None:
    from hydra.utils import instantiate

    root = data / "data"
    truth = json.loads((data / "truth/track1_train_truth.json").read_text())
    rows = [
        {**{key: row[key] for key in ("image_path", "label", "label_name")}, "domain": 0,
         "image_seg_path": row["image_path"].replace(".jpg", ".png")} for row in truth
    ]  # fmt: skip
    manifest = tmp_path / "with_masks.json"
    manifest.write_text(json.dumps(rows))
    words = [*TINY, f"data_root={root}", f"manifest_dir={tmp_path}", "track=1", "stage=baseline", f"masks={manifest}"]
    cfg = configure(
        "train",
        *words,
        f"mask_root={data / 'truth/masks'}",
        "dataset.num_classes=8",
        "dataset.contexts=[]",
        "dataset.images=9",
    )
    module = instantiate(cfg.datamodule)
    module.prepare_data()
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert batch.mask.shape == (16, 32, 32) and batch.mask.dtype == torch.bool and 0 < batch.mask.float().mean() < 0.7
    assert batch.pixels.shape == (16, 1, 32, 32, 3) and batch.pixels.dtype == torch.uint8
    ready = module.on_after_batch_transfer(batch, 0)
    assert ready.image.shape == (16, 3, 32, 32) and float(ready.image.max()) <= 1
    empty = configure(
        "train", *words, f"mask_root={tmp_path}", "dataset.num_classes=8", "dataset.contexts=[]", "dataset.images=9"
    )
    with pytest.raises(FileNotFoundError, match="masks of .* are missing below"):
        instantiate(empty.datamodule).setup()
    small = tmp_path / "small"
    for row in rows:
        (small / row["image_seg_path"]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(small / row["image_seg_path"]), np.zeros((3, 5), np.uint8))
    wrong = configure(
        "train", *words, f"mask_root={small}", "dataset.num_classes=8", "dataset.contexts=[]", "dataset.images=9"
    )
    module = instantiate(wrong.datamodule)
    module.setup()
    with pytest.raises(ValueError, match="the mask .* is 5x3 pixels, its image"):
        next(iter(module.train_dataloader()))


@pytest.mark.parametrize("size", [4000, 7])
def test_batch_sizes_that_do_not_divide_the_images(train_run: Train, size: int) -> None:
    words = ("track=1", "stage=baseline", f"datamodule.batch_size={size}", "trainer.max_epochs=1")
    with pytest.warns(UserWarning, match="is lowered to") if size > 100 else nullcontext():
        run = train_run(*words)
    (row,) = csv.DictReader(open(run / "metrics.csv"))
    images = len(json.loads((run / "split.json").read_text())["train"])
    assert int(row["step"]) == (1 if size > 100 else images // size)


def test_a_manifest_and_a_label_map_that_disagree(
    data: Path, tmp_path: Path, configure: Callable[..., DictConfig]
) -> None:
    import shutil

    from hydra.utils import instantiate

    root = tmp_path / "data"
    shutil.copytree(data / "data/public_dg_0416", root / "public_dg_0416")
    ids = {
        name: 7 - i for i, name in enumerate(sorted(json.loads((data / "data/dg_label_id_mapping.json").read_text())))
    }
    rows = [
        {
            "image_path": str(path.relative_to(root)),
            "label": ids[path.parts[-2]],
            "label_name": path.parts[-2],
            "domain": 0,
        }
        for path in sorted((root / "public_dg_0416/train").glob("*/*/*.jpg"))
    ]
    (tmp_path / "track1_train_label.json").write_text(json.dumps(rows))
    cfg = configure("train", *TINY, "track=1", "stage=baseline", f"data_root={root}", f"manifest_dir={tmp_path}")
    module = instantiate(cfg.datamodule)
    module.prepare_data()  # somebody else's manifest without their label map: its ids are kept
    module.setup()
    assert module.classes == sorted(ids, key=ids.__getitem__)
    swapped = {name: 7 - i for name, i in ids.items()}
    (root / "dg_label_id_mapping.json").write_text(json.dumps(swapped))
    with pytest.raises(ValueError, match=r"entry 0 of .* gives '.*' the label 7, the label map .* 0: correct one"):
        instantiate(cfg.datamodule).setup()


def test_every_logger_works(train_run: Train) -> None:
    for logger in ("tensorboard", "wandb"):
        run = train_run("track=1", "stage=baseline", f"logger={logger}", f"tag={logger}", "trainer.max_epochs=1")
        if logger == "wandb":
            assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 1
        else:
            settings, metrics = hparams_page(run)["tensorboard"]
            assert settings["stage"] == "baseline" and settings["lr"] > 0
            finished = json.loads((run / "finished.json").read_text())["metrics"]
            assert metrics == pytest.approx({name: finished[name] for name in METRICS if name in finished}, abs=1e-6)


@pytest.mark.slow
def test_two_processes_in_a_sweep(places: list[str], tmp_path: Path) -> None:
    """Also: 9 held-out images on 2 ranks at 4 a batch, so that one rank has a batch more than the other."""
    # Stages of which one has a moving average, the other a teacher.
    words = ["track=1", "stage=finetune,fdg", "init=none", "masks=none", "mixing=spectrum", "trainer.max_epochs=1"]
    places = [*TINY, *places, "trainer=ddp_cpu", "datamodule.batch_size=8", "split.fraction=0.1"]
    done = command("train.py", "-m", *words, *places)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("finetune", "fdg"):
        run = tmp_path / f"logs/track1/{stage}/resnet10t-spectrum-holdout-seed0"
        assert (run / "finished.json").exists()
        held_out = json.loads((run / "split.json").read_text())["in_domain"]
        metrics = json.loads((run / "finished.json").read_text())["metrics"]
        hits = metrics["val/in_domain/accuracy"] * len(held_out)
        assert hits == pytest.approx(round(hits), abs=1e-4)  # each image once: a share of exactly that many
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


@pytest.mark.slow
def test_two_starts_at_once_the_second_is_refused(places: list[str], tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "train.py"), "track=1", "stage=baseline", *TINY, *places]
    with subprocess.Popen(
        [*words, "trainer.max_epochs=1000"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("epoch 1/"):
                break
        second = command("train.py", *words[2:], "trainer.max_epochs=1000")
        assert second.returncode == 1 and "is being trained by another process right now" in second.stderr
        assert "Traceback" not in second.stderr
        first.terminate()
        rest = first.stdout.read()
        assert first.wait(60) == 143, rest
        assert "resume=true continues it" in rest
