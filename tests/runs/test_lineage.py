"""Which run a run is made from: never a guess, and never the newest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src.files import digest_of
from src.runs.lineage import NONE, Predecessors, begun_with, digests_of_several, find_run, find_several, predecessors


def settings(logs: Path, **changes: Any) -> DictConfig:
    """A run of fdg on track 1 that starts from finetune and uses the masks of wsss."""
    return OmegaConf.create(
        {
            "logs_dir": str(logs), "run_dir": str(logs / "track1/fdg/run"), "track": {"name": "track1"},
            "split_name": "holdout",
            "model": {"model_name": "net"}, "seed": 0, "tag": None, "resume": False, "init": None, "masks": None,
            "before": {"stage": "finetune", "mixing": "decoupled"}, "before_masks": {"stage": "wsss", "seed": 0},
            **changes,
        }
    )  # fmt: skip


def run(logs: Path, name: str, stage: str = "finetune", finished: bool = True, **own: Any) -> Path:
    """A run directory, by what find_run reads of it."""
    folder = logs / "track1" / stage / name
    folder.mkdir(parents=True)
    facts = {"split_name": "holdout", "seed": 0, "tag": None, "mixing_name": "decoupled",
             "model": {"model_name": "net"}, **own}  # fmt: skip
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(facts)))
    (folder / "track1_train_with_mask_label.json").write_text("[]")
    if finished:
        (folder / "weights.safetensors").write_bytes(b"w")
        digest = digest_of(folder / "weights.safetensors")
        (folder / "finished.json").write_text(json.dumps({"weights_sha256": digest, "metrics": {}}))
    return folder


def found(logs: Path, **changes: Any) -> Path:
    cfg = settings(logs, **changes)
    return find_run(cfg, "init", cfg.before)


def test_the_one_run_of_the_same_track_model_split_and_seed(tmp_path: Path) -> None:
    own = run(tmp_path, "own")
    run(tmp_path, "a", model={"model_name": "other"})
    run(tmp_path, "b", split_name="leave_context_out-water")
    run(tmp_path, "c", seed=1)
    run(tmp_path, "d", finished=False)
    (tmp_path / "track1/finetune/e").mkdir()
    (tmp_path / "track1/finetune/e/config.yaml").write_text("]")
    assert found(tmp_path) == own
    assert found(tmp_path, seed=1).name == "c"


def test_a_mixing_of_the_users_own_is_found_and_of_several_the_named_one(tmp_path: Path) -> None:
    other = run(tmp_path, "x", mixing_name="mine")
    assert found(tmp_path) == other
    named = run(tmp_path, "decoupled")
    assert found(tmp_path) == named
    assert found(tmp_path, before={"stage": "finetune", "mixing": "mine"}) == other


def test_of_several_recipes_the_published_one_is_found(tmp_path: Path) -> None:
    other = run(tmp_path, "a", recipe={"name": "erm", "stages": ["finetune"]})
    assert found(tmp_path) == other
    published = run(tmp_path, "b", recipe={"name": None, "stages": None})
    assert found(tmp_path) == published


def test_a_tag_does_not_break_the_chain(tmp_path: Path) -> None:
    tagged = run(tmp_path, "tagged", tag="t")
    assert found(tmp_path) == found(tmp_path, tag="t") == found(tmp_path, tag="u") == tagged
    plain = run(tmp_path, "plain")
    assert found(tmp_path) == found(tmp_path, tag="u") == plain and found(tmp_path, tag="t") == tagged


def test_several_are_listed_and_init_decides(tmp_path: Path) -> None:
    a, b = run(tmp_path, "a", tag="one"), run(tmp_path, "b", tag="two")
    with pytest.raises(ValueError, match=f"2 finished runs .* choose one with init= .*{a}, {b}"):
        found(tmp_path, tag="three")
    masks = run(tmp_path, "m", "wsss")
    cfg = settings(tmp_path, tag="three", init=str(b))
    assert predecessors(cfg) == Predecessors(b, masks / "track1_train_with_mask_label.json")


def test_masks_are_of_one_seed_whatever_the_model(tmp_path: Path) -> None:
    before = {"stage": "wsss", "seed": 0}
    masks = run(tmp_path, "zero", "wsss", model={"model_name": "resnet50"})
    run(tmp_path, "one", "wsss", seed=1)
    cfg = settings(tmp_path, seed=1, before_masks=before)
    assert find_run(cfg, "masks", cfg.before_masks) == masks


def test_what_is_missing_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train.py", "track='1'", "stage=fdg", "model=resnet34", "seed=2", "scale=demo"]
    monkeypatch.setattr("sys.argv", words)
    run(tmp_path, "begun", finished=False, seed=2)
    cfg = settings(tmp_path, seed=2)
    with pytest.raises(FileNotFoundError) as missing:
        predecessors(cfg)
    init, masks = str(missing.value).split("to do without; ")
    assert re.search(
        r"no finished run of finetune with split=holdout, model=net, seed=2 in .*begun is not finished", init
    )
    assert "train it first: python train.py track=1 stage=finetune model=resnet34 seed=2 scale=demo;" in init
    assert "no finished run of wsss with split=holdout, seed=0" in masks
    assert masks.endswith(
        "python train.py track=1 stage=wsss scale=demo; or set masks=<another>, or masks=none to do without"
    )
    with pytest.raises(FileNotFoundError) as missing:
        predecessors(settings(tmp_path, init="logs/track1/moco/x", masks=str(tmp_path / "track1/wsss/x/m.json")))
    assert "init=logs/track1/moco/x is not a finished run: train it first: python train.py" in str(missing.value)
    assert str(missing.value).endswith("make them first: python train.py track=1 stage=wsss scale=demo")


def test_one_word_means_nothing_for_both(tmp_path: Path) -> None:
    assert predecessors(settings(tmp_path, init=NONE, masks=NONE)) == Predecessors(None, None)
    alone = {"before": {"stage": None, "mixing": None}, "before_masks": {"stage": None, "seed": None}}
    assert predecessors(settings(tmp_path, **alone)) == Predecessors(None, None)


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path: Path) -> None:
    first, masks = run(tmp_path, "first"), run(tmp_path, "m", "wsss") / "track1_train_with_mask_label.json"
    run(tmp_path, "run", "fdg", finished=False, init=str(first), masks=str(masks))
    run(tmp_path, "second")
    with pytest.raises(ValueError, match="2 finished runs"):
        predecessors(settings(tmp_path))
    assert predecessors(settings(tmp_path, resume=True)) == Predecessors(first, masks)
    run(tmp_path, "scratch", "fdg", finished=False, init=NONE, masks=NONE)
    cfg = settings(tmp_path, resume=True, run_dir=str(tmp_path / "track1/fdg/scratch"))
    assert predecessors(cfg) == Predecessors(None, None)


def test_a_run_with_changes_is_a_candidate_like_one_with_a_tag(tmp_path: Path) -> None:
    changed = run(tmp_path, "changed", changes="lr0.03")
    assert found(tmp_path) == found(tmp_path, tag="t") == changed  # the only one
    another = run(tmp_path, "another", changes="lr0.1")
    with pytest.raises(ValueError, match=f"2 finished runs .*choose one with init= .*{another}, {changed}"):
        found(tmp_path)
    assert found(tmp_path, changes="lr0.03") == changed  # a chain with the same changes throughout
    tagged = run(tmp_path, "tagged", tag="t")
    with pytest.raises(ValueError, match="3 finished runs"):
        found(tmp_path)
    assert found(tmp_path, tag="t") == tagged
    plain = run(tmp_path, "plain")
    assert found(tmp_path) == found(tmp_path, changes="other") == found(tmp_path, tag="u") == plain
    assert found(tmp_path, changes="lr0.03") == changed


def test_one_network_does_not_count_twice(tmp_path: Path) -> None:
    one = run(tmp_path, "a")
    (tmp_path / "link").symlink_to(one)
    cfg = settings(tmp_path, teachers=[str(one), str(tmp_path / "link")])
    with pytest.raises(ValueError, match="at least two runs are needed, and teachers= names .*/a: name finished runs"):
        find_several(cfg, "teachers")
    copied = run(tmp_path, "b")  # with the same weights
    cfg = settings(tmp_path, teachers=[str(one), str(copied)])
    with pytest.raises(ValueError, match="a and .*b have the same weights, and one network would count twice"):
        digests_of_several(Predecessors(None, None, tuple(find_several(cfg, "teachers")), "teachers"))


def test_a_strange_config_stops_no_other_run(tmp_path: Path) -> None:
    own = run(tmp_path, "own")
    strange = run(tmp_path, "strange", recipe="mine", model=[], module="x", seed=[0], tag={}, teachers=[1, 2])
    assert found(tmp_path) == own
    assert begun_with(strange) == {}
