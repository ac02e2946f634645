from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.manifest import Row
from src.masks.files import MaskFiles
from src.masks.judge import trivial


@pytest.mark.parametrize("height", [2, 4, 6, 8, 50])
def test_an_image_of_a_few_pixels_without_an_object_is_measured(tmp_path: Path, height: int) -> None:
    row = Row("1.jpg", label=0)
    for mask in (np.zeros((height, 100), np.uint8), np.full((height, 100), 255, np.uint8)):
        cv2.imwrite(str(tmp_path / "1.png"), mask)
        figures = trivial(MaskFiles(tmp_path, [row], tmp_path), [mask.shape])
        assert figures["iou_all_foreground"] == bool(mask.any())
        # A box of .1 of 8 pixels is empty, and so right where there is nothing; all of the image is a box too.
        assert figures["iou_centred_box"] == bool(mask.any() or height <= 8)
