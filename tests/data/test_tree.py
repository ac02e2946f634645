"""Scans of folders: what is an image of a tree, and what is said of the rest."""

import os
import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.images import decode_image
from src.data.layouts import FLAT, Part
from src.data.scan import scan_folder, scan_images
from src.data.tree import EXTENSIONS
from src.prediction.image_sets import folder_images

PICTURE = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def put(path: Path, data: bytes = PICTURE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("ending", sorted(EXTENSIONS - {".jfif", ".jpe", ".pbm", ".pnm", ".pgm"}))
def test_what_counts_as_an_image_is_decoded(tmp_path: Path, ending: str) -> None:
    put(tmp_path / f"a{ending.upper()}", cv2.imencode(ending, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert scan_folder(tmp_path) == [f"a{ending.upper()}"]
    assert decode_image(tmp_path / f"a{ending.upper()}").max() <= 2


def test_nothing_is_said_of_a_tree_of_images(tmp_path: Path) -> None:
    put(tmp_path / "train/water/car/1.jpg")
    put(tmp_path / "train/water/car/Thumbs.db", b"x")
    put(tmp_path / "train/water/car/.DS_Store", b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scan_images(tmp_path, Part("train", "<context>/<class>"), "images") == [("water", "car", "1.jpg")]


def test_what_a_scan_leaves_out_is_said_by_kind_and_number_in_one_warning(tmp_path: Path) -> None:
    car = tmp_path / "train/water/car"
    for name in (
        "1.jpg",
        "a.HEIC",
        "b.heic",
        "c.heic",
        "notes.txt",
        "u.jpg_large",
        "._1.jpg",
        "more/2.jpg",
        "../above.jpg",
    ):
        put(car / name, b"x" if name.endswith("txt") else PICTURE)
    put(car / "../above.jpg")
    put(car / "@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg")
    put(tmp_path / "train/water/@eaDir/x.jpg")  # no class
    put(tmp_path / "train/__MACOSX/car/x.jpg")  # no context
    (car / "album.jpg").mkdir()
    (car / "annex.jpg").symlink_to("../../../../../.git/annex/objects/x.jpg")
    (car / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(car / "pipe.jpg")
    os.mkfifo(car / "pipe.unknown")
    with pytest.warns(UserWarning) as caught:
        assert scan_images(tmp_path, Part("train", "<context>/<class>"), "training images") == [
            ("water", "car", "1.jpg")
        ]
    (text,) = [str(warning.message) for warning in caught]
    for part in (
        f"training images: not read below {tmp_path / 'train'} are ",
        "3 .heic (water/car/a.HEIC, water/car/b.heic, ...): convert such images to JPEG or PNG",
        "1 .txt (water/car/notes.txt)",
        "1 .jpg_large with an image inside (water/car/u.jpg_large): give such files the extension of their format",
        "1 hidden image(s) (water/car/._1.jpg)",
        "1 image(s) too deep (water/car/more/2.jpg): expected <context>/<class>/<image>",
        "1 image(s) not deep enough (water/above.jpg): expected <context>/<class>/<image>",
        "3 folder(s) of thumbnails or leftovers (__MACOSX, water/@eaDir, ...)",
        "1 folder(s) named like an image (water/car/album.jpg)",
        "2 link(s) to nothing (water/car/annex.jpg, water/car/loop.jpg): fetch what they stand for",
        "2 pipe(s), socket(s) or device(s) (water/car/pipe.jpg, water/car/pipe.unknown)",
    ):
        assert part in text, text


def test_a_label_map_that_is_read_is_not_left_out(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = tmp_path / "car/1.jpg"
    image.parent.mkdir()
    image.touch()
    (tmp_path / "label_map.json").write_text("{}")
    scan_images(tmp_path, Part(".", "<class>"), "images", "label_map.json")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="label_map.json"):
        scan_images(tmp_path, Part(".", "<class>"), "images")


def test_any_folder_leaves_thumbnails_alone_and_follows_no_linked_folder(tmp_path: Path) -> None:
    put(tmp_path / "a/1.jpg")
    put(tmp_path / "a/@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg")
    (tmp_path / "a/again").symlink_to(".")
    (tmp_path / "folder.png").mkdir()
    put(tmp_path / ".trash/old/2.jpg")
    (tmp_path / ".settings").mkdir()
    with pytest.warns(UserWarning) as caught:
        assert scan_folder(tmp_path) == ["a/1.jpg"]
    (text,) = [str(warning.message) for warning in caught]
    for part in (
        "1 folder(s) of thumbnails or leftovers (a/@eaDir)",
        "1 hidden folder(s) with images (.trash)",
        "1 link(s) to folders (a/again): they are not followed here",
    ):
        assert part in text, text
    assert ".settings" not in text


def test_a_locked_folder_stands_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/1.jpg")
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read what a test locks
        if os.path.basename(path) == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=re.escape("1 folder(s) that cannot be read (lost+found)")):
        assert scan_folder(tmp_path) == ["a/1.jpg"]
    with pytest.raises(OSError, match=r"the folder .*lost\+found cannot be read \(Permission denied\)"):
        scan_folder(tmp_path / "lost+found")


def test_one_file_is_a_set_of_images(tmp_path: Path) -> None:
    put(tmp_path / "in/photo")
    images = folder_images(tmp_path / "in/photo")
    assert images.names == ["photo"] and images.root == tmp_path / "in" and images.why_unreadable(0, 64) == ""
    assert "has 8x8 pixels, more than datamodule.max_pixels=63" in images.why_unreadable(0, 63)
    os.mkfifo(tmp_path / "in/pipe.jpg")
    assert "pipe.jpg is a pipe, not an image file" in folder_images(tmp_path / "in/pipe.jpg").why_unreadable(0, 0)


def test_the_root_of_the_file_system_is_a_data_root(tmp_path: Path) -> None:
    put(tmp_path / "train/1.jpg")
    (tmp_path / "train/2.jpg").symlink_to("1.jpg")
    assert scan_images(Path("/"), Part(str(tmp_path / "train").strip("/"), FLAT), "images") == [("1.jpg",), ("2.jpg",)]
