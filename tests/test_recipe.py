"""The recipes' numbers, as their sources have them: a setting that changes by accident is noticed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from src.cli import instantiate
from tests.conftest import ROOT

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


RECIPES = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml"))
OTHERS = [recipe for recipe in RECIPES if recipe != "published"]
FACTS = ("track=1", "dataset.num_classes=7", "dataset.contexts=[a,b]", "dataset.images=8000")
CROP = "datamodule.train_transform"
OFF = {f"{CROP}.augmix.chains": 0, f"{CROP}.random_erasing": 0.0, f"{CROP}.trivialaugment": False, "before.stage": None}
DOMAINBED = {f"{CROP}.scale": [0.7, 1.0], f"{CROP}.horizontal_flip": 0.5, f"{CROP}.vertical_flip": 0.0}
WITHOUT_MASKS = {"before_masks.stage": None}
NUMBERS: dict[str, dict[str, Any]] = {
    "background": OFF | {
        "mixing_name": "background_amplitude", "mixing.until": 1.0, "mixing.strategies.background.probability": 0.5,
        "mixing.strategies.amplitude.probability": 0.5, "before_masks.stage": "grabcut", "before_masks.seed": 0,
        f"{CROP}.scale": [0.8, 1.0], f"{CROP}.vertical_flip": 0.0, f"{CROP}.jitter": [0.0] * 4, f"{CROP}.grey": 0.0,
        f"{CROP}.randaugment.num_ops": 0, "module.label_smoothing": 0.0,
    },
    "erm": OFF | DOMAINBED | WITHOUT_MASKS | {  # Gulrajani and Lopez-Paz: domainbed/datasets.py
        "mixing_name": "none", f"{CROP}.jitter": [0.3] * 4, f"{CROP}.grey": 0.1, f"{CROP}.randaugment.num_ops": 0,
        "module.label_smoothing": 0.0,
    },
    "simpledg": OFF | DOMAINBED | WITHOUT_MASKS | {  # arXiv 2210.14507
        "mixing_name": "simpledg", "mixing.strategies.fda.probability": 0.1, "mixing.strategies.fda.ratio": 0.02,
        "mixing.strategies.fda.weakest": 1.0, "mixing.strategies.one_of.probability": 0.8,
        **{f"mixing.strategies.one_of.strategies.{name}.alpha": 10 for name in ("mixup", "cutmix", "fmix")},
        f"{CROP}.randaugment.num_ops": 4, f"{CROP}.randaugment.magnitude": 15, "module.label_smoothing": 0.1,
        f"{CROP}.jitter": [0.0] * 4, f"{CROP}.grey": 0.0, "module.optimizer.weight_decay": 5e-4,
    },
}  # fmt: skip


def settings_of(name: str) -> Any:
    """What conf/recipe/<name>.yaml says itself."""
    return yaml.safe_load((ROOT / f"conf/recipe/{name}.yaml").read_text())


@pytest.mark.parametrize("stage", ["baseline", "finetune"])
@pytest.mark.parametrize("scale", ["full", "small", "demo"])
@pytest.mark.parametrize("recipe", OTHERS)
def test_a_recipe_has_the_numbers_of_its_source_at_every_scale(
    configure: Callable[..., DictConfig], recipe: str, scale: str, stage: str
) -> None:
    cfg = configure("train", f"stage={stage}", f"scale={scale}", f"recipe={recipe}", *FACTS)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for name, value in NUMBERS[recipe].items():
        assert OmegaConf.select(cfg, name) == value, name
    # The rate falls to 0 at the end of this run.
    assert cfg.module.scheduler.T_max == cfg.trainer.max_epochs and "total" not in cfg.module.scheduler
    # What a scale makes smaller, no recipe makes larger.
    plain = configure("train", f"stage={stage}", f"scale={scale}", *FACTS)
    sizes = ["model", "datamodule.size", "datamodule.batch_size", "trainer.max_epochs", "module.optimizer.lr",
             "callbacks.average.decay"]  # fmt: skip
    expected = {name: OmegaConf.select(plain, name) for name in sizes}
    if (recipe, scale) == ("simpledg", "full"):
        expected |= {"datamodule.size": [[0, 224], [300, 448]], "datamodule.batch_size": 128,
                     "trainer.max_epochs": 400, "module.optimizer.lr": 0.05}  # fmt: skip
        assert cfg.module.scheduler.warmup_epochs == 10
    if (recipe, scale) == ("background", "demo"):  # no fdg follows
        expected |= {"datamodule.size": 64, "trainer.max_epochs": 40}
    for name, value in expected.items():
        assert OmegaConf.select(cfg, name) == value, name


def test_a_recipe_names_itself_and_published_changes_nothing(configure: Callable[..., DictConfig]) -> None:
    assert set(NUMBERS) == set(OTHERS) and settings_of("published") is None
    assert all(settings_of(recipe)["recipe"]["name"] == recipe for recipe in OTHERS)
    for stage in RECIPE:
        explicit = configure("train", f"stage={stage}", "recipe=published", *FACTS)
        assert explicit == configure("train", f"stage={stage}", *FACTS)


@pytest.mark.parametrize("recipe", OTHERS)
def test_what_is_typed_wins_over_the_recipe(configure: Callable[..., DictConfig], recipe: str) -> None:
    words = ["stage=finetune", f"recipe={recipe}", *FACTS]
    for mixing in ("none", "mixup", "decoupled"):
        cfg = configure("train", *words, f"mixing={mixing}")
        assert cfg.mixing_name == mixing and "strategies" not in cfg.mixing
        instantiate(cfg.mixing)
    cfg = configure(
        "train", *words, "mixing.until=0.5", "before.stage=moco", f"{CROP}.augmix.chains=3", "model=resnet18"
    )
    assert (cfg.mixing.until, cfg.before.stage, cfg.model.model_name) == (0.5, "moco", "resnet18")
    assert cfg.datamodule.train_transform.augmix.chains == 3
    assert configure("train", *words, "schedule=constant").module.scheduler.factor == 1


@pytest.mark.parametrize(
    ("information", "probability"), [("null", 0.5), ("0.0", 0), ("0.0499", 0), ("0.05", 0.5), ("1.0", 0.5)]
)
def test_backgrounds_stay_where_known_contexts_tell_nothing(
    configure: Callable[..., DictConfig], information: str, probability: float
) -> None:
    words = ["stage=finetune", "recipe=background", *FACTS, f"dataset.context_information={information}"]
    assert configure("train", *words).mixing.strategies.background.probability == probability


@pytest.mark.parametrize("stage", ["baseline", "finetune"])
@pytest.mark.parametrize("recipe", OTHERS)
def test_a_step_of_each_recipe(train_run: Callable[..., Path], masks: list[str], recipe: str, stage: str) -> None:
    words = [f"stage={stage}", "track=1", f"recipe={recipe}", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    if recipe == "background":
        with pytest.raises(FileNotFoundError, match="there is no finished run of grabcut"):
            train_run(*words)
        words += masks
    run = train_run(*words)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["recipe"]["name"] == recipe and run.name.endswith(f"seed0-{recipe}")
    assert (saved["masks"] == "none") == (recipe != "background") and saved["init"] == "none"
    assert (run / "metrics.csv").read_text().count("\n") == 2
