"""Duplicates are found whatever their size and quality, and the inspection says where they do harm."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.duplicates import (
    ALIKE,
    NEAR,
    Fingerprint,
    alike_pairs,
    correlation,
    dct_hash,
    exact_pairs,
    near_pairs,
    small_grey,
)
from src.data.images import decode_image
from src.data.inspect import inspect, read_words
from tests.conftest import ROOT


def pictures(data: Path, count: int) -> list[Path]:
    return sorted((data / "data/public_dg_0416/train").rglob("*.jpg"))[:count]


def distance(a: int | None, b: int | None) -> int:
    assert a is not None and b is not None
    return (a ^ b).bit_count()


@pytest.mark.slow
def test_a_hash_survives_size_and_quality_and_tells_pictures_apart(data: Path) -> None:
    images = [decode_image(path) for path in pictures(data, 40)]
    greys = [small_grey(image) for image in images]
    hashes = [dct_hash(grey) for grey in greys]
    for image, grey, bits in zip(images, greys, hashes, strict=True):
        small = cv2.resize(image, None, fx=0.5, fy=0.6, interpolation=cv2.INTER_AREA)
        again = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
        again = small_grey(again.astype(np.uint8))
        assert distance(bits, dct_hash(again)) <= NEAR and correlation(grey, again) > ALIKE
        darker = (image * 0.8).astype(np.uint8)
        assert distance(bits, dct_hash(small_grey(darker))) <= NEAR
    others = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert 24 < np.mean(others) < 38  # of 63 bits, half of which differ by chance
    prints = [Fingerprint(str(i), grey, bits, "") for i, (grey, bits) in enumerate(zip(greys, hashes, strict=True))]
    assert alike_pairs(prints) == []
    assert all(bits is not None and bits.bit_count() == 31 for bits in hashes)  # above their median


def test_a_picture_without_structure_has_no_hash() -> None:
    assert dct_hash(small_grey(np.full((50, 60, 3), 130, np.uint8))) is None


def test_near_pairs_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits: list[int | None] = [int(one) for one in rng.integers(0, 2**62, 60)]
    for i in range(0, 60, 7):
        flipped = sum(1 << int(k) for k in rng.choice(63, i % 6, replace=False))
        bits.append(int(bits[i] or 0) ^ flipped)
    bits[3] = bits[50] = None
    known = [(i, one) for i, one in enumerate(bits) if one is not None]
    for most in (0, 2, 4):
        slow = {(i, j) for i, a in known for j, b in known if i < j and (a ^ b).bit_count() <= most}
        assert slow and set(near_pairs(bits, most)) == slow
    assert near_pairs([], 4) == [] and near_pairs([None, 5], 4) == []


def test_exact_pairs_name_the_first_one() -> None:
    assert exact_pairs(["a", "b", "a", "", "", "a"]) == [(0, 2), (0, 5)]


def test_the_inspection_names_what_is_wrong(tmp_path: Path, data: Path) -> None:
    images = [path.read_bytes() for path in pictures(data, 9)]
    files = {f"train/{context}/{name}/{i}.jpg": images[4 * (context == "sea") + 2 * (name == "dog") + i]
             for context in ("rock", "sea") for name in ("car", "dog") for i in range(2)}  # fmt: skip
    files |= {
        "test/sky/car/new.jpg": images[8],
        "test/sky/car/known.jpg": images[0],
        "train/sea/dog/wrong.jpg": images[0],
    }
    files["train/rock/car/broken.jpg"] = b"no image"
    for name, content in files.items():
        path = tmp_path / "birds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    text = "\n".join(inspect(*read_words([f"data={tmp_path / 'birds'}"])))
    assert "10 training images, 0 held out by the data set, 2 test images (with truth); 2 classes, 2 contexts" in text
    assert "class  rock  sea  all\ncar       3    2    5\ndog       2    3    5\nall       5    5   10" in text
    assert "1 of 12 images cannot be read:" in text and "broken.jpg" in text
    assert "2 pair(s) of images with the same bytes\n  1 across parts" in text
    assert "train/rock/car/0.jpg (training), test/sky/car/known.jpg (test)" in text
    assert "1 across contexts" not in text.split("across parts")[0]
    assert "train/rock/car/0.jpg (car), train/sea/dog/wrong.jpg (dog)" in text
    assert "0 pair(s) of images that look alike" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no data set is named"),
        (["data=/x", "dta=1"], "'dta' is not a setting"),
        (["data"], "'data' is not a setting: expected key=value"),
        (["data=/x", "track.root=y"], "track.root is not a setting: expected one of name, train_dir"),
        (["track=../x", "data=/x"], "track=../x is not one of conf/track: 1, 2, found"),
        (["data=/x", "near=few"], "whole numbers"),
    ],
)
def test_words_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_words(words)


def test_the_command_answers_in_a_sentence(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "src.data.inspect", f"data={tmp_path / 'none'}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: the data root ") and done.stdout == ""


def test_near_hashes_are_alike_only_where_the_pictures_are() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    other = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    prints = [Fingerprint("a", grey, 5, ""), Fingerprint("b", other, 5, ""), Fingerprint("c", grey // 2, 7, ""),
              Fingerprint("a", grey, 5, ""), Fingerprint("", None, None, "broken")]  # fmt: skip
    assert alike_pairs(prints) == [(0, 2), (2, 3)]  # the same bytes are exact_pairs' matter
    assert alike_pairs(prints, 0) == []
