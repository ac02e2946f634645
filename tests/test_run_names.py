"""A run's name holds what its command changes, so that the jobs of a search are runs of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from src.cli import composed
from src.overrides import changes_of
from src.prediction.selection import fits
from tests.conftest import TINY

Train = Callable[..., Path]
NAME = (
    "${model.model_name}-${mixing_name}-${split_name}-seed${seed}${dash:${recipe.name}}${dash:${tag}}${dash:${changes}}"
)
OPTIMIZER = "module.optimizer"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([], None),
        (["track='1'", "stage=moco", "model=resnet34", "mixing=cutmix", "split=none", "scale=demo", "seed=3"], None),
        (["model.model_name=resnet10t", "split.contexts=[a,b]", "trainer=gpu"], None),
        (["resume=true", "logger=wandb", "datamodule.num_workers=3", "+trainer.max_time='1:2:3'", "objective=x"], None),
        ([f"{OPTIMIZER}.lr=0.03"], "lr0.03"),
        ([f"{OPTIMIZER}.lr=3e-2"], "lr0.03"),
        ([f"{OPTIMIZER}.lr=1", f"{OPTIMIZER}.lr=0.03"], "lr0.03"),
        (["trainer.max_epochs=3", "datamodule.size=32"], "size32-max_epochs3"),
        (["datamodule.size=32", "trainer.max_epochs=3"], "size32-max_epochs3"),
        (["recipe=erm", "mixing=mixup"], None),
        (["datamodule.size=[[0,32],[1,64]]"], "size_0+32+1+64"),
        (["split.seed=1", "mixing.ratio=0.5"], "ratio0.5-split.seed1"),
        (["mixing.ratio=0.5", "module.ratio=0.1"], "mixing.ratio0.5-module.ratio0.1"),
        (["optimizer@module.optimizer=adamw"], "optimizer_adamw"),
        (["callbacks.best=null", "trainer.deterministic=true", "~callbacks.pictures"],
         "best_null-pictures_null-deterministic_true"),
    ],
)  # fmt: skip
def test_changes(words: list[str], changes: str | None) -> None:
    assert changes_of(words, NAME) == changes


def test_what_a_stages_name_says_itself_is_no_change(configure: Callable[..., DictConfig]) -> None:
    words = ["track=1", "stage=adapt", "mixing.ratio=0.3"]
    assert configure("train", *words).run_name == "resnet34-decoupled-r0.3-holdout-seed0"
    assert configure("train", "track=1", "stage=finetune", "mixing.ratio=0.3").run_name.endswith("seed0-ratio0.3")
    assert configure("train", "track=1", "stage=moco", "module.dim=64").run_name == "resnet34-holdout-seed0-dim64"
    assert configure("train", "track=1", "stage=wsss", "module.lr=0.1").run_name == "resnet50-holdout-seed0-lr0.1"


def test_a_recipe_is_in_the_name_with_a_tag_too(configure: Callable[..., DictConfig]) -> None:
    words, plain = ["track=1", "stage=finetune", "scale=demo"], "resnet10t-decoupled-holdout-seed0"
    assert configure("train", *words).run_name == configure("train", *words, "recipe=published").run_name == plain
    ours = "resnet10t-background_amplitude-holdout-seed0-background"
    assert configure("train", *words, "recipe=background").run_name == ours
    assert configure("train", *words, "recipe=background", "tag=x").run_name == f"{ours}-x"
    assert configure("train", *words, "recipe=erm", "mixing=mixup", "trainer.max_epochs=3").run_name == (
        "resnet10t-mixup-holdout-seed0-erm-max_epochs3"
    )


def test_an_ensemble_tells_recipes_by_their_names(configure: Callable[..., DictConfig]) -> None:
    recipes = ("published", "background", "erm", "simpledg")
    names = {one: configure("train", "track=1", f"recipe={one}", "seed=12").run_name for one in recipes}
    globs = {"published": "*-seed*[0-9]", "background": "*-background", "erm": "*-erm", "simpledg": "*-simpledg"}
    for recipe, glob in globs.items():
        assert [one for one, name in names.items() if fits(Path("logs/track1/baseline") / name, glob)] == [recipe]


def test_a_tag_says_enough_and_a_long_name_is_cut(configure: Callable[..., DictConfig]) -> None:
    words = ["track=1", "stage=baseline", f"{OPTIMIZER}.lr=0.03", f"{OPTIMIZER}.weight_decay=0.001"]
    more = [f"{OPTIMIZER}.momentum=0.8", "datamodule.size=32", "datamodule.batch_size=16"]
    plain = "resnet50-mixup-holdout-seed0"
    assert configure("train", *words).run_name == f"{plain}-lr0.03-weight_decay0.001"
    assert configure("train", *words, "tag=t").run_name == f"{plain}-t"
    assert configure("train", *words, "changes=null").run_name == plain
    names = {configure("train", *words, *more, f"trainer.max_epochs={n}").run_name for n in (1, 2)}
    assert len(names) == 2 and all(len(name) == len(plain) + 1 + 60 for name in names)


def test_two_runs_with_other_settings_are_two_and_each_goes_on_by_itself(train_run: Train) -> None:
    words = ["track=1", "stage=baseline", "trainer.max_epochs=1", "changes=${changes:${tag}}"]
    a, b = (train_run(*words, f"{OPTIMIZER}.lr={lr}") for lr in (0.01, 0.02))
    assert a != b and a.name.removesuffix("lr0.01-max_epochs1") == b.name.removesuffix("lr0.02-max_epochs1") != a.name
    assert yaml.safe_load((a / "config.yaml").read_text())["changes"] == "batch_size16-size32-lr0.01-max_epochs1"
    assert train_run(*words, f"{OPTIMIZER}.lr=0.01", "resume=true") == a


def test_a_run_from_before_its_name_said_this_goes_on(
    train_run: Train, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track=1", "stage=baseline", "trainer.max_epochs=1"]
    old = train_run(*words)
    settings = yaml.safe_load((old / "config.yaml").read_text())
    del settings["changes"]  # as 0.2.0 wrote it
    (old / "config.yaml").write_text(yaml.safe_dump(settings))
    done = json.loads((old / "finished.json").read_text())
    (old / "finished.json").write_text(json.dumps({**done, "files": {}}))
    train_run(*words, "changes=${changes:${tag}}", "resume=true")
    assert f"{old} is finished: nothing to do" in capsys.readouterr().out
    train_run(*words, "changes=${changes:${tag}}", f"{OPTIMIZER}.lr=0.02", "resume=true")  # other settings: another run
    assert sorted(path.name for path in old.parent.iterdir()) == [
        old.name, f"{old.name}-batch_size16-size32-lr0.02-max_epochs1"
    ]  # fmt: skip


def test_the_command_of_a_continuation_names_the_same_run() -> None:
    words = [*TINY[:-1], "track=1", "stage=baseline"]
    more = ["resume=true", "trainer=ddp_cpu", "datamodule.num_workers=2", "logger=tensorboard"]
    assert composed("train", *words).run_dir == composed("train", *words, *more).run_dir


def test_the_names_template_is_what_the_resolver_reads() -> None:
    assert OmegaConf.to_container(composed("train", "track=1"), resolve=False)["run_name"] == NAME  # type: ignore[index, call-overload]
