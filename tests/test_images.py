import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src.images import decode_image, decode_mask, decode_pair, find_bad_images, jpeg_size, says_nothing


@pytest.fixture
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp"])
def test_decodes_rgb(tmp_path: Path, photo: np.ndarray, ending: str) -> None:
    Image.fromarray(photo).save(tmp_path / f"a.{ending}")
    decoded = decode_image(tmp_path / f"a.{ending}")
    expected = np.asarray(Image.open(tmp_path / f"a.{ending}").convert("RGB"))
    assert decoded.dtype == np.uint8 and np.abs(decoded.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_three_channels(tmp_path: Path, photo: np.ndarray, mode: str) -> None:
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(photo).convert(mode).save(name)
    assert decode_image(name).shape == photo.shape


def test_exif_rotation_is_applied_to_the_reduced_image_too(tmp_path: Path, photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    assert decode_image(tmp_path / "a.jpg").shape == (160, 96, 3)
    assert decode_image(tmp_path / "a.jpg", min_side=48).shape == (80, 48, 3)


@pytest.mark.parametrize(("min_side", "side"), [(0, 96), (49, 96), (48, 48), (24, 24), (3, 12)])
def test_reduced_decoding_never_goes_below_the_side_asked_for(
    tmp_path: Path, photo: np.ndarray, min_side: int, side: int
) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), photo)
    assert min(decode_image(tmp_path / "a.jpg", min_side).shape[:2]) == side


def test_jpeg_size(photo: np.ndarray) -> None:
    assert jpeg_size(cv2.imencode(".jpg", photo)[1].tobytes()) == (96, 160)
    assert jpeg_size(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()) == (96, 160)
    assert jpeg_size(cv2.imencode(".png", photo)[1].tobytes()) is None
    assert jpeg_size(b"\xff\xd8") is None


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, photo: np.ndarray, ending: str, share: float) -> None:
    data = cv2.imencode(ending, photo)[1].tobytes()
    (tmp_path / "a").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"a cannot be decoded .*on_bad_image=skip leaves"):
        decode_image(tmp_path / "a")


def test_bad_images_are_found(tmp_path: Path, photo: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "good.jpg"), photo)
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    assert find_bad_images(tmp_path, ["good.jpg", "bad.jpg", "gone.jpg"]) == ["bad.jpg", "gone.jpg"]


def test_mask(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((20, 30)) > 0.5
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png"), mask)
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(ValueError, match="mask .* cannot be decoded"):
        decode_mask(tmp_path / "m.png")


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(96, 160), (99, 161), (101, 95)])
def test_a_mask_is_reduced_with_its_image(tmp_path: Path, factor: int, shape: tuple[int, int]) -> None:
    height, width = shape
    mask = cv2.GaussianBlur(np.random.default_rng(0).random(shape), (0, 0), 6) > 0.5
    cv2.imwrite(
        str(tmp_path / "a.jpg"), np.repeat(mask[..., None], 3, 2) * np.uint8(255), [cv2.IMWRITE_JPEG_QUALITY, 98]
    )
    cv2.imwrite(str(tmp_path / "a.png"), mask * np.uint8(255))
    image, made = decode_pair(tmp_path / "a.jpg", tmp_path / "a.png", min(shape) // factor)
    assert made.dtype == bool and made.shape == image.shape[:2]
    assert made.shape == (math.ceil(height / factor), math.ceil(width / factor))
    for row in range(height // factor):  # the squares that are whole
        for column in range(width // factor):
            square = mask[row * factor :, column * factor :][:factor, :factor]
            assert made[row, column] == (square.mean() >= 0.5)
    bright = image.mean(2) > 127
    shifted = [(np.roll(made, 1, axis) != bright).mean() for axis in (0, 1)]
    assert (made != bright).mean() < 0.4 * min(shifted)  # they differ on edges alone, a shift on all of these


def test_a_mask_that_differs_by_less_than_a_reduced_pixel_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((800, 1000, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((799, 999), np.uint8))
    for min_side in (0, 400, 100):
        with pytest.raises(ValueError, match="is 999x799 pixels, its image .*a.jpg 1000x800"):
            decode_pair(tmp_path / "a.jpg", tmp_path / "a.png", min_side)


@pytest.mark.parametrize("shape", [(99, 100), (96, 100), (96, 96)])
def test_the_mask_of_an_image_that_is_turned_and_reduced(tmp_path: Path, shape: tuple[int, int]) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: what is stored as (H, W) is seen as (W, H)
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape[::-1], np.uint8))
    image, mask = decode_pair(tmp_path / "a.jpg", tmp_path / "a.png", 12)
    assert image.shape[:2] == mask.shape
    if shape == (96, 100):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape, np.uint8))
        with pytest.raises(ValueError, match=f"its image .*a.jpg {shape[0]}x{shape[1]}"):
            decode_pair(tmp_path / "a.jpg", tmp_path / "a.png", 12)


@pytest.mark.parametrize("min_side", [0, 24])
def test_a_mask_of_another_size(tmp_path: Path, photo: np.ndarray, min_side: int) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), photo)
    for shape in [(48, 80), (24, 40), (96, 150), (160, 96)]:
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape, np.uint8))
        with pytest.raises(ValueError, match=f"a.png is {shape[1]}x{shape[0]} pixels, its image .*a.jpg 160x96: make"):
            decode_pair(tmp_path / "a.jpg", tmp_path / "a.png", min_side)


OBJECT = np.zeros((6, 8), bool)
OBJECT[2:5, 1:6] = True


def mask_file(tmp_path: Path, values: np.ndarray, mode: str | None = None, palette: list[int] | None = None) -> Path:
    picture = Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)
    if palette is not None:
        picture = Image.fromarray(values, "P")
        picture.putpalette(palette)
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize(
    "kind", ["0/1", "0/255", "boolean", "soft", "16 bits", "rgb", "opacity", "palette", "grey palette"]
)
def test_masks_of_others_are_read_for_what_they_mean(tmp_path: Path, kind: str) -> None:
    one = OBJECT.astype(np.uint8)
    soft = np.where(OBJECT, 200, 40).astype(np.uint8)
    soft[0, 0], soft[2, 1] = 127, 128
    voc = one * 7
    voc[0, 0] = 255  # void
    path = {
        "0/1": lambda: mask_file(tmp_path, one),
        "0/255": lambda: mask_file(tmp_path, one * 255),
        "boolean": lambda: mask_file(tmp_path, OBJECT),
        "soft": lambda: mask_file(tmp_path, soft),
        "16 bits": lambda: mask_file(tmp_path, one.astype(np.uint16) * 65535),
        "rgb": lambda: mask_file(tmp_path, np.repeat(one[..., None] * 255, 3, 2)),
        "opacity": lambda: mask_file(tmp_path, np.dstack([np.full((6, 8, 3), 90, np.uint8), one * 255])),
        "palette": lambda: mask_file(tmp_path, voc, palette=[0, 0, 0, *[128, 0, 30] * 255]),
        "grey palette": lambda: mask_file(tmp_path, one, palette=[0, 0, 0, 255, 255, 255]),
    }[kind]()
    assert np.array_equal(decode_mask(path), OBJECT)


@pytest.mark.parametrize("kind", ["indices", "indices with void", "colours"])
def test_masks_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, kind: str) -> None:
    values = OBJECT.astype(np.uint8) * 7
    if kind == "indices with void":
        values[0, 0] = 255
    if kind == "colours":
        values = np.dstack([values * 20, values, values])
    with pytest.raises(ValueError, match=r"mask\.png has values or colours that can be read in several ways: write it"):
        decode_mask(mask_file(tmp_path, values))


@pytest.mark.parametrize(
    ("share", "empty", "full", "warned"),
    [(0.4, 0.0, 0.1, False), (0.984, 0.0, 0.3, True), (0.01, 0.2, 0.0, True), (0.5, 0.0, 0.6, True)],
)
def test_masks_that_tell_nothing(share: float, empty: float, full: float, warned: bool) -> None:
    assert bool(says_nothing(share, empty, full)) == warned
    assert not warned or f"{100 * share:.1f} % foreground" in says_nothing(share, empty, full)
