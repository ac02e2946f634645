"""Every stage of conf/stage has what src/lightning_modules/__init__.py says; a new one is tested here too."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from src import cli
from src.lightning_modules import Stage, VotingStage
from src.lightning_modules.classifier import Network
from tests.conftest import ROOT, TINY

TRAINED = {path.stem for path in (ROOT / "conf/stage").glob("*.yaml")} - {"grabcut", "average_maps"}
STAGES = sorted(TRAINED)
FACTS = ("dataset.num_classes=8", "dataset.contexts=[a,b]", "dataset.images=100")
ALONE = ("init=null", "masks=none", "mixing=mixup")  # what needs no run before it


def made(cfg: DictConfig) -> Any:
    torch.manual_seed(0)
    return cli.instantiate(cfg.module)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_module_has_what_the_project_uses(configure: Callable[..., DictConfig], stage: str) -> None:
    cfg = configure("train", *TINY, *FACTS, *ALONE, "track=1", f"stage={stage}")
    module = made(cfg)
    assert isinstance(module, pl.LightningModule) and isinstance(module, Stage)
    assert module.exported and not isinstance(module.exported, str)
    assert all(isinstance(getattr(module, part), nn.Module) for part in module.exported)
    assert all(hasattr(module, part) for part in cfg.init_parts)
    for own in ("training_step", "configure_optimizers", "forward"):  # Lightning has empty ones
        assert is_overridden(own, module, pl.LightningModule), own
    # best.ckpt watches a figure of validation: a stage has both, or none of them.
    validates = is_overridden("validation_step", module) and cfg.trainer.get("limit_val_batches") != 0
    assert validates == (cfg.callbacks.best is not None)
    if "num_classes" not in cfg.module:
        assert not isinstance(module, VotingStage)
        return
    assert isinstance(module, VotingStage) and validates and issubclass(type(module).network, Network)
    network = type(module).network(
        backbone=made(OmegaConf.create({"module": cfg.model})), num_classes=8, mean=[0.5] * 3, std=[0.25] * 3
    )
    for part in network.exported:
        assert part in module.exported
        ours, theirs = (getattr(one, part).state_dict() for one in (module, network))
        assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_pictures_are_images(configure: Callable[..., DictConfig], places: list[str], stage: str) -> None:
    cfg = configure("train", *TINY, *FACTS, *ALONE, *places, "track=1", f"stage={stage}", "datamodule.batch_size=8")
    datamodule = cli.instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    batch = datamodule.on_after_batch_transfer(next(iter(datamodule.train_dataloader())), 0)
    module = made(cfg)
    with torch.no_grad():
        images, partner, lam = module.training_images(batch)
    assert partner.shape == batch.label.shape and 0 <= float(lam.min()) <= float(lam.max()) <= 1
    assert images.shape[0] % len(batch.label) == 0 and images.shape[1:] == (3, 32, 32)
    assert 0 <= float(images.min()) < float(images.max()) <= 1


@pytest.mark.slow
def test_the_types_too(tmp_path: Path) -> None:
    """mypy's word on each stage's class, by a function that returns one as a Stage."""
    lines = ["from src.lightning_modules import Stage, VotingStage"]
    for stage in STAGES:
        settings = cli.composed("train", *FACTS, f"stage={stage}", "scale=demo").module
        home, name = settings._target_.rsplit(".", 1)
        kind = "VotingStage" if "num_classes" in settings else "Stage"
        lines += [f"from {home} import {name}", f"def {stage}(module: {name}) -> {kind}: return module"]
    file = tmp_path / "stages.py"
    file.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(file)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
