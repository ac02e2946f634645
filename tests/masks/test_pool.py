import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from src.data.mask_files import decode_mask
from src.masks.judge import iou
from src.masks.pool import MaskPool, task_of
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


class Killed(dict):  # type: ignore[type-arg]
    """Settings whose first reader is killed, as by a system that is short of memory; the second one gets them."""

    def __init__(self, settings: dict[str, float], mark: Path) -> None:
        super().__init__(settings)
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return die_once, (self.mark, dict(self))


def die_once(mark: Path, settings: dict[str, float]) -> dict[str, float]:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return settings


def test_a_process_that_is_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:15, 5:20] = 200
    cv2.imwrite(str(tmp_path / "a.png"), image)
    rough = np.zeros((20, 30), bool)
    rough[4:15, 5:22] = True
    crashed: list[Path] = []
    pool = MaskPool(1, crashed.append)
    pool.submit(task_of(tmp_path / "a.png", tmp_path / "m.png", rough, Killed(SETTINGS, tmp_path / "mark")))
    pool.close()
    assert (tmp_path / "mark").exists() and not crashed
    assert np.array_equal(decode_mask(tmp_path / "m.png"), image[..., 0] > 0)  # refined


def test_an_error_of_any_kind_is_said_and_nobody_waits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    pool = MaskPool(1)
    with pytest.raises(ValueError, match="a mask could not be made: TypeError: .*nonsense"):
        for i in range(20):  # more than the queue holds
            pool.submit(task_of(tmp_path / "a.png", tmp_path / f"{i}.png", np.ones((4, 4), bool), {"nonsense": 1}))
        pool.close()


def test_processes_that_die_one_after_the_other_are_not_the_images_fault(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    pool = MaskPool(1)
    with pytest.raises(ValueError, match=r"lack of memory: lower callbacks\.masks\.processes"):
        for i in range(MaskPool.MOST_CRASHES + 2):
            pool.submit(task_of(tmp_path / "a.png", tmp_path / f"{i}.png", np.ones((4, 4), bool), Crash(SETTINGS)))
        pool.close()


def test_iou() -> None:
    a, b = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    assert iou(a, b) == 1 / 3
    assert iou(a, a) == 1 and iou(a, ~a) == 0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1
