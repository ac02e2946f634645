import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from src.images import decode_mask
from src.masks import MaskPool, iou, task_of
from tests.conftest import ROOT

SETTINGS = yaml.safe_load((ROOT / "conf/crf/dense.yaml").read_text())


class Crash(dict):  # type: ignore[type-arg]
    """Settings that take down the process that reads them, as a fault in the CRF's C code would."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_crash_costs_one_refinement(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:15, 5:20] = 200
    cv2.imwrite(str(tmp_path / "a.png"), image)
    rough = np.zeros((20, 30), bool)
    rough[4:15, 5:22] = True
    crashed: list[Path] = []
    pool = MaskPool(2, crashed.append)
    for i in range(6):
        crf = Crash(SETTINGS) if i == 2 else None if i == 3 else SETTINGS
        pool.submit(task_of(tmp_path / "a.png", tmp_path / "masks" / f"{i}.png", rough, crf))
    pool.close()
    assert crashed == [tmp_path / "masks/2.png"]
    masks = [decode_mask(tmp_path / "masks" / f"{i}.png") for i in range(6)]
    assert np.array_equal(masks[2], rough) and np.array_equal(masks[3], rough)
    assert np.array_equal(masks[0], image[..., 0] > 0)
    assert all(np.array_equal(masks[i], masks[0]) for i in (1, 4, 5))
    assert set(np.unique(cv2.imread(str(tmp_path / "masks/0.png"), cv2.IMREAD_UNCHANGED))) == {0, 255}


def test_what_cannot_be_read_is_said_by_the_caller(tmp_path: Path) -> None:
    pool = MaskPool(1)
    pool.submit(task_of(tmp_path / "gone.png", tmp_path / "m.png", np.ones((3, 3), bool), SETTINGS))
    with pytest.raises(ValueError, match="gone.png does not exist"):
        pool.close()


def test_iou() -> None:
    a, b = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    assert iou(a, b) == 1 / 3
    assert iou(a, a) == 1 and iou(a, ~a) == 0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1
