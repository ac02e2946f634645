import errno
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from src.data.datasets import FullSizeImages, Images
from src.data.headers import Header, read_header
from src.data.images import decode, decode_image, find_bad_images
from src.data.manifest import Row
from src.data.mask_files import decode_mask, decode_pair, says_nothing
from src.errors import sentence
from src.transforms import Evaluate


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


def pillow(path: Path) -> np.ndarray:
    """What Pillow makes of an image: turned by its EXIF, on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":
        return np.repeat((np.asarray(image) / 257).round().astype(np.uint8)[..., None], 3, 2)
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


MODES = {
    "png": ["RGB", "L", "P", "RGBA", "LA", "1", "I;16"],
    "webp": ["RGB", "RGBA"],
    "tif": ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"],
    "jpg": ["RGB", "L", "CMYK"],
    "bmp": ["RGB", "L", "P", "1"],
    "gif": ["L", "P"],
    "ppm": ["RGB", "L", "1"],
}


def in_mode(photo: np.ndarray, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    alpha = np.linspace(0, 255, photo.shape[1]).astype(np.uint8)[None].repeat(len(photo), 0)
    image = Image.fromarray(np.dstack([photo, alpha]))
    return image if mode == "RGBA" else image.convert("LA" if mode == "LA" else "RGB").convert(mode)


@pytest.mark.parametrize(("ending", "mode"), [(ending, mode) for ending, modes in MODES.items() for mode in modes])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_every_kind_of_pixel_is_what_another_decoder_makes_of_it(
    tmp_path: Path, photo: np.ndarray, ending: str, mode: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    options |= {"compression": "tiff_lzw"} if ending == "tif" else {}  # Pillow forgets to turn some that are mapped
    options |= {} if ending in ("bmp", "gif", "ppm") else {"exif": exif}
    in_mode(photo, mode).save(tmp_path / f"a.{ending}", **options)
    decoded, expected = decode_image(tmp_path / f"a.{ending}"), pillow(tmp_path / f"a.{ending}")
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    assert decoded.shape == expected.shape and np.abs(decoded.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("ending", ["png", "gif"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_colour_that_stands_for_transparent_is_white(
    tmp_path: Path, photo: np.ndarray, ending: str, mode: str
) -> None:
    image = in_mode(photo, mode if ending == "png" else "P")
    first = image.getpixel((0, 0))
    image.save(tmp_path / f"a.{ending}", transparency=first)
    decoded = decode_image(tmp_path / f"a.{ending}")
    assert np.array_equal(decoded, pillow(tmp_path / f"a.{ending}"))
    assert decoded[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled(tmp_path: Path, photo: np.ndarray, ending: str, channels: int) -> None:
    deep = np.full((*photo.shape[:2], 4), 65535, np.uint16)
    deep[..., :3] = photo.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / f"a{ending}"), deep[..., 0] if channels == 1 else deep[..., :channels])
    expected = photo[..., :1] if channels == 1 else photo[..., ::-1]
    assert (decode_image(tmp_path / f"a{ending}") == expected).all()


@pytest.mark.parametrize(
    "data",
    [
        b"P5 3 1 100\n\x64\x32\x00",
        b"P2 3 1 100\n100 50 0\n",
        b"P5 3 1 4095\n\x0f\xff\x08\x00\0\0",
        b"P2 # white\n3 1 4095\n4095 2048 0\n",
        b"P2 3 1 255 255 127 0",
    ],
)
def test_white_is_what_the_header_says(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pgm").write_bytes(data)
    values = decode_image(tmp_path / "a.pgm")[0, :, 0].tolist()
    assert values[0] == 255 and values[2] == 0 and values[1] in (127, 128)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 100, 200)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert (np.abs(decode_image(tmp_path / f"a.{ending}").astype(int) - 10) <= 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_values_without_a_meaning_are_refused(tmp_path: Path, photo: np.ndarray, dtype: type) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), photo.astype(dtype) / 255)
    Image.fromarray(photo[..., 0].astype(np.float32)).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        with pytest.raises(ValueError, match=r"b?.tif cannot be decoded: it stores its values as \d+-bit .*convert it"):
            decode_image(tmp_path / name)


def test_a_heic_image_is_named_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(ValueError, match=r"a.jpg cannot be decoded: it is a HEIC image.*convert it"):
        decode_image(tmp_path / "a.jpg")


SIZED = [".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff", ".ppm", ".jp2", ".avif"]


@pytest.mark.parametrize("ending", SIZED)
def test_the_size_is_read_from_the_header(tmp_path: Path, photo: np.ndarray, ending: str) -> None:
    data = cv2.imencode(ending, photo)[1].tobytes()
    header = read_header(data)
    assert header and (header.height, header.width) == (96, 160)
    (tmp_path / "a").write_bytes(data)
    assert decode_image(tmp_path / "a", max_pixels=96 * 160).shape == photo.shape
    with pytest.raises(ValueError, match=r"a has 160x96 pixels, more than datamodule.max_pixels=15359: "):
        decode_image(tmp_path / "a", max_pixels=96 * 160 - 1)
    (tmp_path / "mask").write_bytes(data[: len(data) // 2])  # cut off and too large: nothing is decoded to find out
    with pytest.raises(ValueError, match="more than|cannot be decoded"):
        decode_image(tmp_path / "mask", max_pixels=100)
    for length in range(len(data)) if len(data) < 3000 else range(200):
        cut = read_header(data[:length])
        assert cut is None or (cut.height, cut.width) in ((96, 160), (1, 1))


def test_the_size_of_other_jpegs_and_webps(photo: np.ndarray) -> None:
    progressive = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    filled = progressive[:2] + b"\xff\xff" + progressive[2:]  # fill bytes are allowed before a marker
    for data in (
        progressive,
        filled,
        cv2.imencode(".webp", photo, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(),
        cv2.imencode(".webp", np.dstack([photo, photo[..., 0]]), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes(),
    ):
        header = read_header(data)
        assert header and (header.height, header.width) == (96, 160)
    assert read_header(b"\xff\xd8\xff") is None


@pytest.mark.parametrize(
    ("ending", "call"),
    [
        ("png", "decode_image(path)"),
        ("gif", "decode_image(path)"),
        ("jpg", "find_bad_images(path.parent, [path.name], threads=1)"),
    ],
)
def test_want_of_memory_is_no_fault_of_the_image(tmp_path: Path, call: str, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(path)
    code = f"""
import resource
from pathlib import Path
from src.data.images import decode_image, find_bad_images
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**27,) * 2)
path = Path({str(path)!r})
try:
    print({call})
except MemoryError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "MemoryError", done


def test_want_of_memory_is_said_with_what_to_do() -> None:
    with pytest.raises(MemoryError) as caught:
        decode(b"x", cv2.IMREAD_COLOR_RGB, Header("PNG", 2**24, 2**24))
    assert str(sentence(caught.value)).startswith("out of memory: lower datamodule.batch_size")


def test_what_is_no_file_gets_a_sentence_and_never_waits(tmp_path: Path, photo: np.ndarray) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "annex.jpg").symlink_to(".git/annex/x.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket.jpg"))
    expected = {
        "pipe.jpg": "is a pipe, not an image file",
        "folder.jpg": "is a folder, not an image file",
        "annex.jpg": "is a link to .git/annex/x.jpg, which does not exist",
        "loop.jpg": r"cannot be read \(Too many levels of symbolic links\)",
        "zero.jpg": "is a device, not an image file",
        "socket.jpg": "is a socket, not an image file",
        "gone.jpg": "does not exist",
        "folder.jpg/x.jpg": "does not exist",
    }
    for name, text in expected.items():
        with pytest.raises((ValueError, OSError), match=re.escape(str(tmp_path / name)) + " " + text) as caught:
            decode_image(tmp_path / name)
        assert "on_bad_image=skip" in str(caught.value) and "[Errno" not in str(caught.value)
        with pytest.raises((ValueError, OSError), match=text):
            decode_mask(tmp_path / name)
    assert find_bad_images(tmp_path, list(expected)) == list(expected)
    sock.close()


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(ValueError, match="a.jpg has 1048576 MB, more than an image of datamodule.max_pixels"):
        decode_image(tmp_path / "a.jpg")


def test_too_few_open_files_make_no_guess_in_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images([Row("a.png")], tmp_path, None, Evaluate(16, crop_pct=0.95), 0, tolerant=True)
    assert not images[0, 0].readable  # it is not there
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30), np.uint8))
    assert images[0, 0].readable

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="the system ran short"):
        images[0, 0]


def test_too_few_open_files_are_no_fault_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")

    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match=r"a.jpg cannot be opened \(Too many open files\): the system ran short"):
        find_bad_images(tmp_path, ["a.jpg"])


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


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff", ".ppm"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, photo: np.ndarray, ending: str, share: float) -> None:
    data = cv2.imencode(ending, photo)[1].tobytes()
    (tmp_path / "a").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"a cannot be decoded .*on_bad_image=skip leaves"):
        decode_image(tmp_path / "a")


def test_a_palette_that_is_cut_off_makes_no_colours(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).convert("P").save(tmp_path / "a.tif", compression="tiff_lzw")
    data = (tmp_path / "a.tif").read_bytes()
    for end in range(len(data) // 2, len(data), 37):
        (tmp_path / "a.tif").write_bytes(data[:end])
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_image(tmp_path / "a.tif")


def test_files_that_stand_for_images_elsewhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match="a.jpg is a Git LFS pointer to an image: fetch it"):
        decode_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + b"\xff" * 2**21,
        b"\xff\xd8" * 2**20,
        b"P5 " + b"#\n" * 2**20,
    ],
)
def test_a_header_without_an_end_is_not_followed_to_it(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.data.headers.STEPS", 100)  # reading on would find the true header behind them
    frame = b"\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\0\0\0"
    assert read_header(data + (frame if data[:2] == b"\xff\xd8" else b" 1 1 255\n")) is None


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
    with pytest.raises(ValueError, match=r"mask\.png has values or colours that can be read in several ways: save it"):
        decode_mask(mask_file(tmp_path, values))


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[90, 90, 0] * 252, 224, 224, 192]


@pytest.mark.parametrize("ending", ["png", "gif", "bmp", "tif", "webp", "jpg"])
@pytest.mark.parametrize("kind", ["0/1", "0/255", "palette", "void", "red on green", "red first", "grey"])
def test_a_mask_means_the_same_in_every_format_or_is_refused(tmp_path: Path, ending: str, kind: str) -> None:
    values = np.zeros((48, 64), np.uint8)
    values[16:32, 16:48] = 1
    foreground, path = values == 1, tmp_path / f"mask.{ending}"
    if kind == "void":
        values[16] = 255
        foreground = values == 1
    if kind in ("palette", "void", "red first"):
        picture = Image.fromarray(values, "P")
        picture.putpalette(VOC if kind != "red first" else [128, 0, 0, 0, 0, 0])
    elif kind == "red on green":
        picture = Image.fromarray(np.dstack([values * 255, (1 - values) * 255, values * 0]))
    else:
        picture = Image.fromarray({"0/1": values, "0/255": values * 255, "grey": values * 200}[kind])
    picture = picture.convert("RGB") if ending in ("jpg", "webp") else picture
    picture.save(path, **({"quality": 90} if ending in ("jpg", "webp") else {}))
    try:
        assert np.array_equal(decode_mask(path), foreground)
    except ValueError as error:
        assert "can be read in several ways" in str(error)
        # What a palette's order or a loss took away cannot be known; all else is read.
        assert "red" in kind or (ending in ("jpg", "webp", "gif") and kind in ("0/1", "palette", "void"))


@pytest.mark.parametrize(
    ("share", "empty", "full", "warned"),
    [
        (0.5, 0.3, 0.3, True),
        (0.4, 0.0, 0.1, False),
        (0.69, 0.0, 0.0, False),
        (0.71, 0.0, 0.0, True),
        (0.984, 0.0, 0.3, True),
        (0.01, 0.2, 0.0, True),
        (0.5, 0.0, 0.6, True),
    ],
)
def test_masks_that_tell_nothing(share: float, empty: float, full: float, warned: bool) -> None:
    assert bool(says_nothing(share, empty, full)) == warned
    assert not warned or f"{100 * share:.1f} % foreground" in says_nothing(share, empty, full)


def test_a_mask_has_no_more_pixels_than_an_image_may(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((20, 30), np.uint8))
    assert decode_mask(tmp_path / "m.png", max_pixels=600).shape == (20, 30)
    with pytest.raises(ValueError, match=r"the mask .*m\.png has 30x20 pixels, more than 599"):
        decode_mask(tmp_path / "m.png", max_pixels=599)


@pytest.mark.parametrize("ending", SIZED)
def test_no_header_raises(photo: np.ndarray, ending: str) -> None:
    data = cv2.imencode(ending, photo)[1].tobytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        bad = bytearray(data)
        for place in rng.integers(0, min(len(bad), 200 if rng.random() < 0.7 else len(bad)), 4):
            bad[place] = rng.integers(256)
        read_header(bytes(bad[: rng.integers(len(bad))]) if rng.random() < 0.3 else bytes(bad))
    for offset in (8, 2**31, 2**32 - 1):
        read_header(b"II*\0" + offset.to_bytes(4, "little") + bytes(8))
    read_header(b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(64))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_one_sentence_with_and_without_workers(tmp_path: Path, workers: int) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nothing.jpg")
    (tmp_path / "cut.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()[:60])
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((20, 30), np.uint8))
    for name, text in {
        "pipe.jpg": "is a pipe, not an image file: ",
        "link.jpg": "is a link to nothing.jpg, which does not exist: ",
        "gone.jpg": "does not exist: ",
        "cut.png": "cannot be decoded (empty, cut off, or no image): ",
        "large.png": "has 30x20 pixels, more than datamodule.max_pixels=500: ",
    }.items():
        for dataset in (
            Images([Row(name)], tmp_path, None, Evaluate(16, crop_pct=0.95), 0, max_pixels=500),
            FullSizeImages([Row(name)], tmp_path, max_pixels=500),
        ):
            loader = DataLoader(dataset, batch_size=None, sampler=[(0, 0)], num_workers=workers)
            with pytest.raises((ValueError, OSError)) as caught:
                next(iter(loader))
            said = sentence(caught.value)
            assert said and said.startswith(f"{tmp_path / name} {text}") and "\n" not in said


def test_a_mask_that_is_no_file_is_said_to_be_one_of_masks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png is a pipe, not an image file: replace it, or make the masks again"):
        decode_mask(tmp_path / "m.png")


def test_strips_at_their_own_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1, 20000, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((1, 300000, 3), np.uint8))
    images = FullSizeImages([Row("a.png"), Row("b.png")], tmp_path)
    assert images[0, 0].pixels.shape == (64, 20032, 3)
    with pytest.raises(ValueError, match="b.png is a strip of 300000x1 pixels"):
        images[0, 1]
