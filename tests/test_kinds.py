"""A word that Hydra would take for a text, where the yaml files have true, false or a number, is refused."""

import pytest
from hydra import initialize_config_dir

from src.cli import ROOT, composed
from src.kinds import check_kinds


def checked(script: str, *words: str) -> None:
    """check_kinds, as an entry point with these words calls it."""
    composed(script, *words)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        check_kinds()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("resume=no", "true or false"), ("compile=off", "true or false"), ("model.pretrained=yes", "true or false"),
        ("mixing.per_image='no'", "true or false"), ("datamodule.persistent_workers=False!", "true or false"),
        ("trainer.sync_batchnorm=no", "true or false"),
        ("module.label_smoothing=x", "a number, such as 0.0"), ("mixing.probability=true", "a number, such as 1.0"),
        ("mixing.alpha=nan", "a number"), ("trainer.gradient_clip_val=nan", "a number"),
        ("module.optimizer.lr=fast", "a number, such as 0.1"), ("datamodule.num_workers=four", "a number, such as"),
    ],
)  # fmt: skip
def test_what_is_refused(word: str, expected: str) -> None:
    key, value = word.replace("'", "").split("=")
    said = f"{key} is '?{value}'?: expected {expected}"
    with pytest.raises(ValueError, match=f"(?i){said}"):
        checked("train", "track=1", "stage=finetune", "mixing=mixup", word)


def test_a_prediction_too() -> None:
    with pytest.raises(ValueError, match="report is 'on': expected true or false"):
        checked("predict", "track=1", "report=on")


def test_what_is_meant() -> None:
    checked("train", "track=1", "stage=finetune", "tag=no", "init=none", "masks=none", "resume=True", "model=tiny")
    checked("train", "track=1", "stage=finetune", "trainer.deterministic=warn", "trainer.limit_val_batches=0.5")
    checked("train", "track=1", "stage=finetune", "datamodule.size=[[0,32],[2,64]]", "datamodule.max_pixels=null")
    checked("train", "track=1", "stage=baseline", "optimizer=timm", "module.optimizer.opt=lamb", "debug=fast")
    checked(
        "train", "track=1", "stage=baseline", "split=leave_context_out", "split.contexts=no", "trainer.devices=auto"
    )
    checked("predict", "track=1", "ensemble.tags=[yes]", "images=no", "ensemble.split=x")
