from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src.callbacks.sheet import Tile, outlined, read_sheet, square, write_sheet


def tiles(count: int) -> list[Tile]:
    rng = np.random.default_rng(0)
    words = ["a car on grass with many words", "狗 (雪)", "dog", "x", "<b>"]
    return [Tile(rng.integers(0, 256, (20, 60, 3), np.uint8), words[i % 5]) for i in range(count)]


def test_a_sheet_gives_back_its_pictures_and_words(tmp_path: Path) -> None:
    given = tiles(5)
    sheet = write_sheet(tmp_path / "sheet.png", given, columns=3)
    assert np.array_equal(cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_COLOR_RGB), sheet)
    for one, other in zip(given, read_sheet(tmp_path / "sheet.png"), strict=True):
        assert np.array_equal(one.picture, other.picture) and one.words == other.words
    under = sheet[20:]  # words are written below the pictures of a row
    assert (under[:14, :60] < 128).any() and sheet.shape[1] == 3 * 60 + 2 * 6


def test_a_sheet_of_an_older_version_is_one_picture(tmp_path: Path) -> None:
    picture = tiles(1)[0].picture
    Image.fromarray(picture).save(tmp_path / "old.png")
    (one,) = read_sheet(tmp_path / "old.png")
    assert np.array_equal(one.picture, picture) and one.words == ""


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_damaged_sheet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_sheet(tmp_path / "bad.png")


def test_an_outline_by_hand() -> None:
    region = np.zeros((12, 12), bool)
    region[4:8, 4:8] = True
    drawn = outlined(np.full((12, 12, 3), 100, np.uint8), region)
    assert drawn[4, 4:8].tolist() == [[255] * 3] * 4 and drawn[3, 5].tolist() == [0] * 3
    assert drawn[0, 0].tolist() == [100] * 3
    assert square(np.array([[0, 255], [255, 0]], np.uint8), 4)[0, :, 0].tolist() == [0, 0, 255, 255]
