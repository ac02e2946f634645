"""The demo's data set: its layout, its truth, its bytes, and what it must not give away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from src.datamodules.synthetic import dataset as synthetic

SCALE = 0.1
SPLITS = [(1, "train"), (1, "test"), (2, "train"), (2, "test")]


def read_truth(root: Path, track: int, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / "truth" / f"track{track}_{split}_truth.json").read_text())
    return rows


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.generate(root, seed=0, scale=SCALE, progress=False)
    return root


@pytest.mark.parametrize(("track", "split"), SPLITS)
def test_truth_names_every_image_once(made: Path, track: int, split: str) -> None:
    rows = read_truth(made, track, split)
    folder = synthetic.TRACKS[track].folder
    inner = "train" if split == "train" else "public_test_flat"
    on_disk = {str(path.relative_to(made / "data")) for path in (made / "data" / folder / inner).rglob("*.jpg")}
    assert {row["image_path"] for row in rows} == on_disk
    assert len(rows) == len(on_disk)
    assert set(rows[0]) == {"image_path", "image_name", "label", "label_name", "domain"}
    labels = json.loads((made / "data" / synthetic.TRACKS[track].label_map).read_text())
    assert sorted(labels.values()) == list(range(len(labels)))
    for row in rows:
        assert row["label"] == labels[row["label_name"]]
        assert Path(row["image_path"]).name == row["image_name"]


def test_training_paths_follow_the_challenge(made: Path) -> None:
    for row in read_truth(made, 1, "train"):
        context, name = row["domain"], row["label_name"]
        assert row["image_path"].startswith(f"public_dg_0416/train/{context}/{name}/{context}_0000")
    for row in read_truth(made, 2, "train"):
        assert row["image_path"].startswith(f"public_ood_0412_nodomainlabel/train/{row['label_name']}/")
    assert any(" " in name for name in synthetic.CLASSES)
    assert synthetic.TRACKS[1].labels != synthetic.TRACKS[2].labels


def test_full_scale_plan() -> None:
    images = {key: sum(cell.images for cell in cells) for key, cells in synthetic.plan().items()}
    for track in (1, 2):
        assert 1150 <= images[track, "train"] <= 1300
        assert images[track, "test"] >= 600


def test_track1_tests_on_contexts_that_training_never_shows(made: Path) -> None:
    train = Counter((row["label_name"], row["domain"]) for row in read_truth(made, 1, "train"))
    test = Counter((row["label_name"], row["domain"]) for row in read_truth(made, 1, "test"))
    seen, unseen = {context for _, context in train}, {context for _, context in test}
    assert len(seen) == 4 and len(unseen) == 2 and not seen & unseen
    assert len(train) == 4 * len(synthetic.CLASSES) and len(test) == 2 * len(synthetic.CLASSES)


@pytest.mark.parametrize("scale", [0.01, SCALE, 0.5, 1.0])
def test_track2_ties_each_class_to_two_contexts(scale: float) -> None:
    cells = synthetic.plan(scale)
    pairs = set()
    for name in synthetic.CLASSES:
        train = Counter({cell.context: cell.images for cell in cells[2, "train"] if cell.class_name == name})
        test = {cell.context: cell.images for cell in cells[2, "test"] if cell.class_name == name}
        own = tuple(sorted(context for context, _ in train.most_common(2)))
        assert sum(train[context] for context in own) >= 0.9 * train.total()
        assert set(test) == set(synthetic.CONTEXTS) - set(own) and min(test.values()) >= 1
        pairs.add(own)
    assert len(pairs) == len(synthetic.CLASSES)
    assert {context for pair in pairs for context in pair} == set(synthetic.CONTEXTS)


@pytest.mark.parametrize("strays", [0, 2, 7])
def test_the_number_of_strays(strays: int) -> None:
    for name in synthetic.CLASSES:
        cells = [cell for cell in synthetic.plan(strays=strays)[2, "train"] if cell.class_name == name]
        foreign = [cell.images for cell in cells if cell.context not in synthetic.TRACK2_OWN[name]]
        assert sum(foreign) == strays and max(foreign) - min(foreign) <= 1


@pytest.mark.parametrize(("track", "split"), SPLITS)
def test_masks_fit_their_images(made: Path, track: int, split: str) -> None:
    for row in read_truth(made, track, split):
        image = cv2.imread(str(made / "data" / row["image_path"]))
        mask_path = (made / "truth" / "masks" / row["image_path"]).with_suffix(".png")
        mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
        assert image is not None and mask is not None
        assert mask.shape == image.shape[:2] and mask.dtype == np.uint8
        assert min(image.shape[:2]) >= 96 and max(image.shape[:2]) <= 160
        assert set(np.unique(mask)) == {0, 255}
        assert 0.05 < (mask > 0).mean() < 0.45


def test_no_centred_box_is_a_good_mask(made: Path) -> None:
    rows = read_truth(made, 1, "train") + read_truth(made, 2, "test")
    paths = [(made / "truth" / "masks" / row["image_path"]).with_suffix(".png") for row in rows]
    masks = np.stack([cv2.resize(cv2.imread(str(path), 0), (32, 32), interpolation=0) > 127 for path in paths])
    best = 0.0
    for half_height in range(4, 17):
        for half_width in range(4, 17):
            inside = np.zeros((32, 32), bool)
            inside[16 - half_height : 16 + half_height, 16 - half_width : 16 + half_width] = True
            overlap, union = (masks & inside).sum((1, 2)), (masks | inside).sum((1, 2))
            best = max(best, float((overlap / union).mean()))
    assert best < 0.35


def test_a_seed_fixes_every_byte(tmp_path: Path) -> None:
    made = {}
    for name, seed in [("one", 0), ("same", 0), ("other", 1)]:
        synthetic.generate(tmp_path / name, seed=seed, scale=0.01, progress=False)
        made[name] = contents(tmp_path / name)
    assert made["one"] == made["same"]
    first = "data/public_dg_0416/train/autumn/bird/autumn_000001.jpg"
    assert made["one"][first] != made["other"][first]


def test_a_complete_data_set_is_left_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    synthetic.generate(made, seed=0, scale=SCALE)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    with pytest.raises(FileExistsError, match="seed=0, not 3"):
        synthetic.generate(made, seed=3, scale=SCALE)


def test_an_incomplete_data_set_is_named(tmp_path: Path) -> None:
    synthetic.generate(tmp_path, scale=0.01, progress=False)
    next((tmp_path / "data").rglob("*.jpg")).unlink()
    with pytest.raises(FileExistsError, match="images; remove"):
        synthetic.generate(tmp_path, scale=0.01, progress=False)


@pytest.mark.parametrize("folder", ["data", "truth"])
def test_a_foreign_folder_is_refused(tmp_path: Path, folder: str) -> None:
    theirs = tmp_path / folder / "photo.jpg"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(FileExistsError, match="was not made by this command"):
        synthetic.generate(tmp_path, scale=0.01, progress=False)
    assert contents(tmp_path) == {f"{folder}/photo.jpg": b"theirs"}


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_track", interrupt)
        with pytest.raises(KeyboardInterrupt):
            synthetic.generate(tmp_path, scale=0.01, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_before_the_last_move_is_made_anew(made: Path, tmp_path: Path) -> None:
    (tmp_path / "synthetic.json").write_bytes((made / "synthetic.json").read_bytes())
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "stale.json").touch()
    (tmp_path / "notes.txt").touch()  # other entries of the folder stay
    synthetic.generate(tmp_path, scale=0.01, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "truth", "synthetic.json", "notes.txt"}
    assert not (tmp_path / "truth" / "stale.json").exists()
    assert json.loads((tmp_path / "synthetic.json").read_text())["scale"] == 0.01


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (0, 0.0), (0, -0.5), (0, float("nan"))])
def test_bad_arguments(tmp_path: Path, seed: int, scale: float) -> None:
    with pytest.raises(ValueError, match="but must"):
        synthetic.generate(tmp_path, seed=seed, scale=scale)
    with pytest.raises(ValueError, match="strays is -1, but must not be negative"):
        synthetic.generate(tmp_path, strays=-1)


def test_command_line_says_errors_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.jpg").touch()
    command = [sys.executable, "-m", "src.datamodules.synthetic", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("track", [1, 2])
def test_colour_does_not_solve_unseen_contexts(made: Path, track: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")

    def read(split: str) -> tuple[npt.NDArray[np.float32], list[int]]:
        rows = read_truth(made, track, split)
        images = [cv2.imread(str(made / "data" / row["image_path"])) for row in rows]
        counts = [cv2.calcHist([image], [0, 1, 2], None, [8] * 3, [0, 256] * 3).ravel() for image in images]
        return np.sqrt(np.stack(counts) / np.sum(counts, axis=1, keepdims=True)), [row["label"] for row in rows]

    model = linear_model.LogisticRegression(max_iter=200).fit(*read("train"))
    assert model.score(*read("test")) < 0.6
