"""The gallery's pictures against cases computed by hand, and what docs/gallery.md shows."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from benchmarks.gallery import (
    SIDE,
    Shown,
    background_steps,
    bars_of,
    frequency_steps,
    mask_steps,
    mixes,
    save,
    square,
    strip,
    views_of,
    vote_bars,
)
from src.report import plots

ROOT = Path(__file__).resolve().parent.parent
HALF = SIDE // 2


@pytest.fixture
def pair() -> tuple[Shown, Shown]:
    """An image of .8 whose object is its left half, and one of .2 whose object is its upper half."""
    left, upper = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    left[:, :HALF] = True
    upper[:HALF] = True
    return Shown(torch.full((3, SIDE, SIDE), 0.8), left), Shown(torch.full((3, SIDE, SIDE), 0.2), upper)


def level(picture: np.ndarray) -> float:
    """The one colour of a picture, in [0, 1]."""
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and np.ptp(picture) <= 1
    return float(picture.mean()) / 255


def test_every_mix_of_two_plain_images(pair: tuple[Shown, Shown]) -> None:
    made = {name.split("\n")[0]: picture for name, picture in mixes(*pair, mean=[0.5, 0.5, 0.5]).items()}
    assert set(made) == {"image", "partner", *(path.stem for path in (ROOT / "conf/mixing").glob("*.yaml"))} - {
        "none", "decoupled", "fda", "simpledg", "mixup_cutmix_fmix",  # nothing, or others in turn, or amplitude's
    }  # fmt: skip
    assert level(made["image"]) == pytest.approx(0.8, abs=0.003) and level(made["partner"]) == pytest.approx(
        0.2, abs=0.003
    )
    assert level(made["mixup"]) == pytest.approx(0.7 * 0.8 + 0.3 * 0.2, abs=0.003)
    assert level(made["spectrum"]) == pytest.approx(0.7 * 0.8 + 0.3 * 0.2, abs=0.003)  # one colour is a low frequency
    assert level(made["amplitude"]) == pytest.approx(0.3 * 0.8 + 0.7 * 0.2, abs=0.003)
    # On x - .5: .3 and -.3. Own foreground weighs .7 and background .3; the partner's 1 - .7 and 1 - .3.
    corners = {(0, 0): 0.7 * 0.3 + 0.3 * -0.3, (0, -1): 0.3 * 0.3 + 0.3 * -0.3, (-1, 0): 0.7 * 0.3 + 0.7 * -0.3,
               (-1, -1): 0.3 * 0.3 + 0.7 * -0.3}  # fmt: skip
    for place, value in corners.items():
        assert made["foreground"][place] / 255 == pytest.approx(0.5 + value, abs=0.003)
    own = {name: float((made[name] > 128).mean()) for name in ("cutmix", "fmix", "background", "background_amplitude")}
    titles = {name.split("\n")[0]: name.split("\n")[1] for name in mixes(*pair, mean=[0.5] * 3) if "\n" in name}
    assert own["cutmix"] == pytest.approx(0.7, abs=0.05) and own["fmix"] == pytest.approx(0.6, abs=0.01)
    assert titles["cutmix"].startswith(f"{own['cutmix']:.1f} car") and titles["fmix"] == "0.6 car + 0.4 bird"
    assert own["background"] == 0.5 and titles["background"] == titles["amplitude"] == "car"
    assert not np.array_equal(made["background"], made["background_amplitude"])


def test_background_fills_with_what_surrounds_the_object(pair: tuple[Shown, Shown]) -> None:
    own, other = pair
    painted = torch.where(other.mask, 1.0, other.image)  # a white object
    steps = background_steps(own, Shown(painted, other.mask))
    assert level(steps["filled"]) == pytest.approx(0.2, abs=0.003)  # nothing of it is left
    margin = round(0.03 * SIDE)
    removed = steps["its object removed"]
    assert level(removed[: HALF + margin]) == pytest.approx(0.5, abs=0.003)
    assert level(removed[HALF + margin :]) == pytest.approx(0.2, abs=0.003)
    assert level(steps["result"][:, :HALF]) == pytest.approx(0.8, abs=0.003)
    assert level(steps["result"][:, HALF:]) == pytest.approx(0.2, abs=0.003)


def test_frequencies_are_exchanged() -> None:
    column = torch.arange(SIDE) * 2 * torch.pi / SIDE
    slow, fast = 0.2 * torch.cos(2 * column), 0.2 * torch.cos(40 * column)  # r = .2: up to 11 are low
    none = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    own, other = (Shown(x.expand(3, SIDE, SIDE), none) for x in (0.5 + slow + fast, torch.full((SIDE,), 0.3)))
    made = {name: picture[0, :, 0] / 255 for name, picture in frequency_steps(own, other, 0.2).items()}
    assert made["low frequencies"] == pytest.approx((0.5 + slow).numpy(), abs=0.003)
    assert made["high frequencies"] == pytest.approx((0.5 + fast).numpy(), abs=0.003)
    assert made["partner: low"] == pytest.approx(0.3, abs=0.003) and made["partner: high"] == pytest.approx(
        0.5, abs=0.003
    )
    assert made["own high, partner's low"] == pytest.approx((0.3 + fast).numpy(), abs=0.003)
    assert made["partner's high, own low"] == pytest.approx((0.5 + slow).numpy(), abs=0.003)


def test_a_mask_is_made_step_by_step() -> None:
    truth = np.zeros((SIDE, SIDE), bool)
    truth[30:80, 40:90] = True
    image = np.where(truth[..., None], np.uint8([220, 40, 40]), np.uint8([30, 30, 160]))
    noise = np.random.default_rng(0).integers(-8, 9, image.shape)  # as in photographs
    image = (image + noise).clip(0, 255).astype(np.uint8)
    activation = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 12)
    settings = {"threshold": 0.3, "grabcut": {"size": SIDE, "iterations": 3, "band": 0.0, "least": 0.01},
                "crf": {"gt_prob": 0.7, "gaussian_sxy": 3, "gaussian_compat": 3, "bilateral_sxy": 50,
                        "bilateral_srgb": 5, "bilateral_compat": 10, "iterations": 4}}  # fmt: skip
    steps = mask_steps(image, truth, activation, settings)
    assert list(steps) == ["image", "C2AM map", "map > 0.3", "GrabCut", "CRF: the mask", "true mask"]
    assert ((steps["map > 0.3"][..., 0] > 0) == (activation > 0.3)).all()
    for name in ("GrabCut", "CRF: the mask", "true mask"):
        assert ((steps[name][..., 0] > 0) == truth).mean() > 0.995, name
    bright = cv2.applyColorMap(np.uint8([[255 * activation.max()]]), cv2.COLORMAP_VIRIDIS)[0, 0, ::-1]
    assert (steps["C2AM map"][np.unravel_index(activation.argmax(), truth.shape)] == bright).all()


def test_the_middle_square_and_pairs_of_views() -> None:
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, HALF : HALF + SIDE] = 200
    assert (square(wide) == 200).all() and square(wide[..., 0] > 0).dtype == bool
    (row,) = views_of(
        [wide], 2, lambda size: lambda image, mask, seed: (np.full((2, size, size, 3), seed, np.uint8), None)
    )
    assert list(row) == ["image", "pair 1, view 1", "pair 1, view 2", "pair 2, view 1", "pair 2, view 2"]
    assert row["pair 2, view 1"][0, 0, 0] == 10 and (row["image"] == 200).all()


def test_bars_of_votes(tmp_path: Path) -> None:
    figures = {
        "test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "accuracy/sea": 0.5,
                 "accuracy/sea_interval": [0.25, 0.75]},
        "in_domain": {"accuracy": 0.75, "accuracy_interval": [0.7, 0.9], "accuracy/rock": 0.75},
    }  # fmt: skip
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    bars = bars_of(tmp_path)
    assert bars == {"in-domain": (0.75, 0.7, 0.9), "sea": (0.5, 0.25, 0.75)}
    (axes,) = vote_bars({"a": bars, "b": dict.fromkeys(bars, (0.25, 0.25, 0.25))}).axes
    assert [patch.get_height() for patch in axes.patches] == [75, 50, 25, 25]
    assert [to_hex(patch.get_facecolor()) for patch in axes.patches[::2]] == plots.COLOURS[:2]
    ends = [line.get_ydata().tolist() for line in axes.get_lines()]
    assert [70, 25] in [pytest.approx(end) for end in ends] and [90, 75] in [pytest.approx(end) for end in ends]


def test_a_strip_is_one_picture_beside_another(tmp_path: Path) -> None:
    red, blue = (
        np.uint8([[[255, 0, 0]]]).repeat(SIDE, 0).repeat(SIDE, 1),
        np.full((SIDE, SIDE, 3), (0, 0, 255), np.uint8),
    )
    save(strip([{"red": red, "blue": blue}, {"blue again\nbelow": blue}]), tmp_path / "strip.png")
    picture = cv2.imread(str(tmp_path / "strip.png"))[..., ::-1]
    assert picture.shape[1] == 2 * (2 * (SIDE + 6) + 6)
    counts = [int((picture == colour).all(2).sum()) for colour in ((255, 0, 0), (0, 0, 255))]
    assert counts == pytest.approx([4 * SIDE**2, 8 * SIDE**2], rel=0.02)


def test_the_document_shows_every_picture_and_they_are_small() -> None:
    text, folder = (ROOT / "docs/gallery.md").read_text(), ROOT / "docs/images/gallery"
    assert {f"{name}.png" for name in re.findall(r"!\[[^\]]+\]\(images/gallery/(\w+)\.png\)", text)} == {
        path.name for path in folder.iterdir()
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
