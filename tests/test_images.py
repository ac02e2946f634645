from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src.images import decode_image, decode_mask, find_bad_images, jpeg_size


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
