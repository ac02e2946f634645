import cv2
import numpy as np
import pytest
import torch
import yaml

from src.data.batch import FullSizeBatch
from src.lightning_modules.centred_box import CentredBox
from src.masks.grabcut import cut, grown
from src.masks.judge import iou
from tests.conftest import ROOT

SETTINGS: dict[str, float] = {}
for source in ("conf/mask_files/default.yaml", "conf/stage/grabcut.yaml"):
    SETTINGS |= yaml.safe_load((ROOT / source).read_text())["grabcut"]


def scene(height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A yellow disc on a blue ground, both noisy; where it is; and a box around it."""
    rng = np.random.default_rng(0)
    disc = np.zeros((height, width), np.uint8)
    cv2.circle(disc, (width // 2 + 5, height // 2 - 3), height // 4, 1, -1)
    image = np.where(disc[..., None] == 1, (220, 200, 30), (30, 60, 180)) + rng.normal(0, 12, (height, width, 3))
    box = CentredBox(share=0.9).box(height, width).numpy() > 0.5
    return image.clip(0, 255).astype(np.uint8), disc.astype(bool), box


def test_an_object_is_found_in_a_box_at_its_own_size_and_at_a_smaller_one() -> None:
    image, disc, box = scene()
    assert iou(box, disc) < 0.3
    for size, least in ((160, 0.99), (60, 0.93)):
        found = cut(image, box, **{**SETTINGS, "size": size})
        assert found is not None and found.shape == disc.shape and iou(found, disc) > least


def test_what_is_outside_of_the_mask_is_background_but_for_the_band() -> None:
    image, disc, box = scene()
    cutting = box & (np.arange(disc.shape[1]) < disc.shape[1] // 2 + 22)  # through the object
    without, within = (cut(image, cutting, **{**SETTINGS, "band": band}) for band in (0.0, 0.1))
    assert without is not None and iou(without, disc & cutting) > 0.98 and not (without & ~cutting).any()
    assert within is not None and iou(within, disc) > 0.98  # 12 pixels further: all of it


def test_the_same_image_gives_the_same_mask_whatever_came_before() -> None:
    image, _, box = scene()
    hard = np.random.default_rng(1).integers(0, 255, image.shape, np.uint8)  # where the draws decide
    first = cut(hard, box, **SETTINGS)
    cut(image, box, **SETTINGS)
    cv2.setRNGSeed(7)
    again = cut(hard, box, **SETTINGS)
    assert (first is None) == (again is None)
    assert first is None or again is None or np.array_equal(first, again)


def test_nothing_to_begin_with_and_nothing_found_are_none() -> None:
    image, disc, box = scene()
    assert cut(image, np.zeros_like(disc), **SETTINGS) is None
    assert cut(image, np.ones_like(disc), **SETTINGS) is None
    share = float(disc.mean())
    assert cut(image, box, **{**SETTINGS, "least": share + 0.02}) is None
    assert cut(image, box, **{**SETTINGS, "least": share - 0.02}) is not None
    assert cut(image[:1, :1], np.ones((1, 1), bool), **SETTINGS) is None


def test_a_mask_grows_by_a_disc() -> None:
    mask = np.zeros((21, 31), np.uint8)
    mask[10, 12] = 1
    rows, columns = np.mgrid[:21, :31]
    distance = np.hypot(rows - 10, columns - 12)
    made = grown(mask, 6).astype(bool)
    assert made[distance <= 5].all() and not made[distance > 7].any()
    assert np.array_equal(grown(mask, 0), mask)


@pytest.mark.parametrize(("height", "width"), [(100, 60), (7, 9), (1, 1)])
def test_a_box_covers_its_share_of_each_side_in_the_middle(height: int, width: int) -> None:
    box = CentredBox(share=0.8).box(height, width)
    for side, axis in ((height, 1), (width, 0)):
        line = box.amax(axis)
        assert abs(line.sum().item() - 0.8 * side) <= 1 and torch.equal(line, line.flip(0))
    assert set(box.unique().tolist()) <= {0.0, 1.0}


def test_every_image_has_a_box_of_its_own_size() -> None:
    batch = FullSizeBatch(torch.zeros(2, 3, 64, 64), torch.tensor([50, 64]), torch.tensor([64, 33]), torch.arange(2))
    maps = CentredBox(share=0.9).predict_step(batch, 0)
    assert [tuple(one.shape) for one in maps] == [(50, 64), (64, 33)]
    for share in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match=f"module.share is {share}: expected a number above 0 and below 1"):
            CentredBox(share=share)
