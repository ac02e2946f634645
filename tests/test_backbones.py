"""Slow: networks that nobody chose, and every stage with networks that are no ResNet."""

from __future__ import annotations

import gc
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
from omegaconf import DictConfig
from safetensors.torch import load_file

import predict as prediction
import train as training
from src import cli
from src.lightning_modules.backbone import START
from src.runs.records import read_config

SIDE = 96


def drawn(count: int = 30, seed: int = 2022) -> list[str]:
    """Names of timm's, at most one for each file of architectures, in an order that the seed decides."""
    homes = defaultdict(list)
    for name in sorted(timm.list_models()):
        homes[timm.model_entrypoint(name).__module__].append(name)
    generator = random.Random(seed)
    return [generator.choice(homes[home]) for home in generator.sample(sorted(homes), count)]


EXPECTED = (
    r"does not take images of 96 x 96 pixels",  # it is made for others, and for these timm does not make it
    r"gives features of shape .* and not \(N, \d+\)",  # no vector for an image
)
"""What may be said of a network that cannot be trained here: nothing else may."""


@pytest.fixture
def few(tmp_path: Path) -> Iterator[list[str]]:
    """Four training images of two classes, and two test images: one step is an epoch."""
    generator = np.random.default_rng(0)
    names = [f"train/dim/{kind}/{i}" for kind in ("cat", "dog") for i in range(2)] + [
        "public_test_flat/a",
        "public_test_flat/b",
    ]
    for name in names:
        path = tmp_path / "data/public_dg_0416" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), generator.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    yield [f"data_root={tmp_path / 'data'}", f"manifest_dir={tmp_path / 'json'}", f"logs_dir={tmp_path / 'logs'}",
           "scale=demo", "track=1"]  # fmt: skip
    shutil.rmtree(tmp_path)  # up to 1.4 GB of weights for each of thirty networks, and several times that of memory
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn())
def test_a_network_that_nobody_chose_trains_and_predicts_or_says_why(
    configure: Callable[..., DictConfig], few: list[str], tmp_path: Path, name: str
) -> None:
    words = ["stage=baseline", f"model.model_name={name}", f"datamodule.size={SIDE}", "datamodule.batch_size=4",
             "datamodule.num_workers=0", "trainer.max_epochs=1", "split=none", "module.optimizer.lr=1e-3",
             "callbacks.last=null", "callbacks.best=null"]  # fmt: skip
    cfg = configure("train", *few, *words)
    try:
        with cli.clear_errors():
            training.train(cfg)
    except SystemExit as error:
        assert any(re.search(pattern, str(error)) for pattern in EXPECTED), str(error)
        pytest.skip(str(error))
    gc.collect()  # of the trainer, three times the weights
    run = Path(cfg.run_dir)
    saved = load_file(run / "weights.safetensors")
    settings = {key: value for key, value in read_config(run)["model"].items() if key not in ("_target_", *START)}
    state = {key.removeprefix("backbone."): value for key, value in saved.items() if key.startswith("backbone.")}
    timm.create_model(**settings).load_state_dict(state, strict=True)
    with cli.clear_errors():
        prediction.predict(configure("predict", *few, "ensemble=baselines", "datamodule.num_workers=0",
                                     f"results_dir={tmp_path / 'results'}"))  # fmt: skip
    assert len(json.loads((tmp_path / "results/track1/prediction.json").read_text())) == 2


CHAIN = {
    "baseline": [], "wsss": ["callbacks.masks.processes=1", "module.scales=[1.0]", "datamodule.size=64"],
    "moco": ["module.queue_size=16"], "finetune": [], "fdg": ["datamodule.batch_size=8"], "adapt": [],
}  # fmt: skip
"""The six stages in their order, and what makes each of them small."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_the_whole_chain_with_a_network_that_is_no_resnet(
    train_run: Callable[..., Path], predict: Callable[..., Path], name: str
) -> None:
    for stage, words in CHAIN.items():
        words = [
            "track=1",
            f"stage={stage}",
            f"model.model_name={name}",
            "optimizer=timm",
            "trainer.max_epochs=1",
            *words,
        ]
        if stage == "wsss":
            words.remove("optimizer=timm")
            if name == "test_vit":  # no map of features that could say where the foreground is
                with pytest.raises(SystemExit, match="stage=wsss needs a convolutional network"), cli.clear_errors():
                    train_run(*words)
                continue
        if name == "test_vit" and stage in ("finetune", "fdg", "adapt"):
            words += ["masks=none", "mixing=spectrum", "before.mixing=null"]
        run = train_run(*words)
        assert (run / "finished.json").exists(), stage
        started = json.loads((run / "split.json").read_text())["started_from"]
        assert bool(started) == (stage not in ("baseline", "moco")), stage
    page = predict("ensemble.stages=[baseline,finetune,fdg,adapt]")
    assert len(list((page / "members").glob("*/*.json"))) == 4
