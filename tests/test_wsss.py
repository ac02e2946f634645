"""The stage wsss from a baseline to masks: complete, resumable, the same in one and in two processes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from src.callbacks.sheet import read_sheet
from src.data.images import decode_image
from src.data.manifest import read_manifest
from src.data.mask_files import decode_mask, mask_names
from src.masks.judge import iou
from tests.conftest import masks_by_two_processes

Train = Callable[..., Path]
WSSS = ["track=1", "stage=wsss", "datamodule.batch_size=16"]


@pytest.fixture
def wsss(train_run: Train, data: Path) -> tuple[Path, list[str]]:
    """A finished run of the stage, and the overrides that made it."""
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1")
    words = [*WSSS, "trainer.max_epochs=1", f"wsss.truth_dir={data / 'truth/masks'}"]
    return train_run(*words), words


def made(run: Path) -> dict[str, np.ndarray]:
    rows = read_manifest(run / "track1_train_with_mask_label.json")
    return {row.image_path: decode_mask(run / str(row.image_seg_path)) for row in rows}


@pytest.mark.slow
def test_every_training_image_gets_a_mask_of_its_size(
    wsss: tuple[Path, list[str]], train_run: Train, data: Path, tmp_path: Path
) -> None:
    run, words = wsss
    rows = json.loads((run / "track1_train_with_mask_label.json").read_text())
    listed = read_manifest(tmp_path / "dataset_json/track1_train_label.json")
    assert [row["image_path"] for row in rows] == [row.image_path for row in listed]
    assert {"label", "label_name", "domain", "image_name", "image_seg_path"} <= rows[0].keys()
    for path, mask in made(run).items():
        assert mask.shape == decode_image(data / "data" / path).shape[:2]
        assert (run / "masks" / path).with_suffix(".png").exists()
    report = json.loads((run / "masks.json").read_text())
    assert {
        "iou",
        "iou_by_class",
        "iou_of_map",
        "iou_of_map_by_class",
        "iou_all_foreground",
        "iou_centred_box",
    } <= report.keys()
    assert {"empty", "full", "foreground_share_by_class", "crf_crashed"} <= report.keys()
    by_hand = [
        iou(mask, decode_mask((data / "truth/masks" / path).with_suffix(".png"))) for path, mask in made(run).items()
    ]
    assert report["iou"] == pytest.approx(np.mean(by_hand))
    sheet = read_sheet(run / "masks.png")
    assert len(sheet) == 3 * 4 and {tile.picture.shape for tile in sheet} == {(128, 3 * 128, 3)}
    best = max(
        iou(mask, decode_mask((data / "truth/masks" / path).with_suffix(".png"))) for path, mask in made(run).items()
    )
    assert any(f"IoU {best:.2f} (greatest)" in tile.words for tile in sheet)
    assert not [path for path in run.rglob("*") if path.suffix in (".npy", ".npz")]  # masks, no maps

    # The next stage reads them: `masks=` finds mask_root by itself.
    trained = train_run("track=1", "stage=baseline", f"masks={run / 'track1_train_with_mask_label.json'}", "tag=masks")
    assert (trained / "finished.json").exists()

    # An interruption in the middle of the masks: only the missing ones are written again.
    (run / "finished.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.glob("masks/**/*.png")}
    gone = sorted(before)[::2]
    content = {path: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    first = (run / "masks.png").read_bytes()
    (run / "masks.png").unlink()
    (run / ".views-killed" / "0").mkdir(parents=True)
    train_run(*words, "resume=true")
    assert not list(run.glob(".views-*"))
    assert (run / "masks.png").read_bytes() == first  # the same images, whichever process made their masks
    for path, time in before.items():
        assert (path.stat().st_mtime_ns == time) == (path not in gone)
    assert all(path.read_bytes() == old for path, old in content.items())

    # Other weights make all masks anew.
    shutil.rmtree(run / "pictures")
    for path in (*run.glob("*.ckpt*"), run / "finished.json"):
        path.unlink()
    train_run(*words, "module.lr=0.05")
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


@pytest.mark.slow
def test_two_processes_write_each_mask_once_and_the_same(
    wsss: tuple[Path, list[str]], places: list[str], tmp_path: Path
) -> None:
    run, words = wsss
    alone = made(run)
    assert f"making {len(alone)} masks" in masks_by_two_processes(run, *places, *words)
    together = made(run)
    assert together.keys() == alone.keys()
    assert min(iou(alone[path], together[path]) for path in alone) >= 0.999


def test_without_a_crf_the_map_is_the_mask(train_run: Train, data: Path) -> None:
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1")
    run = train_run(
        *WSSS, "crf=none", "grabcut.iterations=0", "trainer.max_epochs=1", f"wsss.truth_dir={data / 'truth/masks'}"
    )
    report = json.loads((run / "masks.json").read_text())
    assert report["iou"] == pytest.approx(report["iou_of_map"], abs=1e-6)


def test_what_is_missing_is_named(train_run: Train, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match="no finished run of baseline .*: train it first: python train.py track=1 stage=baseline",
    ):
        train_run(*WSSS)
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1")
    narrow = "model.model_name=resnet14t"
    made = f"init={tmp_path / 'logs/track1/baseline/resnet10t-mixup-holdout-seed0'}"
    with pytest.raises(
        ValueError, match="has the backbone resnet10t, this run resnet14t: .*python train.py track=1 stage=baseline"
    ):
        train_run(*WSSS, narrow, made)
    with pytest.raises(FileNotFoundError, match="true masks are missing in wsss.truth_dir="):
        train_run(*WSSS, "trainer.max_epochs=1", f"wsss.truth_dir={tmp_path}")


def test_images_of_one_stem_have_masks_of_their_own() -> None:
    paths = ["a/0.jpg", "a/0.png", "a/1.jpg", "b/0.jpg", "a/2.jpg", "a/2.JPG", "a/0.jpg.jpg"]
    names = mask_names(paths)
    assert len(set(names.values())) == len(paths) and all(name.endswith(".png") for name in names.values())
    assert names["a/1.jpg"] == "a/1.png" and names["b/0.jpg"] == "b/0.png"
    assert names["a/0.jpg"] == "a/0.jpg.png" and names["a/2.JPG"] == "a/2.JPG.png"


@pytest.mark.slow
def test_masks_that_tell_nothing_are_warned_of_when_they_are_used(train_run: Train, tmp_path: Path) -> None:
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1")
    with pytest.warns(UserWarning, match="% foreground on average.*plain mixup"):
        run = train_run(*WSSS, "crf=none", "trainer.max_epochs=1", "callbacks.masks.threshold=0.0")
    with pytest.warns(UserWarning, match="track1_train_with_mask_label.json: the masks are 100.0 % foreground"):
        train_run("track=1", "stage=baseline", f"masks={run / 'track1_train_with_mask_label.json'}", "tag=masks")
    words = ["track=1", "stage=baseline", f"masks={run / 'track1_train_with_mask_label.json'}"]
    shutil.copytree(run / "masks", tmp_path / "masks")
    (run / "masks.json").write_text('{"images": 9, "foreground_share": 0.4, "empty": [], "full": []}')
    with pytest.warns(UserWarning, match="the masks are 100.0 % foreground"):  # it tells of the masks beside it alone
        train_run(*words, f"mask_root={tmp_path}", "tag=elsewhere")
    (run / "masks.json").write_text('{"images": 0, "foreground_share": 0.4, "empty": [], "full": []}')
    with pytest.warns(UserWarning, match="the masks are 100.0 % foreground"):
        train_run(*words, "tag=damaged")
    (run / "masks.json").unlink()  # masks of somebody else's: a sample is looked at
    with pytest.warns(UserWarning, match="the masks are 100.0 % foreground"):
        train_run(*words, "tag=others")


def test_cudnn_times_no_convolution_while_masks_are_made(train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.lightning_modules.c2am import C2AM

    predict, train, seen = C2AM.predict_step, C2AM.training_step, {"train": set(), "predict": set()}

    def spy(self: C2AM, batch: object, batch_idx: int) -> object:
        seen["predict"].add(torch.backends.cudnn.benchmark)
        if batch_idx == 1:
            raise ValueError("enough")
        return predict(self, batch, batch_idx)

    def spy_training(self: C2AM, batch: object, batch_idx: int) -> object:
        seen["train"].add(torch.backends.cudnn.benchmark)
        return train(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(C2AM, "predict_step", spy)
    monkeypatch.setattr(C2AM, "training_step", spy_training)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # the trainer's change is undone after the test
    words = [*WSSS, "init=none", "crf=none", "trainer.max_epochs=1", "trainer.benchmark=true"]
    with pytest.raises(ValueError, match="enough"):
        train_run(*words)
    assert seen == {"train": {True}, "predict": {False}}
    assert torch.backends.cudnn.benchmark  # and given back, whatever ended the predictions


@pytest.mark.slow
def test_grabcut_makes_the_same_masks_in_any_number_of_processes_and_the_next_stage_finds_them(
    train_run: Train, data: Path
) -> None:
    words = ["track=1", "stage=grabcut", "trainer.max_epochs=0", f"wsss.truth_dir={data / 'truth/masks'}"]
    run = train_run(*words, "callbacks.masks.processes=1")
    report = json.loads((run / "masks.json").read_text())
    assert report["iou"] > 0.7 > 2 * report["iou_centred_box"] and report["grabcut_found_nothing"] >= 0
    assert 0.9 < report["iou_flip"] <= 1 and 0.6 < report["iou_crop"] <= 1
    alone = made(run)
    (run / "finished.json").unlink()
    gone = sorted(run.glob("masks/**/*.png"))[::2]
    before = {path: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    train_run(*words, "callbacks.masks.processes=2", "resume=true")  # what was there is kept
    assert all(path.read_bytes() == old for path, old in before.items())
    assert (run / "finished.json").exists() and made(run).keys() == alone.keys()
    trained = train_run("track=1", "stage=finetune", "init=none", "before_masks.stage=grabcut", "trainer.max_epochs=1")
    assert yaml.safe_load((trained / "config.yaml").read_text())["masks"] == str(
        run / "track1_train_with_mask_label.json"
    )


@pytest.mark.slow
def test_without_grabcut_and_crf_the_box_is_the_mask(train_run: Train, data: Path) -> None:
    words = ["track=1", "stage=grabcut", "trainer.max_epochs=0", "crf=none", f"wsss.truth_dir={data / 'truth/masks'}"]
    with pytest.warns(UserWarning, match="81.* % foreground"):
        run = train_run(*words, "grabcut.iterations=0", "tag=box")
    box = made(run)
    found = made(train_run(*words, "tag=cut", "grabcut.band=0"))
    for mask in box.values():
        top, left = (round(side * (1 - 0.9) / 2) for side in mask.shape)
        assert mask[top:-top, left:-left].all() and mask.sum() == mask[top:-top, left:-left].size
    assert not any((mask & ~box[path]).any() for path, mask in found.items())  # outside of the box is background


@pytest.mark.slow
def test_grabcut_is_begun_from_the_map_of_wsss(train_run: Train) -> None:
    train_run("track=1", "stage=baseline", "trainer.max_epochs=1")
    plain, cut = (
        train_run(*WSSS, "crf=none", "trainer.max_epochs=1", f"grabcut.iterations={count}", f"tag={count}")
        for count in (0, 5)
    )
    before, after = made(plain), made(cut)
    report = json.loads((cut / "masks.json").read_text())
    kept = sum(np.array_equal(before[path], after[path]) for path in before)
    assert report["grabcut_found_nothing"] <= kept < len(before)
    assert not any((after[path] & ~before[path]).mean() > 0.02 for path in before)  # but for resized edges


def test_only_a_stage_without_a_network_may_train_no_epoch(train_run: Train) -> None:
    with pytest.raises(ValueError, match="trainer.max_epochs is 0: expected at least 1"):
        train_run(*WSSS, "trainer.max_epochs=0")
