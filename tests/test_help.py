import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from src import help
from src.cli import composed
from src.overrides import quoted
from tests.conftest import ROOT

YAMLS = sorted(path for path in (ROOT / "conf").glob("*/*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(ROOT / "conf")))
def test_every_option_says_what_it_is_in_its_first_comment(path: Path) -> None:
    text = help.first_comment(path)
    assert len(text) > 6 and text[0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and text[-1] in ".:?", text


def mistake(name: str, *words: str) -> str:
    sweep = any("," in word and "[" not in word for word in words)
    return help.mistake(name, OverridesParser.create().parse_overrides([quoted(word, sweep) for word in words]))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trainer.max_epoch=3"], "trainer.max_epochs"),
        (["max_epochs=3"], "trainer.max_epochs"),
        (["batch_size=3"], "datamodule.batch_size"),
        (["datamodule.train_transform.augmix.chain=3"], "datamodule.train_transform.augmix.chains"),
        (["modul.optimizer.lr=0.1"], "module.optimizer.lr"),
        (["modell=resnet34"], "model"),
        (["mixing=cutmx"], "cutmix"),
        (["schedule@module.scheduler=cosin"], "cosine or cosine_from"),
        (["stage=moco", "module.temperatur=1"], "module.temperature"),
        (["logger=[wandb,tensorbord]"], "tensorboard"),
        (["stage=moco,fdgg", "track=1,2"], "fdg"),  # a sweep: the second job would fail after days
        (["stage=moco,fdg", "module.optimizer.lrs=0.1,0.2"], "module.optimizer.lr"),
    ],
)
def test_a_mistyped_word_gets_did_you_mean(words: list[str], meant: str) -> None:
    assert f": did you mean {meant}?" in mistake("train", *words)


@pytest.mark.parametrize(
    "words",
    [
        [], ["track=1,2", "stage=moco,adapt"], ["stage=wsss", "crf=none"], ["+trainer.anything=1"], ["~mixing"],
        ["logger=[wandb,tensorboard]"], ["stage=adapt", "mixing.ratio=0.1,0.2"], ["model.model_name=anything"],
        ["module.optimizer.lr=interval(0.01,0.1)"], ["hydra/launcher=basic"], ["hydra.sweep.dir=x"],
        ["seed=range(1,4)"],
        ["split=leave_context_out", "split.contexts=[rock]"], ["datamodule.size=[[0,48],[2,64]]"],
    ],
)  # fmt: skip
def test_what_is_right_is_not_refused(words: list[str]) -> None:
    assert mistake("train", *words) == ""


@pytest.mark.parametrize(
    "words",
    [["recipe=erm", "stage=wsss"], ["stage=baseline,moco", "recipe=erm"], ["recipe=published,simpledg", "stage=fdg"],
     ["recipe=background", "stage=adapt", "mixing.ratio=0.1,0.2"]],
)  # fmt: skip
def test_a_recipe_with_a_stage_that_it_is_not_for(words: list[str]) -> None:
    said = re.fullmatch(r"recipe=(\w+) is for stage=baseline and stage=finetune: leave it out for stage=(\w+)",
                        mistake("train", *words))  # fmt: skip
    assert (
        said and said[1] in " ".join(words) and said[2] in " ".join(words) and said[2] not in ("baseline", "finetune")
    )
    assert mistake("train", *words[:1], "recipe=published") == "" if words[0].startswith("stage") else True


def test_a_recipe_with_a_stage_that_it_is_for() -> None:
    assert mistake("train", "recipe=background,erm,simpledg,published", "stage=baseline,finetune", "seed=0,1") == ""
    assert mistake("train", "recipe=published", "stage=wsss") == mistake("train", "recipe=erm") == ""
    assert mistake("train", "recipe=ermm").endswith("did you mean erm?")


def test_an_entry_point_has_its_own_groups() -> None:
    assert mistake("train", "ensemble=all").startswith("train.py has no group ensemble ")
    assert mistake("predict", "stage=moco").startswith("predict.py has no group stage ")
    assert mistake("train", "stage=baseline", "crf=none").startswith("train.py has no group crf with these choices")
    groups = {
        name: set(re.findall(r"^[a-z_@.]+$", help.help_text(name, [], 100), re.MULTILINE))
        for name in ("train", "predict")
    }
    assert {"stage", "mixing", "split"} <= groups["train"] and not {"ensemble", "tta", "crf"} & groups["train"]
    assert {"ensemble", "tta", "track"} <= groups["predict"] and not {"stage", "mixing", "model"} & groups["predict"]


@pytest.mark.parametrize("width", [80, 120])
def test_help_shows_the_settings_with_their_values_and_comments(width: int) -> None:
    text = help.help_text("train", ["stage=moco"], width)
    cfg = composed("train", "stage=moco")
    values = dict(re.findall(r"^([\w.]+)=(\S*)", text, re.MULTILINE))
    assert values["module.temperature"] == str(cfg.module.temperature) and values["trainer.max_epochs"] == "200"
    assert values["seed"] == "0" and values["tag"] == "null" and values["init_parts"] == "[backbone]"
    assert re.search(r"module\.key_momentum=0\.999\s", text)
    assert re.search(r"^module\.optimizer\.lr=0\.03 +the recipe's; MoCo's authors", text, re.MULTILINE)
    assert "_target_" not in text and "datamodule.track" not in text and "dataset.num_classes" not in text
    too_long = [line for line in text.splitlines() if len(line) > width and not re.match(r"[\w.]+=\S+$", line)]
    assert not too_long  # only a value that stands alone is longer
    assert re.search(r"^  \* moco", text, re.MULTILINE) and re.search(r"^    baseline", text, re.MULTILINE)


def test_a_comment_goes_on_in_the_lines_below_it(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "a: 1  # first\n      # second\nb:  # of b\n  c: '#x'\n  d: 2 # of d\n# not of d\n"
    )
    assert help.comments_of(tmp_path / "x.yaml") == {"a": "first second", "b": "of b", "b.d": "of d"}
