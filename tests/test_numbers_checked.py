"""Settings that are no number, or none that they can be: one sentence that names the setting, and no traceback."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from src import cli
from src.numbers import check_number
from src.schedules import size_schedule

NAN, INF = float("nan"), float("inf")
FACTS = ("track=1", "scale=demo", "dataset.num_classes=3", "dataset.contexts=[a,b]", "dataset.images=200")
SHARE = (-0.1, 1.1, NAN, "half", None, True)  # not in [0, 1]
POSITIVE = (0, -1, INF, NAN, "much", None)  # not above 0
LEAST_0 = (-0.1, INF, NAN, "much", None)  # not at least 0
COUNT = (0, -1, 1.5, INF, NAN, "many", None, True)  # no whole number of at least 1
FROM_0 = (-1, 1.5, INF, NAN, "many", None)  # no whole number of at least 0
PAIR = ([1, 0], [0.5], 0.5, "x", None, [0.1, "x"], [NAN, 1])
ALPHA = {"mixing.alpha": POSITIVE}
RATIO = {"mixing.ratio": (0, 1.1, NAN, "half", None)}
EVERY = {"mixing.probability": SHARE, "mixing.until": SHARE}
MEAN: dict[str, tuple[Any, ...]] = {"mixing.mean": ([0, 0], [0, 0, NAN], [0, 0, "x"], None, 0.5)}
CROP = "datamodule.train_transform"
AUGMIX = f"{CROP}.augmix"
REFUSED: dict[tuple[str, ...], dict[str, tuple[Any, ...]]] = {
    ("stage=baseline", "mixing=mixup"): EVERY | ALPHA,
    ("stage=baseline", "mixing=cutmix"): EVERY | ALPHA,
    ("stage=baseline", "mixing=fmix"): EVERY | ALPHA | {"mixing.decay": LEAST_0},
    ("stage=baseline", "mixing=spectrum"): EVERY | ALPHA | RATIO,
    ("stage=baseline", "mixing=foreground"): EVERY | ALPHA | MEAN,
    ("stage=finetune",): EVERY | ALPHA | RATIO | MEAN | {
        "mixing.by_context": SHARE, "callbacks.average.decay": SHARE, f"{AUGMIX}.chains": FROM_0,
        f"{AUGMIX}.depth": ([3, 1], [1], [1, 2.5], 1, None), f"{AUGMIX}.severity": (0, 11, NAN, "x", None),
        f"{AUGMIX}.alpha": POSITIVE, "module.scheduler.start": LEAST_0, "module.scheduler.total": COUNT,
    },
    ("stage=baseline", "mixing=amplitude"): EVERY | RATIO | {"mixing.weakest": SHARE, "mixing.strongest": SHARE},
    ("stage=baseline", "mixing=background"): {
        "mixing.grow": (-0.1, 0.5, NAN, "x", None), "mixing.smallest": (*SHARE, 1), "mixing.largest": (*SHARE, 0),
    },
    ("stage=baseline", "mixing=mixup_cutmix_fmix"): {"mixing.weights": (None, {"mixup": 1})},
    ("stage=baseline", "schedule@module.scheduler=warmup_cosine"): {
        "module.scheduler.T_max": COUNT, "module.scheduler.warmup_epochs": (-1, 40, NAN, "x", None),
    },
    ("stage=baseline", "schedule@module.scheduler=timm"): {
        "module.scheduler.warmup_epochs": (-1, NAN, "x"), "module.scheduler.min_lr": (-1, NAN, "x"),
    },
    ("stage=baseline",): {
        "module.label_smoothing": (-0.1, 1, NAN, "x", None),
        "pixels.mean": ([0, 0], [0, 0, INF], [0, 0, "x"], "x", None),
        "pixels.std": ([1, 1], [1, 1, 0], [1, 1, -1], [1, 1, NAN], "x", None),
        "callbacks.pictures.every_n_epochs": COUNT, "callbacks.pictures.count": COUNT,
        "callbacks.progress.seconds": LEAST_0, "callbacks.steps.every_n_steps": COUNT,
        "callbacks.divergence.every_n_steps": COUNT,
        "datamodule.batch_size": COUNT, "datamodule.num_workers": FROM_0, "datamodule.max_pixels": FROM_0,
        "datamodule.native_pixels": COUNT, "datamodule.timeout": LEAST_0, "datamodule.max_bad_share": SHARE,
        "datamodule.on_bad_image": (None, "x", 1), "datamodule.part": ("x", None, 1),
        "datamodule.size": (0, -1, 9000, NAN, 64.5, "x", None, True, [], [[0]], [[0, "x"]], [[0, NAN]], [[0, 0]],
                            [[1, 32]], [[0, 32], [0, 64]], [[0, 32], [-1, 64]], [0, 32]),
        "datamodule.eval_transform.crop_pct": (0, -1, 1.1, NAN, "x", None),
        f"{CROP}.scale": (*PAIR, [0, 1], [0.5, 1.1]),
        f"{CROP}.horizontal_flip": SHARE, f"{CROP}.vertical_flip": SHARE, f"{CROP}.grey": SHARE,
        f"{CROP}.random_erasing": SHARE, f"{CROP}.randaugment.num_ops": FROM_0,
        f"{CROP}.jitter": ([0.1, 0.1, 0.1], [0, 0, 0, 0.6], [0, -1, 0, 0], [0, 0, "x", 0], [NAN, 0, 0, 0], 0.3, None),
    },
    ("stage=fdg",): {
        "module.ratio": (0, 1.1, NAN, "x", None), "module.temperature": POSITIVE, "module.decay": SHARE,
        "module.copy_from_original": LEAST_0, "module.original_from_copy": LEAST_0, "module.ramp_up_epochs": LEAST_0,
    },
    ("stage=distil",): {"module.temperature": POSITIVE},
    ("stage=moco",): {
        "module.dim": COUNT, "module.queue_size": COUNT, "module.num_splits": COUNT, "module.key_momentum": SHARE,
        "module.temperature": POSITIVE, "module.collapse_below": LEAST_0, "pixels.std": ([1, 1, 0],),
        "callbacks.neighbours.every_n_epochs": COUNT, "callbacks.neighbours.k": COUNT,
        "callbacks.neighbours.temperature": POSITIVE, f"{CROP}.scale": PAIR, f"{CROP}.grey": SHARE,
        f"{CROP}.jitter_probability": SHARE, f"{CROP}.blur_probability": SHARE, f"{CROP}.horizontal_flip": SHARE,
        f"{CROP}.jitter": ([0.1], "x"), f"{CROP}.blur_sigma": ([2, 1], [-1, 1], [0, INF], 1, None),
    },
    ("stage=wsss",): {
        **{f"module.{name}": LEAST_0 for name in ("alpha", "area_weight", "lr", "momentum", "weight_decay", "power",
                                                  "head_multiplier", "bias_multiplier")},
        "module.scales": ([], [0], [1, NAN], ["x"], 1.0, None), "pixels.std": ([1, 1, 0],),
        "callbacks.masks.threshold": SHARE, "callbacks.masks.processes": COUNT,
        "grabcut.size": (7, *COUNT), "grabcut.iterations": FROM_0, "grabcut.band": SHARE, "grabcut.least": SHARE,
        "crf.gt_prob": (0.5, 1, NAN, "x", None), "crf.gaussian_sxy": POSITIVE, "crf.bilateral_sxy": (*POSITIVE, 1e-6),
        "crf.bilateral_srgb": POSITIVE, "crf.gaussian_compat": LEAST_0, "crf.bilateral_compat": LEAST_0,
        "crf.iterations": FROM_0,
    },
    ("stage=grabcut",): {"module.share": (0, 1, NAN, "x", None)},
}  # fmt: skip
"""For some words of a command: settings, and values that are refused."""
BUILT = {"grabcut": "callbacks.masks", "crf": "callbacks.masks", "pixels": "module"}
"""What is built of settings of its own place."""


@pytest.fixture(scope="module")
def settings() -> Callable[..., DictConfig]:
    """The settings of a command, composed once."""
    known: dict[tuple[str, ...], DictConfig] = {}

    def made(*words: str) -> DictConfig:
        if words not in known:
            known[words] = cli.composed("train", *FACTS, *words)
        return known[words].copy()

    return made


def build(cfg: DictConfig, name: str) -> None:
    """Build that part of a run that has a setting."""
    first, *rest = name.split(".")
    if name.startswith("module.scheduler."):
        cli.instantiate(cfg.module.scheduler)(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
        return
    part = BUILT.get(first) or (f"callbacks.{rest[0]}" if first == "callbacks" else first)
    cli.instantiate(OmegaConf.select(cfg, part))


@pytest.mark.parametrize(
    ("words", "name"),
    [pytest.param(words, name, id=f"{words[-1]}-{name}") for words in REFUSED for name in REFUSED[words]],
)
def test_a_setting_that_cannot_be(settings: Callable[..., DictConfig], words: tuple[str, ...], name: str) -> None:
    said = name.removeprefix(f"{CROP}.") if "augmix." in name else name
    for value in REFUSED[words][name]:
        cfg = settings(*words)
        OmegaConf.update(cfg, name, value, merge=False, force_add=True)
        if name == "mixing.weights":
            cfg.mixing.weights = value
        with pytest.raises(SystemExit) as stopped, cli.clear_errors():
            build(cfg, name)
        sentence = str(stopped.value)
        assert sentence.startswith("error: ") and said in sentence and "expected" in sentence, (value, sentence)
        assert "\n" not in sentence


def test_the_bounds_themselves_can_be(settings: Callable[..., DictConfig]) -> None:
    for words, name, value in (
        (("stage=finetune",), "mixing.by_context", 0), (("stage=finetune",), "mixing.by_context", 1),
        (("stage=finetune",), "callbacks.average.decay", 1), (("stage=fdg",), "module.ramp_up_epochs", 0),
        (("stage=fdg",), "module.copy_from_original", 0), (("stage=fdg",), "module.decay", 0.0),
        (("stage=wsss",), "grabcut.iterations", 0), (("stage=wsss",), "grabcut.band", 0),
        (("stage=wsss",), "crf.iterations", 0), (("stage=wsss",), "crf", None),
        (("stage=baseline",), "callbacks.progress.seconds", 0), (("stage=baseline",), f"{CROP}.scale", [1, 1]),
        (("stage=baseline",), "datamodule.eval_transform.crop_pct", 1), (("stage=baseline",), "datamodule.timeout", 0),
        (("stage=baseline",), "datamodule.sampling", None), (("stage=moco",), f"{CROP}.blur_sigma", [0, 0]),
    ):  # fmt: skip
        cfg = settings(*words)
        OmegaConf.update(cfg, name, value, merge=False)
        build(cfg, name)


def commands() -> Iterator[tuple[str, ...]]:
    """Every stage and every recipe, at every scale."""
    for scale in ("full", "small", "demo"):
        for stage in ("baseline", "wsss", "moco", "finetune", "fdg", "adapt", "distil", "grabcut", "average_maps"):
            yield f"scale={scale}", f"stage={stage}"
        for recipe in ("erm", "background", "simpledg"):
            yield f"scale={scale}", "stage=finetune", f"recipe={recipe}"


@pytest.mark.slow
@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_recipes_own_settings_can_be(words: tuple[str, ...]) -> None:
    cfg = cli.composed("train", *FACTS, *words, "model=tiny", "dataset.images=20000")
    cli.instantiate(cfg.datamodule)
    for callback in cfg.callbacks.values():
        if callback is not None:
            cli.instantiate(callback)
    module = cli.instantiate(cfg.module)
    if cfg.trainer.max_epochs:
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (2, {"low": 0, "high": 1}, "x is 2: expected a number from 0 to 1"),
        (None, {"low": 0, "high": 1, "above": True}, "x is null: expected a number above 0 and at most 1"),
        (1, {"low": 0, "high": 1, "below": True}, "x is 1: expected a number from 0 to below 1"),
        (True, {"low": 0, "high": 1, "above": True, "below": True}, "x is true: expected a number above 0 and below 1"),
        ("1", {"low": 0}, "x is '1': expected a number of at least 0"),
        (0, {"low": 0, "above": True}, "x is 0: expected a number above 0"),
        (INF, {"low": 0}, "x is inf: expected a finite number of at least 0"),
        (NAN, {}, "x is nan: expected a finite number"),
        (1.0, {"low": 1, "whole": True}, "x is 1.0: expected a whole number of at least 1"),
    ],
)
def test_the_sentence(value: object, bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        check_number("x", value, **bounds)
    assert str(error.value) == words


def test_sizes() -> None:
    assert size_schedule(64) == {0: 64} and size_schedule([[0, 32], [2, 64]]) == {0: 32, 2: 64}
