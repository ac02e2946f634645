"""The recipe's numbers, as docs/method.md has them: a setting that changes by accident is noticed."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

SGD = {"module.optimizer.momentum": 0.9, "module.optimizer.weight_decay": 5e-4}
CROPS = {"datamodule.train_transform.scale": [0.8, 1.0], "datamodule.train_transform.horizontal_flip": 0.5}
AUGMIX = {
    f"datamodule.train_transform.augmix.{name}": value
    for name, value in {"chains": 3, "depth": [1, 3], "severity": 1, "alpha": 1.0}.items()
}
FLIPS = CROPS | {"datamodule.train_transform.vertical_flip": 0.5}
MIXING = {"mixing.alpha": 2.0, "mixing.by_context": 0.5, "mixing.ratio": 0.5, "mixing.other_context": False}
RECIPE: dict[str, dict[str, Any]] = {
    "baseline": SGD | CROPS | {  # section 2
        "model.model_name": "resnet50", "datamodule.size": 224, "datamodule.batch_size": 512, "trainer.max_epochs": 90,
        "module.optimizer.lr": 0.1, "mixing.alpha": 2.0, "datamodule.train_transform.augmix.chains": 0,
        "module.scheduler.T_max": 90, "datamodule.train_transform.vertical_flip": 0.0,
    },
    "wsss": CROPS | {  # section 3
        "model.output_stride": 16, "datamodule.size": 448, "datamodule.batch_size": 32, "trainer.max_epochs": 10,
        "module.alpha": 0.25, "module.area_weight": 0.1, "module.lr": 1e-3, "module.momentum": 0.0,
        "module.weight_decay": 1e-4, "module.power": 0.9, "module.head_multiplier": 1.0, "module.bias_multiplier": 1.0,
        "module.scales": [0.5, 1.0, 1.5, 2.0], "callbacks.masks.threshold": 0.55,
    },
    "moco": {  # section 4
        "datamodule.size": 224, "datamodule.batch_size": 128, "trainer.max_epochs": 200, "module.dim": 128,
        "module.queue_size": 4096, "module.key_momentum": 0.999, "module.temperature": 0.2, "module.num_splits": 4,
        "module.optimizer.lr": 0.03, "module.optimizer.momentum": 0.9, "module.optimizer.weight_decay": 1e-4,
        "datamodule.train_transform.scale": [0.2, 1.0], "datamodule.train_transform.jitter": [0.4, 0.4, 0.4, 0.1],
        "datamodule.train_transform.jitter_probability": 0.8, "datamodule.train_transform.grey": 0.2,
        "datamodule.train_transform.blur_sigma": [0.1, 2.0], "datamodule.train_transform.blur_probability": 0.5,
        "datamodule.train_transform.horizontal_flip": 0.5, "trainer.sync_batchnorm": False,
    },
    "finetune": SGD | FLIPS | AUGMIX | MIXING | {  # section 5
        "datamodule.size": [[0, 224], [60, 448]], "datamodule.batch_size": 128, "trainer.max_epochs": 120,
        "module.optimizer.lr": 0.1, "module.scheduler.start": 0, "module.scheduler.total": 200,
        "callbacks.average.decay": 0.9995,
    },
    "fdg": SGD | FLIPS | AUGMIX | {  # section 6
        "datamodule.size": 512, "datamodule.batch_size": 24, "trainer.max_epochs": 80, "module.ratio": 0.2,
        "datamodule.pairs": "any_context", "module.temperature": 10, "module.copy_from_original": 2.0,
        "module.original_from_copy": 2.0, "module.ramp_up_epochs": 5, "module.decay": 0.9995,
        "module.optimizer.lr": 0.1, "module.scheduler.start": 120, "module.scheduler.total": 200, "mixing.alpha": 2.0,
    },
    "adapt": SGD | FLIPS | AUGMIX | MIXING | {  # section 7
        "datamodule.size": 512, "datamodule.batch_size": 128, "trainer.max_epochs": 20, "module.optimizer.lr": 1e-4,
        "module.scheduler.factor": 1.0, "callbacks.average.decay": 0.9995,
    },
}  # fmt: skip


@pytest.mark.parametrize("stage", RECIPE)
def test_the_recipes_numbers(configure: Callable[..., DictConfig], stage: str) -> None:
    cfg = configure("train", "track=1", f"stage={stage}")
    for name, value in RECIPE[stage].items():
        found = OmegaConf.select(cfg, name, throw_on_missing=True)
        assert (list(found) if isinstance(value, list) else found) == value, name
    if stage != "moco":
        assert list(cfg.module.mean) == [0.485, 0.456, 0.406] and list(cfg.module.std) == [0.229, 0.224, 0.225]
