"""What callbacks give loggers comes back from TensorBoard's files as it was."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.callbacks.panels import log_figures, log_picture


def test_pictures_and_numbers(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    trainer = SimpleNamespace(loggers=[TensorBoardLogger(tmp_path, name="", version="x")], global_step=3)
    log_picture(trainer, "masks", picture)
    log_figures(trainer, {"masks/iou": 0.75, "masks/images": 12, "masks/empty": ["a"], "masks/by_class": {"b": 0.5}})
    events = EventAccumulator(str(tmp_path / "x"))
    events.Reload()
    (shown,) = events.Images("masks")
    decoded = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown.step == 3 and (decoded == picture).all()
    assert {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == {
        "masks/iou": [(3, 0.75)], "masks/images": [(3, 12.0)],
    }  # fmt: skip
