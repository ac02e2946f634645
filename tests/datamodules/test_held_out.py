"""Held-out images none of which are of a context that is trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig

from src.overrides import with_data_set
from tests.conftest import TINY

Configure = Callable[..., DictConfig]


def words_for(folder: Path) -> list[str]:
    """Words that train on a data set whose held-out images are of a context of their own."""
    draw = np.random.default_rng(0)
    for top, contexts in (("train", "ab"), ("val", "z")):
        for path in (folder / "data" / top / context / name for context in contexts for name in ("car", "dog")):
            path.mkdir(parents=True)
            for i in range(4):
                cv2.imwrite(str(path / f"{i}.jpg"), draw.integers(0, 255, (40, 40, 3), np.uint8))
    places = [f"manifest_dir={folder / 'manifests'}", f"logs_dir={folder / 'logs'}"]
    return [*TINY, *with_data_set([f"data={folder / 'data'}"]), *places, "datamodule.batch_size=8"]


def test_a_run_reports_out_of_domain_alone_and_keeps_no_best(configure: Configure, tmp_path: Path) -> None:
    import train

    cfg = configure("train", *words_for(tmp_path), "stage=baseline", "trainer.max_epochs=1")
    train.train(cfg)
    run = Path(cfg.run_dir)
    metrics = json.loads((run / "finished.json").read_text())["metrics"]
    assert "val/out_of_domain/accuracy/z" in metrics and not any("in_domain/" in key[:14] for key in metrics)
    assert [path.name for path in run.glob("*.ckpt")] == ["last.ckpt"]


def test_neighbours_are_measured_out_of_domain_alone(configure: Configure, tmp_path: Path) -> None:
    import train

    small = ["datamodule.batch_size=8", "module.queue_size=8", "module.num_splits=2", "trainer.max_epochs=1"]
    cfg = configure("train", *words_for(tmp_path), "stage=moco", *small)
    train.train(cfg)
    figures = json.loads((Path(cfg.run_dir) / "finished.json").read_text())["metrics"]
    assert "val/out_of_domain/knn/accuracy" in figures
    assert not any(name.startswith("val/in_domain") for name in figures)
